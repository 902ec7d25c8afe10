from dataclasses import replace
import json
from pathlib import Path
import shutil
import sys

import cv2
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.bag import conversion
from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.fleet.parts import Cut, Join, Part
from ffs_anonymizer.fleet.plan import FleetPlan, FleetTask, STAGING
from ffs_anonymizer.fleet.worker import Done, Worker
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.media.files import MediaJob
from ffs_anonymizer.models.roster import default_detector
import numpy as np
import pytest
from support.bags import drive, read_bag, SPECS, write_bag
from support.fleet_tasks import SETTINGS, task_of
from support.media import write_video
from support.onnx_models import exchange


@pytest.fixture(scope='module')
def worker() -> Worker:
    return Worker(SETTINGS)


@pytest.fixture
def tasks(tmp_path, face_bgr) -> dict[str, FleetTask]:
    (tmp_path / 'in').mkdir()
    write_bag(tmp_path / 'in' / 'bag', drive(face_bgr, 2), specs=SPECS)
    cv2.imwrite(str(tmp_path / 'in' / 'face.png'), face_bgr)
    (tmp_path / 'in' / 'torn.jpg').write_bytes(b'\xff\xd8\xff\xe0 torn')
    nowhere = {'source': Path(), 'target': Path(), 'settings': SETTINGS}
    plan = FleetPlan.of(
        str(tmp_path / 'in'),
        tmp_path / 'out',
        bag=BagJob(**nowhere),
        media=MediaJob(**nowhere),
    )
    return {task.name: task for task in plan.tasks}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_each_recording_is_what_one_process_makes_of_it(worker, tasks, tmp_path) -> None:
    done = worker(tasks['bag'], 0)
    assert (done.error, done.exit_code, done.kept) == ('', 0, False)
    assert done.report.regions['face'] == 4
    conversion.run(replace(tasks['bag'].job, target=tmp_path / 'alone' / 'bag'))
    assert files_of(tmp_path / 'out' / 'bag') == files_of(tmp_path / 'alone' / 'bag')
    assert record_of(tmp_path / 'out' / 'bag').is_file()
    assert worker(tasks['face.png'], 0).report.written == 1
    assert (cv2.imread(str(tmp_path / 'out' / 'face.png')) == 0).any()
    assert not any((tmp_path / 'out' / STAGING).iterdir())


@pytest.mark.parametrize('name', ['bag', 'film.mp4'])
def test_a_large_recording_is_cut_and_made_of_its_chunks(
    worker, tmp_path, face_bgr, monkeypatch, name
) -> None:
    monkeypatch.setattr('ffs_anonymizer.jobs.chunks.LEAST_FRAMES', 3)
    source, alone = tmp_path / 'in' / name, tmp_path / 'alone' / name
    source.parent.mkdir()
    if name == 'bag':
        write_bag(source, drive(face_bgr, 4), specs=SPECS)
    else:
        write_video(source, face_bgr)
    task = replace(task_of(str(source), str(tmp_path / 'out')), is_shared=True)
    # Too few pictures to be worth it.
    whole = replace(task, job=replace(task.job, target=alone))
    assert isinstance(worker(whole, 0), Done)
    monkeypatch.setattr('ffs_anonymizer.fleet.worker._FEWEST_FRAMES', 4)

    cut = worker(task, 0)
    assert isinstance(cut, Cut)
    assert len(cut.chunks) > 1
    results = tuple(worker(Part(task, chunk), 0) for chunk in cut.chunks)
    looks = []
    monkeypatch.setattr(Recipe, 'detect', lambda *_: looks.append(1))
    done = worker(Join(task, results, cut.chunks[0].detectors), 0)
    assert (done.error, done.report.written, looks) == ('', 1, [])
    assert done.report.regions['face'] > 0
    out = task.job.target
    made, expected = (path if path.is_dir() else path.parent for path in (out, alone))
    if name == 'bag':
        assert files_of(made) == files_of(expected)
    else:
        assert out.read_bytes() == alone.read_bytes()
    # Whoever takes up what is whole finds it so, and cuts nothing.
    again = worker(replace(task, resumes=True), 0)
    assert (again.error, again.kept) == ('', True)


def test_what_is_wrong_with_a_chunk_is_said(worker, tmp_path, face_bgr, monkeypatch) -> None:
    monkeypatch.setattr('ffs_anonymizer.fleet.worker._FEWEST_FRAMES', 4)
    source = write_bag(tmp_path / 'in', drive(face_bgr, 4), specs=SPECS)
    task = replace(task_of(str(source), str(tmp_path / 'out')), is_shared=True)
    chunk = worker(task, 0).chunks[0]
    done = worker(Part(task, replace(chunk, detectors=('0',))), 0)
    assert done.error.startswith('got other detectors on ')
    # Its record would name those of whoever joins, which were not those that looked.
    done = worker(Join(task, (worker(Part(task, chunk), 0),), ('0',)), 0)
    assert done.error.startswith('got other detectors on ')
    assert not task.job.target.exists()
    # One that cannot be cut is done as a whole.
    compressed = write_bag(tmp_path / 'zstd', drive(face_bgr, 4), specs=SPECS, mode='FILE')
    task = replace(task_of(str(compressed), str(tmp_path / 'zstd_out')), is_shared=True)
    assert worker(task, 0).report.written == 1


