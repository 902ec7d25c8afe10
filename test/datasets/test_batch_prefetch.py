from functools import partial
import os
import signal
import time

from ffs_anonymizer.datasets.prefetch import Batches, batches_ahead, batches_of_workers
from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray
import pytest

SHAPE = (2, 4, 4, 3)
AHEAD = {
    'thread': batches_ahead,
    'one process': partial(batches_of_workers, workers=1),
    'three processes': partial(batches_of_workers, workers=3),
}


def draw(step: int, images: NDArray[np.uint8]) -> str:
    if step == 13:
        raise MediaError('no thirteenth')
    images[:] = step
    return f'step {step}'


def taken(batches: Batches[str]) -> list[tuple[int, str]]:
    return [(int(images.max()), told) for images, told in batches]


@pytest.mark.parametrize('ahead', AHEAD.values(), ids=AHEAD)
@pytest.mark.parametrize('steps', [range(0), range(1), range(2, 13), range(3, 8, 2)])
def test_each_step_comes_once_and_in_order(ahead: partial[Batches[str]], steps: range) -> None:
    assert taken(ahead(draw, steps, SHAPE)) == [(step, f'step {step}') for step in steps]


@pytest.mark.parametrize('ahead', AHEAD.values(), ids=AHEAD)
def test_an_error_of_drawing_comes_out_where_it_belongs(ahead: partial[Batches[str]]) -> None:
    batches = ahead(draw, range(10, 20), SHAPE)
    assert [next(batches)[1] for _ in range(3)] == ['step 10', 'step 11', 'step 12']
    with pytest.raises(MediaError, match='no thirteenth'):
        next(batches)


def test_a_process_that_dies_is_told_of() -> None:
    batches = batches_of_workers(lambda step, _: os._exit(step), range(9, 12), SHAPE, 2)
    with pytest.raises(MediaError, match='ended with exit code 9'):
        next(batches)


def test_no_process_is_left_where_fewer_steps_are_taken() -> None:
    batches = batches_of_workers(lambda *_: os.getpid(), range(1000), SHAPE, 2)
    workers = {next(batches)[1] for _ in range(6)}
    assert len(workers) == 2
    batches.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_processes_end_with_the_one_that_asked() -> None:
    reading, writing = os.pipe()
    asking = os.fork()
    if not asking:
        batches = batches_of_workers(lambda *_: os.getpid(), range(1000), SHAPE, 2)
        os.write(writing, f'{next(batches)[1]} {next(batches)[1]}\n'.encode())
        time.sleep(60)
        os._exit(0)
    with os.fdopen(reading) as told:
        workers = [int(pid) for pid in told.readline().split()]
    os.kill(asking, signal.SIGKILL)
    os.waitpid(asking, 0)
    os.close(writing)
    until = time.monotonic() + 20
    while any(map(runs, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(runs, workers))


def runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie, which nobody may collect in a container."""
    try:
        with open(f'/proc/{pid}/stat') as stat:
            return stat.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False
