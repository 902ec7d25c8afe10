"""A sensor_msgs Image or CompressedImage to BGR and back; no ROS is imported for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from ffs_anonymizer.frames.compressed import black_compressed, decode_compressed
from ffs_anonymizer.frames.containers import KINDS, MOST_LIVE_PIXELS, MOST_PIXELS, parse, sniff
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.jpeg import jpeg_quality, jpeg_sampling
from ffs_anonymizer.frames.raw import as_buffer, black_image, decode_image, ENCODINGS, is_depth
from ffs_anonymizer.frames.upright import idle_rotations, rotation_of, Turn

__all__ = [
    'ENCODINGS',
    'KINDS',
    'MOST_LIVE_PIXELS',
    'MOST_PIXELS',
    'Frame',
    'Turn',
    'black_like',
    'decode',
    'decode_compressed',
    'decode_image',
    'idle_rotations',
    'is_depth',
    'jpeg_quality',
    'jpeg_sampling',
    'rotation_of',
    'sniff',
    'turn_of',
]


def decode(
    msg: Any,
    *,
    topic: str = '',
    rotation: int = 0,
    most_pixels: int = MOST_PIXELS,
    in_place: bool = False,
) -> Frame:
    """
    Decode an image message of either type, told by its fields; the frame is upright.

    :param topic: its name, which may say that it is depth.
    :param rotation: degrees clockwise that make the camera's picture upright.
    :param most_pixels: limit of width times height.
    :param in_place: whether the data of an Image, where it can be written to, is the frame's own
        from now on, instead of a copy.
    :raises ImageError: the message holds no picture, or one that cannot be decoded faithfully.
    """
    take = decode_compressed
    if hasattr(msg, 'encoding'):
        take = partial(decode_image, in_place=in_place)
    return take(msg, topic=topic, rotation=rotation, most_pixels=most_pixels)


def turn_of(msg: Any, rotation: int = 0) -> Turn:
    """
    Return how the pixels of a message become the upright frame that `decode` returns.

    :param rotation: degrees clockwise that make the camera's picture upright.
    :raises ImageError: the message holds no picture.
    """
    if hasattr(msg, 'encoding'):
        return Turn.of(1, rotation)
    return Turn.of(parse(bytes(as_buffer(msg.data))).orientation, rotation)


def black_like(msg: Any, size_wh: tuple[int, int] | None = None) -> bytes:
    """
    Return the data of a black picture to stand for a message that cannot be decoded.

    :param msg: its fields and, where readable, its data say what the picture is like.
    :param size_wh: the size to take where compressed data does not say its own, as it is stored.
    :raises ImageError: the message does not say enough.
    """
    if hasattr(msg, 'encoding'):
        return black_image(msg)
    return black_compressed(msg, size_wh)
