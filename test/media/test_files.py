"""Test which files are worked on, and where their outputs go."""

from pathlib import Path

import cv2
from ffs_anonymizer.media.files import SUFFIXES
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import BLUR, files, media, pictures, write_jpeg, write_video


@pytest.mark.parametrize(
    ('words', 'code', 'text'),
    [
        ('-i nothing.jpg -o b.jpg', 1, 'nothing.jpg: no such file or folder'),
        ('-i one.txt -o b.txt', 1, 'one.txt: got .txt, expected one of .jpg .jpeg .jpe .jfif'),
        ('-i in/a.jpg -o b.png', 1, 'b.png: got .png, expected .jpg as the input has'),
        ('-i in/a.jpg -o b', 1, 'b: got a name without extension, expected .jpg'),
        ('-i in/a.jpg -o taken', 1, 'taken/a.jpg: exists already; nothing is overwritten'),
        ('-i in -o taken', 1, 'taken/a.jpg: exists already; nothing is overwritten'),
        ('-i in -o one.txt', 1, 'one.txt: got a file, expected a folder'),
        ('-i in -o in', 1, 'in: lies inside the input in'),
        ('-i in -o in/out', 1, 'in/out: lies inside the input in'),
        ('-i empty -o out', 1, 'empty: no image or video in it, expected one of .jpg'),
        ('-i in -o out --boxes nowhere', 1, 'nowhere: no such folder'),
        ('-i in -o out --write-detections one.txt', 1, 'one.txt: exists already'),
        (
            '-i in -o out --write-detections nowhere/found.jsonl',
            1,
            'nowhere/found.jsonl: got no folder nowhere, expected one for the detections; create',
        ),
        (
            '-i in/a.jpg -o b.jpg --write-detections ./b.jpg',
            1,
            'b.jpg: got two outputs of this name, expected one',
        ),
        ('-i in -o out --dry-run --detector-model none.onnx', 1, 'model file none.onnx: got noth'),
        (
            '-i in -o out --dry-run --method generate --generator-model none.onnx',
            1,
            'model file none.onnx: got nothing there, expected an ONNX file',
        ),
        ('-i a_bag -o out', 1, 'a_bag: no image or video in it, expected one of'),
        ('-i a_bag -o out', 1, '; a bag? `ffs_anonymizer bag`'),
        ('-i in -o out --detector-model none.onnx', 1, 'none.onnx'),
        ('-i in -o out --set face.treshold=1', 2, 'did you mean face.threshold?'),
        ('-i in -o out --face-threshold 0', 2, 'face.threshold: got 0.0, expected double'),
    ],
)
def test_bad_input_is_told(
    words: str,
    code: int,
    text: str,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photo.parent.parent)
    Path('a_bag').mkdir()
    Path('a_bag/metadata.yaml').touch()
    before = {name: Path(name).read_bytes() for name in files(Path())}
    assert media(*words.split()) == code
    said = capsys.readouterr()
    assert said.err.startswith('error: ')
    assert text in said.err
    assert {name: Path(name).read_bytes() for name in files(Path())} == before


def test_existing_outputs_are_left_out_on_request(
    photo: Path, face_bgr: NDArray[np.uint8]
) -> None:
    source, output = photo.parent, photo.parent.parent / 'taken'
    taken = (output / 'a.jpg').read_bytes()
    write_jpeg(source / 'b.jpg', face_bgr)
    assert media('-i', source, '-o', output, '--skip-existing') == 0
    assert files(output) == ['a.jpg', 'b.jpg']
    assert (output / 'a.jpg').read_bytes() == taken


def test_a_slash_at_its_end_makes_the_output_a_folder(photo: Path) -> None:
    output = photo.parent.parent / 'new'
    assert media('-i', photo, '-o', f'{output}/', *BLUR) == 0
    assert files(output) == ['a.jpg', 'a.jpg.privacy.json']


