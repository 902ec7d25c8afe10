"""What a decoded image is to the recipe: pixels to edit in place, and a way back to its bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
import functools
from typing import Any, Union

import cv2
import numpy as np
from numpy.typing import NDArray

Buffer = Union[bytes, bytearray, memoryview]
Rect = tuple[int, int, int, int]

_TO_BGR = {'rgb': cv2.COLOR_RGB2BGR, 'bgra': cv2.COLOR_BGRA2BGR, 'rgba': cv2.COLOR_RGBA2BGR}
# Of an alpha plane, the share of samples neither clear nor opaque; soft edges have few.
_MOST_HALF_CLEAR, _NEARLY = 0.05, 64
_BRIGHT_QUANTILE = 0.999
_SAMPLED_ROWS_COLUMNS = 256
# Shadows are lifted where this share of the samples is darker than that part of white (of a
# picture whose samples are spread evenly, a thirty-second is), or where a smaller share is and
# little lies between it and what is bright.
_DARK_SHARE, _LONE_DARK_SHARE, _DARK_PART, _DIM_PART, _BLACK_PART = 0.04, 0.004, 32, 8, 4096
_LIFTED_TO, _LIFTS = 0.33, range(2, 13, 2)


class Frame(ABC):
    """
    Hold one decoded image.

    `image_bgr` is (H, W, 3) uint8, upright, owned by the frame and writable: the recipe edits it
    in place and then hands the rectangles it wrote to `encode`. They are to be grown by `bleed_px`
    and then outward to multiples of `align_wh_px`, except where the frame ends.
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
            keeps the source's coded picture or samples; what nobody has looked at, as row
            padding or metadata, is left out.
        :raises ImageError: the image cannot be encoded.
        """

    def _inside(self, rects_xyxy_px: NDArray[np.int32]) -> Iterator[Rect]:
        """Yield the part of each rectangle that is inside the frame, once; empty ones are none."""
        height, width = self.image_bgr.shape[:2]
        # A veil and the blur over it touch the same.
        rects = dict.fromkeys(map(tuple, np.asarray(rects_xyxy_px).reshape(-1, 4).tolist()))
        for x0, y0, x1, y1 in rects:
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            if x0 < x1 and y0 < y1:
                yield x0, y0, x1, y1


@dataclass(frozen=True)
class Tone:
    """
    Say how samples of 16 bits are shown in 8, and back.

    A camera of 12 bits uses a sixteenth of the range; the detector must not see black. A few
    brighter samples (a lamp, a hot pixel) do not count; they saturate. Where much of a picture
    lies in shadows that 8 bits do not resolve, as people before a bright sky, these are lifted.

    :param shift: bits to drop so that the samples fill 8 bits.
    :param lift: 0: all alike; else a logarithmic curve, by 2 to this power steeper at black.
    """

    shift: int = 0
    lift: int = 0

    @classmethod
    def of(
        cls, samples: NDArray[np.uint16], without_xyxy_px: NDArray[np.int32] | None = None
    ) -> Tone:
        """
        Choose by percentiles of the samples.

        :param samples: (H, W) or (H, W, C) uint16; alpha, a fourth channel, has no say.
        :param without_xyxy_px: rectangles whose samples have no say.
        """
        seen = _seen(samples, without_xyxy_px)
        if not seen.size:
            return cls(8)
        rank = min(seen.size - 1, int(seen.size * _BRIGHT_QUANTILE))
        shift = max(0, int(np.partition(seen, rank)[rank]).bit_length() - 8)
        white = 256 << shift
        is_dim = (seen < white // _DIM_PART) & (seen > white // _BLACK_PART)
        dim = seen[is_dim]
        dark = dim[dim < white // _DARK_PART]
        is_alone = 3 * dark.size > 2 * dim.size
        least = (_LONE_DARK_SHARE if is_alone else _DARK_SHARE) * seen.size
        if shift < 4 or dark.size < least:
            return cls(shift)
        middle = np.median(dark) / white
        lifts = (lift for lift in _LIFTS if _lifted(middle, lift) >= _LIFTED_TO)
        return cls(shift, next(lifts, _LIFTS[-1]))

    def shown(self, samples: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Return samples in 8 bits."""
        # OpenCV misreads rows of an odd number of bytes, and knows only the machine's byte order.
        whole = np.ascontiguousarray(samples, np.uint16)
        if self.lift:
            return np.asarray(_curves(self)[0][whole], np.uint8)
        return np.asarray(cv2.convertScaleAbs(whole, alpha=0.5**self.shift), np.uint8)

    def samples(self, shown: NDArray[np.generic]) -> NDArray[np.uint16]:
        """Return samples of 16 bits that are shown as these of 8."""
        if self.lift:
            return np.asarray(_curves(self)[1][shown], np.uint16)
        return np.asarray(shown.astype(np.uint16) << np.uint16(self.shift), np.uint16)


