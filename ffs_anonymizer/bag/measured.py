"""Clouds and depth images of a bag: held back until their cameras' regions are known."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
import contextlib
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING, Union

from ffs_anonymizer.clouds.cloud import blank_cloud, Cloud, decode_cloud
from ffs_anonymizer.clouds.depth import blank_depth
from ffs_anonymizer.clouds.scene import Link, Scene
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.frames.message import rotation_of, Turn, turn_of
from ffs_anonymizer.measured import CLOUD, DEPTH, hide, REGISTERED
from ffs_anonymizer.pipeline import Outcome
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.reader import decompressed
from ffs_anonymizer.rosbag2.storage import Message

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Anonymized, Recipe
    from ffs_anonymizer.frames.frame import Frame
    from ffs_anonymizer.settings.runtime import Settings

_Content = Union[cdr.CdrPointCloud, cdr.CdrImage, cdr.CdrCompressedImage]
_STATIC = '/tf_static'
# What may wait, should the recording's clock stand still.
_MOST_WAITING = 4096


@dataclass(frozen=True)
class MeasuredMessage:
    """
    Hold a cloud or a depth image whose regions are those of cameras.

    :param content: of the message.
    """

    message: Message
    content: _Content

    @property
    def stamp_ns(self) -> int:
        """Return the time of the measurement."""
        return self.content.stamp_ns or self.message.log_ns


class Sensors:
    """
    Know which topics hold measurements, and hide in them what cameras saw.

    :param are_compressed: whether the bag's messages are.
    :raises SettingsError: a line of cloud.cameras, cloud.registered or depth.cameras cannot be
        read.
    """

    def __init__(self, settings: Settings, *, are_compressed: bool) -> None:
        self._settings = settings
        self._are_compressed = are_compressed
        self._clouds = [Link.parse(text) for text in settings.cloud.cameras]
        self._registered = [Link.parse(text) for text in settings.cloud.registered]
        self._depths = [Link.parse(text) for text in settings.depth.cameras]
        every = (*self._clouds, *self._registered, *self._depths)
        self._images = {link.image for link in every}
        self._infos = {link.info for link in self._clouds}
        self.scene = Scene(settings.cloud.max_gap_ms)

    def links(self, topic: str, type_name: str) -> list[Link]:
        """Return the cameras that see what a topic measures; of a registered cloud, its one."""
        if self.kind(topic, type_name) == REGISTERED:
            return [link for link in self._registered if link.fits(topic)][:1]
        links = self._clouds if type_name == cdr.POINT_CLOUD else self._depths
        return [link for link in links if link.fits(topic)]

    def kind(self, topic: str, type_name: str) -> str:
        """Return what is hidden in a topic's messages, and how: see ffs_anonymizer.measured."""
        if type_name != cdr.POINT_CLOUD:
            return DEPTH
        return REGISTERED if any(link.fits(topic) for link in self._registered) else CLOUD

    def decode(self, cloud: cdr.CdrPointCloud, topic: str) -> Frame:
        """
        Return a cloud that is a picture of its own.

        :raises ImageError: it is none.
        """
        rotation = rotation_of(self._settings.rotation, topic)
        return decode_cloud(cloud, self._settings.cloud.geometry, rotation=rotation)

    def in_order(
        self, outcomes: Generator[Outcome[Any], None, None]
    ) -> Generator[Outcome[Any], None, None]:
        """Yield outcomes in their order, those of measurements once their cameras' are known."""
        held: deque[Outcome[Any]] = deque()
        clock_ns = 0
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                clock_ns = max(clock_ns, self._learn(outcome))
                held.append(outcome)
                while held and not self._must_wait(held[0].item, clock_ns, len(held)):
                    yield held.popleft()
        yield from held

    def hide(self, measured: MeasuredMessage, recipe: Recipe) -> tuple[bytes, Anonymized]:
        """
        Return the serialized message without what cameras saw, and what was done to it.

        :raises ImageError: what is needed for it is not known.
        """
        content, topic = measured.content, measured.message.topic
        done = hide(
            recipe,
            self.scene,
            content,
            self.links(topic.name, topic.type_name),
            kind=self.kind(topic.name, topic.type_name),
            stamp_ns=measured.stamp_ns,
        )
        is_same = done.data == content.data
        return content.payload if is_same else content.with_data(done.data), done

    def _learn(self, outcome: Outcome[Any]) -> int:
        """Take note of what is said about cameras, and return when it was recorded."""
        item = outcome.item
        message = getattr(item, 'message', item)
        if not isinstance(message, Message):
            return 0
        topic = message.topic
        if topic.name in self._images and outcome.data is not None:
            stamp_ns = item.image.stamp_ns or message.log_ns
            rotation = rotation_of(self._settings.rotation, topic.name)
            is_file = isinstance(item.image, cdr.CdrCompressedImage)
            turn = turn_of(item.image, rotation) if is_file else Turn.of(1, rotation)
            self.scene.add_regions(topic.name, stamp_ns, outcome.size_wh, outcome.regions, turn)
        # What cannot be read is not known, and is missed where it is needed.
        with contextlib.suppress(AnonymizerError):
            if topic.type_name == cdr.CAMERA_INFO and topic.name in self._infos:
                self.scene.add_info(topic.name, cdr.parse_camera_info(self._payload(message)))
            elif topic.type_name == cdr.TRANSFORMS:
                transforms = cdr.parse_transforms(self._payload(message))
                is_static = topic.name.endswith(_STATIC)
                self.scene.add_transforms(transforms, is_static=is_static)
        return message.log_ns

    def _payload(self, message: Message) -> bytes:
        data = bytes(message.data)
        return decompressed(data) if self._are_compressed else data

    def _must_wait(self, item: object, clock_ns: int, waiting: int) -> bool:
        if not isinstance(item, MeasuredMessage) or waiting > _MOST_WAITING:
            return False
        topic = item.message.topic
        gap_ns = int(self._settings.cloud.max_gap_ms * 1e6)
        return clock_ns - item.message.log_ns <= 2 * gap_ns and not self.scene.is_ready(
            self.links(topic.name, topic.type_name), item.stamp_ns
        )


def may_show_persons(cloud: cdr.CdrPointCloud) -> bool:
    """
    Return whether there are points, and they have colours.

    :raises ImageError: the message cannot be understood.
    """
    return Cloud(cloud).is_coloured and bool(cloud.data)


def blank(content: _Content) -> bytes:
    """
    Return a serialized message in which nothing was measured.

    :raises ImageError: it cannot be understood.
    """
    if isinstance(content, cdr.CdrPointCloud):
        return content.with_data(blank_cloud(content))
    return content.with_data(blank_depth(content))
