import math

from ffs_anonymizer.review.statistics import miss_rate_bound, statement
import pytest


@pytest.mark.parametrize(
    ('misses', 'sampled', 'bound'),
    [
        (0, 3000, 0.000998),
        (0, 1, 0.95),
        (1, 10, 0.3942),  # tables of Clopper and Pearson, one-sided 95 %
        (2, 20, 0.2826),
        (10, 10, 1.0),
        (0, 0, 1.0),
    ],
)
def test_bound(misses, sampled, bound):
    assert miss_rate_bound(misses, sampled) == pytest.approx(bound, abs=5e-4)


def test_so_few_misses_have_the_rest_of_the_confidence_at_the_bound():
    bound = miss_rate_bound(3, 200)
    tail = sum(math.comb(200, k) * bound**k * (1 - bound) ** (200 - k) for k in range(4))
    assert tail == pytest.approx(0.05, abs=1e-6)


def test_a_large_sample_does_not_overflow():
    assert 0.0005 < miss_rate_bound(500, 1_000_000) < 0.00055


def test_more_misses_than_frames():
    with pytest.raises(ValueError, match='got 3 misses in 2 frames'):
        miss_rate_bound(3, 2)


def test_statement():
    assert statement(0, 3000) == (
        '0 misses in 3,000 sampled frames: under 0.1 % of frames at 95% (one-sided, '
        'Clopper-Pearson)'
    )
    assert statement(1, 1).startswith('1 miss in 1 sampled frame: under 100 % of frames')
    assert 'nothing can be said' in statement(0, 0)
