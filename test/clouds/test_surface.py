import time

from ffs_anonymizer.clouds import surface
import numpy as np
import pytest

HOLE = (20, 12, 60, 52)
SHAPE = (70, 90)


def known_around(*holes):
    return surface.outside((0, 0, SHAPE[1], SHAPE[0]), holes)


def grid():
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float64)
    return u, v


def test_points_on_a_plane_stay_on_it():
    u, v = grid()
    z = 1 / (0.4 + 0.002 * u - 0.001 * v)
    points = np.stack([u / 500 * z, v / 500 * z, z], axis=-1)
    normal = np.linalg.lstsq(points.reshape(-1, 3), np.ones(u.size), rcond=None)[0]
    spanned = surface.span(points, known_around(HOLE), HOLE)
    assert spanned.shape == (40, 40, 3)
    assert np.abs(spanned @ normal - 1).max() < 1e-9
    # And not all on one place of it.
    assert np.abs(spanned - points[12:52, 20:60]).max() < 0.03


def test_a_harmonic_function_is_found_again():
    u, v = grid()
    field = np.sin(u / 25) * np.exp(-v / 25)
    spanned = surface.span(field[..., None], known_around(HOLE), HOLE)[..., 0]
    assert np.abs(spanned - field[12:52, 20:60]).max() < 0.04


def test_the_surface_is_within_what_is_known_around():
    values = np.random.default_rng(0).uniform(1, 3, (*SHAPE, 1))
    spanned = surface.span(values, known_around(HOLE), HOLE)
    assert 1 <= spanned.min() <= spanned.max() <= 3


def test_what_is_unknown_is_not_read():
    u, _ = grid()
    holes = (HOLE, (50, 40, 70, 60))
    known = known_around(*holes)
    first = surface.span(np.where(known, u, np.nan)[..., None], known, HOLE)
    second = surface.span(np.where(known, u, 1e30)[..., None], known, HOLE)
    assert np.isfinite(first).all()
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    'hole', [(0, 0, 40, 40), (50, 30, 90, 70), (0, 0, 90, 40), (5, 5, 6, 6), (88, 0, 90, 70)]
)
def test_holes_at_the_edge_and_tiny_ones(hole):
    u, v = grid()
    values = (1.5 + u / 300 + v / 500)[..., None]
    spanned = surface.span(values, known_around(hole), hole)
    assert spanned.shape == (hole[3] - hole[1], hole[2] - hole[0], 1)
    assert values.min() <= spanned.min() <= spanned.max() <= values.max()


def test_a_border_that_knows_nothing_gives_no_surface():
    values = np.ones((*SHAPE, 1))
    assert surface.span(values, np.zeros(SHAPE, bool), HOLE) is None
    assert surface.span(values, known_around((0, 0, 90, 70)), HOLE) is None


def test_noise_is_as_large_as_around():
    u, _ = grid()
    rng = np.random.default_rng(1)
    values = 1 + u / 100 + 0.003 * rng.standard_normal(SHAPE)
    assert surface.noise_size(values, known_around(HOLE)) == pytest.approx(0.003, rel=0.15)
    assert surface.noise_size(values, np.zeros(SHAPE, bool)) == 0.0
    assert surface.noise(HOLE).shape == (40, 40)
    assert (surface.noise(HOLE) == surface.noise(HOLE)).all()
    assert surface.noise(HOLE).std() == pytest.approx(1, rel=0.1)


def test_what_is_flat():
    u, v = grid()
    rng = np.random.default_rng(2)
    plane = 1.5 + u / 300 + v / 500
    noisy = plane + 0.02 * rng.standard_normal(SHAPE)
    x0, y0, x1, y1 = HOLE
    for values in (plane, noisy):
        bumpy, raised = values.copy(), values.copy()
        raised[y0:y1, x0:x1] -= 0.1
        radius2 = ((u - (x0 + x1) / 2) ** 2 + (v - (y0 + y1) / 2) ** 2) / 20**2
        bumpy[radius2 < 1] -= 0.3 * np.sqrt(1 - radius2[radius2 < 1])
        every = np.ones(SHAPE, bool)
        assert surface.is_flat(values[..., None], every, HOLE)
        assert not surface.is_flat(bumpy[..., None], every, HOLE)
        assert not surface.is_flat(raised[..., None], every, HOLE)
        assert surface.is_flat(raised[..., None], every, HOLE, step=0.2)
        # Nothing measured is no shape; nothing measured around it says nothing.
        assert surface.is_flat(bumpy[..., None], known_around(HOLE), HOLE)
        assert not surface.is_flat(values[..., None], ~known_around(HOLE), HOLE)


@pytest.mark.parametrize(
    ('rect', 'expected'), [((10, 20, 30, 40), (6, 16, 34, 44)), ((0, 0, 90, 70), (0, 0, 90, 70))]
)
def test_around(rect, expected):
    assert surface.around(rect, (90, 70)) == expected


def test_no_other_thread_works_on_the_surface():
    """Those of matrix products wait for each other in a loop, which takes cores from cameras."""
    values = np.random.default_rng(0).uniform(1, 3, (400, 400, 3))
    hole = (4, 4, 396, 396)
    known = surface.outside((0, 0, 400, 400), [hole])

    def spent_s():
        return time.thread_time(), time.process_time()

    surface.span(values, known, hole)
    before = spent_s()
    for _ in range(10):
        surface.span(values, known, hole)
    time.sleep(0.1)
    own_s, all_s = (after - start for start, after in zip(before, spent_s(), strict=True))
    assert all_s < 1.3 * own_s
