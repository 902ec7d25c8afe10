"""From a frame to detections, by the networks of all classes."""

from __future__ import annotations

from collections.abc import Sequence
import functools
from functools import partial
import itertools
import operator

import cv2
from ffs_anonymizer.backend import Backend, TensorSpec
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import Manifest
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detections import CLASSES, Detections, FACE, PLATE
from ffs_anonymizer.regions.lanes import in_lanes
from ffs_anonymizer.regions.layouts import layout_of, Outputs
from ffs_anonymizer.regions.looks import Look, looks_at
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

# What is larger where the finest look sees it counts, too, where a coarser one finds it.
LARGE_PX = 200.0
# Part of a box of which something is left to do where another covers as much: a coarse box that a
# finer one stands for, one that the edge of a tile cut off, one that a coarser covers wholly.
_SEEN_ALREADY, _CUT_OFF, _WHOLLY = 0.75, 0.9, 0.99


class Views:
    """
    Hold a frame at the sizes at which networks look at it; all networks share them.

    :param image_bgr: (H, W, 3) uint8, only read.
    """

    def __init__(self, image_bgr: NDArray[np.uint8]) -> None:
        self.image_bgr = image_bgr
        self._resized: dict[tuple[object, ...], NDArray[np.uint8]] = {}

    def of(self, look: Look) -> NDArray[np.uint8]:
        """Return the part that a look sees, at the size at which it does."""
        x0, y0, x1, y1 = look.xyxy_px
        part = self.image_bgr[y0:y1, x0:x1]
        if look.seen_wh == (x1 - x0, y1 - y0):
            return part
        key = look.xyxy_px, look.seen_wh
        if key not in self._resized:
            method = cv2.INTER_AREA if look.scale_wh[0] < 1 else cv2.INTER_LINEAR
            resized = cv2.resize(part, look.seen_wh, interpolation=method)
            self._resized[key] = np.asarray(resized, np.uint8)
        return self._resized[key]


class Network:
    """
    Find one class of objects with one network.

    :param model: of one of the layouts, told by the names of its outputs.
    :param class_index: the class of all it finds.
    :raises ModelError: the network is of none.
    """

    STRIDE = 32
    # What is lower at the second look of a layout that asks for one is seen better at the first.
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
        self,
        image_bgr: NDArray[np.uint8],
        *,
        threshold: float,
        nms_iou: float,
        scale: float,
    ) -> Detections:
        """
        Find the objects of a frame, of every size.

        :param image_bgr: (H, W, 3) uint8.
        :param threshold: lowest score.
        :param nms_iou: overlap above which two boxes are one object.
        :param scale: size at which the network sees the frame; one of fixed size sees all of it.
        :raises ModelError: the network fails or returns what is no number.
        """
        height, width = image_bgr.shape[:2]
        looks = self.looks((width, height), scale)
        views = Views(image_bgr)
        parts = [self.look(views, look, threshold) for look in looks]
        return self.joined(looks, parts, nms_iou)

    def looks(self, size_wh: tuple[int, int], scale: float) -> tuple[Look, ...]:
        """
        Return the looks that find objects of every size in a frame, the finest ones first.

        :param scale: size at which the network sees the frame; one of fixed size sees all of it.
        """
        fixed_h, fixed_w = self._input.shape[2:]
        return looks_at(
            size_wh,
            scale,
            self.STRIDE,
            fixed_wh=(fixed_w, fixed_h),
            looks_again=bool(self.layout.second_look),
        )

    def joined(
        self, looks: Sequence[Look], found_by_look: Sequence[Detections], nms_iou: float
    ) -> Detections:
        """
        Return what the looks at a frame find together, each object once.

        :param nms_iou: overlap above which two boxes are one object.
        """
        found = Detections.empty()
        by_look = zip(looks, found_by_look, strict=True)
        for level, same in itertools.groupby(by_look, lambda pair: pair[0].level):
            parts = [part for _, part in same]
            seen = functools.reduce(operator.add, parts)
            seen = seen.take(boxes.nms(seen.xyxy_px, seen.scores, nms_iou))
            if len(parts) > 1:
                seen = seen.take(_not_cut_off(seen.xyxy_px))
            if level:
                seen = seen.take(self._is_large(seen.xyxy_px, looks[0].scale_wh[1]))
            found = merged(found, seen)
        return found

    def _is_large(self, xyxy_px: NDArray[np.float32], finest: float) -> NDArray[np.bool_]:
        """Return which boxes are too large for the finest look to be relied on."""
        size = xyxy_px[:, 2:] - xyxy_px[:, :2]
        if self.layout.second_look:
            return np.asarray(size[:, 1] * finest >= self.LEAST_AGAIN_PX / self.layout.second_look)
        return np.asarray(size.max(axis=1) * finest >= LARGE_PX)

    def look(self, views: Views, look: Look, threshold: float) -> Detections:
        """
        Return what one look finds, in pixels of the frame, overlapping boxes included.

        :param views: of the frame.
        :param threshold: lowest score.
        :raises ModelError: the network fails or returns what is no number.
        """
        return self.read(self.see(views, look), views, look, threshold)

    def see(self, views: Views, look: Look) -> Outputs:
        """
        Return what the network itself says of one look.

        :param views: of the frame.
        :raises ModelError: the network fails or returns scores that are no numbers.
        """
        (left, top), (seen_w, seen_h), (canvas_w, canvas_h) = (
            look.at_px,
            look.seen_wh,
            look.canvas_wh,
        )
        feed = np.empty((1, 3, canvas_h, canvas_w), np.float32)
        for border in (
            np.s_[:top],
            np.s_[top + seen_h :],
            np.s_[:, :left],
            np.s_[:, left + seen_w :],
        ):
            feed[0].transpose(1, 2, 0)[border] = self.layout.grey
        shown = feed[0, :, top : top + seen_h, left : left + seen_w]
        # Planes one by one: from pixel to pixel it takes twice as long.
        planes = cv2.split(views.of(look))
        for channel, plane in zip(
            shown, planes[::-1] if self.layout.is_rgb else planes, strict=True
        ):
            channel[:] = plane
        if self.layout.white != 255:
            shown *= self.layout.white / 255
        outputs = self.model.infer({self._input.name: feed})
        if not all(np.isfinite(outputs[name]).all() for name in self._score_names):
            raise ModelError(f'{self.model.path}: got scores that are not finite')
        return outputs

    def read(self, outputs: Outputs, views: Views, look: Look, threshold: float) -> Detections:
        """
        Return the objects of this class in what the network said of one look.

        :param outputs: of `see`, of this or another object around the same model.
        :param views: of the frame.
        :param threshold: lowest score.
        :raises ModelError: the network returned what is no number.
        """
        height, width = views.image_bgr.shape[:2]
        x0, y0, x1, y1 = look.xyxy_px
        (left, top), (seen_w, seen_h) = look.at_px, look.seen_wh
        try:
            found = self.layout.decode(outputs, threshold, size_wh=look.canvas_wh)
        except ModelError as error:
            raise ModelError(f'{self.model.path}: {error}') from error
        if not np.isfinite(found.xyxy_px).all():
            raise ModelError(f'{self.model.path}: got boxes that are not finite')
        back = np.array([(x1 - x0) / seen_w, (y1 - y0) / seen_h], np.float32)
        moved = np.array([x0 - left * back[0], y0 - top * back[1]], np.float32)
        xyxy_px = found.xyxy_px * np.tile(back, 2) + np.tile(moved, 2)
        xyxy_px = boxes.clip(xyxy_px, (width, height))
        points_px = found.points_px * back + moved
        wanted = boxes.filled(xyxy_px)
        if self._kinds is not None:
            wanted &= np.isin(found.kinds, self._kinds)
        return Detections.of(xyxy_px, found.scores, self.class_index, points_px).take(wanted)


