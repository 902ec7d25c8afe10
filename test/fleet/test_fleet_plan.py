from pathlib import Path

import cv2
from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.errors import MediaError, OutputError
from ffs_anonymizer.fleet.plan import FleetPlan
from ffs_anonymizer.media.files import MediaJob
import pytest
from support.bags import drive, SPECS, write_bag

NOWHERE = {'source': Path(), 'target': Path()}
BAG, MEDIA = BagJob(**NOWHERE), MediaJob(**NOWHERE)


def plan(source, output, **options) -> FleetPlan:
    return FleetPlan.of(str(source), Path(output), bag=BAG, media=MEDIA, **options)


def names(found: FleetPlan) -> dict[str, str]:
    return {task.name: type(task.job).__name__ for task in found.tasks}


@pytest.fixture
def drives(tmp_path, face_bgr) -> Path:
    root = tmp_path / 'in'
    (root / 'deep').mkdir(parents=True)
    write_bag(root / 'one', drive(face_bgr, 1), specs=SPECS)
    write_bag(root / 'deep' / 'two', drive(face_bgr, 1), specs=SPECS, storage='sqlite3')
    (root / 'deep' / 'three.mcap').write_bytes((root / 'one' / 'one_0.mcap').read_bytes())
    cv2.imwrite(str(root / 'deep' / 'face.png'), face_bgr)
    cv2.imwrite(str(root / 'one' / 'inside.png'), face_bgr)
    (root / 'notes.md').write_text('of the driver')
    (root / 'photo.heic').write_bytes(b'x')
    return root


def test_a_folder_is_looked_through(drives, tmp_path) -> None:
    found = plan(drives, tmp_path / 'out')
    assert names(found) == {
        'one': 'BagJob',
        'deep/two': 'BagJob',
        'deep/three': 'BagJob',
        'deep/face.png': 'MediaJob',
    }
    assert found.left_out == ('notes.md',)
    assert [name for name, _ in found.broken] == ['photo.heic']
    first = found.tasks[0]
    assert (first.number, first.name) == (0, 'deep/face.png')
    assert first.job.source == drives / 'deep' / 'face.png'
    assert first.job.target == tmp_path / 'out' / 'deep' / 'face.png'


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('one', {'one'}),
        ('deep/three.mcap', {'three'}),
        ('*/t*', {'two', 'three'}),
        ('**/*.png', {'deep/face.png', 'one/inside.png'}),
    ],
)
def test_one_recording_or_a_pattern(drives, tmp_path, source, expected) -> None:
    assert {*names(plan(drives / source, tmp_path / 'out'))} == expected


def test_a_list_of_recordings(drives, tmp_path) -> None:
    listed = tmp_path / 'drives.txt'
    listed.write_text(f'# october\n{drives / "one"}\n\n{drives / "deep"}\n{drives / "one"}\n')
    assert {*names(plan(listed, tmp_path / 'out'))} == {
        *('one', 'deep/two', 'deep/three', 'deep/face.png')
    }


@pytest.mark.parametrize(
    ('source', 'error', 'words'),
    [
        ('nothing', MediaError, 'no such file or folder'),
        ('empty', MediaError, 'no bag, image or video in it'),
        ('*.bag', MediaError, 'no bag, image or video in it'),
    ],
)
def test_there_is_nothing_to_do(drives, tmp_path, source, error, words) -> None:
    (drives / 'empty').mkdir()
    with pytest.raises(error, match=words):
        plan(drives / source, tmp_path / 'out')


def test_outputs_that_would_meet_are_refused(drives, tmp_path) -> None:
    with pytest.raises(OutputError, match='lies inside the input'):
        plan(drives, drives / 'out')
    (drives / 'one.mcap').write_bytes((drives / 'deep' / 'three.mcap').read_bytes())
    with pytest.raises(OutputError, match='would have the output one, as would'):
        plan(drives, tmp_path / 'out')
    (drives / 'one.mcap').rename(drives / 'deep.mcap')
    with pytest.raises(OutputError, match='would lie inside of the output deep'):
        plan(drives, tmp_path / 'out')


def test_options_are_told_apart_by_their_hash(drives, tmp_path) -> None:
    same = [plan(drives, tmp_path / name).options for name in ('a', 'b')]
    assert same[0] == same[1]
    other = MediaJob(**NOWHERE, keeps_audio=True)
    changed = FleetPlan.of(str(drives), tmp_path / 'a', bag=BAG, media=other).options
    assert changed != same[0]
    assert plan(drives, tmp_path / 'a', audits=True).options != same[0]
