"""A frame shown upright, whatever way the file or the camera has its pixels lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import fnmatch

import cv2
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.frames.frame import Buffer, Frame
import numpy as np
from numpy.typing import NDArray

ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True)
class Turn:
    """Say how stored pixels become upright: transposed first, then mirrored in x and in y."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, orientation: int, rotation: int = 0) -> Turn:
        """
        Return the turn that an Exif orientation asks for, and a further one.

        :param orientation: of Exif, 1 to 8.
        :param rotation: 0, 90, 180 or 270, degrees clockwise.
        """
        first, then = _BY_ORIENTATION[orientation], _BY_ROTATION[rotation]
        x, y = (first.flip_y, first.flip_x) if then.transpose else (first.flip_x, first.flip_y)
        return cls(first.transpose ^ then.transpose, x ^ then.flip_x, y ^ then.flip_y)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture turned upright, in memory of its own."""
        return self._flipped(cv2.transpose(image) if self.transpose else image.copy())

    def undo(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright picture turned as it is stored."""
        stored = self._flipped(image)
        return np.asarray(cv2.transpose(stored) if self.transpose else stored)

    def stored(
        self, rects_xyxy_px: NDArray[np.int32], size_wh: tuple[int, int]
    ) -> NDArray[np.int32]:
        """
        Return where rectangles of the upright picture lie in the stored one.

        :param size_wh: of the upright picture.
        """
        width, height = size_wh
        x0, y0, x1, y1 = np.asarray(rects_xyxy_px).reshape(-1, 4).T
        if self.flip_x:
            x0, x1 = width - x1, width - x0
        if self.flip_y:
            y0, y1 = height - y1, height - y0
        columns = (y0, x0, y1, x1) if self.transpose else (x0, y0, x1, y1)
        return np.column_stack(columns).astype(np.int32)

    def _flipped(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.flip_x and self.flip_y:
            return np.asarray(cv2.flip(image, -1), np.uint8)
        if self.flip_x or self.flip_y:
            return np.asarray(cv2.flip(image, 1 if self.flip_x else 0), np.uint8)
        return image


_BY_ORIENTATION = {
    1: Turn(),
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
_BY_ROTATION = {
    0: Turn(),
    90: _BY_ORIENTATION[6],
    180: _BY_ORIENTATION[3],
    270: _BY_ORIENTATION[8],
}


class _UprightFrame(Frame):
    """Show a frame turned; what is stored turned stays stored turned."""

    def __init__(self, stored: Frame, turn: Turn) -> None:
        self._stored, self._turn = stored, turn
        self.image_bgr = turn.apply(stored.image_bgr)
        width, height = stored.align_wh_px
        self.align_wh_px = (height, width) if turn.transpose else (width, height)
        self.bleed_px = stored.bleed_px

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Keep what lies inside the rectangles out of everything that is derived from samples."""
        self._stored.without(self._in_stored(rects_xyxy_px))
        self.image_bgr[:] = self._turn.apply(self._stored.image_bgr)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Write the touched rectangles back into the stored picture and encode that."""
        for x0, y0, x1, y1 in self._inside(touched_xyxy_px):
            rect = np.array([[x0, y0, x1, y1]], np.int32)
            left, top, right, bottom = self._in_stored(rect)[0].tolist()
            patch = self._turn.undo(self.image_bgr[y0:y1, x0:x1])
            self._stored.image_bgr[top:bottom, left:right] = patch
        return self._stored.encode(self._in_stored(touched_xyxy_px))

    def _in_stored(self, rects_xyxy_px: NDArray[np.int32]) -> NDArray[np.int32]:
        height, width = self.image_bgr.shape[:2]
        return self._turn.stored(rects_xyxy_px, (width, height))


def upright(frame: Frame, orientation: int = 1, rotation: int = 0) -> Frame:
    """
    Return a frame whose picture is upright; it is encoded as it was stored.

    :param orientation: of Exif, 1 to 8.
    :param rotation: 0, 90, 180 or 270: by how many degrees clockwise the camera's picture is to
        be turned.
    """
    turn = Turn.of(orientation, rotation)
    return frame if turn == Turn() else _UprightFrame(frame, turn)


def rotation_of(texts: Iterable[str], *names: str) -> int:
    """
    Return by how many degrees clockwise the pictures of a stream are to be turned.

    :param texts: `<topic or glob> 0|90|180|270`; the first that fits counts, none means 0.
    :param names: of the stream.
    :raises SettingsError: a text is something else.
    """
    rotations = [_parsed(text) for text in texts]
    fitting = (degrees for pattern, degrees in rotations if _fits(pattern, names))
    return next(fitting, 0)


def idle_rotations(texts: Iterable[str], names: Iterable[str]) -> list[str]:
    """
    Return the texts that fit none of the names, so that nothing is turned.

    :raises SettingsError: as `rotation_of`.
    """
    known = tuple(names)
    return [text for text in texts if not _fits(_parsed(text)[0], known)]


def _parsed(text: str) -> tuple[str, int]:
    pattern, _, degrees = text.strip().rpartition(' ')
    if not pattern.strip() or degrees not in map(str, ROTATIONS):
        raise SettingsError(
            f'rotation: got {text!r}, expected `<topic or glob> 0|90|180|270`, the degrees '
            'clockwise that make the picture upright'
        )
    return pattern.strip(), int(degrees)


def _fits(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
