"""The recipe: a frame in, the frame without its faces and plates out, or no image at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
import fnmatch
import time
from typing import Union

import cv2
from ffs_anonymizer import budget, composite, crops, obscure, tracker
from ffs_anonymizer.backend.cuda.painter import Job
from ffs_anonymizer.detector import CLASSES, Detections, Detector, FACE, PLATE, ZONE
from ffs_anonymizer.errors import AnonymizerError, ModelError, SettingsError
from ffs_anonymizer.frame import Frame
from ffs_anonymizer.generator import Generator
from ffs_anonymizer.models.manifest import file_sha256
from ffs_anonymizer.params import Settings
from ffs_anonymizer.tracker import Regions, Tracks
import numpy as np
from numpy.typing import NDArray

Data = Union[bytes, bytearray, memoryview]
# What takes a face's place, the best generator first.
GENERATE = ('generate', 'generate (small)')


@dataclass(frozen=True)
class Replaced:
    """
    Hold what was done to a frame's pixels.

    :param touched_xyxy_px: (N, 4) int32, the rectangles that were written, feathers included.
    :param counts: number of regions by what took their place: `generate`, `generate (small)`,
        `blur`, `mosaic`, `solid`.
    :param warnings: what did not go as configured; the regions are covered all the same.
    """

    touched_xyxy_px: NDArray[np.int32]
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Anonymized:
    """
    Hold a finished frame.

    :param data: the image in its source's own encoding; without regions, the source's bytes.
    :param regions: what was replaced.
    :param replaced: how it was replaced.
    :param timings_ms: milliseconds by stage.
    """

    data: Data
    regions: Regions
    replaced: Replaced
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
        self._levels: dict[str, dict[int, int]] = {}
        self._generators: list[Generator] = []
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
        if 'generate' in (settings.face.method, settings.plate.method) and not self._generators:
            self._generators = _load_generators(settings)
        if settings.budget_ms and any(g.cost is None for g in self._generators):
            for generator in self._generators:
                generator.measure()
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

    def replace(self, frame: Frame, regions: Regions, *, stream: str = '') -> Replaced:
        """
        Replace the regions of a frame, in place.

        :param stream: the camera, whose faces keep their generator from frame to frame.
        :raises AnonymizerError: a stage failed; the frame's pixels must not be used.
        """
        if len(regions) == 0:
            return Replaced(np.empty((0, 4), np.int32), {})
        warnings: list[str] = []
        with self._stage('crop'):
            height, width = frame.image_bgr.shape[:2]
            rects = composite.cover(
                regions.xyxy_px,
                size_wh=(width, height),
                align_wh_px=frame.align_wh_px,
                bleed_px=frame.bleed_px,
            )
            frame.without(rects)
            methods = self._methods(regions, rects, stream)
            painting = self._painting(methods)
            by_stages = self._generators if painting is None else []
            cuts = [
                crops.cut(
                    frame.image_bgr,
                    rects[methods == word],
                    holes_xyxy_px=rects,
                    size_px=generator.size_px,
                    crop_scale=generator.crop_scale,
                )
                for word, generator in zip(GENERATE, by_stages)  # noqa: B905
            ]
        windows: list[NDArray[np.uint8]] = []
        with self._stage('generate'):
            if painting is not None:
                word, generator = painting
                job = self._job(frame.image_bgr, rects, methods, word, generator.crop_scale)
                try:
                    windows = generator.paint(frame.image_bgr, job)
                except ModelError as error:
                    self._give_up(methods == word, methods, regions, error, warnings)
            faces: dict[int, tuple[NDArray[np.uint8], NDArray[np.int32]]] = {}
            for word, generator, cut in zip(GENERATE, by_stages, cuts):  # noqa: B905
                indices = np.nonzero(methods == word)[0]
                try:
                    invented = generator.generate(cut)
                except ModelError as error:
                    self._give_up(methods == word, methods, regions, error, warnings)
                else:
                    pairs = zip(invented, cut.squares_xys_px, strict=True)
                    faces.update(zip(indices.tolist(), pairs, strict=True))
        with self._stage('paste'):
            if windows:
                patches = [
                    (window, outer, outer)
                    for window, outer in zip(windows, job.outer_xyxy_px, strict=True)
                ]
            else:
                patches = self._patches(frame.image_bgr, rects, methods, faces)
            for patch, outer, rect in patches:
                composite.paste(frame.image_bgr, patch, outer_xyxy_px=outer, rect_xyxy_px=rect)
        touched = np.array([outer for _, outer, _ in patches], np.int32)
        words, counts = np.unique(methods, return_counts=True)
        by_word = dict(zip(words.tolist(), counts.tolist(), strict=True))
        return Replaced(touched, by_word, tuple(warnings))

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
        replaced = self.replace(frame, regions, stream=stream)
        with self._stage('encode'):
            data = frame.encode(replaced.touched_xyxy_px)
        return Anonymized(data, regions, replaced, self.timings_ms)

    def forget(self, stream: str) -> None:
        """Drop a stream's past."""
        self._tracks.pop(stream, None)
        self._levels.pop(stream, None)

    def describe(self) -> dict[str, str]:
        """Return what runs where, for logs and diagnostics."""
        assert self._detector is not None
        models = {f'{CLASSES[n.class_index]} detector': n.model for n in self._detector.networks}
        for word, generator in zip(GENERATE, self._generators):  # noqa: B905
            models[word.replace('generate', 'generator')] = generator.model
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
        for generator in self._generators:
            generator.close()

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

    def _fallbacks(self) -> NDArray[np.str_]:
        return np.array([self.settings.face.fallback, self.settings.plate.fallback, 'solid'])

    def _methods(
        self, regions: Regions, rects_xyxy_px: NDArray[np.int32], stream: str
    ) -> NDArray[np.str_]:
        """Return what takes the place of each region: a word of GENERATE, or of FALLBACKS."""
        chosen = (self.settings.face.method, self.settings.plate.method, 'solid')
        # The longest word sets the width of the array's items.
        methods = np.array([*chosen, GENERATE[-1]])[regions.classes]
        fallbacks = self._fallbacks()[regions.classes]
        longer = (rects_xyxy_px[:, 2:] - rects_xyxy_px[:, :2]).max(axis=1)
        too_small = longer < self.settings.generator.min_region_px
        methods = np.where((methods == 'generate') & too_small, fallbacks, methods)
        generated = np.nonzero(methods == 'generate')[0]
        if self.settings.budget_ms and len(generated):
            before = self._levels.get(stream, {})
            ids = regions.track_ids[generated].tolist()
            levels = budget.levels(
                longer[generated].astype(np.float64),
                [g.cost for g in self._generators if g.cost is not None],
                self.settings.budget_ms,
                before=np.array([before.get(i, -1) for i in ids], np.int64),
            )
            self._levels[stream] = dict(zip(ids, levels.tolist(), strict=True))
            by_level = np.array([*GENERATE[: len(self._generators)], ''])
            words = by_level[np.minimum(levels, len(self._generators))]
            methods[generated] = np.where(words == '', fallbacks[generated], words)
        return methods

    def _outer(
        self, rect_xyxy_px: NDArray[np.int32], method: str, size_wh: tuple[int, int]
    ) -> NDArray[np.int32]:
        soft = method in (*GENERATE, 'blur')
        feather = self.settings.feather if soft else 0.0
        return composite.with_feather(rect_xyxy_px, feather, size_wh=size_wh)

    def _give_up(
        self,
        failed: NDArray[np.bool_],
        methods: NDArray[np.str_],
        regions: Regions,
        error: ModelError,
        warnings: list[str],
    ) -> None:
        """Leave the faces of a generator that failed to the fallback, or raise."""
        if self.settings.generator.on_error == 'stop':
            raise error
        warnings.append(f'{np.count_nonzero(failed)} faces use the fallback: {error}')
        methods[failed] = self._fallbacks()[regions.classes[failed]]

    def _painting(self, methods: NDArray[np.str_]) -> tuple[str, Generator] | None:
        """Return the generator that can do all of a frame's faces on the device, if one can."""
        words = [word for word in GENERATE if word in methods]
        if len(words) != 1:
            return None
        generator = self._generators[GENERATE.index(words[0])]
        return (words[0], generator) if generator.painter is not None else None

    def _patches(
        self,
        image_bgr: NDArray[np.uint8],
        rects_xyxy_px: NDArray[np.int32],
        methods: NDArray[np.str_],
        faces: Mapping[int, tuple[NDArray[np.uint8], NDArray[np.int32]]],
    ) -> list[tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]]:
        """Return patch, outer rectangle and rectangle of each region, in the order of pasting."""
        patches = []
        for i in composite.far_to_near(rects_xyxy_px).tolist():
            rect, method = rects_xyxy_px[i], str(methods[i])
            outer = self._outer(rect, method, (image_bgr.shape[1], image_bgr.shape[0]))
            if i in faces:
                face, square = faces[i]
                outer = _inside(outer, square)
                patch = _window(face, square, outer)
            else:
                patch = self._obscured(image_bgr, method, rect, outer)
            patches.append((patch, outer, rect))
        return patches

    def _job(
        self,
        image_bgr: NDArray[np.uint8],
        rects_xyxy_px: NDArray[np.int32],
        methods: NDArray[np.str_],
        word: str,
        crop_scale: float,
    ) -> Job:
        """Say to a painter what the stages would do."""
        size_wh = (image_bgr.shape[1], image_bgr.shape[0])
        generated = methods == word
        squares = crops.enclosing_squares(rects_xyxy_px[generated], crop_scale)
        crop_index = np.where(generated, np.cumsum(generated) - 1, -1).astype(np.int32)
        order = composite.far_to_near(rects_xyxy_px)
        outers, pixels = [], []
        for i in order.tolist():
            rect, method = rects_xyxy_px[i], str(methods[i])
            outer = self._outer(rect, method, size_wh)
            if generated[i]:
                outer = _inside(outer, squares[crop_index[i]])
            else:
                pixels.append(self._obscured(image_bgr, method, rect, outer))
            outers.append(outer)
        return Job(
            squares,
            rects_xyxy_px,
            np.array(outers, np.int32),
            rects_xyxy_px[order],
            crop_index[order],
            tuple(pixels),
        )

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


def _load_generators(settings: Settings) -> list[Generator]:
    paths = [settings.generator.model_path]
    if settings.generator.small_model_path:
        paths.append(settings.generator.small_model_path)
    return [
        Generator(
            settings.updated({'generator.model_path': path, 'generator.small_model_path': ''})
        )
        for path in paths
    ]


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
