"""The recipe: a frame in, the frame without its faces and plates out, or no image at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass, field
from functools import partial
import time
from typing import TypeVar, Union

from ffs_anonymizer.errors import AnonymizerError, ModelError
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting import composite, methods, tones
from ffs_anonymizer.painting.chooser import choose_faces
from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.generator import Generator, joined, who_paints
from ffs_anonymizer.painting.job import job_of
from ffs_anonymizer.painting.painters import Painters
from ffs_anonymizer.painting.places import steady
from ffs_anonymizer.painting.sharpness import strengths
from ffs_anonymizer.painting.tones import Tones
from ffs_anonymizer.regions import detector, tracker, zones
from ffs_anonymizer.regions.detections import Detections, Regions
from ffs_anonymizer.regions.detector import Network
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Drawn, Seen, Stream
import numpy as np
from numpy.typing import NDArray

Data = Union[bytes, bytearray, memoryview]
Timings = dict[str, float]
_Result = TypeVar('_Result')
_Painted = tuple[list[Patch], dict[int, NDArray[np.float32]]]


@dataclass(frozen=True)
class Request:
    """
    Hold a frame that is to be anonymized.

    :param stream: what is remembered of its camera.
    :param stamp_ns: the frame's time; None for a still picture, which has no past.
    :param arrival_ns: when it came, on a clock that the stamps do not follow.
    :param detections: own boxes; None: the detector looks.
    :param timings_ms: milliseconds by stage of what was done before.
    """

    frame: Frame
    stream: Stream = field(default_factory=Stream)
    stamp_ns: int | None = None
    arrival_ns: int | None = None
    detections: Detections | None = None
    timings_ms: Timings = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """
    Hold what is to take the place of each region of a frame.

    :param rects_xyxy_px: (N, 4) int32, where each region covers completely.
    :param methods: (N,) int8, codes of methods.NAMES.
    :param painters: (N,) int8, which generator paints each region, by its place in `joined`.
    :param latents: of each region (Z,) float32, the face that it wears; None where none is chosen.
    :param strengths: (N,) float32, how much the face that each region gets is sharpened.
    :param stream: its name; with a track it decides which face is drawn.
    :param warnings: what does not go as configured; the regions are covered all the same.
    :param tones: how light the tracks were drawn before.
    """

    frame: Frame
    regions: Regions
    rects_xyxy_px: NDArray[np.int32]
    methods: NDArray[np.int8]
    painters: NDArray[np.int8]
    latents: tuple[NDArray[np.float32] | None, ...]
    strengths: NDArray[np.float32]
    stream: str = ''
    warnings: tuple[str, ...] = ()
    tones: Tones = field(default_factory=dict)


@dataclass(frozen=True)
class Replaced:
    """
    Hold what was done to a frame's pixels.

    :param touched_xyxy_px: (N, 4) int32, the rectangles that were written, feathers included.
    :param counts: number of regions by what took their place, a word of methods.NAMES.
    :param warnings: what did not go as configured; the regions are covered all the same.
    :param tones: how light the tracks were drawn, now or before.
    """

    touched_xyxy_px: NDArray[np.int32]
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()
    tones: Tones = field(default_factory=dict)


@dataclass(frozen=True)
class Anonymized:
    """
    Hold a finished frame.

    :param data: the image in its source's own encoding; without regions, the source's bytes.
    :param regions: what was replaced.
    :param replaced: how it was replaced.
    :param timings_ms: milliseconds by stage.
    :param size_wh: width and height of the upright frame in pixels; (0, 0): it has none.
    """

    data: Data
    regions: Regions
    replaced: Replaced
    timings_ms: Timings
    size_wh: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Recipe:
    """
    Replace faces and plates, frame by frame, for any number of streams and threads.

    What is loaded, what is set and what is remembered are apart: other settings make another
    recipe over the same networks, and a stream's memory goes in and comes out. All failures are
    AnonymizerError and mean that the frame has no image.

    :param networks: what is open; what the settings need beside it is opened now.
    :param settings: what to find and how to replace it.
    :raises ModelError: a model is missing or unfit.
    :raises SettingsError: a zone cannot be read.
    """

    networks: Networks
    settings: Settings
    _detectors: tuple[Network, ...] = field(init=False, repr=False, compare=False)
    _generators: tuple[Generator, ...] = field(init=False, repr=False, compare=False)
    _painters: Painters = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Take from the networks what the settings need."""
        zones.resolve(self.settings.mask_zones, self.settings.ignore_zones, ('',))
        names = '_detectors', '_generators', '_painters'
        for name, value in zip(names, self.networks.of(self.settings), strict=True):
            object.__setattr__(self, name, value)
        if self.settings.budget_ms:
            for generator in self._generators:
                if generator.cost is None:
                    generator.measure()

    @property
    def gains_by_joining(self) -> bool:
        """Tell whether frames of several streams that wait should go together."""
        return self._painters.gains_by_joining

    def anonymize_array(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """
        Return a still picture without its faces and plates.

        :param image_bgr: (H, W, 3) uint8, only read.
        :returns: (H, W, 3) uint8.
        :raises AnonymizerError: there is no image.
        """
        frame = ArrayFrame(image_bgr)
        self.anonymize(frame, Stream())
        return frame.image_bgr

    def anonymize(
        self,
        frame: Frame,
        stream: Stream,
        *,
        stamp_ns: int | None = None,
        arrival_ns: int | None = None,
        detections: Detections | None = None,
    ) -> tuple[Anonymized, Stream]:
        """
        Find, replace and encode; see Request for what goes in.

        :returns: the finished frame, and what is remembered of its stream now.
        :raises AnonymizerError: there is no image.
        """
        request = Request(frame, stream, stamp_ns, arrival_ns, detections)
        ((result, after),) = self.anonymize_together([request])
        if isinstance(result, AnonymizerError):
            raise result
        return result, after

    def anonymize_together(
        self, requests: Sequence[Request]
    ) -> list[tuple[Anonymized | AnonymizerError, Stream]]:
        """
        Find, replace and encode frames of several streams, with one call of each generator.

        :returns: for each request its frame, or why there is no image, and what is remembered of
            its stream now; a frame that fails takes no other with it.
        """
        timings_ms: list[Timings] = [{**request.timings_ms} for request in requests]
        begun = [
            _tried(partial(self._begin, request, timings))
            for request, timings in zip(requests, timings_ms, strict=True)
        ]
        choices = [one[0] for one in begun if not isinstance(one, AnonymizerError)]
        shared: Timings = {}
        replaced = iter(self.replace(choices, timings_ms=shared))
        results: list[tuple[Anonymized | AnonymizerError, Stream]] = []
        for request, one, timings in zip(requests, begun, timings_ms, strict=True):
            if isinstance(one, AnonymizerError):
                results.append((one, request.stream))
                continue
            timings.update(shared)
            choice, after = one
            done = next(replaced)
            if request.stamp_ns is not None and isinstance(done, Replaced):
                drawn = dataclasses.replace(after.drawn, tones=done.tones)
                after = dataclasses.replace(after, drawn=drawn)
            results.append((_tried(partial(_finish, choice, done, timings)), after))
        return results

    def looked(self, request: Request) -> Request:
        """
        Return a request that needs no detector any more, whatever is remembered of its stream.

        :raises AnonymizerError: a network failed.
        """
        timings_ms = {**request.timings_ms}
        detections = self.detect(request.frame, timings_ms=timings_ms)
        return dataclasses.replace(request, detections=detections, timings_ms=timings_ms)

    def detect(self, frame: Frame, *, timings_ms: Timings | None = None) -> Detections:
        """
        Return what the networks find in a frame, whatever its stream's past.

        :raises AnonymizerError: a network failed.
        """
        with _stage('detect', timings_ms):
            return detector.detect(
                frame.image_bgr, self._detectors, self.settings, lanes=self.networks.lanes
            )

    def find(
        self,
        detections: Detections,
        seen: Seen,
        *,
        names: tuple[str, ...],
        size_wh: tuple[int, int],
        stamp_ns: int | None,
        arrival_ns: int | None = None,
        timings_ms: Timings | None = None,
    ) -> tuple[Regions, Seen]:
        """
        Return what must not be seen in a frame: ignore, track, grow and mask.

        :param detections: of `detect`, or own boxes.
        :param names: what zones may call the stream.
        :param size_wh: width and height of the frame in pixels.
        :param stamp_ns: the frame's time; None for a still picture, which has no past.
        :returns: the regions, and what is remembered of the stream now.
        """
        settings = self.settings
        with _stage('track', timings_ms):
            of_stream = zones.resolve(settings.mask_zones, settings.ignore_zones, names)
            left = of_stream.left_over(detections)
            before = Seen() if stamp_ns is None else seen.at(stamp_ns, arrival_ns)
            tracks = tracker.advance(before.tracks, left, before.now_ns, settings.tracker)
            after = dataclasses.replace(before, tracks=tracks)
            scales = tracker.region_scales(settings)
            regions = tracker.regions(
                tracks, after.now_ns, settings.tracker, scales=scales, size_wh=size_wh
            )
            masks = of_stream.masks(size_wh)
            return regions + masks, seen if stamp_ns is None else after

    def cover(
        self, found: Regions, *, names: tuple[str, ...], size_wh: tuple[int, int]
    ) -> Regions:
        """
        Return what must not be seen in a frame of which is known what was found in it.

        :param found: in `ungrown_xyxy_px`, tracked already; ignored zones left them alone.
        """
        settings = self.settings
        of_stream = zones.resolve(settings.mask_zones, settings.ignore_zones, names)
        return found.grown(tracker.region_scales(settings), size_wh) + of_stream.masks(size_wh)

    def choose(
        self, frame: Frame, regions: Regions, drawn: Drawn, *, stream: str = ''
    ) -> tuple[Choice, Drawn]:
        """
        Decide what takes the place of each region of a frame.

        :param stream: its name; with a track it decides which face is drawn.
        :returns: the choice, and what is remembered of the stream now.
        """
        height, width = frame.image_bgr.shape[:2]
        cover = partial(
            composite.cover,
            size_wh=(width, height),
            align_wh_px=frame.align_wh_px,
            bleed_px=frame.bleed_px,
        )
        rects = cover(regions.xyxy_px)
        codes, levels = methods.choose(
            regions,
            rects,
            self.settings,
            costs=[generator.cost for generator in self._generators],
            before=drawn.levels,
        )
        regions, places = steady(
            regions, drawn.places, (width, height), drawn=codes < methods.BLUR
        )
        rects = cover(regions.xyxy_px)
        if len(regions):
            frame.without(rects)
        painters = who_paints(
            rects,
            codes,
            self._generators,
            larger=not self.settings.budget_ms,
            track_ids=regions.track_ids,
            before=drawn.strengths,
        )
        shown, held = strengths(
            frame.image_bgr,
            regions,
            rects,
            painters,
            generators=joined(self._generators),
            before=drawn.strengths,
        )
        latents: tuple[NDArray[np.float32] | None, ...] = (None,) * len(codes)
        choice = Choice(
            frame, regions, rects, codes, painters, latents, shown, stream, tones=drawn.tones
        )
        try:
            latents, faces = choose_faces(
                frame.image_bgr,
                regions,
                rects,
                codes,
                self.settings,
                generators=self._generators,
                stream=stream,
                before=drawn.faces,
            )
        except ModelError as error:
            without = self._without_faces(choice, error)
            if without is None:
                raise
            return without, Drawn(levels, drawn.faces, places, held, drawn.tones)
        choice = dataclasses.replace(choice, latents=latents)
        return choice, Drawn(levels, faces, places, held, drawn.tones)

    def put(self, frame: Frame, regions: Regions, *, stream: str = '') -> Anonymized:
        """
        Replace regions that are known in a frame that has no past, and encode it.

        :param stream: its name; with a track it decides which face is drawn.
        :raises AnonymizerError: there is no image.
        """
        timings_ms: Timings = {}
        with _stage('choose', timings_ms):
            choice, _ = self.choose(frame, regions, Drawn(), stream=stream)
        (replaced,) = self.replace([choice], timings_ms=timings_ms)
        return _finish(choice, replaced, timings_ms)

    def replace(
        self, choices: Sequence[Choice], *, timings_ms: Timings | None = None
    ) -> list[Replaced | AnonymizerError]:
        """
        Replace the regions of some frames, in place, with one call of each generator.

        :returns: for each frame what was done, or why its pixels must not be used.
        """
        with _stage('paint', timings_ms):
            painted = self._painted(choices)
        with _stage('paste', timings_ms):
            return [
                one if isinstance(one, AnonymizerError) else _tried(partial(_paste, *one))
                for one in painted
            ]

    def _begin(self, request: Request, timings_ms: Timings) -> tuple[Choice, Stream]:
        frame, stream, detections = request.frame, request.stream, request.detections
        if detections is None:
            detections = self.detect(frame, timings_ms=timings_ms)
        height, width = frame.image_bgr.shape[:2]
        regions, seen = self.find(
            detections,
            stream.seen,
            names=stream.names,
            size_wh=(width, height),
            stamp_ns=request.stamp_ns,
            arrival_ns=request.arrival_ns,
            timings_ms=timings_ms,
        )
        still = request.stamp_ns is None
        before = Drawn() if still else stream.drawn
        choice, drawn = self.choose(frame, regions, before, stream=stream.names[0])
        drawn = stream.drawn if still else drawn
        if seen.jumped:
            choice = dataclasses.replace(choice, warnings=(seen.jumped,))
        return choice, dataclasses.replace(stream, seen=seen, drawn=drawn)

    def _painted(
        self, choices: Sequence[Choice]
    ) -> list[tuple[Choice, _Painted] | AnonymizerError]:
        """Have the patches made; if that fails, each frame alone shows whose fault it is."""
        tried = _tried(partial(self._paint, choices), stage='paint')
        if not isinstance(tried, AnonymizerError):
            return list(zip(choices, tried, strict=True))
        if len(choices) != 1:
            return [result for choice in choices for result in self._painted([choice])]
        without = self._without_faces(choices[0], tried)
        return [tried] if without is None else self._painted([without])

    def _without_faces(self, choice: Choice, error: AnonymizerError) -> Choice | None:
        """Return a choice in which no face is drawn, None where that is not what is wanted."""
        drawn = choice.methods < methods.BLUR
        given_up = self.settings.generator.on_error == 'fallback' and drawn.any()
        if not given_up or not isinstance(error, ModelError):
            return None
        other = methods.fallbacks(choice.regions.classes, self.settings)
        words = f'{np.count_nonzero(drawn)} faces use the fallback: {error}'
        return dataclasses.replace(
            choice,
            methods=np.where(drawn, other, choice.methods),
            warnings=(*choice.warnings, words),
        )

    def _paint(self, choices: Sequence[Choice]) -> list[_Painted]:
        scales = [each.crop_scale for each in joined(self._generators)]
        jobs = [
            job_of(
                choice.frame.image_bgr,
                choice.regions,
                choice.rects_xyxy_px,
                choice.methods,
                self.settings,
                latents=choice.latents,
                strengths=choice.strengths,
                painters=choice.painters,
                crop_scales=scales,
                stream=choice.stream,
            )
            for choice in choices
        ]
        painted = self._painters.paint([choice.frame.image_bgr for choice in choices], jobs)
        return [
            tones.steady(
                job,
                patches,
                choice.regions.track_ids[choice.methods <= methods.GENERATE_SMALL],
                choice.tones,
            )
            for job, patches, choice in zip(jobs, painted, choices, strict=True)
        ]


def _paste(choice: Choice, painted: _Painted) -> Replaced:
    patches, drawn = painted
    with _stage('paste', None):
        for patch in patches:
            composite.paste(choice.frame.image_bgr, patch)
    touched = np.array([patch.outer_xyxy_px for patch in patches], np.int32).reshape(-1, 4)
    tracks = set(choice.regions.track_ids.tolist())
    now = {track: tone for track, tone in {**choice.tones, **drawn}.items() if track in tracks}
    return Replaced(touched, methods.counts(choice.methods), choice.warnings, now)


def _finish(
    choice: Choice, replaced: Replaced | AnonymizerError, timings_ms: Timings
) -> Anonymized:
    if isinstance(replaced, AnonymizerError):
        raise replaced
    with _stage('encode', timings_ms):
        data = choice.frame.encode(replaced.touched_xyxy_px)
    height, width = choice.frame.image_bgr.shape[:2]
    return Anonymized(data, choice.regions, replaced, timings_ms, (width, height))


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


def _tried(work: Callable[[], _Result], stage: str = '') -> _Result | AnonymizerError:
    try:
        return work()
    except Exception as error:
        return AnonymizerError.of(error, stage=stage)
