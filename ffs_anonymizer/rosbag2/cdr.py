"""The CDR bytes of what cameras and other sensors say: read in place, only the data changed."""

from __future__ import annotations

from dataclasses import dataclass
import struct
from typing import Union

from ffs_anonymizer.errors import ImageError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
FOXGLOVE_RAW_IMAGE = 'foxglove_msgs/msg/RawImage'
FOXGLOVE_COMPRESSED_IMAGE = 'foxglove_msgs/msg/CompressedImage'
FOXGLOVE_VIDEO = 'foxglove_msgs/msg/CompressedVideo'
FFMPEG_PACKET = 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'
VIDEO_TYPES = (FOXGLOVE_VIDEO, FFMPEG_PACKET)
IMAGE_TYPES = (
    IMAGE,
    COMPRESSED_IMAGE,
    FOXGLOVE_RAW_IMAGE,
    FOXGLOVE_COMPRESSED_IMAGE,
    *VIDEO_TYPES,
)
POINT_CLOUD = 'sensor_msgs/msg/PointCloud2'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
TRANSFORMS = 'tf2_msgs/msg/TFMessage'
Buffer = Union[bytes, bytearray, memoryview]

_ENCAPSULATION_BYTES = 4
# Plain CDR, big and little endian; parameter lists and XCDR2 lay these messages out differently.
_BYTE_ORDERS = {b'\x00\x00': '>', b'\x00\x01': '<'}
# Serialized messages may be padded to a multiple of four bytes.
_MOST_PADDING = 3
_MOST_FIELDS = 1024


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
    Hold a serialized CompressedImage; `data` is a view into it.

    :param stamp_ns: of the header; 0 means that the camera set none.
    :param tail: the field behind the data, which foxglove's messages have.
    """

    payload: bytes
    data_start: int
    stamp_ns: int
    format: str  # noqa: A003
    data: memoryview
    tail: bytes = b''

    def with_data(self, data: Buffer) -> bytes:
        """Return the serialized message with another file in it; nothing else of it changes."""
        if not self.tail:
            return _spliced(self.payload, self.data_start, len(self.data), data)
        size = struct.pack(_BYTE_ORDERS[self.payload[:2]] + 'I', len(data))
        padding = bytes(-len(data) % 4)
        return b''.join((self.payload[: self.data_start - 4], size, data, padding, self.tail))


@dataclass(frozen=True)
class CdrPacket(CdrCompressedImage):
    """Hold a serialized packet of a video; its format names the codec."""


@dataclass(frozen=True)
class CdrTime:
    """Hold a builtin_interfaces Time."""

    sec: int
    nanosec: int


@dataclass(frozen=True)
class CdrHeader:
    """Hold a std_msgs Header."""

    stamp: CdrTime
    frame_id: str

    @property
    def stamp_ns(self) -> int:
        """Return the stamp in ns; 0 means that none was set."""
        return self.stamp.sec * 1_000_000_000 + self.stamp.nanosec


@dataclass(frozen=True)
class CdrPointField:
    """Hold a sensor_msgs PointField."""

    name: str
    offset: int
    datatype: int
    count: int


@dataclass(frozen=True)
class CdrPointCloud:
    """Hold a serialized sensor_msgs PointCloud2; `data` is a view into it."""

    payload: bytes
    data_start: int
    header: CdrHeader
    height: int
    width: int
    fields: tuple[CdrPointField, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: memoryview

    @property
    def stamp_ns(self) -> int:
        """Return the stamp of the header; 0 means that the sensor set none."""
        return self.header.stamp_ns

    def with_data(self, data: Buffer) -> bytes:
        """
        Return the serialized message with other points, of which some may be NaN now.

        :raises ImageError: the size is another.
        """
        if len(data) != len(self.data):
            raise ImageError(f'got {len(data)} bytes of points, expected {len(self.data)}')
        end = self.data_start + len(data)
        return b''.join((self.payload[: self.data_start], data, b'\0', self.payload[end + 1 :]))


@dataclass(frozen=True)
class CdrRegionOfInterest:
    """Hold a sensor_msgs RegionOfInterest."""

    x_offset: int
    y_offset: int
    height: int
    width: int


@dataclass(frozen=True)
class CdrCameraInfo:
    """Hold a sensor_msgs CameraInfo."""

    header: CdrHeader
    height: int
    width: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]
    binning_x: int
    binning_y: int
    roi: CdrRegionOfInterest


@dataclass(frozen=True)
class CdrVector3:
    """Hold a geometry_msgs Vector3."""

    x: float
    y: float
    z: float


@dataclass(frozen=True)
class CdrQuaternion:
    """Hold a geometry_msgs Quaternion."""

    x: float
    y: float
    z: float
    w: float


@dataclass(frozen=True)
class CdrTransform:
    """Hold a geometry_msgs Transform."""

    translation: CdrVector3
    rotation: CdrQuaternion


@dataclass(frozen=True)
class CdrTransformStamped:
    """Hold a geometry_msgs TransformStamped."""

    header: CdrHeader
    child_frame_id: str
    transform: CdrTransform


@dataclass(frozen=True)
class CdrTransforms:
    """Hold a tf2_msgs TFMessage."""

    transforms: tuple[CdrTransformStamped, ...]


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


def parse_point_cloud(payload: bytes) -> CdrPointCloud:
    """
    Read a serialized sensor_msgs PointCloud2.

    :raises ImageError: the bytes are not such a message.
    """
    reader = _Reader(payload)
    header = reader.whole_header()
    height, width = reader.uint32(), reader.uint32()
    count = reader.uint32()
    if count > _MOST_FIELDS:
        raise ImageError(f'got a point cloud of {count} fields, expected {_MOST_FIELDS} at most')
    fields = tuple(
        CdrPointField(reader.string(), reader.uint32(), reader.uint8(), reader.uint32())
        for _ in range(count)
    )
    is_bigendian = bool(reader.uint8())
    point_step, row_step = reader.uint32(), reader.uint32()
    start, data = reader.last_bytes(behind=1)
    return CdrPointCloud(
        payload,
        start,
        header,
        height,
        width,
        fields,
        is_bigendian,
        point_step,
        row_step,
        data,
    )


def parse_camera_info(payload: bytes) -> CdrCameraInfo:
    """
    Read a serialized sensor_msgs CameraInfo.

    :raises ImageError: the bytes are not such a message.
    """
    reader = _Reader(payload)
    header = reader.whole_header()
    height, width = reader.uint32(), reader.uint32()
    model = reader.string()
    d = reader.doubles(reader.uint32())
    k, r, p = reader.doubles(9), reader.doubles(9), reader.doubles(12)
    binning_x, binning_y = reader.uint32(), reader.uint32()
    roi = CdrRegionOfInterest(*(reader.uint32() for _ in range(4)))
    reader.uint8()  # whether the region is to be rectified
    return CdrCameraInfo(header, height, width, model, d, k, r, p, binning_x, binning_y, roi)


def parse_transforms(payload: bytes) -> CdrTransforms:
    """
    Read a serialized tf2_msgs TFMessage.

    :raises ImageError: the bytes are not such a message.
    """
    reader = _Reader(payload)
    transforms = []
    for _ in range(reader.uint32()):
        header, child = reader.whole_header(), reader.string()
        numbers = reader.doubles(7)
        moved, turned = CdrVector3(*numbers[:3]), CdrQuaternion(*numbers[3:])
        transforms.append(CdrTransformStamped(header, child, CdrTransform(moved, turned)))
    return CdrTransforms(tuple(transforms))


def parse(type_name: str, payload: bytes) -> CdrImage | CdrCompressedImage:
    """
    Read a serialized message of one of IMAGE_TYPES; those of VIDEO_TYPES become a CdrPacket.

    :raises ImageError: the bytes are not such a message.
    """
    if type_name == IMAGE:
        return parse_image(payload)
    if type_name == COMPRESSED_IMAGE:
        return parse_compressed_image(payload)
    reader = _Reader(payload)
    # foxglove's messages begin with the fields of a header, without being one.
    stamp_ns = reader.header()
    if type_name == FOXGLOVE_RAW_IMAGE:
        width, height = reader.uint32(), reader.uint32()
        encoding, step = reader.string(), reader.uint32()
        start, data = reader.last_bytes()
        return CdrImage(payload, start, stamp_ns, height, width, encoding, 0, step, data)
    if type_name == FFMPEG_PACKET:
        reader.uint32(), reader.uint32()  # width and height
        codec = reader.string()
        reader.uint64()  # presentation time
        reader.uint8(), reader.uint8()  # flags, byte order
        start, data = reader.last_bytes()
        return CdrPacket(payload, start, stamp_ns, codec, data)
    start, data = reader.some_bytes()
    tail, text = reader.tail_string()
    kind = CdrPacket if type_name == FOXGLOVE_VIDEO else CdrCompressedImage
    return kind(payload, start, stamp_ns, text, data, tail)


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
        return self.whole_header().stamp_ns

    def whole_header(self) -> CdrHeader:
        """Read a std_msgs Header."""
        stamp = CdrTime(self._number('i', 4), self._number('I', 4))
        return CdrHeader(stamp, self.string())

    def doubles(self, count: int) -> tuple[float, ...]:
        """Read doubles, which are aligned to eight bytes."""
        if count:
            self._at += -(self._at - _ENCAPSULATION_BYTES) % 8
        data = self._bytes(8 * count)
        return struct.unpack(f'{self._order}{count}d', data)

    def uint8(self) -> int:
        return self._number('B', 1)

    def uint32(self) -> int:
        return self._number('I', 4)

    def string(self) -> str:
        data = bytes(self._bytes(self.uint32()))
        return data.rstrip(b'\0').decode('utf-8', 'replace')

    def uint64(self) -> int:
        return self._number('Q', 8)

    def some_bytes(self) -> tuple[int, memoryview]:
        """Read a sequence of bytes and return where it begins, too."""
        size = self.uint32()
        start = self._at
        return start, self._bytes(size)

    def tail_string(self) -> tuple[bytes, str]:
        """Read the string that the message ends with, and return all of its bytes, too."""
        size = self.uint32()
        start = self._at - 4
        self._at = start
        text = self.string()
        return self._payload[start : start + 4 + size], text

    def last_bytes(self, behind: int = 0) -> tuple[int, memoryview]:
        """Read the sequence of bytes that the message ends with, but for a few behind it."""
        size = self.uint32()
        start = self._at
        data = self._bytes(size)
        self._bytes(behind)
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
