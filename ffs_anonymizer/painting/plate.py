"""An invented licence plate: drawn where one was, from nothing but what is around it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Side of a drawing's shorter edge; it is averaged down when it is put into a frame.
HEIGHT_PX = 96
# No country that uses all three of these letters on its plates gives out numbers that begin with a
# zero after them: nobody's plate.
LETTERS = 'IOQ'
# Lines of each character, `x y` in a box 40 wide and 70 high, `/` between lines; a round pen.
STROKES = {
    '0': '10 0, 30 0, 40 10, 40 60, 30 70, 10 70, 0 60, 0 10, 10 0',
    '1': '6 16, 23 0, 23 70',
    '2': '0 14, 4 5, 13 0, 28 0, 37 6, 40 16, 36 27, 0 70, 40 70',
    '3': '0 0, 40 0, 20 27, 32 30, 40 40, 40 57, 30 70, 10 70, 0 60',
    '4': '22 0, 0 49, 40 49 / 31 32, 31 70',
    '5': '38 0, 4 0, 2 30, 28 28, 40 40, 40 58, 30 70, 10 70, 0 62',
    '6': '30 0, 5 36, 0 49, 4 63, 13 70, 27 70, 37 63, 40 50, 34 36, 20 31, 7 38',
    '7': '0 0, 40 0, 14 70',
    '8': '10 0, 30 0, 38 9, 38 24, 30 33, 10 33, 2 24, 2 9, 10 0 / 10 33, 30 33, 40 43, '
    '40 60, 30 70, 10 70, 0 60, 0 43, 10 33',
    '9': '10 70, 35 34, 40 21, 36 7, 27 0, 13 0, 3 7, 0 20, 6 34, 20 39, 33 32',
    'I': '20 0, 20 70',
    'O': '12 0, 28 0, 40 14, 40 56, 28 70, 12 70, 0 56, 0 14, 12 0',
    'Q': '12 0, 28 0, 40 14, 40 56, 28 70, 12 70, 0 56, 0 14, 12 0 / 24 52, 42 74',
}
_PAPERS_BGR = ((1.0, 1.0, 0.99), (1.0, 1.0, 0.99), (1.0, 1.0, 0.99), (0.22, 0.82, 1.0))
_INKS_BGR = ((0.16, 0.16, 0.16), (0.16, 0.16, 0.16), (0.16, 0.16, 0.16), (0.42, 0.2, 0.14))
_BAND_BGR = (0.62, 0.26, 0.1)
# Grey level of white paper, over the level below which 90 % of what is around lies: between the
# median and the upper quartile of 278 white plates in photos of all kinds. Paper throws light
# back, so that it is light beside dark vehicles, too.
_PAPER_LEAST, _PAPER_GAIN = (100.0, 140.0), (1.2, 0.33)
# How high characters may be over their width, and a pen over their height.
_TALLEST, _PEN = 2.1, 0.13


def invent_number(chance: np.random.Generator) -> str:
    """
    Return a number that no plate has: letters of LETTERS, all three of them, then a zero.

    :param chance: where it comes from.
    """
    letters = ''.join(chance.permutation(list(LETTERS)))
    digits = ''.join(str(d) for d in chance.integers(0, 10, 3))
    return f'{letters[:2]} 0{digits} {letters[2]}'


def draw_plate(
    image_bgr: NDArray[np.uint8],
    *,
    rect_xyxy_px: NDArray[np.int32],
    outer_xyxy_px: NDArray[np.int32],
    holes_xyxy_px: NDArray[np.int32],
    grown: float,
    seed: int,
) -> NDArray[np.uint8]:
    """
    Return a patch that shows a plate of nobody in the place of one.

    Tilt, light, colour cast and sharpness are those of what lies around it; the same seed gives
    the same number and kind. No pixel inside a hole is used.

    :param image_bgr: (H, W, 3) uint8, only read.
    :param rect_xyxy_px: (4,) int32, what the patch covers completely.
    :param outer_xyxy_px: (4,) int32, the patch, inside the frame.
    :param holes_xyxy_px: (M, 4) int32, all that must not be seen, the rectangle among them.
    :param grown: side of the rectangle over that of the plate in it.
    :param seed: of the number and of the kind of plate.
    :returns: (h, w, 3) uint8, the content of the outer rectangle.
    """
    chance = np.random.default_rng(seed)
    number = invent_number(chance)
    paper = _PAPERS_BGR[int(chance.integers(len(_PAPERS_BGR)))]
    has_band = bool(chance.random() < 0.5)
    ink = _INKS_BGR[int(chance.integers(len(_INKS_BGR)))]

    # What is around it
    wide, high = (int(v) for v in rect_xyxy_px[2:] - rect_xyxy_px[:2])
    margin = max(wide // 4, high // 2, 6)
    limits = np.array([*image_bgr.shape[1::-1]] * 2)
    window = np.clip(outer_xyxy_px + margin * np.array([-1, -1, 1, 1]), 0, limits)
    x0, y0, x1, y1 = (int(v) for v in window)
    known = np.ones((y1 - y0, x1 - x0), np.float32)
    for hole in holes_xyxy_px - np.tile(window[:2], 2):
        left, top, right, bottom = (max(int(v), 0) for v in hole)
        known[top:bottom, left:right] = 0.0
    around = image_bgr[y0:y1, x0:x1].astype(np.float32) * known[..., None]
    ground = fill(around, known)
    bright, cast, slope, sigma = look(around, known)

    # The plate, lit as they are
    size = np.array([wide, high], np.float64) / max(grown, 1.0)
    drawing = draw_flat(number, float(size[0] / size[1]), paper, ink, has_band=has_band)
    drawing[..., :3] *= bright * cast
    low = outer_xyxy_px[:2] - window[:2]
    span = outer_xyxy_px[2:] - outer_xyxy_px[:2]
    patch = ground[low[1] : low[1] + span[1], low[0] : low[0] + span[0]]
    centre = (rect_xyxy_px[:2] + rect_xyxy_px[2:]) / 2 - outer_xyxy_px[:2]
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64) / 2
    # The box of a plate that is not level is higher than the plate.
    corners *= size * np.array([1.0, max(1.0 / (1.0 + abs(slope) * size[0] / size[1]), 0.6)])
    corners = corners + np.column_stack([np.zeros(4), slope * corners[:, 0]]) + centre
    blend(patch, drawing, corners, sigma)

    # Around the rectangle it is the frame's own pixels that fade into the patch
    own = known[low[1] : low[1] + span[1], low[0] : low[0] + span[0]] > 0
    patch[own] = around[low[1] : low[1] + span[1], low[0] : low[0] + span[0]][own]
    return np.asarray(np.rint(patch.clip(0, 255)), np.uint8)


def fill(around: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    Return a picture whose unknown pixels continue the known ones smoothly (pull-push).

    :param around: (h, w, 3), 0 where unknown.
    :param known: (h, w), 1 or 0.
    """
    levels = [(around, known)]
    while max(known.shape) > 1:
        half = tuple(max((side + 1) // 2, 1) for side in known.shape[::-1])
        around = np.asarray(cv2.resize(around, half, interpolation=cv2.INTER_AREA), np.float32)
        known = np.asarray(cv2.resize(known, half, interpolation=cv2.INTER_AREA), np.float32)
        around, known = around.reshape(*half[::-1], 3), known.reshape(half[::-1])
        levels.append((around, known))
    coarse = np.full((*known.shape, 3), 128.0, np.float32)
    for colour, share in reversed(levels):
        size = share.shape[::-1]
        # OpenCV 4.5 takes no single pixel.
        up = coarse if coarse.size == 3 else cv2.resize(coarse, size).reshape(*share.shape, 3)
        coarse = np.asarray(colour + (1.0 - share)[..., None] * up, np.float32)
    return coarse


def look(
    around: NDArray[np.float32], known: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32], float, float]:
    """
    Return how a plate would look there.

    Level lines around a plate tell its own slope (of 447 plates, a correlation of 0.85 and a gain
    of 0.94); upright ones tell nothing of how it leans (0.12), so it stands upright.

    :param around: (h, w, 3), 0 where unknown.
    :param known: (h, w), 1 or 0.
    :returns: brightness of white paper, its colour cast (3,), the slope of level lines (y over
        x), and the blur's standard deviation in pixels.
    """
    seen = known > 0
    if seen.sum() < 16:
        return 200.0, np.ones(3, np.float32), 0.0, 0.8
    grey = around @ np.full(3, 1 / 3, np.float32)
    some = grey[seen][:: max(int(seen.sum()) // 4096, 1)]
    dark, middle, light = (float(v) for v in np.percentile(some, (5, 50, 90)))
    bright = min(
        least + gain * light for least, gain in zip(_PAPER_LEAST, _PAPER_GAIN, strict=True)
    )
    # Paper is no more coloured than what is least so around it: what a red light falls on is red.
    colours = around[seen & (grey >= min(middle, 25.0))]
    shares = (colours + 1) / (colours.mean(1, keepdims=True) + 1)
    saturation = np.abs(shares - 1).max(1)
    cast = shares[saturation <= np.percentile(saturation, 20)].mean(0)
    cast = np.clip(cast, 0.5, 1.6)

    # Lines, where all that a derivative looks at is known
    inside = cv2.erode(known, np.ones((5, 5), np.uint8), borderValue=1.0) > 0
    smooth = cv2.GaussianBlur(grey, (3, 3), 0)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1)))
    dx, dy = np.where(inside, dx, 0.0), np.where(inside, dy, 0.0)
    slope = _direction(dy, -dx)
    steepest = float(np.percentile(np.hypot(dx, dy)[inside], 99)) if inside.any() else 0.0
    width_px = (light - dark) / max(steepest, 1.0)
    return bright, cast.astype(np.float32), slope, float(np.clip(width_px / 3, 0.4, 2.0))


