"""The CDR bytes of sensor_msgs Image and CompressedImage: read in place, only the data changed."""

from __future__ import annotations

from dataclasses import dataclass
import struct
from typing import Union

from ffs_anonymizer.errors import ImageError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
Buffer = Union[bytes, bytearray, memoryview]

_ENCAPSULATION_BYTES = 4
# Plain CDR, big and little endian; parameter lists and XCDR2 lay these messages out differently.
_BYTE_ORDERS = {b'\x00\x00': '>', b'\x00\x01': '<'}
# Serialized messages may be padded to a multiple of four bytes.
_MOST_PADDING = 3


@dataclass(frozen=True)
class CdrImage:
    """
    Hold a serialized sensor_msgs Image; `data` is a view into it.

    :param stamp_ns: of the header; 0 means that the camera set none.
    """

    payload: bytes
    data_start: int
    stamp_ns: int
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview

    def with_data(self, data: Buffer) -> bytes:
        """Return the serialized message with other pixels; nothing else of it changes."""
        return _spliced(self.payload, self.data_start, len(self.data), data)


@dataclass(frozen=True)
class CdrCompressedImage:
    """
    Hold a serialized sensor_msgs CompressedImage; `data` is a view into it.

    :param stamp_ns: of the header; 0 means that the camera set none.
    """

    payload: bytes
    data_start: int
    stamp_ns: int
    format: str  # noqa: A003
    data: memoryview

    def with_data(self, data: Buffer) -> bytes:
        """Return the serialized message with another file in it; nothing else of it changes."""
        return _spliced(self.payload, self.data_start, len(self.data), data)


def parse_image(payload: bytes) -> CdrImage:
    """
    Read a serialized sensor_msgs Image.

    :raises ImageError: the bytes are not such a message.
    """
    reader = _Reader(payload)
    stamp_ns = reader.header()
    height, width = reader.uint32(), reader.uint32()
    encoding = reader.string()
    is_bigendian = reader.uint8()
    step = reader.uint32()
    start, data = reader.last_bytes()
    return CdrImage(payload, start, stamp_ns, height, width, encoding, is_bigendian, step, data)


def parse_compressed_image(payload: bytes) -> CdrCompressedImage:
    """
    Read a serialized sensor_msgs CompressedImage.

    :raises ImageError: the bytes are not such a message.
    """
    reader = _Reader(payload)
    stamp_ns = reader.header()
    format_text = reader.string()
    start, data = reader.last_bytes()
    return CdrCompressedImage(payload, start, stamp_ns, format_text, data)


def parse(type_name: str, payload: bytes) -> CdrImage | CdrCompressedImage:
    """
    Read a serialized message of one of the two types.

    :raises ImageError: the bytes are not such a message.
    """
    return parse_image(payload) if type_name == IMAGE else parse_compressed_image(payload)


def _spliced(payload: bytes, start: int, old_size: int, data: Buffer) -> bytes:
    if len(data) == old_size:
        return b''.join((payload[:start], data, payload[start + old_size :]))
    # Padding behind the data went with its old size.
    size = struct.pack(_BYTE_ORDERS[payload[:2]] + 'I', len(data))
    return b''.join((payload[: start - 4], size, data))


class _Reader:
    """Read CDR from front to back."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = _ENCAPSULATION_BYTES
        if payload[:2] not in _BYTE_ORDERS or len(payload) < _ENCAPSULATION_BYTES:
            raise ImageError(
                f'got a message that begins with {payload[:4].hex(" ") or "nothing"}, '
                'expected plain CDR (00 00 or 00 01)'
            )
        self._order = _BYTE_ORDERS[payload[:2]]

    def header(self) -> int:
        """Read a std_msgs Header and return its stamp in ns."""
        seconds, nanoseconds = self._number('i', 4), self._number('I', 4)
        self.string()
        return seconds * 1_000_000_000 + nanoseconds

    def uint8(self) -> int:
        return self._number('B', 1)

    def uint32(self) -> int:
        return self._number('I', 4)

    def string(self) -> str:
        data = bytes(self._bytes(self.uint32()))
        return data.rstrip(b'\0').decode('utf-8', 'replace')

    def last_bytes(self) -> tuple[int, memoryview]:
        """Read the sequence of bytes that the message ends with."""
        size = self.uint32()
        start = self._at
        data = self._bytes(size)
        if len(self._payload) - self._at > _MOST_PADDING:
            raise ImageError(
                f'got {len(self._payload) - self._at} bytes after the image data, expected none'
            )
        return start, data

    def _number(self, letter: str, size: int) -> int:
        # Numbers are aligned to their size, counted from behind the encapsulation.
        self._at += -(self._at - _ENCAPSULATION_BYTES) % size
        try:
            (value,) = struct.unpack_from(self._order + letter, self._payload, self._at)
        except struct.error as error:
            raise ImageError(self._cut_off(size)) from error
        self._at += size
        return int(value)

    def _bytes(self, size: int) -> memoryview:
        view = memoryview(self._payload)[self._at : self._at + size]
        if len(view) != size:
            raise ImageError(self._cut_off(size))
        self._at += size
        return view

    def _cut_off(self, size: int) -> str:
        return f'got {len(self._payload)} bytes, expected {size} more from byte {self._at} on'
