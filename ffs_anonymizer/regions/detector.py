"""From a frame to detections, by the networks of all classes."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
from ffs_anonymizer.backend import Backend, TensorSpec
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import Manifest
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detections import CLASSES, Detections, FACE, PLATE
from ffs_anonymizer.regions.layouts import layout_of
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray


class Network:
    """
    Find one class of objects with one network.

    :param model: of one of the layouts, told by the names of its outputs.
    :param class_index: the class of all it finds.
    :raises ModelError: the network is of none.
    """

    STRIDE = 32
    # What is lower at the second look is seen better at the first.
    LEAST_AGAIN_PX = 16.0

    def __init__(self, model: Backend, class_index: int) -> None:
        self.model = model
        self.class_index = class_index
        manifest = model.manifest
        shapes = {spec.name: spec.shape for spec in model.outputs}
        named = '' if manifest is None else manifest.layout
        self.layout = layout_of(shapes, of=str(model.path), named=named)
        self._score_names = self.layout.score_names(shapes)
        self._kinds = _kinds_of(manifest, CLASSES[class_index], of=str(model.path))
        self._input = _image_input(model)

    def detect(
        self, image_bgr: NDArray[np.uint8], *, threshold: float, nms_iou: float, scale: float
    ) -> Detections:
        """
        Find the objects of a frame.

        :param image_bgr: (H, W, 3) uint8.
        :param threshold: lowest score.
        :param nms_iou: overlap above which two boxes are one object.
        :param scale: size at which the network sees the frame; one of fixed size sees all of it.
        :raises ModelError: the network fails or returns what is no number.
        """
        found = self._look(image_bgr, threshold, scale)
        again = self.layout.second_look
        if again and min(self._input.shape[2:]) < 0:
            larger = self._look(image_bgr, threshold, scale * again)
            heights = larger.xyxy_px[:, 3] - larger.xyxy_px[:, 1]
            found += larger.take(heights * (scale * again) >= self.LEAST_AGAIN_PX)
        return found.take(boxes.nms(found.xyxy_px, found.scores, nms_iou))

    def _look(self, image_bgr: NDArray[np.uint8], threshold: float, scale: float) -> Detections:
        """Find the objects of a frame at one size; boxes of one object may overlap."""
        height, width = image_bgr.shape[:2]
        fixed_h, fixed_w = self._input.shape[2:]
        if fixed_h > 0 and fixed_w > 0:
            scale = min(fixed_w / width, fixed_h / height)
        seen_w, seen_h = max(round(width * scale), 1), max(round(height * scale), 1)
        canvas_w = fixed_w if fixed_w > 0 else -(-seen_w // self.STRIDE) * self.STRIDE
        canvas_h = fixed_h if fixed_h > 0 else -(-seen_h // self.STRIDE) * self.STRIDE
        if (seen_w, seen_h) != (width, height):
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image_bgr = np.asarray(
                cv2.resize(image_bgr, (seen_w, seen_h), interpolation=interpolation), np.uint8
            )
        feed = np.full((1, 3, canvas_h, canvas_w), self.layout.grey, np.float32)
        for channel in range(3):
            target = 2 - channel if self.layout.is_rgb else channel
            feed[0, target, :seen_h, :seen_w] = cv2.extractChannel(image_bgr, channel)
        if self.layout.white != 255:
            feed[0, :, :seen_h, :seen_w] *= self.layout.white / 255
        outputs = self.model.infer({self._input.name: feed})
        if not all(np.isfinite(outputs[name]).all() for name in self._score_names):
            raise ModelError(f'{self.model.path}: got scores that are not finite')
        try:
            found = self.layout.decode(outputs, threshold, size_wh=(canvas_w, canvas_h))
        except ModelError as error:
            raise ModelError(f'{self.model.path}: {error}') from error
        if not np.isfinite(found.xyxy_px).all():
            raise ModelError(f'{self.model.path}: got boxes that are not finite')
        back = np.array([width / seen_w, height / seen_h], np.float32)
        xyxy_px = boxes.clip(found.xyxy_px * np.tile(back, 2), (width, height))
        all_found = Detections.of(xyxy_px, found.scores, self.class_index, found.points_px * back)
        wanted = boxes.filled(xyxy_px)
        if self._kinds is not None:
            wanted &= np.isin(found.kinds, self._kinds)
        return all_found.take(wanted)


def detect(
    image_bgr: NDArray[np.uint8], networks: Iterable[Network], settings: Settings
) -> Detections:
    """
    Find all that is to be replaced in a frame.

    :param image_bgr: (H, W, 3) uint8.
    :param settings: thresholds, and the size at which the networks see the frame.
    :raises ModelError: a network fails or returns what is no number.
    """
    thresholds = {FACE: settings.face.threshold, PLATE: settings.plate.threshold}
    found = Detections.empty()
    for network in networks:
        found += network.detect(
            image_bgr,
            threshold=thresholds[network.class_index],
            nms_iou=settings.detector.nms_iou,
            scale=settings.detector.scale,
        )
    return found


def _kinds_of(manifest: Manifest | None, wanted: str, *, of: str) -> list[int] | None:
    """Return which of a network's classes are looked for; None where nobody says what they are."""
    if manifest is None or not manifest.classes:
        return None
    kinds = [kind for kind, name in enumerate(manifest.classes) if name == wanted]
    if not kinds:
        raise ModelError(
            f'{of}: finds {", ".join(manifest.classes)} by its manifest, expected {wanted}'
        )
    return kinds


def _image_input(model: Backend) -> TensorSpec:
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[1] != 3:
        raise ModelError(
            f'{model.path}: got the inputs {model.inputs}, expected one image [N, 3, H, W]'
        )
    return model.inputs[0]
