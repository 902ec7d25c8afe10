"""What a decoded image is to the recipe: pixels to edit in place, and a way back to its bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Union

import cv2
import numpy as np
from numpy.typing import NDArray

Buffer = Union[bytes, bytearray, memoryview]
Rect = tuple[int, int, int, int]

_TO_BGR = {'rgb': cv2.COLOR_RGB2BGR, 'bgra': cv2.COLOR_BGRA2BGR, 'rgba': cv2.COLOR_RGBA2BGR}
_OPAQUE = {1: 255, 2: 65535}
_BRIGHT_QUANTILE = 0.999
_SAMPLED_ROWS_COLUMNS = 256


class Frame(ABC):
    """
    Hold one decoded image.

    `image_bgr` is (H, W, 3) uint8, owned by the frame and writable: the recipe edits it in place
    and then hands the rectangles it wrote to `encode`. They are to be grown by `bleed_px` and then
    outward to multiples of `align_wh_px`, except where the frame ends.
    """

    image_bgr: NDArray[np.uint8]
    align_wh_px: tuple[int, int] = (1, 1)
    bleed_px: int = 0

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:  # noqa: B027
        """
        Make `image_bgr` independent of what is inside the rectangles, their own pixels excepted.

        Only images of 16 bits need it: their brightness is chosen from the samples.

        :param rects_xyxy_px: (N, 4) int32, right and bottom exclusive.
        """

    @abstractmethod
    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """
        Return the image in its own encoding; to be called once.

        :param touched_xyxy_px: (N, 4) int32, where `image_bgr` was written. With N = 0 the result
            is the source's own bytes.
        :raises ImageError: the image cannot be encoded.
        """

    def _inside(self, rects_xyxy_px: NDArray[np.int32]) -> Iterator[Rect]:
        """Yield the part of each rectangle that is inside the frame, leaving out empty ones."""
        height, width = self.image_bgr.shape[:2]
        for x0, y0, x1, y1 in np.asarray(rects_xyxy_px).reshape(-1, 4).tolist():
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            if x0 < x1 and y0 < y1:
                yield x0, y0, x1, y1


def brightness_shift(
    samples: NDArray[np.uint16], without_xyxy_px: NDArray[np.int32] | None = None
) -> int:
    """
    Return how many bits to drop so that the samples fill 8 bits.

    A camera of 12 bits uses a sixteenth of the range; the detector must not see black. A few
    brighter samples (a lamp, a hot pixel) do not count; they saturate.

    :param samples: (H, W) or (H, W, C) uint16; alpha, a fourth channel, has no say.
    :param without_xyxy_px: rectangles whose samples have no say.
    """
    height, width = samples.shape[:2]
    rows = np.arange(0, height, max(1, height // _SAMPLED_ROWS_COLUMNS))
    columns = np.arange(0, width, max(1, width // _SAMPLED_ROWS_COLUMNS))
    keep = np.ones((len(rows), len(columns)), bool)
    if without_xyxy_px is not None:
        for x0, y0, x1, y1 in np.asarray(without_xyxy_px).reshape(-1, 4).tolist():
            inside_y = (rows >= y0) & (rows < y1)
            inside_x = (columns >= x0) & (columns < x1)
            keep[np.ix_(inside_y, inside_x)] = False
    seen = samples[np.ix_(rows, columns)][keep]
    seen = (seen[:, :3] if seen.ndim == 2 else seen).ravel()
    if not seen.size:
        return 8
    rank = min(seen.size - 1, int(seen.size * _BRIGHT_QUANTILE))
    return max(0, int(np.partition(seen, rank)[rank]).bit_length() - 8)


def bgr_from(samples: NDArray[np.generic], channels: str, shift: int = 0) -> NDArray[np.uint8]:
    """
    Return samples as a picture, in memory of its own unless they are BGR already.

    :param samples: (H, W) or (H, W, C) uint8 or uint16.
    :param channels: mono, bgr, rgb, bgra or rgba.
    :param shift: bits to drop from uint16.
    """
    if samples.dtype.itemsize == 2:
        # OpenCV misreads rows of an odd number of bytes, and knows only the machine's byte order.
        whole = np.ascontiguousarray(samples, np.uint16)
        samples = cv2.convertScaleAbs(whole, alpha=0.5**shift)
    if channels == 'bgr':
        return np.asarray(samples, np.uint8)
    if channels == 'mono':
        return np.asarray(cv2.cvtColor(samples, cv2.COLOR_GRAY2BGR), np.uint8)
    return np.asarray(cv2.cvtColor(samples, _TO_BGR[channels]), np.uint8)


def write_bgr(
    samples: NDArray[np.generic],
    image_bgr: NDArray[np.uint8],
    rect: Rect,
    channels: str,
    shift: int = 0,
) -> None:
    """
    Write a rectangle of the picture into the samples.

    Alpha becomes opaque there: it may hold a person's outline, and is dropped like the colours.

    :param samples: written in place.
    :param image_bgr: (H, W, 3) uint8.
    :param rect: left, top, right, bottom, inside the frame.
    :param channels: mono, bgr, rgb, bgra or rgba.
    :param shift: bits dropped when the samples were decoded.
    """
    x0, y0, x1, y1 = rect
    patch: NDArray[np.generic] = image_bgr[y0:y1, x0:x1]
    if channels == 'mono':
        patch = np.asarray(cv2.cvtColor(patch, cv2.COLOR_BGR2GRAY)).reshape(y1 - y0, x1 - x0)
    elif channels.startswith('rgb'):
        patch = np.asarray(cv2.cvtColor(patch, cv2.COLOR_BGR2RGB))
    if samples.dtype.itemsize == 2:
        patch = patch.astype(np.uint16) << np.uint16(shift)
    if channels == 'mono':
        samples[y0:y1, x0:x1] = patch
    else:
        samples[y0:y1, x0:x1, :3] = patch
        samples[y0:y1, x0:x1, 3:] = _OPAQUE[samples.dtype.itemsize]
