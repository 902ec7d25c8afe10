"""Test processes that work side by side: deaths, errors, ends."""

from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from ffs_anonymizer.errors import AnonymizerError, BagError, OutputError
from ffs_anonymizer.jobs.workers import map_in_processes, MOST_DEATHS
import pytest


def squared(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def dying_once(folder: Path, number: int) -> int:
    if number == 2 and not (folder / 'died').exists():
        (folder / 'died').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dying(number: int) -> int:
    os._exit(3)


def failing(number: int) -> int:
    if number:
        raise BagError('it is damaged')
    raise ValueError('a bug')


def sleeping(folder: Path, number: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def test_all_is_done_by_other_processes() -> None:
    made = dict(map_in_processes(squared, range(5), workers=2))
    assert {n: square for n, (square, _) in made.items()} == {n: n * n for n in range(5)}
    assert os.getpid() not in {pid for _, pid in made.values()}


def test_no_work_needs_no_process() -> None:
    assert list(map_in_processes(squared, [], workers=2)) == []


def test_the_work_of_one_that_dies_is_done_again(tmp_path: Path) -> None:
    made = dict(map_in_processes(partial(dying_once, tmp_path), range(4), workers=1))
    assert made == {n: n for n in range(4)}
    assert (tmp_path / 'died').exists()


def test_work_that_kills_each_process_is_given_up() -> None:
    times = MOST_DEATHS + 1
    with pytest.raises(OutputError, match=f'ended with 3 {times} times .* try fewer workers'):
        list(map_in_processes(dying, [1], workers=1))


def test_errors_come_through() -> None:
    with pytest.raises(BagError, match='^it is damaged$'):
        list(map_in_processes(failing, [1], workers=1))
    with pytest.raises(AnonymizerError, match='got ValueError: a bug'):
        list(map_in_processes(failing, [0], workers=1))


def test_they_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        'import sys, pathlib, functools\n'
        f'sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'from ffs_anonymizer.jobs.workers import map_in_processes\n'
        'from test_workers import sleeping\n'
        f'work = functools.partial(sleeping, pathlib.Path({str(tmp_path)!r}))\n'
        'list(map_in_processes(work, [1, 2], workers=2))\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'
