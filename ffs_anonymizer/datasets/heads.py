"""Heads that are put into scenes: cut out of packed faces, alone or in crowds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
from ffs_anonymizer.datasets.faces import PackedFaces
from ffs_anonymizer.regions import boxes
import numpy as np
from numpy.typing import NDArray

# How many places are tried for a head, and what it may cover of what is there.
TRIES, MOST_COVERED = 6, 0.25
# Reached by blur beside a head.
BLUR_PX = 4


def cut_out(faces: PackedFaces, number: int) -> NDArray[np.uint8]:
    """
    Return a head as it is put into scenes, (P, P, 4) BGRA.

    Its mask is soft: an ellipse around head and hair, and below it shoulders that fade.

    :param faces: where from.
    :param number: which.
    """
    photo = faces.photos_bgr[number]
    side = len(photo)
    x0, y0, x1, y1 = faces.boxes_xyxy_px[number].astype(np.float64)
    x, y = (np.arange(side) + 0.5)[None], (np.arange(side) + 0.5)[:, None]
    middle, wide, high = (x0 + x1) / 2, x1 - x0, y1 - y0
    head = np.hypot((x - middle) / (0.8 * wide), (y - (y0 + 0.42 * high)) / (0.78 * high))
    body = np.hypot((x - middle) / (1.3 * wide), (y - (y1 + 0.75 * high)) / (0.75 * high))
    mask = np.clip((1.15 - np.minimum(head, body)) / 0.25, 0, 1)
    # What was not inside the source is not shown, and no hard edge where it ends
    left, top, right, bottom = faces.inside_xyxy_px[number].astype(np.float64)
    edge = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
    mask *= np.clip(edge / (0.06 * side), 0, 1)
    return np.dstack([photo, np.rint(mask * 255).astype(np.uint8)])


def crowd(
    size_px: int, high_px: float, chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Return places (N, 1, 2) and heights (N,) of heads in rows, those behind first.

    :param size_px: side of the scene.
    :param high_px: of most faces.
    :param chance: where all that is random comes from.
    """
    step = high_px * np.array([chance.uniform(0.9, 2.2), chance.uniform(1.2, 2.4)])
    most = np.maximum((size_px / step).astype(int), 1)
    columns, rows = (int(chance.integers(1, min(n, 8) + 1)) for n in most)
    corner = chance.uniform(0, np.maximum(size_px - step * [columns, rows], 1))
    row, column = np.divmod(np.arange(rows * columns), columns)
    places = corner + step * (np.column_stack([column, row]) + 0.5)
    places += step * chance.normal(0, 0.15, places.shape)
    return places[:, None], high_px * np.exp(chance.normal(0, 0.12, len(places)))


def put_head(
    image: NDArray[np.uint8],
    head: NDArray[np.uint8],
    box_px: NDArray[np.float32],
    high_px: float,
    centres: NDArray[np.floating[Any]],
    taken: Sequence[NDArray[np.float32]],
    chance: np.random.Generator,
) -> NDArray[np.float32] | None:
    """
    Paste a head where nothing is, turned, narrowed, in its own light and blur; return its box.

    :param image: (S, S, 3), changed in place.
    :param head: (h, w, 4) BGRA.
    :param box_px: (4,) of the face in it.
    :param high_px: height that the face is to have.
    :param centres: (K, 2) where its middle may be, the first one that is free.
    :param taken: boxes of which nothing may be covered that matters.
    :param chance: where all that is random comes from.
    :returns: (4,) its box; None where no place was found.
    """
    side = image.shape[0]
    if chance.random() < 0.5:
        head = head[:, ::-1]
        box_px = np.array(
            [head.shape[1] - box_px[2], box_px[1], head.shape[1] - box_px[0], box_px[3]]
        )
    wide, high = (float(v) for v in box_px[2:] - box_px[:2])
    scale = high_px / high
    narrow = chance.uniform(0.72, 1.0) if chance.random() < 0.3 else chance.uniform(0.93, 1.07)
    angle = chance.normal(0, 0.45 if chance.random() < 0.15 else 0.12)
    half = np.array([wide * narrow, high]) * scale / 2
    # The box around the face, an ellipse, once it is turned
    half = np.hypot(half * np.cos(angle), half[::-1] * np.sin(angle))
    room = np.array([head.shape[1] - box_px[0] - wide / 2, head.shape[0] - box_px[1] - high / 2])
    opaque = head[..., 3].mean() > 200
    above, below = (room * scale, room * scale) if opaque else (half * 1.5, half * 1.9)
    others = np.stack(taken) if taken else np.empty((0, 4), np.float32)
    for centre in np.clip(centres, half * 0.7, side - half * 0.7):
        box = np.concatenate([centre - half, centre + half])
        cover = np.concatenate([centre - above, centre + below])
        if (boxes.inside(others[:, :4], cover[None]) < MOST_COVERED).all():
            break
    else:
        return None

    if scale < 0.8:  # averaged down first, so that nothing is skipped when it is warped
        shrink = scale / 0.8
        size = tuple(max(round(length * shrink), 1) for length in head.shape[1::-1])
        was = head.shape[1]
        head = np.asarray(
            cv2.resize(np.ascontiguousarray(head), size, interpolation=cv2.INTER_AREA), np.uint8
        )
        box_px, scale = box_px * (size[0] / was), scale * was / size[0]
    middle = (box_px[:2] + box_px[2:]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([scale * narrow, scale])
    ends = np.array([[x, y] for x in (0, head.shape[1]) for y in (0, head.shape[0])])
    corners = (ends - middle) @ turn.T + centre
    low = np.maximum(np.floor(corners.min(0)) - BLUR_PX, 0).astype(int)
    end = np.minimum(np.ceil(corners.max(0)) + BLUR_PX, side).astype(int)
    matrix = np.column_stack([turn, centre - low - turn @ middle])
    warped = cv2.warpAffine(np.ascontiguousarray(head), matrix, tuple((end - low).tolist()))
    sigma = chance.uniform(0.2, 0.02 * high_px + 0.8) if chance.random() < 0.5 else 0.0
    if sigma > 0.25:
        warped = cv2.GaussianBlur(warped, (0, 0), sigma)
    alpha = warped[..., 3:].astype(np.float32) / 255
    under = image[low[1] : end[1], low[0] : end[0]]

    # Partly in the light of what is around
    colour = warped[..., :3].astype(np.float32)
    own = float((colour * alpha).sum() / max(3 * alpha.sum(), 1e-6))
    around = float(under.mean())
    share = chance.uniform(0.0, 0.8)
    lit = np.clip(around * chance.uniform(0.7, 1.4) + chance.uniform(5, 40), 20, 220)
    gain = (share * lit + (1 - share) * own) / max(own, 1.0)
    colour *= (gain * chance.uniform(0.93, 1.07, 3)).astype(np.float32)
    if chance.random() < 0.35:  # lit from a side
        left, right = (float(v) for v in chance.uniform(0.45, 1.2, 2))
        dim = np.linspace(left, right, colour.shape[1])
        colour *= dim[None, :, None].astype(np.float32)
    if chance.random() < 0.08:
        colour = np.repeat(colour.mean(2, keepdims=True), 3, 2)
    under[:] = np.clip(under * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)
    return np.asarray(np.clip(box, 0, side), np.float32)
