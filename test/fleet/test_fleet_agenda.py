"""What comes next in a fleet, without any fleet."""

from pathlib import Path
import re

from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.fleet.agenda import Agenda, Looked
from ffs_anonymizer.fleet.parts import Cut, Join, Part
from ffs_anonymizer.fleet.plan import FleetPlan, FleetTask
from ffs_anonymizer.fleet.worker import Done
from ffs_anonymizer.jobs.chunks import Chunk, ChunkResult
from ffs_anonymizer.jobs.fleet import Begun, Ended, Lost, Waiting
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.media.files import MediaJob
from ffs_anonymizer.regions.detections import Detections
import numpy as np
import pytest

SHA = 64 * 'a'


def plan_of(folder: Path, sizes: dict[str, int]) -> FleetPlan:
    """Return a plan whose recordings have so many bytes."""
    tasks = []
    for number, (name, size_bytes) in enumerate(sizes.items()):
        source = folder / name
        source.write_bytes(bytes(size_bytes))
        kind = MediaJob if '.' in name else BagJob
        job = kind(source=source, target=folder / 'out' / name)
        tasks.append(FleetTask(number, name, job, folder / 'staging'))
    return FleetPlan(tuple(tasks), '')


def chunks(count: int, sha256: str = SHA) -> tuple[Chunk, ...]:
    return tuple(Chunk(job_sha256=sha256, detectors=(), number=n, frames=16) for n in range(count))


def result(number: int, sha256: str = SHA) -> ChunkResult:
    marks = np.full((16, 32), number, np.uint8)
    return ChunkResult(sha256, number, marks, np.zeros(16, np.int64), Detections.empty())


def taken(agenda: Agenda) -> list:
    """Take all that waits, in its order, with the numbers of the jobs."""
    return [agenda.backlog.take()[1:] for _ in range(len(agenda.backlog))]


@pytest.mark.parametrize(
    ('sizes', 'workers', 'shared'),
    [
        ({'a': 10, 'b': 90, 'c': 10}, 2, ['b']),
        ({'a': 10, 'b': 90, 'c': 10}, 1, []),
        ({'a': 100}, 2, ['a']),
        ({'a': 101, 'b': 100}, 2, []),
        ({'a': 34, 'b': 33, 'c': 33}, 2, []),
        ({'a': 34, 'b': 33, 'c': 33}, 4, ['a', 'b', 'c']),
        # A film is not measured by what bags weigh.
        ({'a': 500, 'b': 500, 'c.mp4': 10}, 2, ['c.mp4']),
        # A photo has nothing to share, and needs no worker but its own.
        ({'a.jpg': 100, 'b.png': 10}, 4, []),
        ({}, 2, []),
    ],
)
def test_what_outlasts_an_even_share_is_shared(tmp_path, sizes, workers, shared) -> None:
    agenda = Agenda(plan_of(tmp_path, sizes), workers)
    assert agenda.backlog.grows == bool(shared)
    tasks = [task for _, task in taken(agenda)]
    assert sorted(task.name for task in tasks if task.is_shared) == shared
    weights = [sizes[task.name] for task in tasks]
    assert weights == sorted(weights, reverse=True)


def test_chunks_come_before_others_and_the_join_before_all(tmp_path) -> None:
    with Agenda(plan_of(tmp_path, {'a': 1, 'b': 9}), 2) as agenda:
        (whole, _), (small, _) = taken(agenda)
        assert agenda.take(Begun(whole, 'x')) == Begun(1, 'x')
        agenda.backlog.put_back(2, small)
        assert agenda.take(Ended(whole, 'x', Cut(chunks(3)))) == Looked(1, 'x', 0, 48)
        parts = taken(agenda)
        assert [getattr(job, 'chunk', None) for _, job in parts] == [*chunks(3), None]
        assert all(isinstance(job, Part) and job.task.name == 'b' for _, job in parts[:3])
        for (number, _), done in zip(parts[:3], (2, 0), strict=False):
            happened = agenda.take(Ended(number, 'y', result(done)))
        assert happened == Looked(1, 'y', 32, 48)
        assert len(agenda.backlog) == 0
        agenda.backlog.put_back(2, small)
        agenda.take(Ended(parts[2][0], 'x', result(1)))
        (join, job), (other, _) = taken(agenda)
        assert isinstance(job, Join)
        # In their order, whichever came first.
        assert [one.number for one in job.results] == [0, 1, 2]
        assert other == small
        done = agenda.take(Ended(join, 'y', Done(Report(written=1), notes=('so',))))
        assert isinstance(done, Ended)
        assert (done.number, done.result.notes) == (
            1,
            ('so', 'looked at in 3 chunks by 2 workers'),
        )
        assert agenda.take(Waiting(2)) == Waiting(2)
    assert not any((tmp_path / 'staging').iterdir())


