"""A sensor_msgs Image or CompressedImage to BGR and back; no ROS is imported for it."""

from __future__ import annotations

from typing import Any

from ffs_anonymizer.frames.compressed import black_compressed, decode_compressed
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.jpeg import jpeg_quality, jpeg_sampling
from ffs_anonymizer.frames.raw import black_image, decode_image, ENCODINGS, is_depth

__all__ = [
    'ENCODINGS',
    'Frame',
    'black_like',
    'decode',
    'decode_compressed',
    'decode_image',
    'is_depth',
    'jpeg_quality',
    'jpeg_sampling',
]


def decode(msg: Any) -> Frame:
    """
    Decode an image message of either type, told by its fields.

    :raises ImageError: the message holds no picture, or one that cannot be decoded faithfully.
    """
    return decode_image(msg) if hasattr(msg, 'encoding') else decode_compressed(msg)


def black_like(msg: Any, size_wh: tuple[int, int] | None = None) -> bytes:
    """
    Return the data of a black picture to stand for a message that cannot be decoded.

    :param msg: its fields and, where readable, its data say what the picture is like.
    :param size_wh: the size to take where compressed data does not say its own.
    :raises ImageError: the message does not say enough.
    """
    if hasattr(msg, 'encoding'):
        return black_image(msg)
    return black_compressed(msg, size_wh)
