"""The recipe: a frame in, the frame without its faces and plates out, or no image at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import fnmatch
import time
from typing import Union

import cv2
import numpy as np
from numpy.typing import NDArray

from ffs_anonymizer import composite, crops, obscure, tracker
from ffs_anonymizer.detector import CLASSES, Detections, Detector, FACE, PLATE, ZONE
from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.frame import Frame
from ffs_anonymizer.generator import Generator
from ffs_anonymizer.models.manifest import file_sha256
from ffs_anonymizer.params import Settings
from ffs_anonymizer.tracker import Regions, Tracks

Data = Union[bytes, bytearray, memoryview]


@dataclass(frozen=True)
class Anonymized:
    """
    Hold a finished frame.

    :param data: the image in its source's own encoding; without regions, the source's bytes.
    :param regions: what was replaced.
    :param timings_ms: milliseconds by stage.
    """

    data: Data
    regions: Regions
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class Zone:
    """
    Hold a rectangle of some streams.

    :param streams: a stream's name, or a glob.
    :param xyxy_px: x0, y0, x1, y1 in pixels, right and bottom exclusive.
    """

    streams: str
    xyxy_px: tuple[float, float, float, float]

    @classmethod
    def parse(cls, text: str) -> Zone:
        """
        Read `<stream or glob> x0 y0 x1 y1`.

        :raises SettingsError: the text is something else.
        """
        words = text.split()
        try:
            x0, y0, x1, y1 = (float(word) for word in words[-4:])
        except ValueError:
            x0 = y0 = x1 = y1 = 0.0
        if len(words) != 5 or not (x0 < x1 and y0 < y1):
            raise SettingsError(
                f'zone: got {text!r}, expected `<topic or glob> x0 y0 x1 y1` with x0 < x1, y0 < y1'
            )
        return cls(words[0], (x0, y0, x1, y1))


class Anonymizer:
    """
    Replace faces and plates, frame by frame, for any number of streams.

    All of its failures are AnonymizerError and mean that the frame has no image. It belongs to one
    thread.

    :param settings: what to find and how to replace it.
    :raises ModelError: a model is missing or unfit.
    :raises SettingsError: a zone cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._tracks: dict[str, Tracks] = {}
        self._generator: Generator | None = None
        self._detector: Detector | None = None
        self.timings_ms: dict[str, float] = {}
        self.update(settings)

    def update(self, settings: Settings) -> None:
        """
        Exchange the settings between two frames; models are loaded where they are first needed.

        :raises ModelError: the new settings need a model that is missing; the old ones stay.
        :raises SettingsError: a zone cannot be read; the old ones stay.
        """
        masked = tuple(Zone.parse(text) for text in settings.mask_zones)
        ignored = tuple(Zone.parse(text) for text in settings.ignore_zones)
        methods = (settings.face.method, settings.plate.method)
        if 'generate' in methods and self._generator is None:
            self._generator = Generator(settings)
        if self._detector is None:
            self._detector = Detector(settings)
        self._detector.settings = settings
        self._masked, self._ignored = masked, ignored
        self.settings = settings

    def find(
        self,
        frame: Frame,
        *,
        stream: str,
        stamp_ns: int | None,
        detections: Detections | None = None,
    ) -> Regions:
        """
        Return what must not be seen in a frame.

        :param stream: the camera; each has a past of its own.
        :param stamp_ns: the frame's time; None for a still picture, which has no past.
        :param detections: own boxes; the detector does not run then.
        :raises AnonymizerError: the detector failed; the stream's past is as before.
        """
        with self._stage('detect'):
            if detections is None:
                assert self._detector is not None
                detections = self._detector.detect(frame.image_bgr)
        with self._stage('track'):
            detections = self._outside_ignored(detections, stream)
            height, width = frame.image_bgr.shape[:2]
            past = Tracks.empty() if stamp_ns is None else self._tracks.get(stream, Tracks.empty())
            now_ns = stamp_ns or 0
            tracks = tracker.advance(past, detections, now_ns, self.settings.tracker)
            if stamp_ns is not None:
                self._tracks[stream] = tracks
            scales = np.ones(len(CLASSES))
            scales[FACE] = self.settings.face.region_scale
            scales[PLATE] = self.settings.plate.region_scale
            return tracker.regions(
                tracks, now_ns, self.settings.tracker, scales=scales, size_wh=(width, height)
            ) + self._zones(stream, (width, height))

    def replace(self, frame: Frame, regions: Regions) -> NDArray[np.int32]:
        """
        Replace the regions of a frame, in place.

        :returns: (N, 4) int32, the rectangles that were written, feathers included.
        :raises AnonymizerError: a stage failed; the frame's pixels must not be used.
        """
        if len(regions) == 0:
            return np.empty((0, 4), np.int32)
        with self._stage('crop'):
            height, width = frame.image_bgr.shape[:2]
            rects = composite.cover(
                regions.xyxy_px,
                size_wh=(width, height),
                align_wh_px=frame.align_wh_px,
                bleed_px=frame.bleed_px,
            )
            frame.without(rects)
            methods = self._methods(regions.classes, rects)
            generated = np.nonzero(methods == 'generate')[0]
            faces: dict[int, NDArray[np.uint8]] = {}
            squares: dict[int, NDArray[np.int32]] = {}
            cut = None
            if len(generated):
                assert self._generator is not None
                cut = crops.cut(
                    frame.image_bgr,
                    rects[generated],
                    holes_xyxy_px=rects,
                    size_px=self._generator.size_px,
                    crop_scale=self._generator.crop_scale,
                )
        with self._stage('generate'):
            if cut is not None:
                assert self._generator is not None
                faces = dict(zip(generated.tolist(), self._generator.generate(cut), strict=True))
                squares = dict(zip(generated.tolist(), cut.squares_xys_px, strict=True))
        with self._stage('paste'):
            patches = []
            for i in composite.far_to_near(rects).tolist():
                soft = methods[i] in ('generate', 'blur')
                outer = composite.with_feather(
                    rects[i], self.settings.feather if soft else 0.0, size_wh=(width, height)
                )
                if i in faces:
                    outer = _inside(outer, squares[i])
                    patch = _window(faces[i], squares[i], outer)
                else:
                    patch = self._obscured(frame.image_bgr, str(methods[i]), rects[i], outer)
                patches.append((patch, outer, rects[i]))
            for patch, outer, rect in patches:
                composite.paste(frame.image_bgr, patch, outer_xyxy_px=outer, rect_xyxy_px=rect)
            return np.array([outer for _, outer, _ in patches], np.int32)

    def anonymize(
        self,
        frame: Frame,
        *,
        stream: str,
        stamp_ns: int | None,
        detections: Detections | None = None,
    ) -> Anonymized:
        """
        Find, replace and encode.

        :raises AnonymizerError: there is no image.
        """
        self.timings_ms = {}
        regions = self.find(frame, stream=stream, stamp_ns=stamp_ns, detections=detections)
        touched = self.replace(frame, regions)
        with self._stage('encode'):
            data = frame.encode(touched)
        return Anonymized(data, regions, self.timings_ms)

    def forget(self, stream: str) -> None:
        """Drop a stream's past."""
        self._tracks.pop(stream, None)

    def describe(self) -> dict[str, str]:
        """Return what runs where, for logs and diagnostics."""
        assert self._detector is not None
        models = {f'{CLASSES[n.class_index]} detector': n.model for n in self._detector.networks}
        if self._generator is not None:
            models['generator'] = self._generator.model
        return {
            'package': 'ffs_anonymizer',
            **{
                name: f'{model.path.name} sha256:{file_sha256(model.path)[:12]} '
                f'in {model.name} on {model.device}'
                for name, model in models.items()
            },
        }

    def close(self) -> None:
        """Give the networks back; the object is of no use afterwards."""
        if self._detector is not None:
            self._detector.close()
        if self._generator is not None:
            self._generator.close()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Time a stage, and turn whatever goes wrong in it into the one error edges know."""
        start = time.perf_counter()
        try:
            yield
        except AnonymizerError:
            raise
        except Exception as error:
            raise AnonymizerError(
                f'{name}: got {type(error).__name__}: {error}; the frame has no image'
            ) from error
        self.timings_ms[name] = (time.perf_counter() - start) * 1e3

    def _outside_ignored(self, detections: Detections, stream: str) -> Detections:
        centre = (detections.xyxy_px[:, :2] + detections.xyxy_px[:, 2:]) / 2
        kept = np.ones(len(detections), np.bool_)
        for zone in self._ignored:
            if fnmatch.fnmatchcase(stream, zone.streams):
                low, high = np.array(zone.xyxy_px[:2]), np.array(zone.xyxy_px[2:])
                kept &= ~np.all((centre >= low) & (centre < high), axis=1)
        return Detections(
            detections.xyxy_px[kept], detections.scores[kept], detections.classes[kept]
        )

    def _zones(self, stream: str, size_wh: tuple[int, int]) -> Regions:
        boxes = [z.xyxy_px for z in self._masked if fnmatch.fnmatchcase(stream, z.streams)]
        limits = np.array([*size_wh, *size_wh], np.float32)
        xyxy_px = np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, limits)
        xyxy_px = xyxy_px[np.all(xyxy_px[:, 2:] > xyxy_px[:, :2], axis=1)]
        n = len(xyxy_px)
        return Regions(
            xyxy_px,
            np.full(n, ZONE, np.int8),
            np.ones(n, np.float32),
            np.full(n, -1, np.int64),
            np.ones(n, np.bool_),
        )

    def _methods(
        self, classes: NDArray[np.int8], rects_xyxy_px: NDArray[np.int32]
    ) -> NDArray[np.str_]:
        face, plate = self.settings.face, self.settings.plate
        methods = np.array([face.method, plate.method, 'solid'])[classes]
        fallbacks = np.array([face.fallback, plate.fallback, 'solid'])[classes]
        longer = (rects_xyxy_px[:, 2:] - rects_xyxy_px[:, :2]).max(axis=1)
        too_small = longer < self.settings.generator.min_region_px
        return np.where((methods == 'generate') & too_small, fallbacks, methods)

    def _obscured(
        self,
        image_bgr: NDArray[np.uint8],
        method: str,
        rect_xyxy_px: NDArray[np.int32],
        outer_xyxy_px: NDArray[np.int32],
    ) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = (int(v) for v in rect_xyxy_px)
        region = image_bgr[y0:y1, x0:x1]
        if method == 'solid':
            return obscure.solid(region, self.settings.obscure.solid_bgr)
        if method == 'mosaic':
            return obscure.mosaic(region, self.settings.obscure.cells)
        left, top = int(x0 - outer_xyxy_px[0]), int(y0 - outer_xyxy_px[1])
        right, bottom = int(outer_xyxy_px[2] - x1), int(outer_xyxy_px[3] - y1)
        blurred = obscure.blur(region, self.settings.obscure.cells)
        return np.pad(blurred, ((top, bottom), (left, right), (0, 0)), mode='edge')


def _inside(
    outer_xyxy_px: NDArray[np.int32], square_xys_px: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the part of a rectangle that a crop covers."""
    low, side = np.tile(square_xys_px[:2], 2), int(square_xys_px[2])
    return np.clip(outer_xyxy_px, low, low + side).astype(np.int32)


def _window(
    face_bgr: NDArray[np.uint8], square_xys_px: NDArray[np.int32], outer_xyxy_px: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Return the part of a generated crop that lies in a rectangle of the frame."""
    x, y, side = (int(v) for v in square_xys_px)
    interpolation = cv2.INTER_AREA if side < face_bgr.shape[0] else cv2.INTER_CUBIC
    scaled = cv2.resize(face_bgr, (side, side), interpolation=interpolation)
    x0, y0, x1, y1 = (int(v) for v in outer_xyxy_px)
    return np.asarray(scaled[y0 - y : y1 - y, x0 - x : x1 - x], np.uint8)