def draw_flat(
    number: str,
    aspect: float,
    paper: tuple[float, ...],
    ink: tuple[float, ...],
    *,
    has_band: bool,
) -> NDArray[np.float32]:
    """
    Return a plate seen from the front, (HEIGHT_PX, w, 4), colours and opacity from 0 to 1.

    :param number: three groups of characters of STROKES, spaces between.
    :param aspect: width over height; narrow plates have two lines.
    :param paper: BGR of the ground.
    :param ink: BGR of the characters and the rim.
    :param has_band: a blue one at the left of wide plates.
    """
    high = HEIGHT_PX
    wide = int(np.clip(round(high * aspect), high // 2, high * 8))
    face: NDArray[np.float32] = np.empty((high, wide, 3), np.float32)
    face[:] = paper
    left = 6
    if has_band and aspect > 3.2:
        left = int(high * 0.34)
        face[:, :left] = _BAND_BGR
        left += 4
    first, digits, last = number.split()
    lines = [number] if aspect > 1.9 else [f'{first}{last}', digits]
    letters = np.zeros((high, wide), np.uint8)
    tops = np.linspace(high * 0.1, high * 0.9, len(lines) + 1)
    for line, top, bottom in zip(lines, tops[:-1], tops[1:], strict=True):
        _write(letters, line, (left + 4.0, top, wide - 10.0, bottom))
    covered = letters[..., None].astype(np.float32) / 255
    face = np.asarray(face * (1 - covered) + np.array(ink, np.float32) * covered, np.float32)
    cv2.rectangle(face, (2, 2), (wide - 3, high - 3), ink, 2, cv2.LINE_AA)
    opaque = np.zeros((high, wide), np.float32)
    cv2.rectangle(opaque, (5, 5), (wide - 6, high - 6), 1.0, -1)
    opaque = cv2.dilate(opaque, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11)))
    return np.dstack([face, opaque]).astype(np.float32)


