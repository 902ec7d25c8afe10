"""Real Ray: a cluster of several nodes on this machine."""

from collections.abc import Callable, Iterator
from functools import partial
import importlib
import os
from pathlib import Path
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import AnonymizerError, BagError
from ffs_anonymizer.jobs.fleet import Backlog, Begun, Crew, Ended, Fleet, Lost, map_in_fleet
import pytest
import ray
import ray.cloudpickle
from ray.cluster_utils import Cluster
from support.bags import long_bag, QUICK, read_bag
from support.ray_nodes import added, started

# Workers cannot import what lies among the tests.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    CLIENT_PORT = free.getsockname()[1]


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    made = started(ray_client_server_port=CLIENT_PORT)
    yield made
    made.shutdown()


def work(folder: Path) -> Callable[[str, int], str]:
    """Return what notes each job that it does, and dies over some."""

    def do(job: str, tries: int) -> str:
        with (folder / job).open('a') as file:
            file.write(f'{tries} {os.environ["OMP_NUM_THREADS"]}\n')
        if job == 'poison' or (job == 'b' and not tries):
            os._exit(1)
        if job == 'bug':
            raise KeyError('nobody thought of it')
        return job.upper()

    return do


def test_a_backlog_gives_the_most_urgent_first() -> None:
    backlog = Backlog(['a', 'b'])
    assert backlog.add('late', 2) == 2
    assert backlog.add('now', -1) == 3
    assert [backlog.take() for _ in range(2)] == [(-1, 3, 'now'), (0, 0, 'a')]
    # Before what is as urgent, and came later.
    backlog.put_back(0, 0)
    backlog.drop([2])
    assert [backlog.take()[1] for _ in range(2)] == [0, 1]
    assert not backlog


def test_more_jobs_may_come_while_others_are_done(cluster, tmp_path) -> None:
    backlog, added, done = Backlog(['a']), {'a': ['c', 'd'], 'd': ['b']}, []
    backlog.grows = True
    with Fleet(Crew(cluster.address, workers=1), partial(work, tmp_path)) as fleet:
        for event in fleet.map(backlog):
            if isinstance(event, Ended):
                done.append(event.result)
                for job in added.get(event.result.lower(), ()):
                    backlog.add(job, -1)
    # One of them by the second that took it up.
    assert done == ['A', 'C', 'D', 'B']


def begin_badly() -> None:
    raise AnonymizerError('no such model')


def test_who_dies_leaves_its_job_to_another_and_poison_fails_alone(cluster, tmp_path) -> None:
    jobs = ['a', 'poison', 'b', 'bug', 'c']

    crew = Crew(cluster.address, workers=1, retries=1)
    with Fleet(crew, partial(work, tmp_path)) as fleet:
        events = list(fleet.map(Backlog(jobs)))
    ended = {jobs[e.number]: e for e in events if isinstance(e, Ended)}
    assert {name: e.result for name, e in ended.items()} == {
        'a': 'A',
        'b': 'B',
        'c': 'C',
        'poison': None,
        'bug': None,
    }
    assert 'its workers died, 2 of them' in ended['poison'].reason
    assert "a bug: 'nobody thought of it'" in ended['bug'].reason
    assert [jobs[e.number] for e in events if isinstance(e, Lost)] == ['poison', 'b']
    assert len([e for e in events if isinstance(e, Begun)]) == 7
    tried = {name: (tmp_path / name).read_text() for name in jobs}
    # Ray keeps them to one thread each; a bug is not tried again.
    once, twice = '0 1\n', '0 1\n1 1\n'
    assert tried == {'a': once, 'poison': twice, 'b': twice, 'bug': once, 'c': once}


def test_the_client_of_a_cluster(cluster, tmp_path) -> None:
    """As from a machine that is none of the cluster's."""
    with Fleet(
        Crew(f'ray://127.0.0.1:{CLIENT_PORT}', workers=1), partial(work, tmp_path)
    ) as fleet:
        events = list(fleet.map(Backlog(['a', 'b'])))
    assert sorted(e.result for e in events if isinstance(e, Ended)) == ['A', 'B']
    assert [e.number for e in events if isinstance(e, Lost)] == [1]
    assert not ray.is_initialized()


@pytest.mark.parametrize('deaths', [1, 3])
def test_a_client_whose_server_dies_as_it_begins_asks_again(
    cluster, tmp_path, monkeypatch, deaths
) -> None:
    from ray.util.client.worker import Worker

    begin, died = Worker._server_init, []

    def dying(self, *args, **kwargs):
        if len(died) < deaths:
            died.append(1)
            raise ConnectionAbortedError('the server is a zombie')
        return begin(self, *args, **kwargs)

    monkeypatch.setattr(Worker, '_server_init', dying)
    far = Crew(f'ray://127.0.0.1:{CLIENT_PORT}', workers=1)
    if deaths < 3:
        with Fleet(far, partial(work, tmp_path)) as fleet:
            assert [e.result for e in fleet.map(Backlog(['a'])) if isinstance(e, Ended)] == ['A']
    else:
        with pytest.raises(AnonymizerError, match='cannot join a Ray cluster: the server'):
            Fleet(far, partial(work, tmp_path)).__enter__()
    # What failed must not be in the way of what comes.
    with Fleet(Crew(cluster.address, workers=1), partial(work, tmp_path)) as fleet:
        assert [e.result for e in fleet.map(Backlog(['c'])) if isinstance(e, Ended)] == ['C']