def merged(fine: Detections, coarse: Detections) -> Detections:
    """
    Return what finer looks found, and what a coarser one found beside it.

    A coarse box that a fine one stands for goes. A fine box within a coarse one is a part of what
    is there, as an eye that was taken for a face, unless it is the surer of both.
    """
    coarse = coarse.take(_not_within(coarse.xyxy_px, fine.xyxy_px, _SEEN_ALREADY))
    is_surer = fine.scores[:, None] > coarse.scores[None]
    is_within = boxes.inside(fine.xyxy_px, coarse.xyxy_px) >= _WHOLLY
    stays = np.asarray((is_surer | ~is_within).all(axis=1), np.bool_)
    return fine.take(stays) + coarse


def _not_cut_off(xyxy_px: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which boxes do not lie in a larger one, as what the edge of a tile cuts off does."""
    area = np.prod(xyxy_px[:, 2:] - xyxy_px[:, :2], axis=1)
    smaller = area[:, None] < area[None]
    within = (boxes.inside(xyxy_px, xyxy_px) >= _CUT_OFF) & smaller
    return np.asarray(~within.any(axis=1), np.bool_)


def _not_within(
    some: NDArray[np.float32], others: NDArray[np.float32], part: float
) -> NDArray[np.bool_]:
    """Return which boxes do not lie, by this part of their area, in another."""
    within = boxes.inside(some, others) >= part
    return np.asarray(~within.any(axis=1), np.bool_)


def detect(
    image_bgr: NDArray[np.uint8],
    networks: Sequence[Network],
    settings: Settings,
    *,
    lanes: int = 1,
) -> Detections:
    """
    Find all that is to be replaced in a frame; a model that several networks share runs once.

    :param image_bgr: (H, W, 3) uint8.
    :param settings: thresholds, and the size at which the networks see the frame.
    :param lanes: how many looks at the frame are worked on at once.
    :raises ModelError: a network fails or returns what is no number.
    """
    thresholds = {FACE: settings.face.threshold, PLATE: settings.plate.threshold}
    height, width = image_bgr.shape[:2]
    views = Views(image_bgr)
    together: dict[int, list[Network]] = {}
    for network in networks:
        together.setdefault(id(network.model), []).append(network)
    looks = {
        key: sharing[0].looks((width, height), settings.detector.scale)
        for key, sharing in together.items()
    }
    pieces: list[tuple[int, tuple[Look, ...]]] = []
    for key, own in looks.items():
        # Tiles are large, and each takes the memory of all layers: one by one.
        is_tiled = sum(not look.level for look in own) > 1
        pieces += [(key, own)] if is_tiled else [(key, (look,)) for look in own]
    pieces.sort(key=lambda piece: piece[1][0].level)

    def work(key: int, some: Sequence[Look]) -> list[list[Detections]]:
        sharing = together[key]
        said = [(sharing[0].see(views, look), look) for look in some]
        return [
            [n.read(outputs, views, look, thresholds[n.class_index]) for outputs, look in said]
            for n in sharing
        ]

    models = [network.model for network in networks]
    if not all(model.concurrent and model.device.kind == 'cpu' for model in models):
        lanes = 1
    results = in_lanes([partial(work, *piece) for piece in pieces], lanes)
    found = Detections.empty()
    for network in networks:
        key = id(network.model)
        place = together[key].index(network)
        by_piece = zip(pieces, results, strict=True)
        parts = [part for piece, result in by_piece if piece[0] == key for part in result[place]]
        found += network.joined(looks[key], parts, settings.detector.nms_iou)
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
