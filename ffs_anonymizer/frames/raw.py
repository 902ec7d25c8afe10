"""
The raw encodings of sensor_msgs/Image, to BGR and back.

cv_bridge is not used even where it is installed: it has no way back that writes single samples,
knows no nv12, and may fail with another NumPy than its own. A test holds both to the same result.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.frame import bgr_from, brightness_shift, Buffer, Frame, Rect, write_bgr
import numpy as np
from numpy.typing import NDArray

_PACKED = {
    'bgr8': 'bgr',
    'rgb8': 'rgb',
    'bgra8': 'bgra',
    'rgba8': 'rgba',
    'mono8': 'mono',
    'mono16': 'mono',
    '8UC1': 'mono',
    '8UC3': 'bgr',
    '8UC4': 'bgra',
}
# ROS names the sensor's first two rows; OpenCV's older names are one row and column further on.
_BAYER = {
    'bayer_rggb8': cv2.COLOR_BayerBG2BGR,
    'bayer_bggr8': cv2.COLOR_BayerRG2BGR,
    'bayer_gbrg8': cv2.COLOR_BayerGR2BGR,
    'bayer_grbg8': cv2.COLOR_BayerGB2BGR,
}
_PAIRS = {
    'yuv422': cv2.COLOR_YUV2BGR_UYVY,
    'uyvy': cv2.COLOR_YUV2BGR_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2BGR_YUY2,
    'yuyv': cv2.COLOR_YUV2BGR_YUY2,
}
_PLANES = ('nv12', 'nv21', 'nv24')
ENCODINGS = (*_PACKED, *_BAYER, *_PAIRS, *_PLANES)

# BT.601 with luma in 16..235, the inverse of what OpenCV decodes with: rows Y, U, V of B, G, R, 1.
_YUV_FROM_BGR = np.array(
    [
        [0.098, 0.504, 0.257, 16.0],
        [0.439, -0.291, -0.148, 128.0],
        [-0.071, -0.368, 0.439, 128.0],
    ],
    np.float32,
)
_BLACK_LUMA, _NO_CHROMA = 16, 128


class _RawFrame(Frame):
    """Keep the message's bytes and layout; a child says what its samples are."""

    def __init__(self, msg: Any, source: Buffer, stride: int) -> None:
        self._encoding: str = msg.encoding
        self._bigendian = bool(msg.is_bigendian)
        self._width, self._height = int(msg.width), int(msg.height)
        self._source, self._stride = source, stride

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return a copy of the message's bytes with only the touched samples written."""
        rects = list(self._inside(touched_xyxy_px))
        if not rects:
            return self._source
        buffer = bytearray(self._source)
        for rect in rects:
            self._write(buffer, rect)
        return buffer

    def _write(self, buffer: bytearray, rect: Rect) -> None:
        raise NotImplementedError


class _BgrFrame(_RawFrame):
    """Edit the one copy of the message's bytes in place."""

    def __init__(self, msg: Any, source: Buffer, stride: int) -> None:
        super().__init__(msg, source, stride)
        self._buffer = bytearray(source)
        self.image_bgr = _view(self._buffer, (self._height, self._width, 3), stride)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return the bytes that `image_bgr` is a view of."""
        return self._buffer if any(self._inside(touched_xyxy_px)) else self._source


class _PackedFrame(_RawFrame):
    """Hold whole pixels of 8 bits a channel, or of 16 bits if they are grey."""

    def __init__(self, msg: Any, source: Buffer, stride: int) -> None:
        super().__init__(msg, source, stride)
        self._channels = _PACKED[self._encoding]
        samples = self._samples(source)
        self._shift = brightness_shift(samples) if self._encoding == 'mono16' else 0
        self.image_bgr = bgr_from(samples, self._channels, self._shift)

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Choose the brightness of 16 bits from the samples outside the rectangles."""
        if self._encoding != 'mono16':
            return
        samples = self._samples(self._source)
        shift = brightness_shift(samples, rects_xyxy_px)
        if shift != self._shift:
            self._shift = shift
            self.image_bgr[:] = bgr_from(samples, self._channels, shift)

    def _samples(self, buffer: Buffer) -> NDArray[Any]:
        shape: tuple[int, ...] = (self._height, self._width)
        if self._encoding == 'mono16':
            return _view(buffer, shape, self._stride, '>u2' if self._bigendian else '<u2')
        if self._channels != 'mono':
            shape = (*shape, len(self._channels))
        return _view(buffer, shape, self._stride)

    def _write(self, buffer: bytearray, rect: Rect) -> None:
        write_bgr(self._samples(buffer), self.image_bgr, rect, self._channels, self._shift)


