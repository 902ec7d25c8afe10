"""The only writer of pixels: where patches go, how they end, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Patch:
    """
    Hold what is pasted into a frame.

    :param pixels_bgr: (h, w, 3) uint8, the content of the outer rectangle.
    :param outer_xyxy_px: (4,) int32, inside the frame, around the rectangle.
    :param rect_xyxy_px: (4,) int32, where it covers completely.
    """

    pixels_bgr: NDArray[np.uint8]
    outer_xyxy_px: NDArray[np.int32]
    rect_xyxy_px: NDArray[np.int32]


def cover(
    xyxy_px: NDArray[np.float32],
    *,
    size_wh: tuple[int, int],
    align_wh_px: tuple[int, int] = (1, 1),
    bleed_px: int = 0,
) -> NDArray[np.int32]:
    """
    Return the whole-pixel rectangles that cover regions completely.

    :param xyxy_px: (N, 4) float32, right and bottom exclusive.
    :param size_wh: width and height of the frame in pixels; rectangles end there.
    :param align_wh_px: multiples that the edges lie on, where the encoding shares samples.
    :param bleed_px: how far the encoding carries a sample into its neighbours.
    :returns: (N, 4) int32.
    """
    align = np.array(align_wh_px, np.float64)
    boxes = xyxy_px.reshape(-1, 4).astype(np.float64)
    low = np.floor((boxes[:, :2] - bleed_px) / align) * align
    high = np.ceil((boxes[:, 2:] + bleed_px) / align) * align
    limit = np.array(size_wh, np.float64)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1).astype(
        np.int32
    )


def far_to_near(rects_xyxy_px: NDArray[np.int32]) -> NDArray[np.intp]:
    """
    Return the order of pasting: small before large, since what is nearer looks larger.

    Ties are broken by position, so the picture does not depend on the order of detection.

    :param rects_xyxy_px: (N, 4) int32.
    :returns: (N,) indices.
    """
    rects = rects_xyxy_px.astype(np.int64)
    area = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    keys = (rects[:, 3], rects[:, 2], rects[:, 1], rects[:, 0], area)
    return np.asarray(np.lexsort(keys), np.intp)


def with_feather(
    rect_xyxy_px: NDArray[np.int32], feather: float, *, size_wh: tuple[int, int]
) -> NDArray[np.int32]:
    """
    Return a rectangle grown by its feather, inside the frame.

    :param rect_xyxy_px: (4,) int32.
    :param feather: width of the feather over the rectangle's longer side.
    """
    width_px = round(float((rect_xyxy_px[2:] - rect_xyxy_px[:2]).max()) * feather)
    grown = rect_xyxy_px + np.array([-width_px, -width_px, width_px, width_px])
    inside = np.clip(grown, 0, np.array([*size_wh, *size_wh]))
    return np.asarray(inside, np.int32)


def paste(image_bgr: NDArray[np.uint8], patch: Patch) -> None:
    """
    Put a patch into a frame, in place: all of it inside the rectangle, fading out around it.

    Inside the rectangle the result is the patch, bit for bit, so it does not depend on what was
    there. The fade ends beyond the outer rectangle, on the first pixel that is not written.

    :param image_bgr: (H, W, 3) uint8, written to.
    """
    x0, y0, x1, y1 = (int(v) for v in patch.outer_xyxy_px)
    inner_x0, inner_y0, inner_x1, inner_y1 = (int(v) for v in patch.rect_xyxy_px)
    target = image_bgr[y0:y1, x0:x1]
    rows = _ramp(y0, y1, inner_y0, inner_y1)
    columns = _ramp(x0, x1, inner_x0, inner_x1)
    inside = slice(inner_y0 - y0, inner_y1 - y0), slice(inner_x0 - x0, inner_x1 - x0)
    target[inside] = patch.pixels_bgr[inside]
    for part in (
        np.s_[: inner_y0 - y0, :],
        np.s_[inner_y1 - y0 :, :],
        np.s_[inside[0], : inner_x0 - x0],
        np.s_[inside[0], inner_x1 - x0 :],
    ):
        alpha = np.outer(rows[part[0]], columns[part[1]])
        if alpha.size:
            target[part] = cv2.blendLinear(patch.pixels_bgr[part], target[part], alpha, 1 - alpha)


def _ramp(start: int, stop: int, inner_start: int, inner_stop: int) -> NDArray[np.float32]:
    """Return the weight of each pixel of a row: 1 inside, falling outside."""
    ramp = np.ones(stop - start, np.float32)
    before, after = inner_start - start, stop - inner_stop
    ramp[:before] = np.arange(1, before + 1) / (before + 1)
    ramp[len(ramp) - after :] = np.arange(after, 0, -1) / (after + 1)
    return ramp
