"""A second look: by another detector, or by the same one at another size and in other light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
from ffs_anonymizer.regions.boxes import nms
from ffs_anonymizer.regions.detections import Detections
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Detect = Callable[[Image], Detections]

_SAME = 0.5
# Share of a box that must have been replaced: the corners of a face's box show no face.
COVERED = 0.6


@dataclass(frozen=True)
class Uncovered:
    """
    Hold a thing that a frame shows.

    :param xyxy_px: in pixels of the frame.
    :param why: what is known of it.
    """

    class_name: str
    score: float
    xyxy_px: NDArray[np.float32]
    why: str


@dataclass(frozen=True)
class SecondView:
    """
    Say how a frame is shown to a detector.

    :param scale: of the sides.
    :param mirrored: left and right exchanged.
    :param gamma: exponent of the samples; below 1 brightens shadows.
    """

    scale: float = 1.0
    mirrored: bool = False
    gamma: float = 1.0

    def look(self, detect: Detect, image_bgr: Image) -> Detections:
        """Return what the detector finds in this view, in pixels of the frame."""
        shown = image_bgr
        if self.gamma != 1.0:
            levels = 255 * (np.arange(256) / 255) ** self.gamma
            shown = cv2.LUT(shown, np.rint(levels).astype(np.uint8))
        if self.mirrored:
            shown = np.ascontiguousarray(shown[:, ::-1])
        if self.scale != 1.0:
            shown = cv2.resize(
                shown, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_CUBIC
            )
        found = detect(shown)
        xyxy_px = found.xyxy_px / np.float32(self.scale)
        if self.mirrored:
            width = image_bgr.shape[1]
            xyxy_px = np.stack(
                [width - xyxy_px[:, 2], xyxy_px[:, 1], width - xyxy_px[:, 0], xyxy_px[:, 3]], 1
            )
        return Detections.of(xyxy_px, found.scores, found.classes)


PLAIN = SecondView()
# What the same detector is shown by turns: none of it is what it was shown the first time.
OTHER_LIGHT = (SecondView(mirrored=True, gamma=0.6), SecondView(mirrored=True, gamma=1.5))
TWICE = SecondView(scale=2.0, mirrored=True)
# Every so many frames are looked at in all views, since twice the size takes four times as long.
THOROUGH_EVERY = 64


@dataclass(frozen=True)
class SecondLook:
    """
    Look at frames once more.

    :param detect: finds faces and plates in an image.
    :param is_other: whether it is another detector than the one that the recording was anonymized
        with; then one plain view is enough.
    :param thorough: whether every frame is looked at in all views.
    """

    detect: Detect
    is_other: bool
    thorough: bool = False

    def is_thorough(self, number: int) -> bool:
        """Return whether a frame is looked at in all views."""
        return self.thorough or number % THOROUGH_EVERY == 0

    def views(self, number: int) -> tuple[SecondView, ...]:
        """
        Return the views of a frame.

        :param number: of the frame, counted over the whole recording.
        """
        if self.is_thorough(number):
            return (*((PLAIN,) if self.is_other else OTHER_LIGHT), TWICE)
        return (PLAIN,) if self.is_other else (OTHER_LIGHT[number % len(OTHER_LIGHT)],)

    def look(self, image_bgr: Image, number: int) -> Detections:
        """Return what is found in any view of a frame, each thing once."""
        found = Detections.empty()
        for view in self.views(number):
            found = found + view.look(self.detect, image_bgr)
        return found.take(nms(found.xyxy_px, found.scores, _SAME))

    def describe(self) -> str:
        """Return in words what was done."""
        if self.thorough:
            return 'all views of every frame: mirrored, in other light, at twice the size'
        plain = 'as it is' if self.is_other else 'mirrored, by turns brighter and darker'
        return f'every frame {plain}; every {THOROUGH_EVERY}th also at twice the size, mirrored'
