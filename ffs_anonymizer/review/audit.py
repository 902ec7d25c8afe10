"""What a second look at an anonymized recording and its original finds uncovered."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
import math
import random
from typing import Optional

import cv2
from ffs_anonymizer.errors import AnonymizerError, MediaError
from ffs_anonymizer.regions.boxes import iou
from ffs_anonymizer.regions.detections import CLASSES, Detections, Regions
from ffs_anonymizer.review.measured import Found, look_at_measured, pictures_wanted
from ffs_anonymizer.review.recording import BagRecording, RecordedFrame, Recording
from ffs_anonymizer.review.second_look import COVERED, Image, SecondLook, Uncovered
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

# Grey levels by which a pixel differs that was replaced; coding anew moves most by less.
_CHANGED_LEVELS = 10
# Mean difference of a box below which its pixels are the original's, coded anew at most.
_SAME_LEVELS = 1.0
# Pixels that a new face happens to share with the old one lie singly between others.
_CLOSING_PX = 9
_SAME_THING = 0.2
_GONE_NS = 1_000_000_000
_CROP_SIDE_PX = 160
_CROP_MARGIN = 0.75
_SAMPLE_WIDTH_PX = 640
_AHEAD = 2

# What was replaced in a frame, given its size; None where nobody knows.
Listed = Optional[Callable[[tuple[int, int]], Regions]]


@dataclass
class Finding:
    """
    Hold one thing that is not covered, in one or several frames of a stream.

    :param class_name: face or plate.
    :param score: the highest of the frames.
    :param frames: the number of frames in which it was found uncovered.
    :param number: of the frame in which it scored highest, with its stamp_ns and box.
    :param why: what is known of it.
    :param crop_jpeg: how the output shows it there.
    """

    stream: str
    class_name: str
    score: float
    frames: int
    number: int
    stamp_ns: int
    xyxy_px: tuple[float, float, float, float]
    why: str
    crop_jpeg: bytes
    last_ns: int
    last_xyxy_px: NDArray[np.float32] = field(repr=False)

    @property
    def badness(self) -> float:
        """Return what findings are sorted by: sure, large and long ones are the worst."""
        x0, y0, x1, y1 = self.xyxy_px
        return self.score * math.sqrt(max(x1 - x0, y1 - y0)) * (1 + math.log1p(self.frames))


@dataclass(frozen=True)
class SampledFrame:
    """Hold a frame of the output that a person is to look at, as a small JPEG."""

    stream: str
    number: int
    stamp_ns: int
    jpeg: bytes


@dataclass
class Audit:
    """
    Hold what was seen.

    :param findings: worst first.
    :param sample: randomly drawn frames.
    :param frames: looked at, by stream.
    :param missed_frames: frames with something uncovered.
    :param thorough_frames: frames that were looked at in all views, and of these
        `thorough_missed` with something uncovered.
    :param unreadable: frames of the output that are black or cannot be decoded, with reasons.
    :param per_minute: counted by stream and minute: frames, regions, uncovered.
    :param scores: of all that the second look found in the original.
    :param still_found: replaced regions that the second look still takes for a face or plate.
    :param measured: clouds and depth images whose shapes were looked at, by topic; of these
        `missed_measured` with something uncovered.
    :param unmeasured: such as could not be, by topic, with reasons and how often each.
    """

    findings: list[Finding] = field(default_factory=list)
    sample: list[SampledFrame] = field(default_factory=list)
    frames: Counter[str] = field(default_factory=Counter)
    missed_frames: int = 0
    thorough_frames: int = 0
    thorough_missed: int = 0
    unreadable: list[str] = field(default_factory=list)
    per_minute: dict[str, dict[int, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    scores: list[float] = field(default_factory=list)
    still_found: int = 0
    missed_measured: int = 0
    measured: Counter[str] = field(default_factory=Counter)
    unmeasured: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def looked_at(self) -> int:
        """Return the number of frames."""
        return sum(self.frames.values())


def audit(
    original: Recording,
    anonymized: Recording,
    look: SecondLook,
    *,
    listed: Callable[[RecordedFrame], Listed],
    sample: int,
    seed: int,
    threads: int = 1,
    progress: Callable[[], object] = lambda: None,
    settings: Settings | None = None,
) -> Audit:
    """
    Look at every frame of both recordings.

    :param listed: looks up what was replaced in a frame; called in their order.
    :param sample: how many frames a person is to see.
    :param threads: frames looked at side by side.
    :param settings: of the run, which say who sees what clouds and depth images measure; None:
        these are not looked at.
    :raises MediaError: the two are not of the same frames.
    """
    result = Audit()
    chosen = random.Random(seed)
    open_findings: dict[str, list[Finding]] = defaultdict(list)
    wanted: frozenset[str] = frozenset()
    found: dict[tuple[str, int], Found] = {}
    if settings is not None and isinstance(original, BagRecording):
        wanted = pictures_wanted(original, settings)

    def enter(seen: _Seen) -> None:
        _enter(result, seen, open_findings, sample, chosen)
        frame = seen.frame
        if frame.stream in wanted and frame.log_ns is not None and seen.found is not None:
            found[frame.stream, frame.log_ns] = seen.found
        progress()

    with ThreadPoolExecutor(threads, thread_name_prefix='audit') as pool:
        waiting: deque[Future[_Seen]] = deque()
        for order, (before, after) in enumerate(pairs(original, anonymized)):
            waiting.append(pool.submit(_examine, order, before, after, look, listed(before)))
            if len(waiting) >= threads + _AHEAD:
                enter(waiting.popleft().result())
        for future in waiting:
            enter(future.result())
    if settings is not None and isinstance(original, BagRecording):
        assert isinstance(anonymized, BagRecording)
        _look_at_shapes(result, open_findings, original, anonymized, settings, found)
    result.findings.sort(key=lambda finding: -finding.badness)
    result.sample.sort(key=lambda frame: (frame.stream, frame.number))
    return result


def pairs(
    original: Recording, anonymized: Recording
) -> Iterator[tuple[RecordedFrame, RecordedFrame]]:
    """
    Yield each frame of the original with its anonymized one; streams that were left out are not.

    :raises MediaError: a frame has no partner.
    """
    partners = anonymized.frames()
    for before in original.frames():
        if before.stream not in anonymized.names:
            continue
        after = next(partners, None)
        if after is None or (after.stream, after.number) != (before.stream, before.number):
            got = 'its end' if after is None else f'{after.stream}, frame {after.number}'
            raise MediaError(
                f'{anonymized.path}: got {got}, expected {before.stream}, frame {before.number} '
                f'as in {original.path}; are these the original and its output?'
            )
        yield before, after
    after = next(partners, None)
    if after is not None:
        raise MediaError(
            f'{anonymized.path}: got {after.stream}, frame {after.number}, which is not in '
            f'{original.path}; are these the original and its output?'
        )


@dataclass(frozen=True)
class _Seen:
    frame: RecordedFrame
    image_bgr: Image | None = None
    reason: str = ''
    uncovered: tuple[Uncovered, ...] = ()
    regions: int = 0
    scores: tuple[float, ...] = ()
    still_found: int = 0
    is_thorough: bool = False
    found: Found | None = None


def _examine(
    order: int,
    before: RecordedFrame,
    after: RecordedFrame,
    look: SecondLook,
    listed: Listed,
) -> _Seen:
    try:
        image_bgr = after.decode().image_bgr
    except AnonymizerError as error:
        return _Seen(after, reason=f'{after.stream}, frame {after.number}: {error}')
    if not image_bgr.any():
        return _Seen(after, image_bgr, f'{after.stream}, frame {after.number}: black')
    try:
        original_bgr = before.decode().image_bgr
    except AnonymizerError as error:
        raise MediaError(
            f'{before.stream}, frame {before.number} can be read in the output and not in the '
            f'original: {error}'
        ) from error
    if original_bgr.shape != image_bgr.shape:
        raise MediaError(
            f'{after.stream}, frame {after.number}: got {image_bgr.shape[1]}x{image_bgr.shape[0]} '
            f'pixels, expected {original_bgr.shape[1]}x{original_bgr.shape[0]} as in the original'
        )
    height, width = image_bgr.shape[:2]
    regions = None if listed is None else listed((width, height))
    replaced = _Replaced(original_bgr, image_bgr, regions)
    found = look.look(original_bgr, order)
    judged_all = (replaced.judged(item) for item in _items(found))
    uncovered = [judged for judged in judged_all if judged is not None]
    still_found = 0
    if look.is_thorough(order):
        for item in _items(look.look(image_bgr, order)):
            if replaced.share(item.xyxy_px) >= COVERED:
                still_found += 1
            elif (judged := replaced.judged(item)) is not None and not _known(judged, uncovered):
                uncovered.append(judged)
    return _Seen(
        after,
        image_bgr,
        '',
        tuple(uncovered),
        0 if regions is None else len(regions),
        tuple(found.scores.tolist()),
        still_found,
        look.is_thorough(order),
        Found.of(found, (width, height)),
    )


def _items(found: Detections) -> Iterator[Uncovered]:
    for box, score, index in zip(found.xyxy_px, found.scores, found.classes, strict=True):
        yield Uncovered(CLASSES[index], float(score), box, '')


def _known(item: Uncovered, others: list[Uncovered]) -> bool:
    boxes = np.array([other.xyxy_px for other in others], np.float32).reshape(-1, 4)
    return bool((iou(item.xyxy_px[None], boxes) > _SAME_THING).any())


class _Replaced:
    """Tell what of a frame was replaced: by its regions where they are known, and its pixels."""

    def __init__(self, before_bgr: Image, after_bgr: Image, regions: Regions | None) -> None:
        self._difference = cv2.absdiff(before_bgr, after_bgr).max(axis=2)
        if regions is None:
            changed = (self._difference > _CHANGED_LEVELS).astype(np.uint8)
            kernel = np.ones((_CLOSING_PX, _CLOSING_PX), np.uint8)
            self._mask = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, kernel)
        else:
            self._mask = np.zeros(self._difference.shape, np.uint8)
            for x0, y0, x1, y1 in np.rint(regions.xyxy_px).astype(int).tolist():
                self._mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 1

    def share(self, xyxy_px: NDArray[np.float32]) -> float:
        """Return which share of a box was replaced, 0 to 1; a box outside the frame was."""
        inside = self._inside(self._mask, xyxy_px)
        return float(inside.mean()) if inside.size else 1.0

    def judged(self, item: Uncovered) -> Uncovered | None:
        """Return a thing that is not covered with what is known of it, None where it is."""
        share = self.share(item.xyxy_px)
        if share < COVERED:
            why = f'{share:.0%} of it replaced' if share >= 0.01 else 'nothing of it replaced'
            return replace(item, why=why)
        difference = self._inside(self._difference, item.xyxy_px)
        if difference.size and float(difference.mean()) < _SAME_LEVELS:
            return replace(item, why="listed as replaced, but its pixels are the original's")
        return None

    def _inside(self, image: NDArray[np.uint8], xyxy_px: NDArray[np.float32]) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = np.rint(np.maximum(xyxy_px, 0)).astype(int).tolist()
        return image[y0:y1, x0:x1]


def _enter(
    result: Audit,
    seen: _Seen,
    open_findings: dict[str, list[Finding]],
    sample: int,
    chosen: random.Random,
) -> None:
    """Take up what was seen in one frame; frames come in the order of their streams."""
    frame = seen.frame
    result.frames[frame.stream] += 1
    if seen.reason:
        result.unreadable.append(seen.reason)
    result.missed_frames += bool(seen.uncovered)
    result.thorough_frames += seen.is_thorough
    result.thorough_missed += seen.is_thorough and bool(seen.uncovered)
    result.scores.extend(seen.scores)
    result.still_found += seen.still_found
    counts = result.per_minute[frame.stream][frame.stamp_ns // 60_000_000_000]
    counts.update(frames=1, regions=seen.regions, uncovered=len(seen.uncovered))
    if seen.image_bgr is None:
        return
    followed = open_findings[frame.stream]
    followed[:] = [f for f in followed if frame.stamp_ns - f.last_ns <= _GONE_NS]
    for item in seen.uncovered:
        _follow(result, followed, item, frame, seen.image_bgr)
    _draw(result, frame, seen.image_bgr, sample, chosen)


def _look_at_shapes(
    result: Audit,
    open_findings: dict[str, list[Finding]],
    original: BagRecording,
    anonymized: BagRecording,
    settings: Settings,
    found: dict[tuple[str, int], Found],
) -> None:
    for seen in look_at_measured(original, anonymized, settings, found):
        if seen.reason:
            result.unmeasured[seen.topic][seen.reason] += 1
            continue
        result.measured[seen.topic] += 1
        result.missed_measured += bool(seen.uncovered)
        # Found in its colours, and in its shape: two things to know of one cloud.
        followed = open_findings[f'{seen.topic} shape']
        followed[:] = [f for f in followed if seen.log_ns - f.last_ns <= _GONE_NS]
        for item in seen.uncovered:
            assert seen.image_bgr is not None
            _follow(result, followed, item, seen.frame, seen.image_bgr)


def _follow(
    result: Audit,
    followed: list[Finding],
    item: Uncovered,
    frame: RecordedFrame,
    image_bgr: Image,
) -> None:
    """Join a find to that of the frames before, or begin a new one."""
    last = np.array([f.last_xyxy_px for f in followed], np.float32).reshape(-1, 4)
    overlaps = iou(item.xyxy_px[None], last)[0]
    x0, y0, x1, y1 = item.xyxy_px.tolist()
    if len(overlaps) and overlaps.max() > _SAME_THING:
        finding = followed[int(overlaps.argmax())]
        finding.frames += 1
        finding.last_ns, finding.last_xyxy_px = frame.stamp_ns, item.xyxy_px
        if item.score > finding.score:
            finding.score, finding.why = item.score, item.why
            finding.number, finding.stamp_ns = frame.number, frame.stamp_ns
            finding.xyxy_px = (x0, y0, x1, y1)
            finding.crop_jpeg = _crop(image_bgr, item.xyxy_px)
        return
    finding = Finding(
        frame.stream,
        item.class_name,
        item.score,
        1,
        frame.number,
        frame.stamp_ns,
        (x0, y0, x1, y1),
        item.why,
        _crop(image_bgr, item.xyxy_px),
        frame.stamp_ns,
        item.xyxy_px,
    )
    result.findings.append(finding)
    followed.append(finding)


def _draw(
    result: Audit, frame: RecordedFrame, image_bgr: Image, sample: int, chosen: random.Random
) -> None:
    """Keep a sample in which each frame so far is equally likely (Vitter 1985, algorithm R)."""
    place = result.looked_at - 1
    if place >= sample:
        place = chosen.randrange(result.looked_at)
    if place >= sample:
        return
    scale = min(1.0, _SAMPLE_WIDTH_PX / image_bgr.shape[1])
    shown = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    drawn = SampledFrame(frame.stream, frame.number, frame.stamp_ns, _jpeg(shown, 70))
    if place < len(result.sample):
        result.sample[place] = drawn
    else:
        result.sample.append(drawn)


def _crop(image_bgr: Image, xyxy_px: NDArray[np.float32]) -> bytes:
    """Return a thing with what is around it, its box drawn."""
    height, width = image_bgr.shape[:2]
    x0, y0, x1, y1 = xyxy_px.tolist()
    margin = _CROP_MARGIN * max(x1 - x0, y1 - y0)
    left, top = max(int(x0 - margin), 0), max(int(y0 - margin), 0)
    right, bottom = min(int(x1 + margin) + 1, width), min(int(y1 + margin) + 1, height)
    crop = image_bgr[top:bottom, left:right]
    scale = _CROP_SIDE_PX / max(crop.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=interpolation)
    corners = np.rint((np.array([x0 - left, y0 - top, x1 - left, y1 - top])) * scale).astype(int)
    cv2.rectangle(shown, corners[:2].tolist(), corners[2:].tolist(), (0, 0, 255), 1)
    return _jpeg(shown, 80)


def _jpeg(image_bgr: Image, quality: int) -> bytes:
    done, encoded = cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return bytes(encoded)
