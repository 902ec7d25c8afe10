from itertools import islice, pairwise
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.training.generator.candidates import (
    Candidate,
    front,
    read_candidates,
    to_markdown,
    upcoming,
    write_candidates,
)
from ffs_anonymizer.training.generator.widths import Channels, make_table
import pytest

BEST = (3, 5, 2, 6)
LARGE = make_table(' '.join(['1,2,3,4,5,6,7,8'] * 4), (8, 8, 8, 8))


def judged(channels: Channels) -> Candidate:
    distance = sum(abs(a - b) for a, b in zip(channels, BEST, strict=True))
    return Candidate(channels, 10**6 * sum(channels), 10, float(distance))


def test_the_front_is_cheapest_first_and_nearer_each_time() -> None:
    a, b, c, d = (
        Candidate((i,), macs, 1, distance)
        for i, (macs, distance) in enumerate([(30, 1.0), (10, 3.0), (20, 3.5), (10, 3.2)])
    )
    assert front([a, b, c, d]) == [b, a]
    assert front([]) == []


def test_a_table_is_written_line_by_line_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / 'candidates.csv'
    found = [judged((1, 2, 3, 4)), judged((8, 8, 8, 8))]
    assert read_candidates(path, 7) == []

    def stopping():
        yield from found
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_candidates(path, stopping(), 7)
    assert read_candidates(path, 7) == found
    assert read_candidates(path, 8) == []
    assert '| 1,2,3,4 | 0.010 | 0.00 M | 8.00 |' in to_markdown(found)


@pytest.mark.parametrize(
    'text', ['a,b\n1,2\n', 'channels,gmac,parameters,distance,images\nx,1,1,1,7\n']
)
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'other.csv').write_text(text)
    with pytest.raises(ModelError, match=r'other\.csv: cannot be read as a table of candidates'):
        read_candidates(tmp_path / 'other.csv', 7)


def test_all_of_a_small_table_are_judged() -> None:
    table = make_table('1,2 3,4 5', (2, 4, 5))
    found: list[Candidate] = []
    while (channels := upcoming(table, found, lambda _: False, 4)) is not None:
        found.append(Candidate(channels, 1, 1, 1.0))
    assert [c.channels for c in found] == [*table]


def test_of_a_large_table_the_affordable_ones_evolve_towards_the_nearest() -> None:
    found: list[Candidate] = []
    while (channels := upcoming(LARGE, found, lambda c: sum(c) <= 18, 80)) is not None:
        found.append(judged(channels))
    assert len({c.channels for c in found}) == len(found) == 80
    assert all(sum(c.channels) <= 18 for c in found)
    first, rest = found[:20], found[20:]
    mean = [sum(c.distance for c in some) / len(some) for some in (first, rest)]
    assert mean[1] < 0.7 * mean[0]
    assert min(c.distance for c in found) <= 1


def test_evolution_goes_on_as_it_would_have() -> None:
    runs = []
    for stops in (False, True):
        found: list[Candidate] = []
        for _ in range(40):
            channels = upcoming(LARGE, [*found] if stops else found, lambda _: True, 40)
            assert channels is not None
            found.append(judged(channels))
        runs.append(found)
    assert runs[0] == runs[1]
    assert all(a != b for a, b in pairwise(runs[0]))


def test_where_next_to_nothing_is_affordable_evolution_ends() -> None:
    found = [judged((1, 1, 1, 1))]
    assert upcoming(LARGE, found, lambda c: sum(c) <= 4, 80) is None


def test_there_is_something_to_choose_for_the_smallest_budget_too() -> None:
    earlier = [judged(channels) for channels in islice(LARGE, 1, 81)]
    for found in ([], earlier):
        assert upcoming(LARGE, found, lambda c: sum(c) <= 4, 80) == LARGE.narrowest
