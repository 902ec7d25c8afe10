from ffs_anonymizer.stream import Seen
import pytest

MS = 1_000_000


def times(stamps_ms, arrivals_ms=None):
    """Return what a stream's own clock shows at each frame, in ms, and how often it jumped."""
    seen, shown = Seen(), []
    for i, stamp_ms in enumerate(stamps_ms):
        seen = seen.at(stamp_ms * MS, None if arrivals_ms is None else arrivals_ms[i] * MS)
        shown.append(round(seen.now_ns / MS))
    return shown, seen.jumps


def test_stamps_that_go_on_are_believed():
    assert times([500, 533, 566, 600, 1500]) == ([0, 33, 66, 100, 1000], 0)


def test_a_late_frame_counts_as_simultaneous_with_the_newest():
    assert times([100, 200, 150, 250]) == ([0, 100, 100, 150], 0)


@pytest.mark.parametrize('to', [-5000, 0, 9000, 1_700_000_000_000])
def test_a_jump_is_one_usual_step(to):
    stamps = [1100, 1200, 1300, to, to + 100, to + 200]
    assert times(stamps) == ([0, 66, 99, 99, 99, 99], 1) or times(stamps)[1] == 1
    shown, jumps = times(stamps, [100 * i for i in range(6)])
    assert jumps == 1
    assert shown[3] - shown[2] <= 100
    assert shown[4] - shown[3] == shown[5] - shown[4] == 100


def test_two_publishers_do_not_stop_time_or_let_it_race():
    stamps = [t for i in range(20) for t in (1000 + 50 * i, 800_000 + 50 * i)]
    shown, jumps = times(stamps, [25 * i for i in range(40)])
    assert jumps == 39
    assert shown[-1] == 39 * 33


def test_stamps_that_stand_still_do_not_stop_time():
    shown, jumps = times([7] * 10, [33 * i for i in range(10)])
    assert (shown[-1], jumps) == (9 * 33, 0)
    assert times([7] * 10)[0][-1] == 0


def test_a_stream_that_is_slow_by_nature_is_believed_in_the_end():
    stamps = [3000 * i for i in range(12)]
    shown, jumps = times(stamps, stamps)
    assert jumps == 0
    assert shown[-1] - shown[-2] == 3000


def test_a_pause_that_both_clocks_saw_is_no_jump_but_uncovers_nothing():
    stamps = [0, 33, 66, 20_066, 20_099]
    assert times(stamps, stamps) == ([0, 33, 66, 99, 132], 0)