def test_what_is_known_and_not_supported_is_not_left_out_silently(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = photo.parent, photo.parent.parent / 'out'
    unsupported = ['a.MTS', 'b.heic', 'c.gif', 'd.cr2', 'e.pgm', 'f.mpeg', 'g.h265', 'h.jp2']
    for name in (*unsupported, 'notes.txt', 'a.jpg.json', 'a.tsx', 'README'):
        (source / name).touch()
    photo.rename(source / 'a.jfif')
    for options in (['--dry-run'], list(BLUR)):
        assert media('-i', source, '-o', output, *options) == 1
        said = capsys.readouterr()
        problems = said.err.splitlines()
        assert problems[0] == 'error: not everything could be done:'
        assert [line.split(':')[0].strip() for line in problems[1:]] == unsupported
        assert problems[1].startswith('  a.MTS: got .MTS, expected one of .jpg .jpeg .jpe .jfif ')
    assert 'left out, neither image nor video by their names: 4 files: README, a.jpg.json' in (
        said.out
    )
    assert files(output) == ['a.jfif']


def test_zones_go_by_the_folder_of_an_image(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    for name in ('front', 'rear'):
        (tmp_path / 'in' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'in' / name / 'a.png'), np.full((40, 60, 3), 90, np.uint8))
    zone = 'mask_zones=["fro* 10 20 30 40"]'
    assert media('-i', tmp_path / 'in', '-o', tmp_path / 'out', '--set', zone) == 0
    expected = np.full((40, 60, 3), 90, np.uint8)
    assert np.array_equal(cv2.imread(str(tmp_path / 'out' / 'rear' / 'a.png')), expected)
    expected[20:40, 10:30] = 0
    assert np.array_equal(cv2.imread(str(tmp_path / 'out' / 'front' / 'a.png')), expected)


@pytest.mark.parametrize(
    ('zones', 'covered'),
    [
        ('["front/b?c.png 10 20 30 40"]', ['front/b c.png']),
        ('["* 10 20 30 40"]', ['a.png', 'front/a.png', 'front/b c.png']),
        ('[". 10 20 30 40", "a.png 10 20 30 40"]', ['a.png']),
        ('["front 10 20 30 40", "fr*/a.png 10 20 30 40"]', ['front/a.png', 'front/b c.png']),
        ('["*/b* 10 20 30 40"]', ['front/b c.png']),
    ],
)
def test_zones_go_by_the_path_of_an_image_too(
    zones: str, covered: list[str], tmp_path: Path
) -> None:
    source, output = tmp_path / 'in', tmp_path / 'out'
    (source / 'front').mkdir(parents=True)
    names = ['a.png', 'front/a.png', 'front/b c.png']
    for name in names:
        cv2.imwrite(str(source / name), np.full((40, 60, 3), 90, np.uint8))
    assert media('-i', source, '-o', output, '--set', f'mask_zones={zones}') == 0
    dark = [name for name in names if not cv2.imread(str(output / name))[20:40, 10:30].any()]
    assert dark == covered


@pytest.mark.parametrize('name', ['.', 'a.jpg', '[!b].*'])
def test_zones_of_a_single_photo(name: str, photo: Path) -> None:
    output = photo.parent / 'b.jpg'
    zone = f'mask_zones=["{name} 10 20 30 40"]'
    assert media('-i', photo, '-o', output, '--set', zone, *BLUR) == 0
    assert cv2.imread(str(output))[24:36, 14:26].max() < 20


def test_a_zone_that_fits_nothing_is_told(
    photo: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = photo.parent, photo.parent.parent / 'out'
    write_jpeg(source / 'rear' / 'b.jpg', face_bgr)
    words = ('-i', source, '-o', output, *BLUR, '--set')
    assert media(*words, 'mask_zones=["front 1 2 3 4"]', '--dry-run') == 2
    assert media(*words, 'mask_zones=["front 1 2 3 4"]') == 2
    assert not output.exists()
    told = (
        "got 'front 1 2 3 4', which fits no image or video of this run; expected a name or glob "
        'of: ., a.jpg, rear, rear/b.jpg'
    )
    error = f'error: mask_zones: {told}; what it is to cover would stay visible\n'
    assert capsys.readouterr().err == error * 2
    assert media(*words, 'ignore_zones=["front 1 2 3 4"]') == 0
    assert capsys.readouterr().err == f'warning: ignore_zones: {told}\n'


def test_files_of_cameras_are_told_by_their_first_bytes(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    photo = write_jpeg(tmp_path / 'a.jpg', face_bgr).read_bytes()
    film = write_video(tmp_path / 'a.mp4', face_bgr, times_ms=(0, 33)).read_bytes()
    for name, data in (
        ('GX010042.THM', photo),
        ('IMG_0001', photo),
        ('stereo.MPO', photo + photo),
        ('GL010042.LRV', film),
        ('VID_00_042.insv', film + b'trailer of the camera'),
        ('story.txt', b'BMW and G@mes, a story'),
        ('G@mes', b'G@' + bytes(600)),
        ('empty', b''),
        ('moving', b'GIF89a' + bytes(99)),
        ('disc', b'\0\0\x01\xba' + bytes(99)),
    ):
        (source / name).write_bytes(data)
    assert media('-i', source, '-o', output, *BLUR) == 1
    said = capsys.readouterr()
    written = ['GL010042.LRV', 'GX010042.THM', 'IMG_0001', 'VID_00_042.insv', 'stereo.MPO']
    assert files(output) == written
    assert said.err.splitlines()[1:] == [
        '  disc: got a mpg file by its first bytes, expected one of '
        f'{" ".join(SUFFIXES)}; convert it',
        '  moving: got a gif file by its first bytes, expected one of '
        f'{" ".join(SUFFIXES)}; convert it',
    ]
    assert '3 files: G@mes, empty, story.txt' in said.out
    assert '7 of class face' in said.out
    assert len(pictures(output / 'GL010042.LRV')) == len(pictures(output / 'VID_00_042.insv')) == 2
    assert b'trailer' not in (output / 'VID_00_042.insv').read_bytes()
    # A file alone is told the same way.
    assert media('-i', source / 'IMG_0001', '-o', tmp_path / 'one', *BLUR) == 0
    assert media('-i', source / 'moving', '-o', tmp_path / 'two', *BLUR) == 1
    assert 'moving: got a gif file by its first bytes' in capsys.readouterr().err