LINEAR = Tone()


def _seen(
    samples: NDArray[np.uint16], without_xyxy_px: NDArray[np.int32] | None
) -> NDArray[np.uint16]:
    """Return a selection of the samples outside the rectangles, (N,)."""
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
    return np.asarray(seen[:, :3] if seen.ndim == 2 else seen, np.uint16).ravel()


def _lifted(value: Any, lift: int) -> Any:
    """Return a part of white on the curve of that steepness."""
    return np.log1p(value * 2**lift) / np.log1p(2**lift)


@functools.lru_cache(maxsize=16)
def _curves(tone: Tone) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return a lifted tone as tables: what each sample is shown as, and the way back."""
    top = (256 << tone.shift) - 1
    values = np.minimum(np.arange(1 << 16) / top, 1)
    there = np.rint(255 * _lifted(values, tone.lift)).astype(np.uint8)
    back = np.expm1(np.arange(256) / 255 * np.log1p(2**tone.lift)) / 2**tone.lift
    return there, np.rint(top * back).astype(np.uint16)


def bgr_from(
    samples: NDArray[np.generic], channels: str, tone: Tone = LINEAR
) -> NDArray[np.uint8]:
    """
    Return samples as a picture, in memory of its own unless they are BGR already.

    :param samples: (H, W) or (H, W, C) uint8 or uint16.
    :param channels: mono, bgr, rgb, bgra or rgba.
    :param tone: of uint16.
    """
    if samples.dtype.itemsize == 2:
        samples = tone.shown(samples)
    if channels == 'bgr':
        return np.asarray(samples, np.uint8)
    if channels == 'mono':
        return np.asarray(_converted(samples, cv2.COLOR_GRAY2BGR), np.uint8)
    return np.asarray(_converted(samples, _TO_BGR[channels]), np.uint8)


def _converted(samples: NDArray[Any], code: int) -> NDArray[Any]:
    if samples.shape[:2] == (1, 1):  # OpenCV 4.5 takes no single pixel
        return np.asarray(cv2.cvtColor(np.repeat(samples, 2, axis=1), code))[:, :1]
    return np.asarray(cv2.cvtColor(samples, code))


def write_bgr(
    samples: NDArray[np.generic],
    image_bgr: NDArray[np.uint8],
    rect: Rect,
    channels: str,
    tone: Tone = LINEAR,
) -> None:
    """
    Write a rectangle of the picture into the samples.

    Alpha becomes opaque there: it may hold a person's outline, and is dropped like the colours.

    :param samples: written in place.
    :param image_bgr: (H, W, 3) uint8.
    :param rect: left, top, right, bottom, inside the frame.
    :param channels: mono, bgr, rgb, bgra or rgba.
    :param tone: that the samples were decoded with.
    """
    x0, y0, x1, y1 = rect
    patch: NDArray[np.generic] = image_bgr[y0:y1, x0:x1]
    if channels == 'mono':
        patch = _converted(patch, cv2.COLOR_BGR2GRAY).reshape(y1 - y0, x1 - x0)
    elif channels.startswith('rgb'):
        patch = _converted(patch, cv2.COLOR_BGR2RGB)
    if samples.dtype.itemsize == 2:
        patch = tone.samples(patch)
    if channels == 'mono':
        samples[y0:y1, x0:x1] = patch
    else:
        samples[y0:y1, x0:x1, :3] = patch
        samples[y0:y1, x0:x1, 3:] = opaque(samples.dtype)


def opaque(dtype: Any) -> int:
    """Return the alpha of samples, 8 or 16 bits, through which nothing is seen."""
    return 255 if np.dtype(dtype).itemsize == 1 else 65535


def may_be_picture(alpha: NDArray[Any]) -> bool:
    """
    Return whether an alpha plane might be a picture, in which nobody has looked for faces.

    A mask is none, nor is one with soft edges.

    :param alpha: (H, W) uint8 or uint16.
    """
    full = opaque(alpha.dtype)
    plain = np.count_nonzero(alpha >= full - full // _NEARLY)
    if plain < alpha.size:
        plain += np.count_nonzero(alpha <= full // _NEARLY)
    return bool(alpha.size - plain > _MOST_HALF_CLEAR * alpha.size)