def test_workers_that_cannot_begin_are_an_error(cluster) -> None:
    with (
        pytest.raises(AnonymizerError, match=r'^.*:\d+: no such model$'),
        Fleet(Crew(cluster.address, workers=1), begin_badly) as fleet,
    ):
        list(fleet.map(Backlog(['a'])))


class Unfit:
    """Cannot be unpickled where a library is missing."""

    def __reduce__(self) -> tuple[object, ...]:
        return importlib.import_module, ('videos_need_this',)


def test_a_machine_that_lacks_a_library_says_which(cluster, tmp_path) -> None:
    crew = Crew(cluster.address, workers=1, retries=0)
    says = "^no worker can begin: .*No module named 'videos_need_this'$"
    with pytest.raises(AnonymizerError, match=says), Fleet(crew, Unfit()) as fleet:
        list(fleet.map(Backlog(['a'])))
    with Fleet(crew, partial(work, tmp_path)) as fleet:
        (ended,) = [e for e in fleet.map(Backlog([Unfit()])) if isinstance(e, Ended)]
    assert re.match("cannot begin it: .*No module named 'videos_need_this'$", ended.reason)


def test_a_worker_asks_for_no_more_cores_than_one_machine_has(cluster, tmp_path) -> None:
    node = added(cluster)
    make_work = partial(work, tmp_path)
    with Fleet(Crew(cluster.address, workers=1), make_work) as fleet:
        assert fleet.cpus == 1
        assert [e.result for e in fleet.map(Backlog(['a'])) if isinstance(e, Ended)] == ['A']
    cluster.remove_node(node)
    crew = Crew(cluster.address, workers=1, cpus=2)
    with pytest.raises(
        AnonymizerError, match='got 2 cores for each worker, expected at most the 1'
    ):
        Fleet(crew, make_work).__enter__()


def test_a_cluster_that_is_not_there() -> None:
    with (
        pytest.raises(AnonymizerError, match=r'^--address nonsense: cannot join a Ray cluster: '),
        Fleet(Crew('nonsense'), begin_badly),
    ):
        pass


def bags(folder: Path, face_bgr, count: int, frames: int) -> Path:
    folder.mkdir()
    for number in range(count):
        long_bag(folder / f'drive_{number}', face_bgr, frames + number)
    return folder


def until(condition, seconds: float = 150) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def refuse(job: str) -> str:
    if job == 'bad':
        raise BagError(f'{job}: no such bag')
    return job.upper()


def test_errors_of_the_work_come_through(cluster) -> None:
    crew = Crew(cluster.address, workers=1)
    assert sorted(map_in_fleet(refuse, ['a', 'b'], crew=crew)) == [(0, 'A'), (1, 'B')]
    with pytest.raises(BagError, match='^bad: no such bag$'):
        list(map_in_fleet(refuse, ['a', 'bad'], crew=crew))


def test_the_chunks_of_one_bag_on_a_cluster(cluster, face_bgr, tmp_path, capsys) -> None:
    source = long_bag(tmp_path / 'in', face_bgr, 40)
    base = ['bag', '-i', str(source), *QUICK]
    one, several = tmp_path / 'one' / 'out', tmp_path / 'several' / 'out'
    for target in (one, several):
        target.parent.mkdir()
    assert main([*base, '-o', str(one)]) == 0
    words = ['-o', str(several), '--workers', '2', '--address', cluster.address]
    assert main([*base, *words]) == 0
    assert contents(several) == contents(one)
    assert not (tmp_path / 'several' / 'out.partial').exists()
    assert main([*base, '-o', str(tmp_path / 'three'), '--address', 'auto']) == 2
    assert '--address: got auto without --workers' in capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_node_that_is_killed_loses_nothing(cluster, face_bgr, tmp_path) -> None:
    node = added(cluster)
    # Long enough that a machine that is killed takes a worker with it that is at work.
    frames = 150
    source, output = bags(tmp_path / 'in', face_bgr, 3, frames), tmp_path / 'out'
    staging = output / 'fleet.partial'
    killed = []

    def kill() -> None:
        if until(lambda: len({path.parent for path in staging.glob('*/drive_*')}) == 2):
            cluster.remove_node(node, allow_graceful=False)
            killed.append(node)

    thread = threading.Thread(target=kill)
    thread.start()
    words = ['fleet', '-i', str(source), '-o', str(output), '--address', cluster.address]
    code = main([*words, '--workers', '2', *QUICK[:-1]])
    thread.join()
    assert (code, len(killed)) == (0, 1)
    names = {f'drive_{number}' for number in range(3)}
    expected = {*names, *(f'{name}.privacy.json' for name in names), 'fleet.html', 'fleet.json'}
    assert {path.name for path in output.iterdir()} == expected
    for number in range(3):
        whole = read_bag(output / f'drive_{number}')
        assert len(whole.records) == frames + number
    assert 'worker lost: ' in (output / 'fleet.html').read_text()