def blend(
    patch: NDArray[np.float32],
    drawing: NDArray[np.float32],
    corners: NDArray[np.float64],
    sigma: float,
) -> None:
    """
    Put a drawing into a patch, in place.

    :param patch: (h, w, 3).
    :param drawing: (HEIGHT_PX, W, 4).
    :param corners: (4, 2) x and y, from the upper left one clockwise.
    :param sigma: of the blur in pixels.
    """
    span = np.maximum(corners.max(0) - corners.min(0), 2.0)
    wide, high = (float(v) for v in span)
    shrink = min(1.0, 2.0 * max(wide / drawing.shape[1], high / drawing.shape[0]))
    size = tuple(max(round(side * shrink), 2) for side in drawing.shape[1::-1])
    small = cv2.resize(drawing, size, interpolation=cv2.INTER_AREA)
    small[..., :3] *= small[..., 3:]
    small = cv2.copyMakeBorder(small, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    inner = np.array([[0, 0], [size[0], 0], [size[0], size[1]], [0, size[1]]], np.float32) + 2
    matrix = cv2.getPerspectiveTransform(inner - 0.5, corners.astype(np.float32) - 0.5)
    put = cv2.warpPerspective(small, matrix, patch.shape[1::-1], flags=cv2.INTER_LINEAR)
    put = cv2.GaussianBlur(put, (0, 0), sigma)
    patch[:] = patch * (1 - put[..., 3:]) + put[..., :3]


def _write(letters: NDArray[np.uint8], text: str, box: tuple[float, float, float, float]) -> None:
    """Write characters of STROKES into a box, in place, as wide as they have room."""
    steps = [0.55 if c == ' ' else 0.75 if c == 'I' else 1.0 for c in text]
    room_w, room_h = box[2] - box[0], box[3] - box[1]
    step = min(room_w / sum(steps), room_h * 0.8 * 0.78)
    high = min(room_h * 0.8, step * 0.66 * _TALLEST)
    pen = high * _PEN
    at = (box[0] + box[2] - step * sum(steps)) / 2
    top = (box[1] + box[3] - high) / 2 + pen / 2
    scale = (step * 0.66) / 40, (high - pen) / 70
    for character, share in zip(text, steps, strict=True):
        shift = at + (step * share - 40 * scale[0]) / 2
        for line in filter(None, STROKES.get(character, '').split('/')):
            corners = [[float(v) for v in corner.split()] for corner in line.split(',')]
            points = np.array(corners, np.float64) * scale + (shift, top)
            fixed = np.rint(points * 16).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(letters, [fixed], False, 255, max(round(pen), 2), cv2.LINE_AA, 4)
        at += step * share


def _direction(across: NDArray[Any], along: NDArray[Any]) -> float:
    """Return the mean steepness of lines that are crossed by strong gradients, within 0.25."""
    weight = across**2 * (np.abs(across) > 2.5 * np.abs(along))
    total = float(weight.sum())
    if total < 1e3:
        return 0.0
    steep = float((weight * along / np.where(across == 0, 1, across)).sum() / total)
    return float(np.clip(steep, -0.25, 0.25))
