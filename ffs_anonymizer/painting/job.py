"""What is to be painted into a frame, in one go, and the device that can do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_HEADER, _CROP, _HOLE, _PATCH = 8, 5, 4, 12


@dataclass(frozen=True)
class Job:
    """
    Say which faces to generate and which patches to paste, in the order of pasting.

    :param squares_xys_px: (N, 3) int32, left, top and side of each crop, as crops.cut takes them.
    :param holes_xyxy_px: (M, 4) int32, all that no crop may see.
    :param outer_xyxy_px: (P, 4) int32, where each patch is written, inside the frame.
    :param rect_xyxy_px: (P, 4) int32, where it covers completely, inside the former.
    :param crop_index: (P,) int32, the crop whose face the patch shows; -1: it has pixels.
    :param pixels: (h, w, 3) uint8 BGR of each patch that has pixels, in their order.
    """

    squares_xys_px: NDArray[np.int32]
    holes_xyxy_px: NDArray[np.int32]
    outer_xyxy_px: NDArray[np.int32]
    rect_xyxy_px: NDArray[np.int32]
    crop_index: NDArray[np.int32]
    pixels: tuple[NDArray[np.uint8], ...] = ()

    def __post_init__(self) -> None:
        """Check once, at birth, what the kernels rely on: they cannot say what went wrong."""
        n, p = len(self.squares_xys_px), len(self.outer_xyxy_px)
        got = (
            self.squares_xys_px.shape,
            self.holes_xyxy_px.shape[1:],
            self.outer_xyxy_px.shape,
            self.rect_xyxy_px.shape,
            self.crop_index.shape,
        )
        if got != ((n, 3), (4,), (p, 4), (p, 4), (p,)):
            raise ValueError(f'Job: got shapes {got}, expected (N, 3), (4,), (P, 4), (P, 4), (P,)')
        outer, rect = self.outer_xyxy_px, self.rect_xyxy_px
        low, high = (
            self.squares_xys_px[:, :2],
            self.squares_xys_px[:, :2] + self.squares_xys_px[:, 2:],
        )
        shown = self.crop_index >= 0
        fits = (
            np.all(rect[:, :2] < rect[:, 2:])
            and np.all(outer[:, :2] <= rect[:, :2])
            and np.all(rect[:, 2:] <= outer[:, 2:])
            and np.all(self.crop_index < n)
            and np.all(low[self.crop_index[shown]] <= outer[shown, :2])
            and np.all(outer[shown, 2:] <= high[self.crop_index[shown]])
        )
        if not fits:
            raise ValueError('Job: got a patch that reaches out of its crop or not over its rect')
        sizes = [pixels.shape for pixels in self.pixels]
        own = outer[~shown]
        expected = [(y1 - y0, x1 - x0, 3) for x0, y0, x1, y1 in own.tolist()]
        if sizes != expected:
            raise ValueError(f'Job: got pixels of shapes {sizes}, expected {expected}')

    @property
    def size_px(self) -> int:
        """Return the number of pixels of all patches."""
        return int(np.prod(self.outer_xyxy_px[:, 2:] - self.outer_xyxy_px[:, :2], axis=1).sum())


class Painter(Protocol):
    """Crop, generate and paste without handing anything back in between."""

    def paint(self, image_bgr: NDArray[np.uint8], job: Job) -> list[NDArray[np.uint8]]:
        """
        Return the new content of every outer rectangle, as if all were pasted in order.

        :param image_bgr: (H, W, 3) uint8, only read.
        :returns: (h, w, 3) uint8 for each patch; good until the next call.
        :raises ModelError: there are no faces, so there is no image.
        """

    def close(self) -> None:
        """Give the memory back."""


def pack(job: Job, size_wh: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """
    Return a job as the kernels read it (see kernels.h).

    :param size_wh: of the frame.
    :returns: the numbers, and the pixels of all patches that have some.
    :raises ValueError: a patch reaches out of the frame.
    """
    limit = np.array(size_wh)
    if np.any(job.outer_xyxy_px[:, :2] < 0) or np.any(job.outer_xyxy_px[:, 2:] > limit):
        raise ValueError(f'Job: got a patch outside of the frame of {size_wh}')
    crops: list[tuple[int, ...]] = []
    holes = [np.empty((0, 4), np.int32)]
    for x, y, side in job.squares_xys_px.tolist():
        boxes = job.holes_xyxy_px
        near = np.all(boxes[:, :2] < (x + side, y + side), axis=1) & np.all(
            boxes[:, 2:] > (x, y), axis=1
        )
        crops.append((x, y, side, sum(len(part) for part in holes), int(near.sum())))
        holes.append(boxes[near])
    patches = np.zeros((len(job.outer_xyxy_px), _PATCH), np.int64)
    patches[:, 0:4], patches[:, 4:8] = job.outer_xyxy_px, job.rect_xyxy_px
    patches[:, 8] = job.crop_index
    areas = np.prod(job.outer_xyxy_px[:, 2:] - job.outer_xyxy_px[:, :2], axis=1, dtype=np.int64)
    own_bytes = np.where(job.crop_index < 0, areas * 3, 0)
    patches[:, 9] = np.cumsum(own_bytes) - own_bytes
    patches[:, 10] = np.cumsum(areas) - areas
    holes_at = _HEADER + _CROP * len(crops)
    patches_at = holes_at + _HOLE * sum(len(part) for part in holes)
    header = (*size_wh, len(crops), len(patches), int(areas.sum()), _HEADER, holes_at, patches_at)
    parts = (header, crops, *holes, patches)
    numbers = np.concatenate([np.asarray(part, np.int32).ravel() for part in parts])
    pixels = [np.ravel(part) for part in job.pixels]
    return numbers, np.concatenate([np.empty(0, np.uint8), *pixels])


def windows(job: Job, pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """
    Return the parts of the paste kernel's output, each in the shape of its outer rectangle.

    :param pixels: (job.size_px * 3,) uint8.
    """
    parts, start = [], 0
    for x0, y0, x1, y1 in job.outer_xyxy_px.tolist():
        stop = start + (y1 - y0) * (x1 - x0) * 3
        parts.append(pixels[start:stop].reshape(y1 - y0, x1 - x0, 3))
        start = stop
    return parts
