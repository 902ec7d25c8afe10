"""Pictures in messages of a bag: how each is decoded, and what tells it apart from all others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Union

from ffs_anonymizer.bag.measured import Sensors
from ffs_anonymizer.bag.video import VideoImage
from ffs_anonymizer.frames.message import decode, MOST_PIXELS, rotation_of
from ffs_anonymizer.jobs import chunks as jobs
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.settings.runtime import Settings

if TYPE_CHECKING:
    from ffs_anonymizer.frames.frame import Buffer, Frame

Picture = Union[cdr.CdrImage, cdr.CdrCompressedImage, cdr.CdrPointCloud, VideoImage]


def decoding(
    picture: Picture, topic: str, settings: Settings, sensors: Sensors
) -> Callable[[], Frame]:
    """
    Return what makes the frame of a picture.

    :param topic: its name.
    :param sensors: of the same settings.
    """
    rotation = rotation_of(settings.rotation, topic)
    if isinstance(picture, VideoImage):
        return partial(picture.decode, rotation)
    if isinstance(picture, cdr.CdrPointCloud):
        return partial(sensors.decode, picture, topic)
    limit = settings.limits.max_pixels or MOST_PIXELS
    return partial(decode, picture, topic=topic, rotation=rotation, most_pixels=limit)


def fingerprint(picture: Picture, topic: tuple[str, str]) -> bytes:
    """
    Return 32 bytes that two pictures share only if the recipe sees the same pixels in both.

    :param topic: its name, on which the rotation depends, and its type.
    """
    form: tuple[object, ...] = topic
    data: Buffer
    if isinstance(picture, VideoImage):
        # What a packet shows depends on those before it: the samples tell.
        samples = picture.picture.samples
        form += samples.encoding, samples.width, samples.height, samples.step
        data = samples.data
    else:
        data = picture.payload
    return jobs.fingerprint(form, data)