def cut(agenda: Agenda, count: int, sha256: str = SHA) -> list[int]:
    """Have the one recording cut, and return the numbers of what is to be looked at."""
    ((whole, _),) = taken(agenda)
    agenda.take(Ended(whole, 'x', Cut(chunks(count, sha256))))
    return [number for number, _ in taken(agenda)]


@pytest.mark.parametrize('failed', [Done(Report(), error='no such picture'), None])
def test_one_chunk_that_fails_ends_its_recording_alone(tmp_path, failed) -> None:
    with Agenda(plan_of(tmp_path, {'a': 9}), 2) as agenda:
        parts = cut(agenda, 4)
        for number in parts[2:]:
            agenda.backlog.put_back(1, number)
        told = agenda.take(Ended(parts[0], 'x', failed, 'its workers died'))
        assert told == Ended(0, 'x', failed, 'its workers died')
        # What was to come is left, and what still comes changes nothing.
        assert len(agenda.backlog) == 0
        agenda.backlog.put_back(1, parts[1])
        assert agenda.take(Lost(parts[1], 'y', 'killed')) == Lost(0, 'y', 'killed')
        assert len(agenda.backlog) == 0
        late = [result(1), Done(Report(), error='another'), None]
        for each in late:
            assert isinstance(agenda.take(Ended(parts[1], 'y', each, 'why')), Looked)
        assert len(agenda.backlog) == 0


def test_what_was_found_is_kept_until_the_recording_is_done(tmp_path) -> None:
    plan = plan_of(tmp_path, {'a': 9})
    with Agenda(plan, 2) as agenda:
        parts = cut(agenda, 3)
        agenda.take(Ended(parts[1], 'x', result(1)))
    # As after a kill; the rest is done, and no more.
    with Agenda(plan, 2) as agenda:
        parts = cut(agenda, 3)
        assert len(parts) == 2
        agenda.take(Ended(parts[0], 'x', result(0)))
        agenda.take(Ended(parts[1], 'x', result(2)))
        ((join, job),) = taken(agenda)
        assert [one.fingerprints[0, 0] for one in job.results] == [0, 1, 2]
        # A join that fails leaves it, for another try.
        agenda.take(Ended(join, 'x', Done(Report(), error='no space left')))
    with Agenda(plan, 2) as agenda:
        ((whole, _),) = taken(agenda)
        assert agenda.take(Ended(whole, 'x', Cut(chunks(3)))) == Looked(0, 'x', 48, 48)
        ((join, _),) = taken(agenda)
        done = agenda.take(Ended(join, 'x', Done(Report(written=1))))
        assert done.result.notes == (
            'looked at in 3 chunks by 0 workers, 3 of them by an earlier run',
        )
    assert not any((tmp_path / 'staging').iterdir())


def test_what_was_found_in_another_recording_does_not_count(tmp_path) -> None:
    plan = plan_of(tmp_path, {'a': 9})
    with Agenda(plan, 2) as agenda:
        agenda.take(Ended(cut(agenda, 2)[0], 'x', result(0)))
    with Agenda(plan, 2) as agenda:
        assert len(cut(agenda, 2, 64 * 'b')) == 2


def test_a_journal_that_cannot_be_written_fails_its_recording_alone(tmp_path) -> None:
    (tmp_path / 'staging').write_text('in the way')
    with Agenda(plan_of(tmp_path, {'a': 9}), 2) as agenda:
        ((whole, _),) = taken(agenda)
        done = agenda.take(Ended(whole, 'x', Cut(chunks(2))))
        assert re.match(f'cannot write {tmp_path}/staging/.*: ', done.result.error)
        assert len(agenda.backlog) == 0