def one_after_the_other(source: Path, folder: Path) -> dict[str, dict[str, bytes]]:
    """Return what one process makes of each bag of a folder, by their names."""
    folder.mkdir()
    for bag in source.iterdir():
        assert main(['bag', '-i', str(bag), '-o', str(folder / bag.name), *QUICK]) == 0
    return {bag.name: contents(folder / bag.name) for bag in source.iterdir()}


def uneven(folder: Path, face_bgr, frames: int) -> Path:
    """Write a large bag and two small ones."""
    folder.mkdir()
    for name, count in (('large', frames), ('small_0', 5), ('small_1', 4)):
        long_bag(folder / name, face_bgr, count)
    return folder


def chunks_kept(output: Path) -> int:
    """Return how many chunks of its one large bag a fleet has kept."""
    lines = [path.read_bytes() for path in output.glob('fleet.partial/chunks_*/journal')]
    return sum(line.count(b'\n') for line in lines) - len(lines)


def test_all_workers_share_a_large_bag_and_one_of_them_may_die(cluster, face_bgr, tmp_path):
    node = added(cluster)
    source, output = uneven(tmp_path / 'in', face_bgr, 400), tmp_path / 'out'
    killed = []

    def kill() -> None:
        if until(lambda: chunks_kept(output) >= 4):
            cluster.remove_node(node, allow_graceful=False)
            killed.append(chunks_kept(output))

    thread = threading.Thread(target=kill)
    thread.start()
    words = ['fleet', '-i', str(source), '-o', str(output), '--address', cluster.address]
    code = main([*words, '--workers', '2', *QUICK[:-1]])
    thread.join()
    page = (output / 'fleet.html').read_text()
    assert (code, len(killed)) == (0, 1), page
    assert killed[0] < 25
    expected = one_after_the_other(source, tmp_path / 'alone')
    assert {name: contents(output / name) for name in expected} == expected
    spare = {*expected, *(f'{n}.privacy.json' for n in expected), 'fleet.html', 'fleet.json'}
    assert {path.name for path in output.iterdir()} == spare
    assert 'worker lost: ' in page
    assert re.search('note: looked at in 25 chunks by [123] workers<', page)


def test_a_fleet_that_is_killed_goes_on_with_its_chunks(cluster, face_bgr, tmp_path):
    node = added(cluster)
    source, output = uneven(tmp_path / 'in', face_bgr, 300), tmp_path / 'out'
    words = ['fleet', '-i', source, '-o', output, '--address', cluster.address, '--workers', 2]
    command = [sys.executable, '-m', 'ffs_anonymizer', *map(str, words), *QUICK[:-1]]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    begun = until(lambda: chunks_kept(output) >= 3)
    process.kill()
    process.wait()
    assert begun
    kept = chunks_kept(output)
    assert not (output / 'large').exists()
    assert main([*map(str, words), *QUICK[:-1], '--resume']) == 0
    cluster.remove_node(node)
    page = (output / 'fleet.html').read_text()
    note = f'note: looked at in 19 chunks by [12] workers, {kept} of them by an earlier run<'
    assert re.search(note, page)
    expected = one_after_the_other(source, tmp_path / 'alone')
    assert {name: contents(output / name) for name in expected} == expected
    assert not (output / 'fleet.partial').exists()


def test_interrupted_and_resumed(cluster, face_bgr, tmp_path) -> None:
    source, output = bags(tmp_path / 'in', face_bgr, 3, 4), tmp_path / 'out'
    words = ['fleet', '-i', source, '-o', output, '--address', cluster.address, '--workers', 1]
    command = [sys.executable, '-m', 'ffs_anonymizer', *map(str, words), *QUICK[:-1]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # The largest comes first.
    assert until(lambda: (output / 'drive_2').is_dir())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1] == 'interrupted: what was not finished has no final name'
    left = {path.name for path in output.iterdir()}
    assert not re.search(r'partial|drive_0', ' '.join(left))
    assert 'ended early' in (output / 'fleet.html').read_text()
    before = (output / 'drive_2' / 'drive_2_0.mcap').stat()
    assert main([*map(str, words), *QUICK[:-1], '--resume']) == 0
    assert (output / 'drive_2' / 'drive_2_0.mcap').stat() == before
    page = (output / 'fleet.html').read_text()
    assert '<td>kept</td>' in page
    assert 'all done' in page
    assert [len(read_bag(output / f'drive_{n}').records) for n in range(3)] == [4, 5, 6]
