"""Image files, by name and by content."""

from __future__ import annotations

from ffs_anonymizer.frames.compressed import decode_file
from ffs_anonymizer.frames.containers import assemble as _assembled
from ffs_anonymizer.frames.containers import parse, Picture
from ffs_anonymizer.frames.message import Frame

JPEG_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif')
SUFFIXES = (*JPEG_SUFFIXES, '.png', '.webp', '.bmp')

__all__ = ['JPEG_SUFFIXES', 'SUFFIXES', 'Picture', 'assemble', 'decode', 'parse']


def decode(picture: Picture) -> Frame:
    """
    Decode a picture; the frame is upright, whatever way the pixels are stored.

    :raises ImageError: it cannot be decoded.
    """
    return decode_file(_assembled(picture.coded, picture))


def assemble(encoded: bytes, source: Picture) -> bytes:
    """Return the file that a frame encoded, which is complete."""
    del source
    return encoded
