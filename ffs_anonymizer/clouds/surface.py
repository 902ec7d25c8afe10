"""The smooth surface that takes a shape's place: spanned in the border of a rectangle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rect = tuple[int, int, int, int]

RING_PX = 4
# Waves along a side; shorter ones are taken for the sensor's noise and for edges.
_MODES = 16
_LEAST_BORDER = 4
_LEAST_SHARE = 0.05
# Shapes smaller than the noise, or than so much of the distance, show nobody.
_FLAT_NOISE, _FLAT = 2.0, 0.004
# Of a normal distribution: its deviation over the median of absolute values.
_DEVIATION = 1.4826


def around(rect: Rect, size_wh: tuple[int, int]) -> Rect:
    """Return a rectangle with the ring that its surface is spanned in, inside the frame."""
    x0, y0, x1, y1 = rect
    return (
        max(x0 - RING_PX, 0),
        max(y0 - RING_PX, 0),
        min(x1 + RING_PX, size_wh[0]),
        min(y1 + RING_PX, size_wh[1]),
    )


def outside(window: Rect, rects: Sequence[Rect]) -> NDArray[np.bool_]:
    """Return which pixels of a window lie in none of the rectangles, (h, w)."""
    left, top, right, bottom = window
    free = np.ones((bottom - top, right - left), np.bool_)
    for x0, y0, x1, y1 in rects:
        free[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] = False
    return free


def span(
    values: NDArray[np.float64], known: NDArray[np.bool_], hole: Rect
) -> NDArray[np.float64] | None:
    """
    Return the harmonic surface over a hole: what a soap film in its border looks like.

    Each of its values is a mean of the border's, with weights that depend on the place alone. So
    points on a plane give points on that plane, whatever the frame they are measured in.

    :param values: (h, w, C), of the hole and the ring around it; unknown ones are not read.
    :param known: (h, w); False everywhere inside the hole.
    :param hole: rectangle in pixels of `values`.
    :returns: (hole's height, hole's width, C); None where the border knows too little.
    """
    border = _border(values, known, hole)
    if border is None:
        return None
    top, right, bottom, left = border
    height, width = len(left), len(top)
    s = np.arange(1, width + 1) / (width + 1)
    t = np.arange(1, height + 1) / (height + 1)
    ratio = (height + 1) / (width + 1)
    corners = (
        (top[0] + left[0]) / 2,
        (top[-1] + right[0]) / 2,
        (bottom[-1] + right[-1]) / 2,
        (bottom[0] + left[-1]) / 2,
    )
    north_west, north_east, south_east, south_west = corners
    upper = _between(north_west, north_east, s)
    lower = _between(south_west, south_east, s)
    flat = upper[None] * (1 - t)[:, None, None] + lower[None] * t[:, None, None]
    surface = flat.transpose(2, 0, 1) + _film(top - upper, bottom - lower, s, t, ratio)
    west = left - _between(north_west, south_west, t)
    east = right - _between(north_east, south_east, t)
    surface += _film(west, east, t, s, 1 / ratio).transpose(0, 2, 1)
    return np.ascontiguousarray(surface.transpose(1, 2, 0))


def is_flat(
    values: NDArray[np.float64], known: NDArray[np.bool_], hole: Rect, step: float = 0.0
) -> bool:
    """
    Return whether a hole holds no other shape than what its border spans, but for noise.

    :param values: (h, w, C), of the hole and the ring around it; unknown ones are not read.
    :param known: (h, w).
    :param hole: rectangle in pixels of `values`.
    :param step: by which values are rounded.
    """
    height, width = known.shape
    around_it = known & outside((0, 0, width, height), [hole])
    film = span(values, around_it, hole)
    if film is None:
        return False
    x0, y0, x1, y1 = hole
    inside = known[y0:y1, x0:x1]
    away = np.linalg.norm(values[y0:y1, x0:x1] - film, axis=-1)[inside]
    sizes = np.linalg.norm(np.where(known[..., None], values, 0.0), axis=-1)
    least = step + _FLAT * np.linalg.norm(film, axis=-1)[inside]
    bound = np.maximum(_FLAT_NOISE * noise_size(sizes, around_it), least)
    return not away.size or bool(np.median(away - bound) <= 0)


def noise_size(values: NDArray[np.float64], known: NDArray[np.bool_]) -> float:
    """
    Return the standard deviation of a sensor's noise, from neighbours in a row.

    :param values: (h, w) distances.
    :param known: (h, w); others are not read.
    """
    triples = known[:, :-2] & known[:, 1:-1] & known[:, 2:]
    if not triples.any():
        return 0.0
    clean = np.where(known, values, 0.0)
    bends = (clean[:, :-2] - 2 * clean[:, 1:-1] + clean[:, 2:])[triples]
    return deviation(bends) / 6**0.5


def deviation(values: NDArray[np.float64]) -> float:
    """Return the standard deviation around 0, whatever a few of them are."""
    return float(np.median(np.abs(values))) * _DEVIATION


def noise(rect: Rect) -> NDArray[np.float64]:
    """Return standard normal numbers for a rectangle, the same whenever it is asked for."""
    x0, y0, x1, y1 = rect
    return np.random.default_rng(rect).standard_normal((y1 - y0, x1 - x0))


def _border(
    values: NDArray[np.float64], known: NDArray[np.bool_], hole: Rect
) -> list[NDArray[np.float64]] | None:
    """
    Return top, right, bottom and left of the ring around a hole, smoothed and without gaps.

    :returns: (n, C) each, from left to right or from top to bottom, but the bottom's order is from
        left to right too; None where too little is known.
    """
    x0, y0, x1, y1 = hole
    sides = [
        (slice(max(y0 - RING_PX, 0), y0), slice(x0, x1), 0, 1),
        (slice(y0, y1), slice(x1, x1 + RING_PX), 1, 1),
        (slice(y1, y1 + RING_PX), slice(x0, x1), 0, -1),
        (slice(y0, y1), slice(max(x0 - RING_PX, 0), x0), 1, -1),
    ]
    sums, counts = [], []
    for rows, columns, axis, order in sides:
        part, is_known = values[rows, columns], known[rows, columns]
        sums.append(np.where(is_known[..., None], part, 0.0).sum(axis)[::order])
        counts.append(is_known.sum(axis)[::order])
    total, count = np.concatenate(sums), np.concatenate(counts)
    places = np.flatnonzero(count)
    length = len(count)
    if len(places) < max(_LEAST_BORDER, _LEAST_SHARE * length):
        return None
    means = total[places] / count[places, None]
    every = np.arange(length)
    loop = np.stack(
        [np.interp(every, places, column, period=length) for column in means.T], axis=1
    )
    reach = max(length // 64, 1)
    wrapped = np.concatenate([loop[-reach:], loop, loop[:reach]])
    cumulated = np.cumsum(np.concatenate([np.zeros((1, loop.shape[1])), wrapped]), axis=0)
    wide = 2 * reach + 1
    smooth = (cumulated[wide:] - cumulated[:-wide]) / wide
    width, height = x1 - x0, y1 - y0
    top, right, bottom, left = np.split(smooth, [width, width + height, 2 * width + height])
    return [top, right, bottom[::-1], left[::-1]]


def _between(
    first: NDArray[np.float64], last: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (n, C), on the straight line from one to the other."""
    return first * (1 - at)[:, None] + last * at[:, None]


