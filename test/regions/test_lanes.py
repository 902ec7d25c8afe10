import threading

from ffs_anonymizer.regions.lanes import in_lanes
import pytest


@pytest.mark.parametrize('lanes', [1, 2, 3, 9])
@pytest.mark.parametrize('count', [0, 1, 2, 7])
def test_results_are_in_the_order_of_the_pieces(lanes, count):
    assert in_lanes([lambda n=n: n for n in range(count)], lanes) == list(range(count))


def test_as_many_pieces_as_lanes_are_done_at_once():
    meeting = threading.Barrier(2, timeout=10)
    assert sorted(in_lanes([meeting.wait, meeting.wait], 2)) == [0, 1]


@pytest.mark.parametrize('lanes', [1, 2])
def test_the_error_of_the_first_piece_that_fails_is_raised(lanes):
    meeting = threading.Barrier(2, timeout=10)

    def fail(name):
        if lanes == 2:
            meeting.wait()
        raise ValueError(name)

    with pytest.raises(ValueError, match='first'):
        in_lanes([lambda: fail('first'), lambda: fail('second')], lanes)


def test_no_thread_is_left():
    before = threading.active_count()
    in_lanes([lambda: None] * 5, 3)
    assert threading.active_count() == before
