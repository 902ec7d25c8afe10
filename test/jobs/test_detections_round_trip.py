"""Test that a list of detections that is fed back makes the same pictures to the bit."""

import json
from pathlib import Path

import cv2
from ffs_anonymizer.regions import detector, tracker
import numpy as np
from numpy.typing import NDArray
import pytest
from support.bags import (
    compressed_cdr,
    drive,
    images,
    jpeg,
    pixels_of,
    raw_cdr,
    read_bag,
    Record,
    run,
    SPECS,
    STEP,
    T0,
    write_bag,
)
from support.media import BLUR, files, media, pictures, write_jpeg, write_video
from support.onnx_models import save_generator

ZONE = 'mask_zones=["*cam* 10 10 60 40"]'


@pytest.fixture
def nothing_is_found_anew(monkeypatch: pytest.MonkeyPatch):
    """Return a switch that makes detecting and tracking fail."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    def switch() -> None:
        monkeypatch.setattr(detector, 'detect', fail)
        monkeypatch.setattr(tracker, 'advance', fail)

    return switch


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()]


def rough_drive(face_bgr: NDArray[np.uint8]) -> list[Record]:
    """Return a drive with frames before the face is found, and with gaps to bridge."""
    records = []
    for i, is_seen in enumerate((False, True, True, False, True, False, False)):
        frame = np.roll(face_bgr, 3 * i, axis=1) if is_seen else np.full_like(face_bgr, 90 + i)
        now = T0 + i * STEP
        records += [
            Record('/cam/image', now, now, i, raw_cdr(frame, stamp_ns=now)),
            # A camera without a clock.
            Record('/cam/image/compressed', now, now, i, compressed_cdr(jpeg(frame), stamp_ns=0)),
        ]
    return records


@pytest.mark.parametrize('method', ['generate', 'blur'])
def test_a_bag(tmp_path: Path, face_bgr, nothing_is_found_anew, method: str) -> None:
    source = write_bag(tmp_path / 'in', rough_drive(face_bgr), splits=1)
    words = ['--method', f'face={method}', '--set', ZONE, '--mask-scale', '1.37']
    if method == 'generate':
        words += ['--generator-model', save_generator(tmp_path / 'generator.onnx')]
    first, second = tmp_path / 'first.jsonl', tmp_path / 'second.jsonl'
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    assert run(source, tmp_path / 'a' / 'out', '--write-detections', first, *words) == 0
    listed = lines(first)
    # The zone is a matter of the settings.
    assert {row['class'] for line in listed for row in line.get('regions', ())} == {'face'}
    detected = [[row['detected'] for row in line['regions']] for line in listed[1:-1]]
    assert detected[::2] == [[False], [True], [True], [False], [True], [False], [False]]

    nothing_is_found_anew()
    words += ['--detections', first, '--write-detections', second]
    assert run(source, tmp_path / 'b' / 'out', *words) == 0

    assert contents(tmp_path / 'b' / 'out') == contents(tmp_path / 'a' / 'out')
    assert second.read_bytes() == first.read_bytes()


def test_images_and_videos(
    tmp_path: Path, face_bgr: NDArray[np.uint8], nothing_is_found_anew
) -> None:
    source = tmp_path / 'in'
    write_jpeg(source / 'cam' / 'a.jpg', face_bgr)
    write_jpeg(source / 'wall.jpg', np.full_like(face_bgr, 90))
    write_video(source / 'clip.mkv', face_bgr, codec='ffv1', pixels='bgr0')
    words = ['-i', source, *BLUR, '--set', ZONE]
    first, second = tmp_path / 'first.jsonl', tmp_path / 'second.jsonl'
    assert media(*words, '-o', tmp_path / 'a', '--write-detections', first) == 0
    nothing_is_found_anew()
    words += ['--detections', first, '--write-detections', second]
    assert media(*words, '-o', tmp_path / 'b') == 0
    assert files(tmp_path / 'a') == ['cam/a.jpg', 'clip.mkv', 'wall.jpg']
    for name in ('cam/a.jpg', 'wall.jpg'):
        assert (tmp_path / 'b' / name).read_bytes() == (tmp_path / 'a' / name).read_bytes()
    frames = [pictures(tmp_path / side / 'clip.mkv') for side in 'ab']
    for (time_s, one, _), (other_s, other, _) in zip(*frames, strict=True):
        assert time_s == other_s
        assert np.array_equal(one, other)
    assert second.read_bytes() == first.read_bytes()
    names = [line['stream'] for line in lines(first)[1:-1]]
    assert names == ['cam/a.jpg', 'wall.jpg', *8 * ['clip.mkv']]


def test_boxes_are_listed_ungrown(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    write_jpeg(tmp_path / 'a.jpg', face_bgr)
    boxes = []
    for scale in ('1', '3'):
        path = tmp_path / f'{scale}.jsonl'
        words = ('-i', tmp_path / 'a.jpg', '-o', tmp_path / f'{scale}.jpg', *BLUR)
        assert media(*words, '--mask-scale', scale, '--write-detections', path) == 0
        boxes.append(lines(path)[1]['regions'][0]['xyxy_px'])
    assert boxes[0] == boxes[1]


def test_an_edited_list_decides(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), face_bgr)
    path = tmp_path / 'found.jsonl'
    words = ('-i', tmp_path / 'a.png', '--method', 'solid', '--mask-scale', '1')
    assert media(*words, '-o', tmp_path / 'b.png', '--write-detections', path) == 0
    head, frame, end = lines(path)
    frame['regions'][0]['xyxy_px'] = [100, 20, 120, 30]
    path.write_text('\n'.join(map(json.dumps, (head, frame, end))))
    assert media(*words, '-o', tmp_path / 'c.png', '--detections', path) == 0
    expected = face_bgr.copy()
    expected[20:30, 100:120] = 0
    assert np.array_equal(cv2.imread(str(tmp_path / 'c.png')), expected)


def test_lists_of_something_else(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bag(tmp_path / 'in', drive(face_bgr, 2))
    write_jpeg(tmp_path / 'a.jpg', face_bgr)
    found = tmp_path / 'found.jsonl'
    words = ('-i', tmp_path / 'a.jpg', *BLUR)
    assert media(*words, '-o', tmp_path / 'b.jpg', '--write-detections', found) == 0
    assert run(source, tmp_path / 'out', '--detections', found) == 1
    assert (
        f"{found} lists what was found in 'a.jpg', and has nothing of /cam/image, "
        f'/cam/image/compressed; expected the list of {source}'
    ) in capsys.readouterr().err
    assert media(*words, '-o', tmp_path / 'c.jpg', '--detections', found, '--boxes', '.') == 2
    assert 'got --boxes and --detections' in capsys.readouterr().err
    # The same file, of another size.
    write_jpeg(tmp_path / 'a.jpg', face_bgr[:100])
    assert media(*words, '-o', tmp_path / 'c.jpg', '--detections', found) == 1
    text = 'got detections in a frame of 192x144 pixels, expected one of 192x100'
    assert text in capsys.readouterr().err
    assert not (tmp_path / 'c.jpg').exists()


def test_frames_that_are_not_listed_are_not_written(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    early, late = drive(face_bgr, 2), drive(face_bgr, 3)
    found = tmp_path / 'found.jsonl'
    source = write_bag(tmp_path / 'early', early)
    assert run(source, tmp_path / 'out', '--write-detections', found) == 0
    source = write_bag(tmp_path / 'late', late)
    words = ['--detections', found]
    assert run(source, tmp_path / 'stops', *words) == 1
    when = images(late)[2].log_ns
    error = f'/cam/image, message recorded at {when} ns: {found} has no frame /cam/image at '
    assert error in capsys.readouterr().err
    assert not (tmp_path / 'stops').exists()
    assert run(source, tmp_path / 'black', *words, '--on-error', 'black') == 1
    assert capsys.readouterr().err.count('it is black now') == 2
    result = images(read_bag(tmp_path / 'black').records)
    assert [bool(pixels_of(record).any()) for record in result] == [True, True, False]
    # A part of what was searched is enough.
    source = write_bag(tmp_path / 'part', early[3:], specs=SPECS)
    assert run(source, tmp_path / 'out2', *words) == 0
