"""From a frame and its rectangles to what the generator sees; runtime and training share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Where eyes, nose and mouth corners are on average in a detector's box, in parts of its sides:
# medians over the boxes of YuNet, made symmetric.
MEAN_POINTS = np.array(
    [[0.264, 0.386], [0.736, 0.386], [0.5, 0.586], [0.2955, 0.735], [0.7045, 0.735]], np.float32
)


@dataclass(frozen=True)
class Crops:
    """
    Hold the generator's input for N faces; N = 0 is ordinary.

    :param condition: (N, 3, S, S) float32, RGB in [-1, 1], 0.0 where the mask is 0.
    :param mask: (N, 1, S, S) float32, 1 = keep, 0 = synthesize.
    :param squares_xys_px: (N, 3) int32, left, top and side of each crop in frame pixels; it may
        reach outside the frame.
    """

    condition: NDArray[np.float32]
    mask: NDArray[np.float32]
    squares_xys_px: NDArray[np.int32]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n, size = len(self.condition), self.condition.shape[-1]
        expected = ((n, 3, size, size), (n, 1, size, size), (n, 3))
        got = (self.condition.shape, self.mask.shape, self.squares_xys_px.shape)
        if got != expected:
            raise ValueError(f'Crops: got shapes {got}, expected {expected}')

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.condition)


def joined(parts: Sequence[Crops]) -> Crops:
    """Return the crops of several frames as one, in their order; there must be some."""
    return Crops(
        np.concatenate([part.condition for part in parts]),
        np.concatenate([part.mask for part in parts]),
        np.concatenate([part.squares_xys_px for part in parts]),
    )


def enclosing_squares(
    rects_xyxy_px: NDArray[np.int32], crop_scale: float | NDArray[np.float64]
) -> NDArray[np.int32]:
    """
    Return the square around each rectangle that a crop is taken from.

    :param rects_xyxy_px: (N, 4) int32, right and bottom exclusive.
    :param crop_scale: side of the square over the longer side of the rectangle, >= 1; one number,
        or one a rectangle.
    :returns: (N, 3) int32, left, top, side.
    """
    rects = rects_xyxy_px.astype(np.float64).reshape(-1, 4)
    size_wh = rects[:, 2:] - rects[:, :2]
    side = np.ceil(size_wh.max(axis=1) * crop_scale)
    left_top = np.floor((rects[:, :2] + rects[:, 2:] - side[:, None]) / 2)
    return np.column_stack([left_top, side]).astype(np.int32)


def cut_square(
    image: NDArray[np.uint8], square_xys_px: NDArray[np.int32], *, outside: int = 0
) -> NDArray[np.uint8]:
    """
    Cut a square out of an image, filled with a constant where it leaves the image.

    :param image: (H, W, C) or (H, W) uint8.
    :param square_xys_px: (3,) left, top, side.
    :param outside: the value of samples outside the image.
    :returns: (side, side, C) or (side, side) uint8, own memory.
    """
    x, y, side = (int(v) for v in square_xys_px)
    height, width = image.shape[:2]
    out = np.full((side, side, *image.shape[2:]), outside, np.uint8)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if x0 < x1 and y0 < y1:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    return out


def resize_square(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """
    Resize a square image, by area when it shrinks and bilinearly when it grows.

    :param image: (side, side, C) or (side, side) uint8.
    :param size_px: the new side.
    :returns: (size_px, size_px, C) or (size_px, size_px) uint8.
    """
    shrink = image.shape[0] > size_px
    resized = cv2.resize(
        image, (size_px, size_px), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    )
    return np.asarray(resized, np.uint8)


def cut(
    image_bgr: NDArray[np.uint8],
    rects_xyxy_px: NDArray[np.int32],
    *,
    holes_xyxy_px: NDArray[np.int32],
    size_px: int,
    crop_scale: float,
) -> Crops:
    """
    Cut a crop around each rectangle, with the pixels of every hole dropped from every crop.

    Dropping happens at full resolution, before any interpolation, and a resized pixel that a
    dropped one contributed to counts as dropped: nothing of a hole's content reaches the result.

    :param image_bgr: (H, W, 3) uint8.
    :param rects_xyxy_px: (N, 4) int32, the rectangles to synthesize; each is a hole too.
    :param holes_xyxy_px: (M, 4) int32, all that may not be seen in this frame.
    :param size_px: S, the side of the generator's input.
    :param crop_scale: side of the crop over the longer side of its rectangle, 1.7 for
        DeepPrivacy2's models of 128 px.
    """
    squares = enclosing_squares(rects_xyxy_px, crop_scale)
    holes = np.concatenate([rects_xyxy_px.reshape(-1, 4), holes_xyxy_px.reshape(-1, 4)])
    return cut_squares(image_bgr, squares, holes_xyxy_px=holes, size_px=size_px)


def cut_squares(
    image_bgr: NDArray[np.uint8],
    squares_xys_px: NDArray[np.int32],
    *,
    holes_xyxy_px: NDArray[np.int32],
    size_px: int,
) -> Crops:
    """
    Cut crops with the pixels of every hole dropped from every one, as `cut` does.

    :param image_bgr: (H, W, 3) uint8.
    :param squares_xys_px: (N, 3) int32, left, top and side.
    :param holes_xyxy_px: (M, 4) int32, all that may not be seen in this frame.
    :param size_px: S, the side of the generator's input.
    """
    squares, holes = squares_xys_px, holes_xyxy_px
    condition = np.empty((len(squares), 3, size_px, size_px), np.float32)
    mask = np.empty((len(squares), 1, size_px, size_px), np.float32)
    for i, square in enumerate(squares):
        patch = cut_square(image_bgr, square)
        keep = np.full(patch.shape[:2], 255, np.uint8)
        for x0, y0, x1, y1 in np.clip(holes - np.tile(square[:2], 2), 0, square[2]):
            patch[y0:y1, x0:x1] = 0
            keep[y0:y1, x0:x1] = 0
        mask[i, 0] = resize_square(keep, size_px) == 255
        rgb = resize_square(patch, size_px)[:, :, ::-1].transpose(2, 0, 1)
        condition[i] = (rgb.astype(np.float32) / 127.5 - 1.0) * mask[i]
    return Crops(condition, mask, squares)


def mean_points(boxes_xyxy_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    Return where eyes, nose and mouth corners are on average, which says no more than the boxes.

    :param boxes_xyxy_px: (N, 4) float32.
    :returns: (N, 5, 2) float32.
    """
    boxes = boxes_xyxy_px.reshape(-1, 4).astype(np.float32)
    return np.asarray(
        boxes[:, None, :2] + MEAN_POINTS * (boxes[:, None, 2:] - boxes[:, None, :2]), np.float32
    )