def test_a_model_that_is_exchanged_under_a_worker_is_refused(
    tmp_path, face_bgr, monkeypatch
) -> None:
    monkeypatch.setattr('ffs_anonymizer.fleet.worker._FEWEST_FRAMES', 4)
    path = tmp_path / 'faces.onnx'
    shutil.copyfile(default_detector(), path)
    settings = SETTINGS.updated({'detector.model_path': str(path)})
    worker = Worker(settings)
    exchange(path)
    source = write_bag(tmp_path / 'in', drive(face_bgr, 4), specs=SPECS)
    task = task_of(str(source), str(tmp_path / 'out'))
    task = replace(task, is_shared=True, job=replace(task.job, settings=settings))
    chunk = worker(task, 0).chunks[0]
    assert worker(Part(task, chunk), 0).error.startswith('got other detectors on ')


def test_a_video_without_pyav_says_what_to_install(
    worker, tmp_path, face_bgr, monkeypatch
) -> None:
    monkeypatch.setattr('ffs_anonymizer.fleet.worker._FEWEST_FRAMES', 4)
    source = write_video(tmp_path / 'a.mp4', face_bgr)
    task = replace(task_of(str(source), str(tmp_path / 'b.mp4')), is_shared=True)
    chunk = worker(task, 0).chunks[0]
    for name in ('ffs_anonymizer.media.chunks', 'ffs_anonymizer.frames.video_seeker'):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'av', None)
    done = worker(Part(task, chunk), 0)
    assert 'videos need PyAV: pip install av; install what is missing on ' in done.error
    assert 'bug' not in done.error


def test_one_that_fails_fails_alone_and_leaves_nothing(worker, tasks, tmp_path) -> None:
    done = worker(tasks['torn.jpg'], 0)
    assert done.exit_code == 1
    assert 'torn.jpg' in done.error
    assert [path.name for path in (tmp_path / 'out').iterdir()] == [STAGING]
    assert not any((tmp_path / 'out' / STAGING).iterdir())


def test_nothing_is_overwritten_and_nothing_done_twice(worker, tasks, tmp_path) -> None:
    task = tasks['bag']
    first = worker(task, 0)
    before = files_of(tmp_path / 'out')
    assert 'exists already; nothing is overwritten' in worker(task, 0).error
    # After a worker that died when all was done, and when an earlier fleet goes on.
    for again in (worker(task, 1), worker(replace(task, resumes=True), 0)):
        assert (again.error, again.kept) == ('', True)
        assert again.report.streams == first.report.streams
    assert files_of(tmp_path / 'out') == before


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ('settings', 'made with other settings'),
        ('input', 'made of something else'),
        ('touched', ''),
        ('output', 'is not what its privacy record says'),
        ('record', 'expected the record'),
        ('audit', 'was not audited'),
    ],
)
def test_what_is_not_the_same_is_not_kept(worker, tasks, tmp_path, change, words) -> None:
    task = replace(tasks['bag'], resumes=True)
    assert worker(task, 0).error == ''
    source, target = tmp_path / 'in' / 'bag', tmp_path / 'out' / 'bag'
    if change == 'settings':
        other = SETTINGS.updated({'face.threshold': 0.7})
        task = replace(task, job=replace(task.job, settings=other))
    elif change == 'input':
        file = source / 'bag_0.mcap'
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    elif change == 'touched':
        (source / 'bag_0.mcap').touch()
    elif change == 'output':
        (target / 'bag_0.mcap').write_bytes(b'')
    elif change == 'record':
        record_of(target).unlink()
    else:
        task = replace(task, audits=True)
    done = worker(task, 0)
    assert words in done.error
    assert bool(done.error) == bool(words)
    assert target.is_dir()


def test_a_record_alone_is_that_of_an_attempt_that_died(worker, tasks, tmp_path) -> None:
    task = tasks['bag']
    worker(task, 0)
    shutil.rmtree(tmp_path / 'out' / 'bag')
    done = worker(task, 1)
    assert (done.error, done.kept) == ('', False)
    assert read_bag(tmp_path / 'out' / 'bag').records


def test_a_second_look_is_entered_into_the_record(worker, tasks, tmp_path) -> None:
    done = worker(replace(tasks['face.png'], audits=True), 0)
    assert done.error == ''
    assert done.audit is not None
    assert done.audit['frames'] == 1
    record = json.loads(record_of(tmp_path / 'out' / 'face.png').read_text())
    assert record['audit'] == done.audit
    page = (tmp_path / 'out' / 'face.png.audit.html').read_text()
    # By the names that last, not by those of the attempt.
    assert str(tasks['face.png'].job.source) in page
    assert str(tmp_path / 'out' / 'face.png') in page
    assert 'fleet.partial' not in page


def test_exit_codes() -> None:
    found, clean = {'findings': 1, 'frames': 2}, {'findings': 0, 'frames': 2}
    assert Done(Report()).exit_code == 0
    assert Done(Report(), audit=clean).exit_code == 0
    assert Done(Report(undone=['a frame']), audit=clean).exit_code == 1
    assert Done(Report(), audit=found).exit_code == 3
    assert Done(Report(), audit={'findings': 0, 'frames': 0}).exit_code == 3
    assert Done(Report(), error='no bag', audit=found).exit_code == 1


def test_copies_of_killed_workers_are_swept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    for name in ('ffs_fleet_4999999_x', 'ffs_fleet_1_x', 'other'):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / 'face.npy', np.zeros(3))
    Worker(SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ffs_fleet_1_x', 'other']
