"""A picture that is an array, and comes from no file or message."""

from __future__ import annotations

from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.frame import Buffer, Frame
import numpy as np
from numpy.typing import NDArray


class ArrayFrame(Frame):
    """
    Hold a copy of an array.

    :param image_bgr: (H, W, 3) uint8.
    :raises ImageError: it is something else.
    """

    def __init__(self, image_bgr: NDArray[np.uint8]) -> None:
        shape: tuple[int, ...] = getattr(image_bgr, 'shape', ())
        dtype = getattr(image_bgr, 'dtype', type(image_bgr).__name__)
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not all(shape):
            raise ImageError(f'got an array {dtype} {shape}, expected uint8 (H, W, 3), BGR')
        self.image_bgr = np.array(image_bgr)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return the samples, row by row."""
        return self.image_bgr.tobytes()
