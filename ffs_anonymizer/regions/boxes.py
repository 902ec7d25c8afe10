"""Boxes `xyxy_px`, x to the right, y down, right and bottom exclusive: compare, thin out, grow."""

from __future__ import annotations

from typing import Union

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = Union[NDArray[np.float32], NDArray[np.float64]]


def iou(a_xyxy_px: Boxes, b_xyxy_px: Boxes) -> NDArray[np.float64]:
    """
    Return the intersection over union of each box of one set with each of another.

    :param a_xyxy_px: (N, 4).
    :param b_xyxy_px: (M, 4).
    :returns: (N, M) float64 in [0, 1].
    """
    a, b = a_xyxy_px.astype(np.float64), b_xyxy_px.astype(np.float64)
    shared = _shared(a, b)
    union = _area(a)[:, None] + _area(b)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)


def inside(a_xyxy_px: Boxes, b_xyxy_px: Boxes) -> NDArray[np.float64]:
    """
    Return which part of each box of one set lies in each box of another.

    :param a_xyxy_px: (N, 4).
    :param b_xyxy_px: (M, 4).
    :returns: (N, M) float64 in [0, 1], shared area over the area of the first.
    """
    a, b = a_xyxy_px.astype(np.float64), b_xyxy_px.astype(np.float64)
    return np.asarray(_shared(a, b) / np.maximum(_area(a)[:, None], 1e-9), np.float64)


def nms(
    xyxy_px: NDArray[np.float32], scores: NDArray[np.float32], most_iou: float
) -> NDArray[np.intp]:
    """
    Return the indices of the boxes that stay, best score first (greedy non-maximum suppression).

    :param xyxy_px: (N, 4).
    :param scores: (N,).
    :param most_iou: a box that overlaps a better one by more than this goes.
    """
    order = np.argsort(-scores, kind='stable')
    if not len(order):
        return order
    corners = xyxy_px[order].astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    # OpenCV leaves out scores of 0; ranks are none, and have no ties.
    ranks = np.arange(len(order), 0, -1.0)
    kept = cv2.dnn.NMSBoxes(xywh.tolist(), ranks.tolist(), 0.0, most_iou)
    return order[np.asarray(kept, np.intp).reshape(-1)]


def grow(xyxy_px: Boxes, scale: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """
    Return boxes whose sides are `scale` times as long, about the same centres.

    :param xyxy_px: (N, 4).
    :param scale: one number, or one a box, (N,).
    """
    boxes = xyxy_px.astype(np.float64)
    more = (boxes[:, 2:] - boxes[:, :2]) * (np.reshape(np.asarray(scale) - 1.0, (-1, 1)) / 2)
    return np.concatenate([boxes[:, :2] - more, boxes[:, 2:] + more], axis=1)


def union(a_xyxy_px: Boxes, b_xyxy_px: Boxes) -> NDArray[np.float64]:
    """
    Return the smallest boxes that hold both of each pair.

    :param a_xyxy_px: (N, 4).
    :param b_xyxy_px: (N, 4).
    """
    a, b = a_xyxy_px.astype(np.float64), b_xyxy_px.astype(np.float64)
    return np.concatenate([np.minimum(a, b)[:, :2], np.maximum(a, b)[:, 2:]], axis=1)


def clip(xyxy_px: Boxes, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """
    Return boxes cut off at the frame's edges; those outside of it become empty.

    :param size_wh: width and height of the frame in pixels.
    """
    limits = np.array([*size_wh, *size_wh], np.float64)
    return np.asarray(np.clip(xyxy_px, 0, limits), np.float32)


def filled(xyxy_px: Boxes) -> NDArray[np.bool_]:
    """Return which boxes have an area, (N,) bool."""
    return np.asarray(np.all(xyxy_px[:, 2:] > xyxy_px[:, :2], axis=1), np.bool_)


def _shared(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2), np.float64)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.float64)
