from ffs_anonymizer.painting.budget import Cost, levels
import numpy as np
import pytest

LARGE, SMALL = Cost(2.0, 10.0), Cost(1.0, 2.0)


@pytest.mark.parametrize(
    ('sides', 'costs', 'budget_ms', 'expected'),
    [
        ([], [LARGE], 10, []),
        ([50, 40, 30], [LARGE], 0, [0, 0, 0]),
        ([50, 40, 30], [LARGE], 1000, [0, 0, 0]),
        ([30, 50, 40], [LARGE], 30, [1, 0, 0]),
        ([50, 40, 30], [LARGE], 1, [1, 1, 1]),
        ([50, 40, 30], [LARGE, SMALL], 1000, [0, 0, 0]),
        ([30, 50, 40], [LARGE, SMALL], 25, [1, 0, 0]),
        ([30, 50, 40], [LARGE, SMALL], 21, [1, 0, 1]),
        ([30, 50, 40], [LARGE, SMALL], 10, [1, 1, 1]),
        ([30, 50, 40], [LARGE, SMALL], 6.5, [2, 1, 1]),
        ([30, 50, 40], [LARGE, SMALL], 0.5, [2, 2, 2]),
    ],
)
def test_the_largest_faces_have_the_best_generator(sides, costs, budget_ms, expected):
    sides = np.array(sides, np.float64)
    before = np.zeros(len(sides), np.int64)
    assert levels(sides, costs, budget_ms, before=before).tolist() == expected


def test_no_choice_exceeds_the_budget():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(0, 40))
        budget_ms = float(rng.uniform(1, 200))
        got = levels(
            rng.uniform(5, 200, n),
            [LARGE, SMALL],
            budget_ms,
            before=rng.integers(-1, 3, n),
        )
        cost = LARGE.of(int((got == 0).sum())) + SMALL.of(int((got == 1).sum()))
        assert cost <= budget_ms + 1e-6


def test_a_face_rises_only_with_room_to_spare():
    sides = np.array([50.0])
    settled = np.array([1])
    assert levels(sides, [LARGE], 12.5, before=settled).tolist() == [1]
    assert levels(sides, [LARGE], 12.5, before=np.array([0])).tolist() == [0]
    assert levels(sides, [LARGE], 15.5, before=settled).tolist() == [0]
    assert levels(sides, [LARGE], 11.0, before=np.array([0])).tolist() == [1]


def test_cost_is_fitted_and_corrected():
    cost = Cost.fitted(12.0, 42.0, 4)
    assert (cost.call_ms, cost.face_ms) == (2.0, 10.0)
    assert cost.of(0) == 0
    assert cost.most(41.9) == 3
    slower = cost
    for _ in range(100):
        slower = slower.corrected(4, 84.0)
    assert slower.of(4) == pytest.approx(84.0, rel=0.01)