class _BayerFrame(_RawFrame):
    """Hold one colour sample a pixel."""

    bleed_px = 2

    def __init__(self, msg: Any, source: Buffer, stride: int) -> None:
        super().__init__(msg, source, stride)
        shape = (self._height, self._width)
        # OpenCV cannot interpolate colours with less than two samples of each around.
        code = _BAYER[self._encoding] if min(shape) >= 4 else cv2.COLOR_GRAY2BGR
        self.image_bgr = cv2.cvtColor(_view(source, shape, stride), code)

    def _write(self, buffer: bytearray, rect: Rect) -> None:
        x0, y0, x1, y1 = rect
        samples = _view(buffer, (self._height, self._width), self._stride)
        colours = self._encoding[len('bayer_') : len('bayer_rggb')]
        for i, colour in enumerate(colours):
            top, left = y0 + (i // 2 - y0) % 2, x0 + (i % 2 - x0) % 2
            samples[top:y1:2, left:x1:2] = self.image_bgr[top:y1:2, left:x1:2, 'bgr'.index(colour)]


class _PairsFrame(_RawFrame):
    """Hold two luma samples and one of each chroma for each two pixels of a row."""

    align_wh_px = (2, 1)

    def __init__(self, msg: Any, source: Buffer, stride: int) -> None:
        super().__init__(msg, source, stride)
        pairs = _view(source, (self._height, _even(self._width), 2), stride)
        code = _PAIRS[self._encoding]
        self.image_bgr = cv2.cvtColor(pairs, code)[:, : self._width]
        self._luma = 1 if code == cv2.COLOR_YUV2BGR_UYVY else 0

    def _write(self, buffer: bytearray, rect: Rect) -> None:
        x0, y0, x1, y1 = rect
        pairs = _view(buffer, (self._height, _even(self._width), 2), self._stride)
        luma, chroma = _luma_chroma(self.image_bgr, rect, (2, 1))
        pairs[y0:y1, x0:x1, self._luma] = luma
        pairs[y0:y1, x0 // 2 * 2 : _even(x1), 1 - self._luma] = chroma.reshape(y1 - y0, -1)


class _PlanesFrame(_RawFrame):
    """Hold a luma plane and after it a plane of chroma in pairs, each 2x2 pixels or each pixel."""

    def __init__(self, msg: Any, source: Buffer, stride: int) -> None:
        super().__init__(msg, source, stride)
        self.align_wh_px = _chroma_block_wh(self._encoding)
        luma, chroma = self._planes(source)
        if self._encoding == 'nv24':
            # As UYVY of twice the width, each pixel a pair of its own: OpenCV converts all alike.
            pairs = np.empty((self._height, self._width, 4), np.uint8)
            cv2.mixChannels([luma, chroma], [pairs], [1, 0, 0, 1, 2, 2, 0, 3])
            doubled = cv2.cvtColor(
                pairs.reshape(self._height, 2 * self._width, 2), cv2.COLOR_YUV2BGR_UYVY
            )
            size_wh = (self._width, self._height)
            self.image_bgr = cv2.resize(doubled, size_wh, interpolation=cv2.INTER_NEAREST)
            return
        if luma.shape[0] % 2 or luma.shape[1] % 2:
            luma = np.pad(luma, [(0, luma.shape[0] % 2), (0, luma.shape[1] % 2)], mode='edge')
        code = cv2.COLOR_YUV2BGR_NV12 if self._encoding == 'nv12' else cv2.COLOR_YUV2BGR_NV21
        image = cv2.cvtColorTwoPlane(luma, chroma, code)
        self.image_bgr = image[: self._height, : self._width]

    def _planes(self, buffer: Buffer) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        block_w, block_h = self.align_wh_px
        chroma_shape = (-(-self._height // block_h), -(-self._width // block_w), 2)
        chroma_stride = self._stride * 2 // block_w
        luma = _view(buffer, (self._height, self._width), self._stride)
        offset = self._height * self._stride
        return luma, _view(buffer, chroma_shape, chroma_stride, offset=offset)

    def _write(self, buffer: bytearray, rect: Rect) -> None:
        x0, y0, x1, y1 = rect
        block_w, block_h = self.align_wh_px
        luma_plane, chroma_plane = self._planes(buffer)
        luma, chroma = _luma_chroma(self.image_bgr, rect, self.align_wh_px)
        luma_plane[y0:y1, x0:x1] = luma
        rows = slice(y0 // block_h, -(-y1 // block_h))
        columns = slice(x0 // block_w, -(-x1 // block_w))
        order = (1, 0) if self._encoding == 'nv21' else (0, 1)
        chroma_plane[rows, columns] = chroma[:, :, order]


def decode_image(msg: Any) -> Frame:
    """
    Decode a sensor_msgs/Image, or anything with its fields.

    :param msg: height, width, encoding, is_bigendian, step and data.
    :raises ImageError: an encoding that is no picture or not known, a size of zero, or a step or
        a length that do not go with them.
    """
    stride, length = _layout(msg)
    source = as_buffer(msg.data)
    if len(source) != length:
        raise ImageError(
            f'{_describe(msg)}: got {len(source)} bytes of data, expected {length}; '
            'the message is cut off or its fields are wrong'
        )
    frame: type[_RawFrame] = _PackedFrame
    if _PACKED.get(msg.encoding) == 'bgr':
        frame = _BgrFrame
    elif msg.encoding in _BAYER:
        frame = _BayerFrame
    elif msg.encoding in _PAIRS:
        frame = _PairsFrame
    elif msg.encoding in _PLANES:
        frame = _PlanesFrame
    try:
        return frame(msg, source, stride)
    except cv2.error as error:
        raise ImageError(f'{_describe(msg)}: OpenCV cannot convert it: {error}') from error


def black_image(msg: Any) -> bytes:
    """
    Return the data of a black picture with the message's size, encoding and step.

    It decodes to (0, 0, 0) everywhere; alpha is opaque, padding is zero. The message's own data
    is not looked at, except for its length where that decides between two layouts.

    :raises ImageError: the fields allow no picture.
    """
    stride, length = _layout(msg)
    height, width = int(msg.height), int(msg.width)
    buffer = bytearray(length)
    if msg.encoding in _PAIRS:
        pairs = _view(buffer, (height, _even(width), 2), stride)
        uyvy = _PAIRS[msg.encoding] == cv2.COLOR_YUV2BGR_UYVY
        pairs[:] = (_NO_CHROMA, _BLACK_LUMA) if uyvy else (_BLACK_LUMA, _NO_CHROMA)
    elif msg.encoding in _PLANES:
        block_w, block_h = _chroma_block_wh(msg.encoding)
        luma = _view(buffer, (height, width), stride)
        chroma = _view(
            buffer,
            (-(-height // block_h), -(-width // block_w), 2),
            stride * 2 // block_w,
            offset=height * stride,
        )
        luma[:], chroma[:] = _BLACK_LUMA, _NO_CHROMA
    elif _PACKED.get(msg.encoding, '').endswith('a'):
        _view(buffer, (height, width, 4), stride)[:, :, 3] = 255
    return bytes(buffer)


def is_depth(name: str) -> bool:
    """
    Return whether an encoding, or the format of a compressed image, holds measurements.

    :param name: such as 16UC1, 32FC1, `16UC1; compressedDepth png` or `16UC1; png compressed`.
    """
    encoding = name.partition(';')[0].strip()
    return 'compressedDepth' in name or bool(re.fullmatch(r'(16[US]|32[SF]|64F)C1?', encoding))


def refuse_depth(name: str) -> None:
    """
    Let nothing pass that holds measurements.

    :raises ImageError: says how to have the topic copied.
    """
    if is_depth(name):
        raise ImageError(
            f'got {name!r}, expected a picture; a depth image holds distances: list its topic in '
            '`copy_topics` to have it copied unchanged'
        )


def as_buffer(data: Any) -> Buffer:
    """
    Return a message's data as bytes without copying it.

    :param data: bytes, bytearray, memoryview, array.array or a numpy array of uint8.
    :raises ImageError: it is something else.
    """
    if isinstance(data, (bytes, bytearray)):
        return data
    try:
        return memoryview(data).cast('B')
    except TypeError as error:
        raise ImageError(
            f'got data of type {type(data).__name__}, expected contiguous bytes'
        ) from error


def _layout(msg: Any) -> tuple[int, int]:
    """Return the stride of the first plane and the length of the data, both in bytes."""
    encoding, width, height, step = msg.encoding, int(msg.width), int(msg.height), int(msg.step)
    refuse_depth(encoding)
    if encoding not in ENCODINGS:
        raise ImageError(f'got encoding {encoding!r}, expected one of {", ".join(ENCODINGS)}')
    if width <= 0 or height <= 0:
        raise ImageError(f'{_describe(msg)}: an image without pixels; check the camera')
    row = width
    if encoding in _PACKED:
        row = width * (2 if encoding == 'mono16' else len(_PACKED[encoding].replace('mono', 'm')))
    elif encoding in _PAIRS:
        row = 2 * _even(width)
    elif encoding in ('nv12', 'nv21'):
        row = _even(width)
    if encoding in _PLANES:
        block_h = _chroma_block_wh(encoding)[1]
        chroma_rows = -(-height // block_h) * (1 if block_h == 2 else 2)
        # Some drivers spread both planes over the rows, so that the data is step times height.
        if step * height == row * (height + chroma_rows) == len(as_buffer(msg.data)):
            return row, step * height
        length = step * (height + chroma_rows)
    else:
        length = step * height
    if step < row:
        raise ImageError(f'{_describe(msg)}: got a step of {step} bytes, expected {row} or more')
    return step, length


def _chroma_block_wh(encoding: str) -> tuple[int, int]:
    """Return how many pixels share a chroma sample in an encoding of two planes."""
    return (1, 1) if encoding == 'nv24' else (2, 2)


def _luma_chroma(
    image_bgr: NDArray[np.uint8], rect: Rect, block_wh: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Convert a rectangle of the picture.

    :returns: luma (h, w) of the rectangle itself, and chroma (rows, columns, 2) U and V, each the
        mean over one block of the rectangle grown outward to whole blocks.
    """
    (x0, y0, x1, y1), (block_w, block_h) = rect, block_wh
    left, top = x0 // block_w * block_w, y0 // block_h * block_h
    patch = image_bgr[top : -(-y1 // block_h) * block_h, left : -(-x1 // block_w) * block_w]
    luma = cv2.transform(image_bgr[y0:y1, x0:x1], _YUV_FROM_BGR[:1])
    rows, columns = patch.shape[:2]
    if rows % block_h or columns % block_w:
        over = (0, -rows % block_h, 0, -columns % block_w)
        patch = cv2.copyMakeBorder(patch, *over, cv2.BORDER_REPLICATE)
    blocks_wh = (patch.shape[1] // block_w, patch.shape[0] // block_h)
    means = cv2.resize(patch.astype(np.float32), blocks_wh, interpolation=cv2.INTER_AREA)
    chroma = np.clip(np.rint(cv2.transform(means, _YUV_FROM_BGR[1:])), 0, 255)
    return np.asarray(luma, np.uint8).reshape(y1 - y0, x1 - x0), chroma.astype(np.uint8)


def _view(
    buffer: Buffer, shape: tuple[int, ...], stride: int, dtype: str = 'u1', offset: int = 0
) -> NDArray[Any]:
    """Return rows of the buffer as an array that shares its memory."""
    inner = np.empty((1, *shape[1:]), dtype).strides[1:]
    rows: NDArray[Any] = np.ndarray(shape, dtype, buffer, offset, (stride, *inner))
    return rows


def _even(n: int) -> int:
    """Round up to an even number."""
    return n + n % 2


def _describe(msg: Any) -> str:
    """Name a message in an error's text."""
    return f'{msg.encoding} image of {msg.width}x{msg.height} pixels, step {msg.step}'
