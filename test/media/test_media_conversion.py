"""Test images in, images without faces out."""

import json
from pathlib import Path
import resource

import cv2
from ffs_anonymizer.jobs.output import new_file
from ffs_anonymizer.media.conversion import run
from ffs_anonymizer.media.files import MediaJob, MediaPlan
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import BLUR, faces, files, media, write_jpeg
from support.program import run_program
from support.recipes import Detector


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
    _, found, _ = map(json.loads, lines.read_text('utf-8').splitlines())
    region = found['regions'].pop()
    x0, y0, x1, y1 = region.pop('xyxy_px')
    assert 0 <= x0 < 96 < x1 <= 192
    assert 0 <= y0 < y1 <= 144
    assert region.pop('score') == region.pop('best_score') > 0.5
    region.pop('points_px', None)
    assert region == {'class': 'face', 'track_id': 0, 'detected': True}
    size = {'size_wh': [192, 144], 'regions': []}
    assert found == {'stream': 'face.jpg', 'stamp_ns': None, **size}
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
    # One that this run does not make is none of its business.
    other = output / 'new' / 'a.jpg.preview.jpg.partial'
    other.touch()
    assert media('-i', photo.parent, '-o', output / 'new', *BLUR) == 0
    assert files(output / 'new') == ['a.jpg', 'a.jpg.preview.jpg.partial']
    write_jpeg(photo.parent / 'a.jpg.preview.jpg', face_bgr)
    assert media('-i', photo.parent, '-o', output / 'newer', '--preview', *BLUR) == 1
    assert 'a.jpg.preview.jpg: got two outputs of this name' in capsys.readouterr().err


def test_a_picture_that_vanishes_takes_no_other_with_it(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    for name in 'abc':
        write_jpeg(tmp_path / 'in' / f'{name}.jpg', face_bgr)
    settings = Settings().updated({'face.method': 'solid'})
    job = MediaJob(source=tmp_path / 'in', target=tmp_path / 'out', settings=settings)
    plan = MediaPlan.of(job)
    (tmp_path / 'in' / 'b.jpg').unlink()
    report = run(job, plan=plan)
    assert report.undone == [f'{tmp_path / "in" / "b.jpg"}: No such file or directory']
    assert (report.exit_code, report.written) == (1, 2)
    assert files(tmp_path / 'out') == ['a.jpg', 'c.jpg']


def test_two_runs_to_one_output_do_not_meet(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    write_jpeg(tmp_path / 'a.jpg', face_bgr)
    with new_file(tmp_path / 'b.jpg') as partial:
        assert media('-i', tmp_path / 'a.jpg', '-o', tmp_path / 'b.jpg', *BLUR) == 1
        assert 'b.jpg.partial is there: another run is writing it' in capsys.readouterr().err
        partial.write_bytes(b'the first one')
    assert (tmp_path / 'b.jpg').read_bytes() == b'the first one'
    assert files(tmp_path) == ['a.jpg', 'b.jpg']


def test_links_lead_no_output_into_the_input(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / 'in', tmp_path / 'out'
    write_jpeg(source / 'rear' / 'a.jpg', face_bgr)
    (source / 'front').mkdir()
    output.mkdir()
    (output / 'rear').symlink_to(source / 'front')
    assert media('-i', source, '-o', output, *BLUR) == 1
    assert f'{output / "rear" / "a.jpg"}: lies inside the input' in capsys.readouterr().err
    assert files(source) == ['rear/a.jpg']
    (output / 'rear').unlink()
    # Nor are the outputs of an earlier run taken for inputs.
    (source / 'front' / 'earlier').symlink_to(output)
    write_jpeg(output / 'old.jpg', face_bgr)
    assert media('-i', source, '-o', output, *BLUR) == 0
    assert files(output) == ['old.jpg', 'rear/a.jpg']
