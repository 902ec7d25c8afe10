from collections.abc import Sequence
import contextlib
from fractions import Fraction
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time

import av
import cv2
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.frames.video import VideoSource
from ffs_anonymizer.regions.detector import Detector
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from support.program import ROOT, run_program

# Not what a recorder would write: a gap, and an uneven start.
TIMES_MS = (100, 133, 167, 200, 400, 433, 467, 500)
# Where a test asks whether a face is left: a generated one is a face, too.
BLUR = ('--method', 'blur')


@pytest.fixture(scope='session')
def detector() -> Detector:
    return Detector(Settings())


def faces(detector: Detector, image_bgr: NDArray[np.uint8]) -> int:
    return int((detector.detect(image_bgr).scores > 0.5).sum())


def write_jpeg(path: Path, image_bgr: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]))
    return path


def write_video(
    path: Path,
    image_bgr: NDArray[np.uint8],
    *,
    times_ms: Sequence[int] = TIMES_MS,
    codec: str = 'libx264',
    pixels: str = 'yuv420p',
    streams: int = 1,
    rotation: int = 0,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video of one picture that moves, with metadata that must not get out."""
    with av.open(str(path), 'w') as container:
        container.metadata['title'] = 'Elm Street 13'
        videos = [container.add_stream(codec, rate=30, options=options) for _ in range(streams)]
        audio = container.add_stream('aac', rate=48000) if sound else None
        for video in videos:
            video.height, video.width = image_bgr.shape[:2]
            video.pix_fmt = pixels
            video.codec_context.time_base = Fraction(1, 30 if path.suffix == '.avi' else 1000)
            if rotation:
                video.set_display_rotation(rotation)
        for i, time_ms in enumerate(times_ms):
            shifted = np.roll(image_bgr, 2 * i, axis=1)
            for video in videos:
                frame = av.VideoFrame.from_ndarray(shifted, 'bgr24')
                frame.time_base = video.codec_context.time_base
                frame.pts = i if path.suffix == '.avi' else time_ms
                container.mux(video.encode(frame))
        if audio is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
            tone.sample_rate, tone.pts = 48000, 0
            container.mux(audio.encode(tone))
            container.mux(audio.encode(None))
        for video in videos:
            container.mux(video.encode(None))
    return path


def pictures(path: Path) -> list[tuple[Fraction, NDArray[np.uint8], int]]:
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format='bgr24'), frame.rotation)
            for frame in container.decode(video=0)
        ]


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def media(*words: object) -> int:
    return main(['media', *map(str, words)])


# -- images


def test_a_folder_is_mirrored(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Detector
) -> None:
    source, output = tmp_path / 'in', tmp_path / 'out'
    write_jpeg(source / 'face.jpg', face_bgr)
    write_jpeg(source / 'two words' / 'Gesicht für 顔.JPG', face_bgr)
    cv2.imwrite(str(source / 'sky.png'), np.full((40, 60, 3), (200, 120, 30), np.uint8))
    (source / 'notes.txt').write_text('what I saw', encoding='utf-8')
    (source / 'two words' / 'round').symlink_to(source)
    (source / 'link.jpg').symlink_to(source / 'face.jpg')
    assert faces(detector, face_bgr) == 1
    done = run_program('media', '-i', source, '-o', output, *BLUR)
    assert (done.returncode, done.stderr) == (0, '')
    expected = ['face.jpg', 'link.jpg', 'sky.png', 'two words/Gesicht für 顔.JPG']
    assert files(output) == expected
    assert '4 of 4 files written, 4 images and frames, regions replaced: 3 of class face' in (
        done.stdout
    )
    assert 'left out, neither image nor video by their names: 1 files: notes.txt' in done.stdout
    for name in expected:
        image = cv2.imdecode(np.fromfile(output / name, np.uint8), cv2.IMREAD_COLOR)
        assert faces(detector, image) == 0, name
    assert np.array_equal(cv2.imread(str(output / 'sky.png')), cv2.imread(str(source / 'sky.png')))


def test_a_face_is_found_whichever_way_the_picture_is_stored(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Detector
) -> None:
    on_its_side = np.rot90(face_bgr)
    plain = bytes(cv2.imencode('.jpg', on_its_side)[1])
    tag = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    segment = b'\xff\xe1' + (len(tag) + 2).to_bytes(2, 'big') + tag
    (tmp_path / 'a.jpg').write_bytes(plain[:2] + segment + plain[2:])
    before = cv2.imread(str(tmp_path / 'a.jpg'))
    assert before.shape == face_bgr.shape
    assert media('-i', tmp_path / 'a.jpg', '-o', tmp_path / 'b.jpg', *BLUR) == 0
    after = cv2.imread(str(tmp_path / 'b.jpg'))
    assert after.shape == before.shape
    assert (faces(detector, before), faces(detector, after)) == (1, 0)
    raw = cv2.imread(str(tmp_path / 'b.jpg'), cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR)
    assert raw.shape == on_its_side.shape


def test_own_boxes_take_the_place_of_the_detector(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source, boxes, output = tmp_path / 'in', tmp_path / 'boxes', tmp_path / 'out'
    (source / 'sub').mkdir(parents=True)
    (boxes / 'sub').mkdir(parents=True)
    for name in ('one', 'none', 'missing', 'broken', 'sub/deep'):
        cv2.imwrite(str(source / f'{name}.png'), face_bgr)
    (boxes / 'one.txt').write_text('40 30 80 70\n', encoding='utf-8')
    (boxes / 'none.txt').write_text('', encoding='utf-8')
    (boxes / 'broken.txt').write_text('40 30 80\n', encoding='utf-8')
    (boxes / 'sub' / 'deep.txt').write_text('0 0 192 144\n', encoding='utf-8')
    options = ('--boxes', boxes, '--method', 'solid', '--mask-scale', '1')
    assert media('-i', source, '-o', output, *options) == 1
    said = capsys.readouterr()
    assert f'missing.png: cannot read the boxes {boxes / "missing.txt"}' in said.err
    assert f'{boxes / "broken.txt"}, line 1: got ' in said.err
    assert '3 of 5 files written' in said.out
    assert files(output) == ['none.png', 'one.png', 'sub/deep.png']
    expected = face_bgr.copy()
    expected[30:70, 40:80] = 0
    assert np.array_equal(cv2.imread(str(output / 'one.png')), expected)
    assert np.array_equal(cv2.imread(str(output / 'none.png')), face_bgr)
    assert not cv2.imread(str(output / 'sub' / 'deep.png')).any()


def test_detections_and_preview(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Detector
) -> None:
    write_jpeg(tmp_path / 'in' / 'face.jpg', face_bgr)
    lines = tmp_path / 'found.jsonl'
    options = ('--preview', '--write-detections', lines, *BLUR)
    assert media('-i', tmp_path / 'in', '-o', tmp_path / 'out', *options) == 0
    found = json.loads(lines.read_text('utf-8'))
    region = found['regions'].pop()
    x0, y0, x1, y1 = region.pop('xyxy_px')
    assert 0 <= x0 < 96 < x1 <= 192
    assert 0 <= y0 < y1 <= 144
    assert region.pop('score') > 0.5
    assert region == {'class': 'face', 'track_id': 0, 'detected': True}
    assert found == {'name': 'face.jpg', 'stamp_ns': 0, 'size_wh': [192, 144], 'regions': []}
    assert files(tmp_path / 'out') == ['face.jpg', 'face.jpg.preview.jpg']
    preview = cv2.imread(str(tmp_path / 'out' / 'face.jpg.preview.jpg'))
    assert [faces(detector, side) for side in (preview[:, :192], preview[:, 192:])] == [1, 0]


def test_what_cannot_be_read_is_listed_and_not_written(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    source, output = tmp_path / 'in', tmp_path / 'out'
    good = write_jpeg(source / 'good.jpg', face_bgr)
    data = good.read_bytes()
    (source / 'cut.jpg').write_bytes(data[: len(data) // 2])
    (source / 'text.png').write_text('no picture', encoding='utf-8')
    (source / 'empty.webp').touch()
    (source / 'gone.jpg').symlink_to(source / 'nowhere.jpg')
    (source / 'text.mp4').write_text('no video', encoding='utf-8')
    done = run_program('media', '-i', source, '-o', output)
    assert done.returncode == 1
    assert files(output) == ['good.jpg']
    assert '1 of 6 files written' in done.stdout
    # libjpeg has its say, too.
    said = [line for line in done.stderr.splitlines() if not line.startswith('Corrupt JPEG')]
    assert said[0] == 'error: not everything could be done:'
    expected = {
        'gone.jpg: neither a file nor a folder, or a link to nothing',
        'cut.jpg: got a JPEG whose data ends before its picture',
        'text.png: got 10 bytes that begin with 6e 6f 20 70',
        'empty.webp: got 0 bytes that begin with nothing',
        f'{source / "text.mp4"}: ',
    }
    assert len(said) == 1 + len(expected)
    for text in expected:
        assert any(line.startswith(f'  {text}') for line in said), text


@pytest.fixture
def photo(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> Path:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'one.txt').touch()
    write_jpeg(tmp_path / 'taken' / 'a.jpg', face_bgr)
    return write_jpeg(tmp_path / 'in' / 'a.jpg', face_bgr)


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


def test_it_says_what_runs_and_under_which_licence(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert media('-i', photo, '-o', photo.with_name('generated.jpg')) == 0
    said = capsys.readouterr().out
    assert '  face detector: ' in said
    assert "  generator's licence: research use" in said
    assert media('-i', photo, '-o', photo.with_name('blurred.jpg'), *BLUR) == 0
    assert 'licence' not in capsys.readouterr().out


def test_dry_run_writes_nothing(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = photo.parent, photo.parent.parent / 'out'
    assert media('-i', source, '-o', output, '--method', 'solid', '--dry-run') == 0
    said = capsys.readouterr().out
    assert f'{photo} -> {output / "a.jpg"}' in said
    assert '    method: solid' in said
    assert not output.exists()


def test_a_file_in_the_place_of_a_folder_is_told(
    photo: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = photo.parent, photo.parent.parent / 'out'
    write_jpeg(source / 'rear' / 'b.jpg', face_bgr)
    output.mkdir()
    (output / 'rear').touch()
    assert media('-i', source, '-o', output, *BLUR) == 1
    assert f'{output / "rear" / "b.jpg"}: File exists' in capsys.readouterr().err
    assert files(output) == ['a.jpg', 'rear']


def test_a_disk_that_is_full_leaves_no_half_file(photo: Path) -> None:
    def allow_1000_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    output = photo.parent.parent / 'out'
    done = run_program('media', '-i', photo.parent, '-o', output, preexec_fn=allow_1000_bytes)
    assert done.returncode == 1
    assert 'a.jpg: File too large' in done.stderr
    assert files(output) == []


def test_a_slash_at_its_end_makes_the_output_a_folder(photo: Path) -> None:
    output = photo.parent.parent / 'new'
    assert media('-i', photo, '-o', f'{output}/', *BLUR) == 0
    assert files(output) == ['a.jpg']


def test_a_preview_is_never_overwritten(
    photo: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    output = photo.parent.parent / 'out'
    preview = write_jpeg(output / 'a.jpg.preview.jpg', face_bgr)
    before = preview.read_bytes()
    words = ('-i', photo.parent, '-o', output, '--preview', *BLUR)
    assert media(*words, '--skip-existing') == 1
    assert f'error: {preview}: exists already' in capsys.readouterr().err
    assert files(output) == ['a.jpg.preview.jpg']
    assert preview.read_bytes() == before
    (output / 'new').mkdir()
    stale = output / 'new' / 'a.jpg.preview.jpg.partial'
    stale.touch()
    assert media('-i', photo.parent, '-o', output / 'new', *BLUR) == 0
    assert files(output / 'new') == ['a.jpg']
    write_jpeg(photo.parent / 'a.jpg.preview.jpg', face_bgr)
    assert media('-i', photo.parent, '-o', output / 'newer', '--preview', *BLUR) == 1
    assert 'a.jpg.preview.jpg: got two outputs of this name' in capsys.readouterr().err


def test_what_is_known_and_not_supported_is_not_left_out_silently(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = photo.parent, photo.parent.parent / 'out'
    unsupported = ['a.MTS', 'b.heic', 'c.tiff', 'd.cr2', 'e.pgm', 'f.mpeg', 'g.h265', 'h.jp2']
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


# -- videos


@pytest.mark.parametrize(
    ('suffix', 'codec', 'pixels'),
    [
        ('.mp4', 'libx264', 'yuv420p'),
        ('.mov', 'mjpeg', 'yuvj420p'),
        ('.mkv', 'libx264', 'yuv422p'),
        ('.avi', 'mjpeg', 'yuvj422p'),
        ('.webm', 'libvpx-vp9', 'yuv420p'),
    ],
)
def test_a_video_keeps_all_but_its_faces(
    suffix: str,
    codec: str,
    pixels: str,
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    detector: Detector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_video(tmp_path / f'a{suffix}', face_bgr, codec=codec, pixels=pixels)
    output = tmp_path / f'b{suffix}'
    assert media('-i', source, '-o', output, '--crf', '10', *BLUR) == 0, capsys.readouterr().err
    before, after = pictures(source), pictures(output)
    assert len(before) == len(TIMES_MS)
    # AVI numbers its pictures; which number is the first is a reader's guess.
    starts = [side[0][0] if suffix == '.avi' else 0 for side in (before, after)]
    times = [[float(t - s) for t, _, _ in p] for p, s in zip((before, after), starts, strict=True)]
    assert times[1] == pytest.approx(times[0], abs=2e-3)
    for (_, was, _), (_, now, _) in zip(before, after, strict=True):
        assert (faces(detector, was), faces(detector, now)) == (1, 0)
        assert np.abs(now[:, :20].astype(int) - was[:, :20]).mean() < 4
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ['video']
    assert b'Elm Street' in source.read_bytes()
    assert b'Elm Street' not in output.read_bytes()
    assert files(tmp_path) == [source.name, output.name]


def test_a_video_is_written_upright(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Detector
) -> None:
    source = tmp_path / 'a.mp4'
    write_video(source, np.ascontiguousarray(np.rot90(face_bgr, -1)), rotation=90)
    assert pictures(source)[0][2] == 90
    assert media('-i', source, '-o', tmp_path / 'b.mp4', *BLUR) == 0
    _, first, rotation = pictures(tmp_path / 'b.mp4')[0]
    assert (first.shape, rotation) == (face_bgr.shape, 0)
    assert np.abs(first[:, :20].astype(int) - face_bgr[:, :20]).mean() < 5
    assert faces(detector, first) == 0


@pytest.mark.parametrize('height', [144, 143])
def test_any_size_is_kept(height: int, tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    source = tmp_path / 'a.mkv'
    odd = np.ascontiguousarray(face_bgr[:height, :191])
    write_video(source, odd, codec='ffv1', pixels='bgr0')
    assert media('-i', source, '-o', tmp_path / 'b.mkv') == 0
    _, first, _ = pictures(tmp_path / 'b.mkv')[0]
    assert first.shape == odd.shape
    assert np.abs(first[:, :20].astype(int) - odd[:, :20]).mean() < 5


def test_sound_is_copied_on_request_only(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    def sound(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    source = write_video(tmp_path / 'a.mp4', face_bgr, sound=True)
    assert media('-i', source, '-o', tmp_path / 'b.mp4', '--keep-audio') == 0
    assert media('-i', source, '-o', tmp_path / 'c.mp4') == 0
    assert len(sound(source)) > 0
    assert sound(tmp_path / 'b.mp4') == sound(source)
    with av.open(str(tmp_path / 'c.mp4')) as container:
        assert len(container.streams.audio) == 0


@pytest.fixture(params=[('.avi', 'mjpeg', 'yuvj420p'), ('.mkv', 'libx264', 'yuv420p')])
def damaged(request: pytest.FixtureRequest, tmp_path: Path, face_bgr: NDArray[np.uint8]) -> Path:
    """Return a video whose fourth picture is noise."""
    suffix, codec, pixels = request.param
    path = tmp_path / f'damaged{suffix}'
    write_video(path, face_bgr, codec=codec, pixels=pixels, options={'bf': '0'})
    damage(path, 3)
    return path


def damage(path: Path, number: int) -> None:
    with av.open(str(path)) as container:
        packet = [bytes(p) for p in container.demux(video=0) if p.size][number][20:]
    data = path.read_bytes()
    at = data.index(packet)
    noise = np.random.default_rng(1).integers(0, 255, len(packet), np.uint8).tobytes()
    path.write_bytes(data[:at] + noise + data[at + len(packet) :])


def test_a_frame_that_fails_stops_the_video(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert media('-i', damaged, '-o', damaged.parent / f'out{damaged.suffix}') == 1
    said = capsys.readouterr()
    time_s = 0.1 if damaged.suffix == '.avi' else 0.2
    assert f'{damaged.name}: the picture at {time_s:.3f} s cannot be decoded' in said.err
    assert 'with --on-error black this frame would be black' in said.err
    assert '0 of 1 files written' in said.out
    assert files(damaged.parent) == [damaged.name]


def test_a_frame_that_fails_is_black_on_request(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = damaged.parent / f'out{damaged.suffix}'
    assert media('-i', damaged, '-o', output, '--on-error', 'black') == 1
    said = capsys.readouterr()
    assert f'{damaged.name}: 1 frames could not be anonymized and are black' in said.err
    assert '1 of 1 files written' in said.out
    dark = [bool(image.max() < 40) for _, image, _ in pictures(output)]
    assert dark == [i == 3 for i in range(len(TIMES_MS))]
    if damaged.suffix == '.mkv':
        times_ms = [float(time_s * 1000) for time_s, _, _ in pictures(output)]
        assert times_ms == pytest.approx(TIMES_MS, abs=1)


@pytest.mark.parametrize(
    ('suffix', 'codec', 'pixels'), [('.avi', 'mjpeg', 'yuvj420p'), ('.mkv', 'ffv1', 'bgr0')]
)
def test_a_damaged_start_is_no_reason_to_give_up(
    suffix: str, codec: str, pixels: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    source, output = tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'
    write_video(source, face_bgr, codec=codec, pixels=pixels, options={'g': '1'})
    damage(source, 0)
    words = ('-i', source, '-o', output, *BLUR)
    assert media(*words, '--on-error', 'black') == 1
    after = pictures(output)
    assert [bool(image.max() < 40) for _, image, _ in after] == [True] + 7 * [False]
    if suffix == '.mkv':
        assert [time_s * 1000 for time_s, _, _ in after] == pytest.approx(TIMES_MS, abs=1)


def test_a_preview_of_a_video_that_fails_is_deleted(damaged: Path) -> None:
    output = damaged.parent / f'out{damaged.suffix}'
    assert media('-i', damaged, '-o', output, '--preview', *BLUR) == 1
    assert files(damaged.parent) == [damaged.name]
    assert media('-i', damaged, '-o', output, '--preview', '--on-error', 'black', *BLUR) == 1
    assert files(damaged.parent) == [damaged.name, output.name, f'{output.name}.preview.jpg']


def test_errors_of_ffmpeg_have_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'a.mkv'
    source.write_text('no video', encoding='utf-8')
    assert media('-i', source, '-o', tmp_path / 'b.mkv') == 1
    told = f'  {source}: Invalid data found when processing input\n'
    assert capsys.readouterr().err.endswith(told)


def test_what_is_no_single_video_is_refused(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / 'in.mkv', face_bgr, streams=2)
    assert media('-i', tmp_path / 'in.mkv', '-o', tmp_path / 'out.mkv') == 1
    assert 'in.mkv: got 2 video streams, expected 1' in capsys.readouterr().err
    assert media('-i', tmp_path / 'in.mkv', '-o', tmp_path / 'o.mkv', '--boxes', tmp_path) == 1
    assert 'in.mkv: a video, for which there are no boxes' in capsys.readouterr().err
    assert files(tmp_path) == ['in.mkv']


def test_a_video_that_ends_early_is_told(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'cut.mp4'
    with av.open(str(source), 'w', options={'movflags': 'faststart'}) as container:
        video = container.add_stream('libx264', rate=30, options={'bf': '0'})
        video.height, video.width = face_bgr.shape[:2]
        for _ in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(face_bgr, 'bgr24')))
        container.mux(video.encode(None))
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    source.write_bytes(source.read_bytes()[: packets[5][0]])
    assert media('-i', source, '-o', tmp_path / 'out.mp4') == 1
    assert 'cut.mp4: ends early: its header counts 3 pictures more' in capsys.readouterr().err
    assert len(pictures(tmp_path / 'out.mp4')) == 5


FORMATS = [
    ('.mkv', 'ffv1', 'bgr0'),
    ('.mkv', 'libx264', 'yuv420p'),
    ('.webm', 'libvpx-vp9', 'yuv420p'),
    ('.avi', 'mjpeg', 'yuvj420p'),
    ('.avi', 'libx264', 'yuv420p'),
]


def shortfall(path: Path) -> str:
    with contextlib.closing(VideoSource(path)) as source:
        assert list(source)
        return source.shortfall()


@pytest.mark.parametrize(
    'times_ms', [TIMES_MS, range(0, 1000, 33), (0, 33, 66, 1000), (5000, 5040), (0,)]
)
@pytest.mark.parametrize('sound', [False, True])
@pytest.mark.parametrize(('suffix', 'codec', 'pixels'), FORMATS)
def test_no_whole_video_is_said_to_end_early(
    suffix: str,
    codec: str,
    pixels: str,
    sound: bool,
    times_ms: Sequence[int],
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
) -> None:
    path = tmp_path / f'a{suffix}'
    sound = sound and suffix != '.webm'
    write_video(path, face_bgr, codec=codec, pixels=pixels, times_ms=times_ms, sound=sound)
    assert shortfall(path) == ''


def test_a_long_last_picture_and_dropped_ones_are_no_early_end(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    for name in ('a.mkv', 'a.avi'):
        codec, pixels = ('mjpeg', 'yuvj420p')
        with av.open(str(tmp_path / name), 'w') as container:
            video = container.add_stream(codec, rate=30)
            video.height, video.width = face_bgr.shape[:2]
            video.pix_fmt = pixels
            for i in (0, 1, 5, 9):
                frame = av.VideoFrame.from_ndarray(face_bgr, 'bgr24')
                frame.pts, frame.time_base = i, Fraction(1, 30)
                for packet in video.encode(frame):
                    packet.duration = 60 if i == 9 and name == 'a.mkv' else 1
                    container.mux(packet)
            container.mux(video.encode(None))
        assert shortfall(tmp_path / name) == ''


def test_a_guess_of_the_length_is_not_believed(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    path = tmp_path / 'live.mkv'
    with av.open(str(path), 'w', options={'live': '1'}) as container:
        video = container.add_stream('mjpeg', rate=30)
        video.height, video.width = face_bgr.shape[:2]
        video.pix_fmt = 'yuvj420p'
        audio = container.add_stream('pcm_s16le', rate=48000)
        for i in range(30):
            container.mux(video.encode(av.VideoFrame.from_ndarray(face_bgr, 'bgr24')))
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), 's16', 'mono')
            tone.sample_rate, tone.pts = 48000, 1600 * i
            container.mux(audio.encode(tone))
    with av.open(str(path)) as container:
        assert container.duration > 1_100_000
    assert shortfall(path) == ''


@pytest.mark.parametrize(('suffix', 'codec', 'pixels'), FORMATS)
def test_a_video_that_was_cut_off_is_told(
    suffix: str, codec: str, pixels: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    path = tmp_path / f'a{suffix}'
    write_video(path, face_bgr, codec=codec, pixels=pixels, times_ms=range(0, 3000, 33))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    text = 'its header counts' if suffix == '.avi' else 'its header says 3.003 s, what it holds'
    assert shortfall(path).startswith(f'ends early: {text}')


def test_what_a_cut_video_holds_is_written_and_told(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(tmp_path / 'a.mkv', face_bgr, codec='ffv1', pixels='bgr0')
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    assert media('-i', source, '-o', tmp_path / 'b.mkv', *BLUR) == 1
    said = capsys.readouterr()
    assert 'a.mkv: ends early: its header says 0.533 s, what it holds ends at 0.' in said.err
    assert '1 of 1 files written' in said.out


@pytest.mark.parametrize(
    ('number', 'code', 'left', 'text'),
    [
        (signal.SIGINT, 130, [], 'interrupted: what was not finished has no final name\n'),
        (signal.SIGTERM, 143, [], 'terminated: what was not finished has no final name\n'),
        (signal.SIGKILL, -9, ['b.mkv.partial'], ''),
    ],
)
def test_ended_midway_it_leaves_nothing_under_the_final_name(
    number: int, code: int, left: list[str], text: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    source = write_video(tmp_path / 'a.mkv', face_bgr, times_ms=range(0, 15000, 10))
    before = source.read_bytes()
    command = [sys.executable, '-m', 'ffs_anonymizer', 'media', '-i', source]
    with subprocess.Popen(
        [*command, '-o', tmp_path / 'b.mkv'], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        partial = tmp_path / 'b.mkv.partial'
        end_s = time.monotonic() + 30
        while not partial.exists() and time.monotonic() < end_s:
            time.sleep(0.05)
        os.kill(process.pid, number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert said == text
    assert files(tmp_path) == ['a.mkv', *left]
    assert source.read_bytes() == before
