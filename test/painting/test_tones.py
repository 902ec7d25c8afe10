from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.job import Job
from ffs_anonymizer.painting.tones import PLAY, steady
import numpy as np
import pytest

RECT = np.array([20, 10, 60, 58], np.int32)
OUTER = np.array([18, 8, 62, 60], np.int32)
TRACKS = np.array([7])


def job(count=1):
    return Job(
        np.array([[10, 0, 64]] * count, np.int32),
        np.zeros(count, np.int8),
        np.zeros(count, np.uint64),
        (None,) * count,
        np.zeros((count, 5, 2), np.float32),
        np.zeros(count, np.float32),
        np.array([RECT] * count),
        np.array([OUTER] * count),
        np.array([RECT] * count),
        np.arange(count, dtype=np.int32),
    )


def patch(level):
    pixels = np.full((52, 44, 3), level, np.uint8)
    pixels[::2] += 10
    return Patch(pixels, OUTER, RECT)


def middle(one):
    return one.pixels_bgr[16:36, 14:30].astype(float).mean()


def test_what_is_new_stays_as_it_is():
    (same,), tones = steady(job(), [patch(100)], TRACKS, {})
    assert np.array_equal(same.pixels_bgr, patch(100).pixels_bgr)
    assert tones[7] == pytest.approx([105, 105, 105])


def test_a_tone_that_trembles_is_held():
    rng = np.random.default_rng(0)
    (one,), tones = steady(job(), [patch(100)], TRACKS, {})
    first = middle(one)
    for _ in range(20):
        level = int(100 + rng.integers(-6, 7))
        (one,), tones = steady(job(), [patch(level)], TRACKS, tones)
        assert middle(one) == pytest.approx(first, abs=0.6)


def test_a_tone_follows_the_light_and_lags_behind_no_further_than_its_play():
    _, tones = steady(job(), [patch(100)], TRACKS, {})
    (one,), tones = steady(job(), [patch(180)], TRACKS, tones)
    assert middle(one) == pytest.approx(185 - PLAY, abs=0.6)
    (back,), _ = steady(job(), [patch(100)], TRACKS, tones)
    assert middle(back) == pytest.approx(105 + PLAY, abs=0.6)


def test_nothing_moves_at_the_edge_and_outside_of_what_is_covered():
    before = {7: np.full(3, 105, np.float32)}
    (one,), _ = steady(job(), [patch(180)], TRACKS, before)
    off = np.abs(one.pixels_bgr.astype(int) - patch(180).pixels_bgr).max(2)
    inside = np.zeros(off.shape, bool)
    inside[2:50, 2:42] = True
    assert off[~inside].max() == 0
    assert off[2:50, 2:42].max() == PLAY
    assert max(off[2, :].max(), off[:, 2].max(), off[49, :].max(), off[:, 41].max()) <= 1


def test_levels_end_at_black_and_white():
    white = {7: np.full(3, 255, np.float32)}
    (one,), _ = steady(
        job(), [Patch(np.full((52, 44, 3), 250, np.uint8), OUTER, RECT)], TRACKS, white
    )
    assert one.pixels_bgr.max() == 255
    assert one.pixels_bgr.min() == 250


@pytest.mark.parametrize('track', [-1, 3])
def test_other_tracks_have_no_say(track):
    before = {7: np.zeros(3, np.float32)}
    (one,), tones = steady(job(), [patch(100)], np.array([track]), before)
    assert np.array_equal(one.pixels_bgr, patch(100).pixels_bgr)
    assert sorted(tones) == ([] if track < 0 else [track])
