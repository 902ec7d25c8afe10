"""The recipe: a frame in, the frame without its faces and plates out, or no image at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
import fnmatch
from functools import partial
import time
from typing import TypeVar, Union

import cv2
from ffs_anonymizer.errors import AnonymizerError, ModelError, SettingsError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.painting import budget, composite, crops, obscure
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.painting.job import Job
from ffs_anonymizer.regions import tracker
from ffs_anonymizer.regions.detections import CLASSES, Detections, Regions
from ffs_anonymizer.regions.detector import Detector
from ffs_anonymizer.regions.tracker import Tracks
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

Data = Union[bytes, bytearray, memoryview]
Timings = dict[str, float]
_Result = TypeVar('_Result')
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
    timings_ms: Timings


@dataclass(frozen=True)
class Request:
    """
    Hold a frame that is to be anonymized.

    :param stream: the camera; each has a past of its own.
    :param stamp_ns: the frame's time; None for a still picture, which has no past.
    :param detections: own boxes; None: the detector looks.
    """

    frame: Frame
    stream: str
    stamp_ns: int | None
    detections: Detections | None = None


@dataclass
class _Plan:
    """
    Hold what is being done to one frame's regions, from cropping to pasting.

    :param frame: its pixels are written to by pasting alone.
    :param rects_xyxy_px: (N, 4) int32, where each region covers completely.
    :param methods: (N,) what takes each region's place, a word of GENERATE or of the settings.
    :param timings_ms: milliseconds by stage, where someone asks for them.
    :param cuts: what each generator is to see, by its word.
    :param painted_by: the word of the generator that does all patches on the device; then there
        are no cuts.
    :param is_generated: whether the generators have done what they were asked for.
    :param faces: the invented faces and their squares by the region's index.
    :param patches: patch, outer rectangle and rectangle, in the order of pasting, once known.
    """

    frame: Frame
    regions: Regions
    rects_xyxy_px: NDArray[np.int32]
    methods: NDArray[np.str_]
    timings_ms: Timings | None = None
    cuts: dict[str, crops.Crops] = field(default_factory=dict)
    painted_by: str = ''
    is_generated: bool = False
    faces: dict[int, tuple[NDArray[np.uint8], NDArray[np.int32]]] = field(default_factory=dict)
    patches: list[tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]] = field(
        default_factory=list
    )
    warnings: list[str] = field(default_factory=list)


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

    def fits_any(self, streams: Iterable[str]) -> bool:
        """Tell whether it lies in one of these streams."""
        return any(fnmatch.fnmatchcase(stream, self.streams) for stream in streams)


class Anonymizer:
    """
    Replace faces and plates, frame by frame, for any number of streams.

    All of its failures are AnonymizerError and mean that the frame has no image. It belongs to one
    thread, but for `detect` and `replace`, which several threads may call at once while no other
    changes the settings; `budget_ms` is then to be 0.

    :param settings: what to find and how to replace it.
    :param callers: how many threads will call it at once.
    :raises ModelError: a model is missing or unfit.
    :raises SettingsError: a zone cannot be read.
    """

    def __init__(self, settings: Settings, *, callers: int = 1) -> None:
        self.callers = callers
        self._tracks: dict[str, Tracks] = {}
        self._levels: dict[str, dict[int, int]] = {}
        self._generators: dict[str, Generator] = {}
        self._detector: Detector | None = None
        self.update(settings)

    def update(self, settings: Settings) -> None:
        """
        Exchange the settings between two frames; models are loaded where they are first needed.

        :raises ModelError: the new settings need a model that is missing; the old ones stay.
        :raises SettingsError: a zone cannot be read; the old ones stay.
        """
        masked = tuple(Zone.parse(text) for text in settings.mask_zones)
        ignored = tuple(Zone.parse(text) for text in settings.ignore_zones)
        if settings.face.method == 'generate' and not self._generators:
            self._generators = _load_generators(settings, self.callers)
        if settings.budget_ms and any(g.cost is None for g in self._generators.values()):
            for generator in self._generators.values():
                generator.measure()
        if self._detector is None:
            self._detector = Detector(settings, concurrency=self.callers)
        self._detector.settings = settings
        self._masked, self._ignored = masked, ignored
        self.settings = settings

    def detect(self, frame: Frame, *, timings_ms: Timings | None = None) -> Detections:
        """
        Return what the networks find in a frame, whatever its stream's past.

        :raises AnonymizerError: a network failed.
        """
        with _stage('detect', timings_ms):
            assert self._detector is not None
            return self._detector.detect(frame.image_bgr)

    def find(
        self,
        frame: Frame,
        *,
        stream: str,
        stamp_ns: int | None,
        detections: Detections | None = None,
        timings_ms: Timings | None = None,
    ) -> Regions:
        """
        Return what must not be seen in a frame.

        :param stream: the camera; each has a past of its own.
        :param stamp_ns: the frame's time; None for a still picture, which has no past.
        :param detections: of `detect`, or own boxes; None: it looks itself.
        :raises AnonymizerError: the detector failed; the stream's past is as before.
        """
        if detections is None:
            detections = self.detect(frame, timings_ms=timings_ms)
        with _stage('track', timings_ms):
            detections = self._outside_ignored(detections, stream)
            height, width = frame.image_bgr.shape[:2]
            past = Tracks.empty() if stamp_ns is None else self._tracks.get(stream, Tracks.empty())
            now_ns = stamp_ns or 0
            tracks = tracker.advance(past, detections, now_ns, self.settings.tracker)
            if stamp_ns is not None:
                self._tracks[stream] = tracks
            regions = tracker.regions(
                tracks,
                now_ns,
                self.settings.tracker,
                scales=tracker.region_scales(self.settings),
                size_wh=(width, height),
            )
            return regions + self._zones(stream, (width, height))

    def cover(self, found: Regions, *, stream: str, size_wh: tuple[int, int]) -> Regions:
        """
        Return what must not be seen in a frame of which is known what was found in it.

        :param found: in `ungrown_xyxy_px`, tracked already; ignored zones left them alone.
        """
        scales = tracker.region_scales(self.settings)
        return found.grown(scales, size_wh) + self._zones(stream, size_wh)

    def replace(
        self,
        frame: Frame,
        regions: Regions,
        *,
        stream: str = '',
        timings_ms: Timings | None = None,
    ) -> Replaced:
        """
        Replace the regions of a frame, in place.

        :param stream: the camera, whose faces keep their generator from frame to frame.
        :raises AnonymizerError: a stage failed; the frame's pixels must not be used.
        """
        plan = self._plan(frame, regions, stream, timings_ms)
        self._generate([plan])
        return self._paste(plan)

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
        (result,) = self.anonymize_together([Request(frame, stream, stamp_ns, detections)])
        if isinstance(result, AnonymizerError):
            raise result
        return result

    def anonymize_together(
        self, requests: Sequence[Request]
    ) -> list[Anonymized | AnonymizerError]:
        """
        Find, replace and encode frames of several streams, with one call of each generator.

        :returns: for each request its frame, or why there is no image; a frame that fails takes no
            other with it.
        """
        plans = [_tried(partial(self._begin, request)) for request in requests]
        begun = [plan for plan in plans if isinstance(plan, _Plan)]
        if len(begun) > 1:
            # If this fails, each frame alone shows whose fault it is.
            _tried(partial(self._generate, begun))
        return [
            _tried(partial(self._finish, plan)) if isinstance(plan, _Plan) else plan
            for plan in plans
        ]

    @property
    def gains_by_joining(self) -> bool:
        """
        Tell whether frames of several streams that wait should go together.

        On a CPU they should not: the first would wait for the others to be looked at, which takes
        far longer than one larger call of the generator saves.
        """
        generators = self._generators.values()
        on_cpu = all(generator.model.device.kind == 'cpu' for generator in generators)
        return not on_cpu and all(generator.painter is None for generator in generators)

    def forget(self, stream: str) -> None:
        """Drop a stream's past."""
        self._tracks.pop(stream, None)
        self._levels.pop(stream, None)

    def describe(self) -> dict[str, str]:
        """Return what runs where, for logs and diagnostics."""
        assert self._detector is not None
        models = {f'{CLASSES[n.class_index]} detector': n.model for n in self._detector.networks}
        licences = {}
        for word, generator in self._generators.items():
            name = word.replace('generate', 'generator')
            models[name] = generator.model
            if generator.licence:
                licences[f"{name}'s licence"] = generator.licence
        return {
            'package': 'ffs_anonymizer',
            **{
                name: f'{model.path.name} sha256:{model.sha256[:12]} '
                f'in {model.name} on {model.device}'
                for name, model in models.items()
            },
            **licences,
        }

    def close(self) -> None:
        """Give the networks back; the object is of no use afterwards."""
        if self._detector is not None:
            self._detector.close()
        for generator in self._generators.values():
            generator.close()

    def _outside_ignored(self, detections: Detections, stream: str) -> Detections:
        centre = (detections.xyxy_px[:, :2] + detections.xyxy_px[:, 2:]) / 2
        kept = np.ones(len(detections), np.bool_)
        for zone in self._ignored:
            if zone.fits_any([stream]):
                low, high = np.array(zone.xyxy_px[:2]), np.array(zone.xyxy_px[2:])
                kept &= ~np.all((centre >= low) & (centre < high), axis=1)
        return detections.take(kept)

    def _zones(self, stream: str, size_wh: tuple[int, int]) -> Regions:
        boxes = [zone.xyxy_px for zone in self._masked if zone.fits_any([stream])]
        limits = np.array([*size_wh, *size_wh], np.float32)
        xyxy_px = np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, limits)
        xyxy_px = xyxy_px[np.all(xyxy_px[:, 2:] > xyxy_px[:, :2], axis=1)]
        return Regions.of_zones(xyxy_px)

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
                [g.cost for g in self._generators.values() if g.cost is not None],
                self.settings.budget_ms,
                before=np.array([before.get(i, -1) for i in ids], np.int64),
            )
            self._levels[stream] = dict(zip(ids, levels.tolist(), strict=True))
            by_level = np.array([*self._generators, ''])
            words = by_level[np.minimum(levels, len(self._generators))]
            methods[generated] = np.where(words == '', fallbacks[generated], words)
        return methods

    def _begin(self, request: Request) -> _Plan:
        timings_ms: Timings = {}
        regions = self.find(
            request.frame,
            stream=request.stream,
            stamp_ns=request.stamp_ns,
            detections=request.detections,
            timings_ms=timings_ms,
        )
        return self._plan(request.frame, regions, request.stream, timings_ms)

    def _finish(self, plan: _Plan) -> Anonymized:
        if not plan.is_generated:
            self._generate([plan])
        replaced = self._paste(plan)
        with _stage('encode', plan.timings_ms):
            data = plan.frame.encode(replaced.touched_xyxy_px)
        return Anonymized(data, plan.regions, replaced, plan.timings_ms or {})

    def _plan(
        self, frame: Frame, regions: Regions, stream: str, timings_ms: Timings | None
    ) -> _Plan:
        """Decide what takes each region's place, and cut out what the generators are to see."""
        with _stage('crop', timings_ms):
            height, width = frame.image_bgr.shape[:2]
            rects = composite.cover(
                regions.xyxy_px,
                size_wh=(width, height),
                align_wh_px=frame.align_wh_px,
                bleed_px=frame.bleed_px,
            )
            if len(rects):
                frame.without(rects)
            methods = self._methods(regions, rects, stream)
            plan = _Plan(frame, regions, rects, methods, timings_ms)
            words = [word for word in self._generators if word in methods]
            if len(words) == 1 and self._generators[words[0]].painter is not None:
                plan.painted_by = words[0]
                return plan
            for word in words:
                plan.cuts[word] = crops.cut(
                    frame.image_bgr,
                    rects[methods == word],
                    holes_xyxy_px=rects,
                    size_px=self._generators[word].size_px,
                    crop_scale=self._generators[word].crop_scale,
                )
            return plan

    def _generate(self, plans: Sequence[_Plan]) -> None:
        """Have what the generators are asked for made; what they do together counts for each."""
        asking = [plan for plan in plans if plan.painted_by or plan.cuts]
        timings_ms: Timings = {}
        if asking:
            with _stage('generate', timings_ms):
                for plan in asking:
                    if plan.painted_by:
                        self._paint(plan)
                self._invent(asking)
        for plan in asking:
            if plan.timings_ms is not None:
                plan.timings_ms.update(timings_ms)
        for plan in plans:
            plan.is_generated = True

    def _invent(self, plans: Sequence[_Plan]) -> None:
        """Have the faces of several frames invented, in one call of each generator."""
        for word, generator in self._generators.items():
            asking = [plan for plan in plans if word in plan.cuts]
            if not asking:
                continue
            try:
                faces = generator.generate(crops.joined([plan.cuts[word] for plan in asking]))
            except ModelError as error:
                if len(plans) > 1:
                    raise
                self._give_up(asking[0], word, error)
                continue
            for plan in asking:
                squares = plan.cuts[word].squares_xys_px
                own, faces = faces[: len(squares)], faces[len(squares) :]
                indices = np.nonzero(plan.methods == word)[0].tolist()
                plan.faces.update(zip(indices, zip(own, squares, strict=True), strict=True))

    def _paint(self, plan: _Plan) -> None:
        """Have the device do all of a frame's patches."""
        generator = self._generators[plan.painted_by]
        generated = plan.methods == plan.painted_by
        squares = crops.enclosing_squares(plan.rects_xyxy_px[generated], generator.crop_scale)
        crop_index = np.where(generated, np.cumsum(generated) - 1, -1).astype(np.int32)
        by_index = dict(zip(np.nonzero(generated)[0].tolist(), squares, strict=True))
        placed = self._placed(plan, by_index)
        order = [i for i, _, _ in placed]
        outers = [outer for _, outer, _ in placed]
        job = Job(
            squares,
            plan.rects_xyxy_px,
            np.array(outers, np.int32),
            plan.rects_xyxy_px[order],
            crop_index[order],
            tuple(pixels for _, _, pixels in placed if pixels is not None),
        )
        try:
            windows = generator.paint(plan.frame.image_bgr, job)
        except ModelError as error:
            self._give_up(plan, plan.painted_by, error)
        else:
            plan.patches = [
                (window, outer, outer) for window, outer in zip(windows, outers, strict=True)
            ]

    def _give_up(self, plan: _Plan, word: str, error: ModelError) -> None:
        """Leave the faces of a generator that failed to the fallback, or raise."""
        if self.settings.generator.on_error == 'stop':
            raise error
        failed = plan.methods == word
        plan.warnings.append(f'{np.count_nonzero(failed)} faces use the fallback: {error}')
        plan.methods[failed] = self._fallbacks()[plan.regions.classes[failed]]
        plan.cuts.pop(word, None)
        plan.painted_by = ''

    def _paste(self, plan: _Plan) -> Replaced:
        """Write a frame's patches into it."""
        with _stage('paste', plan.timings_ms):
            if not plan.patches:
                squares = {i: square for i, (_, square) in plan.faces.items()}
                plan.patches = [
                    (
                        _window(*plan.faces[i], outer) if pixels is None else pixels,
                        outer,
                        plan.rects_xyxy_px[i],
                    )
                    for i, outer, pixels in self._placed(plan, squares)
                ]
            image_bgr = plan.frame.image_bgr
            for patch, outer, rect in plan.patches:
                composite.paste(image_bgr, patch, outer_xyxy_px=outer, rect_xyxy_px=rect)
        touched = np.array([outer for _, outer, _ in plan.patches], np.int32).reshape(-1, 4)
        words, counts = np.unique(plan.methods, return_counts=True)
        by_word = dict(zip(words.tolist(), counts.tolist(), strict=True))
        return Replaced(touched, by_word, tuple(plan.warnings))

    def _placed(
        self, plan: _Plan, squares_xys_px: Mapping[int, NDArray[np.int32]]
    ) -> list[tuple[int, NDArray[np.int32], NDArray[np.uint8] | None]]:
        """
        Return each region's index, its outer rectangle and its pixels, in the order of pasting.

        :param squares_xys_px: the crops of the regions that a face is invented for, by index; they
            have no pixels.
        """
        height, width = plan.frame.image_bgr.shape[:2]
        placed: list[tuple[int, NDArray[np.int32], NDArray[np.uint8] | None]] = []
        for i in composite.far_to_near(plan.rects_xyxy_px).tolist():
            rect, method = plan.rects_xyxy_px[i], str(plan.methods[i])
            feather = self.settings.feather if method in (*GENERATE, 'blur') else 0.0
            outer = composite.with_feather(rect, feather, size_wh=(width, height))
            if i in squares_xys_px:
                placed.append((i, _inside(outer, squares_xys_px[i]), None))
            else:
                pixels = self._obscured(plan.frame.image_bgr, method, rect, outer)
                placed.append((i, outer, pixels))
        return placed

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


@contextmanager
def _stage(name: str, timings_ms: Timings | None) -> Iterator[None]:
    """Time a stage, and turn whatever goes wrong in it into the one error edges know."""
    start = time.perf_counter()
    try:
        yield
    except AnonymizerError:
        raise
    except Exception as error:
        raise AnonymizerError.of(error, stage=name) from error
    if timings_ms is not None:
        timings_ms[name] = (time.perf_counter() - start) * 1e3


def _tried(work: Callable[[], _Result]) -> _Result | AnonymizerError:
    try:
        return work()
    except Exception as error:
        return AnonymizerError.of(error)


def _load_generators(settings: Settings, callers: int) -> dict[str, Generator]:
    paths = [settings.generator.model_path]
    if settings.generator.small_model_path:
        paths.append(settings.generator.small_model_path)
    return {
        word: Generator(
            settings.updated({'generator.model_path': path, 'generator.small_model_path': ''}),
            concurrency=callers,
        )
        for word, path in zip(GENERATE[: len(paths)], paths, strict=True)
    }


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