def _film(
    near: NDArray[np.float64],
    far: NDArray[np.float64],
    along: NDArray[np.float64],
    away: NDArray[np.float64],
    ratio: float,
) -> NDArray[np.float64]:
    """
    Return the harmonic function that is given on two opposite sides of a rectangle, and else 0.

    :param near: (n, C) on one side.
    :param far: (n, C) on the other.
    :param along: (n,) places on the sides, 0 to 1.
    :param away: (m,) distances from the near one, 0 to 1.
    :param ratio: the rectangle's extent away from the sides over its extent along them.
    :returns: (C, m, n).
    """
    k = np.pi * np.arange(1, min(_MODES, len(along)) + 1)
    waves = np.sin(k[:, None] * along)
    # Of the waves on each side, (2, C, K), and of their way to the other, (2, m, K):
    # sinh(k r (1 - v)) / sinh(k r), in powers that cannot overflow.
    sizes = 2 / (len(along) + 1) * np.einsum('snc,kn->sck', np.stack([near, far]), waves)
    v = np.stack([away, 1 - away])[..., None]
    fading = np.exp(-ratio * v * k) - np.exp(-ratio * (2 - v) * k)
    fading /= 1 - np.exp(-2 * ratio * k)
    rows = np.einsum('sck,smk->cmk', sizes, fading).reshape(-1, len(k))
    # NumPy's and OpenCV's matrix products have threads that wait for each other on busy cores.
    film = np.einsum('rk,kn->rn', rows, waves)
    return np.asarray(film, np.float64).reshape(-1, len(away), len(along))
