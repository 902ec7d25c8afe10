"""What clouds and depth images still show of what a second look found in pictures."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Union

import cv2
from ffs_anonymizer.bag.measured import MeasuredMessage, Sensors
from ffs_anonymizer.clouds import projection
from ffs_anonymizer.clouds.cloud import Cloud, shape_left
from ffs_anonymizer.clouds.depth import Depth, scaled
from ffs_anonymizer.errors import AnonymizerError, ImageError, MediaError
from ffs_anonymizer.frames.message import rotation_of, Turn
from ffs_anonymizer.jobs.job import raising
from ffs_anonymizer.measured import CLOUD, DEPTH, REGISTERED
from ffs_anonymizer.pipeline import Outcome
from ffs_anonymizer.regions.detections import CLASSES, Detections, Regions
from ffs_anonymizer.review.recording import BagRecording, RecordedFrame
from ffs_anonymizer.review.second_look import COVERED, Image, Uncovered
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.storage import Message, Topic
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

_FAR_PERCENT = 99.9
_DOT_PX = 2


@dataclass(frozen=True)
class Found:
    """Hold what the second look found in a picture of the original, and its upright size."""

    size_wh: tuple[int, int]
    regions: Regions

    @classmethod
    def of(cls, detections: Detections, size_wh: tuple[int, int]) -> Found:
        """Return it as a scene remembers pictures."""
        n = len(detections)
        return cls(
            size_wh,
            Regions(
                detections.xyxy_px,
                detections.classes,
                detections.scores,
                detections.scores,
                np.full(n, -1, np.int64),
                np.ones(n, np.bool_),
                detections.points_px,
                detections.xyxy_px,
            ),
        )


@dataclass(frozen=True)
class SeenMeasured:
    """
    Hold a message that was looked at.

    :param number: counted from 0 in its topic.
    :param reason: why it could not be looked at; empty: it was.
    :param image_bgr: how the output shows it, where something is uncovered.
    """

    topic: str
    number: int
    log_ns: int
    reason: str = ''
    uncovered: tuple[Uncovered, ...] = ()
    image_bgr: Image | None = None

    @property
    def frame(self) -> RecordedFrame:
        """Return it as a frame of its topic, which shows nothing."""
        nothing = raising(ImageError('a measurement is no picture'))
        return RecordedFrame(self.topic, self.number, self.log_ns, nothing, log_ns=self.log_ns)


@dataclass(frozen=True)
class _Pair(MeasuredMessage):
    """Hold a message of the original beside what the output has in its place."""

    after: Any
    number: int


@dataclass(frozen=True)
class _Shot:
    message: Message
    image: Any


_Passing = Union[Message, _Pair, _Shot]


def look_at_measured(
    original: BagRecording,
    anonymized: BagRecording,
    settings: Settings,
    found: Mapping[tuple[str, int], Found],
) -> Generator[SeenMeasured, None, None]:
    """
    Compare clouds and depth images of a bag with those of its output, in what was found.

    These are such as have a camera, and clouds that are pictures of their own. Their colours are
    for the first pass to look at; what is asked here is whether the shape is still there, and
    whether colours are in clouds that are no pictures.

    :param found: by topic and recording time of the picture.
    :raises MediaError: the two are not of the same messages.
    """
    sensors = Sensors(settings, are_compressed=False)
    for outcome in sensors.in_order(_outcomes(original, anonymized, sensors, found)):
        pair = outcome.item
        if not isinstance(pair, _Pair):
            continue
        topic = pair.message.topic
        own = found.get((topic.name, pair.message.log_ns))
        if not _is_own_picture(sensors, topic) or (
            own is not None and settings.cloud.geometry != 'keep'
        ):
            yield _looked_at(pair, sensors, settings, own)


def pictures_wanted(original: BagRecording, settings: Settings) -> frozenset[str]:
    """Return the topics whose finds are needed for clouds and depth images."""
    sensors = Sensors(settings, are_compressed=False)
    clouds = {name for name, kind in original.types.items() if kind == cdr.POINT_CLOUD}
    links = [link for key in original.types.items() for link in sensors.links(*key)]
    return frozenset(clouds | {link.image for link in links})


def _outcomes(
    original: BagRecording,
    anonymized: BagRecording,
    sensors: Sensors,
    found: Mapping[tuple[str, int], Found],
) -> Generator[Outcome[_Passing], None, None]:
    """Yield what the sensors are to learn from, and the pairs, in the order of the bag."""
    types = original.types
    topics = {topic for topic, _ in found}
    measured = {
        name
        for name, kind in types.items()
        if name in anonymized.types
        and (sensors.links(name, kind) or (kind == cdr.POINT_CLOUD and name in topics))
    }
    pictures = topics - measured
    about = {name for name, kind in types.items() if kind in (cdr.CAMERA_INFO, cdr.TRANSFORMS)}
    partners = anonymized.contents(measured)
    numbers = dict.fromkeys(measured, -1)
    for message, content in original.contents(measured | pictures | about):
        name = message.topic.name
        if name in measured:
            numbers[name] += 1
            other, after = next(partners, (None, None))
            if other is None or (other.topic.name, other.log_ns) != (name, message.log_ns):
                raise MediaError(
                    f'{anonymized.path}: got another message than {name} of {message.log_ns} ns '
                    f'as in {original.path}; are these the original and its output?'
                )
            yield Outcome(_Pair(message, content, after, numbers[name]))
        elif name in pictures:
            seen = found.get((name, message.log_ns))
            if seen is not None and not isinstance(content, AnonymizerError):
                yield Outcome(_Shot(message, content), b'', seen.regions, seen.size_wh)
        else:
            yield Outcome(message)


def _is_own_picture(sensors: Sensors, topic: Topic) -> bool:
    kind = sensors.kind(topic.name, topic.type_name)
    return kind == REGISTERED or (kind == CLOUD and not sensors.links(topic.name, topic.type_name))


def _looked_at(
    pair: _Pair, sensors: Sensors, settings: Settings, own: Found | None
) -> SeenMeasured:
    topic = pair.message.topic
    uncovered: tuple[Uncovered, ...] = ()
    image_bgr, reason = None, ''
    try:
        for content in (pair.content, pair.after):
            if isinstance(content, AnonymizerError):
                raise content
        if sensors.kind(topic.name, topic.type_name) == DEPTH:
            uncovered, image_bgr = _depth(pair, sensors)
        elif own is not None and _is_own_picture(sensors, topic):
            uncovered, image_bgr = _own_shape(pair, settings, own)
        else:
            uncovered, image_bgr = _cloud(pair, sensors, settings)
    except AnonymizerError as error:
        reason = str(error)
    return SeenMeasured(topic.name, pair.number, pair.message.log_ns, reason, uncovered, image_bgr)


def _depth(pair: _Pair, sensors: Sensors) -> tuple[tuple[Uncovered, ...], Image | None]:
    before, after = Depth(pair.content), Depth(pair.after)
    links = sensors.links(pair.message.topic.name, pair.message.topic.type_name)
    rects = sensors.scene.rects(before.size_wh, links, pair.stamp_ns)
    seen = [sensors.scene.nearest(link.image, pair.stamp_ns).regions for link in links]
    left = []
    for rect, (class_name, score) in zip(rects, _named(seen), strict=True):
        share = before.left_in(after, rect)
        if share > 1 - COVERED:
            box = rect.astype(np.float32)
            left.append(Uncovered(class_name, score, box, f'{share:.0%} of its shape left'))
    return tuple(left), _grey(after.nearness()) if left else None


def _cloud(
    pair: _Pair, sensors: Sensors, settings: Settings
) -> tuple[tuple[Uncovered, ...], Image | None]:
    before, after = _clouds(pair)
    links = sensors.links(pair.message.topic.name, pair.message.topic.type_name)
    views = sensors.scene.views(pair.content, links, pair.stamp_ns)
    seen = [sensors.scene.nearest(link.image, pair.stamp_ns).regions for link in links]
    boxes = np.concatenate([view.xyxy_px for view in views]).astype(np.float32)
    of_view = np.repeat(np.arange(len(views)), [len(view.xyxy_px) for view in views])
    left, view = [], None
    shares = projection.left_in(before, after, views)
    for i, (shape, colours) in enumerate(shares):
        if settings.cloud.geometry == 'keep':
            shape = 0.0
        if max(shape, colours) > 1 - COVERED:
            view = view or views[of_view[i]]
            why = f'{shape:.0%} of its points and {colours:.0%} of their colours left'
            left.append(Uncovered(*_named(seen)[i], boxes[i], why))
    return tuple(left), None if view is None else _drawn(after, view)


def _own_shape(
    pair: _Pair, settings: Settings, seen: Found
) -> tuple[tuple[Uncovered, ...], Image | None]:
    before, after = _clouds(pair)
    rotation = rotation_of(settings.rotation, pair.message.topic.name)
    turn = Turn.of(1, rotation)
    stored_wh = seen.size_wh[::-1] if turn.transpose else seen.size_wh
    if stored_wh != (before.width, before.height):
        raise ImageError(f'got a picture of {stored_wh} points, expected those of the cloud')
    whole = scaled(seen.regions.xyxy_px, seen.size_wh, seen.size_wh)
    limit = np.array([*seen.size_wh, *seen.size_wh])
    left = []
    for box, named in zip(np.clip(whole, 0, limit), _named([seen.regions]), strict=True):
        stored = turn.stored(box[None].astype(np.int32), seen.size_wh)[0]
        if (stored[:2] >= stored[2:]).any():
            continue
        share = shape_left(before, after, stored)
        if share > 1 - COVERED:
            why = f'{share:.0%} of its shape left'
            left.append(Uncovered(*named, stored.astype(np.float32), why))
    if not left:
        return (), None
    distance = np.linalg.norm(after.positions()[0], axis=-1)
    with np.errstate(all='ignore'):
        return tuple(left), _grey(1 / distance)


def _clouds(pair: _Pair) -> tuple[Cloud, Cloud]:
    before, after = Cloud(pair.content), Cloud(pair.after)
    if (before.width, before.height) != (after.width, after.height):
        raise ImageError(
            f'got {after.width}x{after.height} points, expected {before.width}x{before.height}'
        )
    return before, after


def _named(seen: list[Regions]) -> list[tuple[str, float]]:
    """Return class and score of regions, one picture's after the other's."""
    return [
        (CLASSES[index], float(score))
        for regions in seen
        for index, score in zip(regions.classes, regions.scores, strict=True)
    ]


def _grey(nearness: NDArray[np.float64]) -> Image:
    """Return a picture (H, W, 3) of a shape: what is near is light, what is not known black."""
    known = np.isfinite(nearness) & (nearness > 0)
    if not known.any():
        return np.zeros((*nearness.shape, 3), np.uint8)
    low, high = np.percentile(nearness[known], [100 - _FAR_PERCENT, _FAR_PERCENT])
    with np.errstate(invalid='ignore'):
        # What is near shows its relief.
        levels = 40 + 215 * np.clip((nearness - low) / max(high - low, 1e-9), 0, 1) ** 3
    grey = np.where(known, np.clip(np.nan_to_num(levels), 40, 255), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _drawn(cloud: Cloud, view: projection.CameraView) -> Image:
    """Return a picture of a cloud as a camera sees it, a dot a point."""
    points, known = cloud.positions()
    points = points[known].reshape(-1, 3)
    pixels, depth = view.camera.project(points, view.to_camera, view.size_wh)
    inside = np.isfinite(pixels[:, 0])
    far_first = np.argsort(-depth[inside])
    columns, rows = pixels[inside][far_first].astype(int).T
    nearness = np.zeros(view.size_wh[::-1])
    nearness[rows, columns] = 1 / depth[inside][far_first]
    return _grey(cv2.dilate(nearness, np.ones((_DOT_PX, _DOT_PX), np.uint8)))
