"""Test numbered pictures that are those of a film: tracks, order, patterns."""

import json
from pathlib import Path

import cv2
from ffs_anonymizer.errors import MediaError, SettingsError
from ffs_anonymizer.media.files import MediaFile, MediaJob, MediaPlan
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import files, media, write_jpeg

QUICK = ('--set', 'detector.plate_model_path=none')
SEQUENCE = ('--image-sequence', '--framerate', '10')


def regions(path: Path) -> dict[str, list[dict[str, object]]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line['stream']: line['regions'] for line in lines if 'stream' in line}


def plan(folder: Path, **changes: object) -> tuple[MediaFile, ...]:
    job = MediaJob(source=folder, target=folder.parent / 'out', **{'framerate': 10.0, **changes})
    return MediaPlan.of(job).files


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_pictures_of_a_film_are_tracked(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    """The face that is hidden for a moment is covered there too, and stays one person."""
    numbers = (8, 9, 10, 11, 100, 101)
    for place, number in enumerate(numbers):
        dark = number == 11
        picture = np.zeros_like(face_bgr) if dark else np.roll(face_bgr, 2 * place, 1)
        write_jpeg(tmp_path / 'in' / f'img_{number}.jpg', picture)
    words = ('-i', tmp_path / 'in', '-o', tmp_path / 'out', *QUICK)
    found = tmp_path / 'found.jsonl'
    generated = ('--method', 'generate')
    assert media(*words, *SEQUENCE, *generated, '--write-detections', found) == 0
    names = [f'img_{number}.jpg' for number in numbers]
    assert files(tmp_path / 'out') == sorted(names)
    told = regions(found)
    assert list(told) == names
    assert [len(told[name]) for name in names] == [1] * 6
    assert len({told[name][0]['track_id'] for name in names}) == 1
    assert [told[name][0]['detected'] for name in names] == [True] * 3 + [False] + [True] * 2

    # Fed back, nothing changes.
    again = tmp_path / 'again'
    fed = ('-i', tmp_path / 'in', '-o', again, *QUICK, *SEQUENCE, *generated)
    assert media(*fed, '--detections', found) == 0
    for name in names:
        assert (again / name).read_bytes() == (tmp_path / 'out' / name).read_bytes()

    stills = tmp_path / 'stills.jsonl'
    words = ('-i', tmp_path / 'in', '-o', tmp_path / 'one by one', *QUICK, '--method', 'solid')
    assert media(*words, '--write-detections', stills) == 0
    assert len(regions(stills)['img_11.jpg']) == 0


def test_films_end_and_stills_lie_between(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    for name in ('left_1', 'left_2', 'left_3', 'right_1', 'right_2', 'cover', 'x/9'):
        write_jpeg(tmp_path / 'in' / f'{name}.jpg', face_bgr)
    found = tmp_path / 'found.jsonl'
    words = ('-i', tmp_path / 'in', '-o', tmp_path / 'out', *QUICK, '--method', 'solid')
    assert media(*words, *SEQUENCE, '--write-detections', found) == 0
    told = regions(found)
    assert sorted(told) == files(tmp_path / 'out') == files(tmp_path / 'in')
    assert all(len(found) == 1 for found in told.values())
    for name in told:
        was, now = (cv2.imread(str(tmp_path / side / name)) for side in ('in', 'out'))
        assert (was != now).any()


def test_numbers_give_the_order(tmp_path: Path) -> None:
    source = touched(
        tmp_path / 'in', 'b2_10.png', 'b2_9.png', 'b2_010.png', 'a.png', 'c1.jpg', 'd/1.png',
        'd/2.png', 'b3_1.png', 'film 1.mp4', 'film 2.mp4',
    )  # fmt: skip
    told = [(file.name, file.film, file.stamp_ns) for file in plan(source)]
    assert told == [
        ('a.png', '', None),
        ('film 1.mp4', '', None),
        ('film 2.mp4', '', None),
        ('b2_9.png', 'b2_%d.png', 0),
        ('b2_010.png', 'b2_%d.png', 100_000_000),
        ('b2_10.png', 'b2_%d.png', 200_000_000),
        ('b3_1.png', '', None),
        ('c1.jpg', '', None),
        ('d/1.png', 'd/%d.png', 0),
        ('d/2.png', 'd/%d.png', 100_000_000),
    ]


@pytest.mark.parametrize(
    ('pattern', 'expected'),
    [
        ('a_%d.png', ['a_1.png', 'a_20.png', 'a_300.png']),
        ('a_%02d.png', ['a_20.png', 'a_300.png']),
        ('a_*.png', ['a_1.png', 'a_20.png', 'a_300.png', 'a_x.png']),
        ('a_?.png', ['a_1.png', 'a_x.png']),
    ],
)
def test_patterns(pattern: str, expected: list[str], tmp_path: Path) -> None:
    names = ('a_1.png', 'a_20.png', 'a_300.png', 'a_x.png', 'a_1.jpg', 'b_1.png', 'sub/a_1.png')
    source = touched(tmp_path / 'in', *names)
    job = MediaJob(source=source, target=tmp_path / 'out', pattern=pattern)
    assert [file.name for file in MediaPlan.of(job).files] == expected


def test_a_pattern_on_the_command_line(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('img_1.jpg', 'img_2.jpg', 'other.jpg'):
        write_jpeg(tmp_path / 'in' / name, face_bgr)
    words = ('-o', tmp_path / 'out', *QUICK, '--method', 'solid')
    assert media('-i', tmp_path / 'in' / 'img_%d.jpg', *words, '--image-sequence') == 0
    assert files(tmp_path / 'out') == ['img_1.jpg', 'img_2.jpg']
    record = json.loads((tmp_path / 'out.privacy.json').read_text())
    assert [file['name'] for file in record['source']['files']] == ['img_1.jpg', 'img_2.jpg']
    assert media('-i', tmp_path / 'in' / 'none_%d.jpg', *words[:1], tmp_path / 'x', *SEQUENCE) == 1
    assert 'no image or video of the name none_%d.jpg in it' in capsys.readouterr().err


def test_what_makes_no_film_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = touched(tmp_path / 'in', 'a.png', 'b1.png')
    with pytest.raises(MediaError, match='got no two pictures whose names differ in their last'):
        plan(source)
    with pytest.raises(SettingsError, match='--skip-existing with --image-sequence'):
        plan(touched(source, 'b2.png'), skips_existing=True)
    words = ('-i', source, '-o', tmp_path / 'out')
    assert media(*words, '--framerate', '10') == 2
    assert 'got --framerate without --image-sequence' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        media(*words, '--image-sequence', '--framerate', 'nan')
    assert 'expected pictures a second' in capsys.readouterr().err
