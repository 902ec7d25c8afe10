"""
The raw encodings of sensor_msgs/Image, to BGR and back.

cv_bridge is not used even where it is installed: it has no way back that writes single samples,
knows no nv12, and may fail with another NumPy than its own. A test holds both to the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
import re
from typing import Any

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.containers import check_size, MOST_PIXELS
from ffs_anonymizer.frames.frame import (
    bgr_from,
    Buffer,
    Frame,
    LINEAR,
    may_be_picture,
    opaque,
    Rect,
    Tone,
    write_bgr,
)
from ffs_anonymizer.frames.upright import upright
import numpy as np
from numpy.typing import NDArray

_PACKED = {
    'bgr8': 'bgr',
    'rgb8': 'rgb',
    'bgra8': 'bgra',
    'rgba8': 'rgba',
    'mono8': 'mono',
    'mono16': 'mono',
    'bgr16': 'bgr',
    'rgb16': 'rgb',
    'bgra16': 'bgra',
    'rgba16': 'rgba',
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
_BAYER |= {name.replace('8', '16'): code for name, code in _BAYER.items()}
_PAIRS = {
    'yuv422': cv2.COLOR_YUV2BGR_UYVY,
    'uyvy': cv2.COLOR_YUV2BGR_UYVY,
    'yuv422_yuy2': cv2.COLOR_YUV2BGR_YUY2,
    'yuyv': cv2.COLOR_YUV2BGR_YUY2,
}
_PLANES = ('nv12', 'nv21', 'nv24', 'i420', 'yv12')
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
_DEPTH_TOPIC = re.compile(r'(?:^|[/_])(?:depth|disparity)(?:[/_]|$)', re.IGNORECASE)
_NO_PICTURE = (
    'expected a picture; a depth image holds distances: list its topic in `copy_topics` to have '
    'it copied unchanged'
)
# Sensors of distances see nothing nearer than this many units or steps, and leave holes.
_NEAREST, _NEAREST_STEPS, _HOLES, _SAMPLED = 100, 64, 0.005, 256


class _RawFrame(Frame):
    """Keep the message's bytes and layout; a child says what its samples are."""

    def __init__(self, msg: Any, source: Buffer, stride: int, *, in_place: bool) -> None:
        self._encoding: str = msg.encoding
        self._width, self._height = int(msg.width), int(msg.height)
        self._source, self._stride = source, stride
        self._in_place = in_place
        self._dtype = 'u1'
        if self._encoding.endswith('16'):
            self._dtype = '>u2' if msg.is_bigendian else '<u2'
        self._tone = LINEAR

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return the message's bytes with only the touched samples written."""
        rects = list(self._inside(touched_xyxy_px))
        if not rects and self._is_clean():
            return self._source
        buffer = writable(self._source, in_place=self._in_place)
        for rect in rects:
            self._write(buffer, rect)
        self._clean(buffer)
        return buffer

    def _write(self, buffer: Buffer, rect: Rect) -> None:
        raise NotImplementedError

    def _is_clean(self) -> bool:
        """Return whether the bytes that are no samples are zero, and alpha is no picture."""
        return not any(padding.any() for padding in self._paddings(self._source))

    def _clean(self, buffer: Buffer) -> None:
        """Make it so."""
        for padding in self._paddings(buffer):
            padding[:] = 0

    def _paddings(self, buffer: Buffer) -> Iterator[NDArray[np.uint8]]:
        """Yield, plane by plane, the ends of the rows that are no samples."""
        layout = (self._encoding, self._width, self._height, self._stride)
        for offset, rows, used, stride in _planes(*layout):
            if stride > used:
                yield _view(buffer, (rows, stride), stride, offset=offset)[:, used:]


class _BgrFrame(_RawFrame):
    """Edit the message's bytes, or the one copy of them, in place."""

    def __init__(self, msg: Any, source: Buffer, stride: int, *, in_place: bool) -> None:
        super().__init__(msg, source, stride, in_place=in_place)
        self._buffer = writable(source, in_place=in_place)
        self.image_bgr = _view(self._buffer, (self._height, self._width, 3), stride)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return the bytes that `image_bgr` is a view of."""
        if not any(self._inside(touched_xyxy_px)) and self._is_clean():
            return self._source
        self._clean(self._buffer)
        return self._buffer


class _PackedFrame(_RawFrame):
    """Hold whole pixels of 8 or 16 bits a channel."""

    def __init__(self, msg: Any, source: Buffer, stride: int, *, in_place: bool) -> None:
        super().__init__(msg, source, stride, in_place=in_place)
        self._channels = _PACKED[self._encoding]
        samples = self._samples(source)
        if self._dtype != 'u1':
            self._tone = Tone.of(samples)
        self.image_bgr = bgr_from(samples, self._channels, self._tone)
        self._hides = samples.ndim == 3 and samples.shape[2] == 4
        if self._hides:
            kind = samples.dtype.newbyteorder('=')
            self._hides = may_be_picture(np.ascontiguousarray(samples[..., 3], kind))

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Choose the brightness of 16 bits from the samples outside the rectangles."""
        if self._dtype == 'u1':
            return
        samples = self._samples(self._source)
        tone = Tone.of(samples, rects_xyxy_px)
        if tone != self._tone:
            self._tone = tone
            self.image_bgr[:] = bgr_from(samples, self._channels, tone)

    def _samples(self, buffer: Buffer) -> NDArray[Any]:
        shape: tuple[int, ...] = (self._height, self._width)
        if self._channels != 'mono':
            shape = (*shape, len(self._channels))
        return _view(buffer, shape, self._stride, self._dtype)

    def _write(self, buffer: Buffer, rect: Rect) -> None:
        write_bgr(self._samples(buffer), self.image_bgr, rect, self._channels, self._tone)

    def _is_clean(self) -> bool:
        return not self._hides and super()._is_clean()

    def _clean(self, buffer: Buffer) -> None:
        super()._clean(buffer)
        if self._hides:
            self._samples(buffer)[..., 3] = opaque(self._dtype)


class _BayerFrame(_RawFrame):
    """Hold one colour sample a pixel."""

    bleed_px = 2

    def __init__(self, msg: Any, source: Buffer, stride: int, *, in_place: bool) -> None:
        super().__init__(msg, source, stride, in_place=in_place)
        samples = self._samples(source)
        if self._dtype != 'u1':
            self._tone = Tone.of(samples)
        self.image_bgr = self._shown(samples)

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Choose the brightness of 16 bits from the samples outside the rectangles."""
        if self._dtype == 'u1':
            return
        samples = self._samples(self._source)
        tone = Tone.of(samples, rects_xyxy_px)
        if tone != self._tone:
            self._tone = tone
            self.image_bgr[:] = self._shown(samples)

    def _shown(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        if self._dtype != 'u1':
            samples = self._tone.shown(samples)
        # OpenCV cannot interpolate colours with less than two samples of each around.
        is_small = min(samples.shape) < 4
        code = cv2.COLOR_GRAY2BGR if is_small else _BAYER[self._encoding]
        return np.asarray(cv2.cvtColor(samples, code), np.uint8)

    def _samples(self, buffer: Buffer) -> NDArray[Any]:
        return _view(buffer, (self._height, self._width), self._stride, self._dtype)

    def _write(self, buffer: Buffer, rect: Rect) -> None:
        x0, y0, x1, y1 = rect
        samples = self._samples(buffer)
        colours = self._encoding[len('bayer_') : len('bayer_rggb')]
        for i, colour in enumerate(colours):
            top, left = y0 + (i // 2 - y0) % 2, x0 + (i % 2 - x0) % 2
            patch = self.image_bgr[top:y1:2, left:x1:2, 'bgr'.index(colour)]
            samples[top:y1:2, left:x1:2] = (
                patch if self._dtype == 'u1' else self._tone.samples(patch)
            )


class _PairsFrame(_RawFrame):
    """Hold two luma samples and one of each chroma for each two pixels of a row."""

    align_wh_px = (2, 1)

    def __init__(self, msg: Any, source: Buffer, stride: int, *, in_place: bool) -> None:
        super().__init__(msg, source, stride, in_place=in_place)
        pairs = _view(source, (self._height, _even(self._width), 2), stride)
        code = _PAIRS[self._encoding]
        self.image_bgr = cv2.cvtColor(pairs, code)[:, : self._width]
        self._luma = 1 if code == cv2.COLOR_YUV2BGR_UYVY else 0

    def _write(self, buffer: Buffer, rect: Rect) -> None:
        x0, y0, x1, y1 = rect
        pairs = _view(buffer, (self._height, _even(self._width), 2), self._stride)
        luma, chroma = _luma_chroma(self.image_bgr, rect, (2, 1))
        pairs[y0:y1, x0:x1, self._luma] = luma
        pairs[y0:y1, x0 // 2 * 2 : _even(x1), 1 - self._luma] = chroma.reshape(y1 - y0, -1)


class _PlanesFrame(_RawFrame):
    """Hold a luma plane and after it chroma, in pairs or two planes, of 2x2 pixels or each."""

    def __init__(self, msg: Any, source: Buffer, stride: int, *, in_place: bool) -> None:
        super().__init__(msg, source, stride, in_place=in_place)
        self.align_wh_px = _chroma_block_wh(self._encoding)
        luma, u, v = self._luma_u_v(source)
        is_pair = u.strides[1] == 2 and u.ctypes.data < v.ctypes.data
        chroma = _paired(u) if is_pair else cv2.merge([u, v])
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
        image = cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2BGR_NV12)
        self.image_bgr = image[: self._height, : self._width]

    def _luma_u_v(
        self, buffer: Buffer
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return views of the samples of luma and both chroma."""
        luma, *chroma = (
            _view(buffer, (rows, used), stride, offset=offset)
            for offset, rows, used, stride in _planes(
                self._encoding, self._width, self._height, self._stride
            )
        )
        u, v = chroma if len(chroma) == 2 else (chroma[0][:, 0::2], chroma[0][:, 1::2])
        return (luma, v, u) if self._encoding in ('nv21', 'yv12') else (luma, u, v)

    def _write(self, buffer: Buffer, rect: Rect) -> None:
        x0, y0, x1, y1 = rect
        block_w, block_h = self.align_wh_px
        luma_plane, *chroma_planes = self._luma_u_v(buffer)
        luma, chroma = _luma_chroma(self.image_bgr, rect, self.align_wh_px)
        luma_plane[y0:y1, x0:x1] = luma
        rows = slice(y0 // block_h, -(-y1 // block_h))
        columns = slice(x0 // block_w, -(-x1 // block_w))
        for i, plane in enumerate(chroma_planes):
            plane[rows, columns] = chroma[:, :, i]


def decode_image(
    msg: Any,
    *,
    topic: str = '',
    rotation: int = 0,
    most_pixels: int = MOST_PIXELS,
    in_place: bool = False,
) -> Frame:
    """
    Decode a sensor_msgs/Image, or anything with its fields.

    :param msg: height, width, encoding, is_bigendian, step and data.
    :param topic: its name, which may say that it is depth.
    :param rotation: degrees clockwise that make the camera's picture upright.
    :param most_pixels: limit of width times height.
    :param in_place: whether the message's data, where it can be written to, is the frame's own
        from now on, instead of a copy.
    :raises ImageError: an encoding that is no picture or not known, depth, a size of zero or over
        the limit, or a step or a length that do not go with them.
    """
    stride, length = _layout(msg)
    check_size(msg.encoding, (int(msg.width), int(msg.height)), most_pixels)
    source = as_buffer(msg.data)
    if len(source) != length:
        raise ImageError(
            f'{_describe(msg)}: got {len(source)} bytes of data, expected {length}; '
            'the message is cut off or its fields are wrong'
        )
    frame: type[_RawFrame] = _PackedFrame
    if _PACKED.get(msg.encoding) == 'bgr' and msg.encoding != 'bgr16':
        frame = _BgrFrame
    elif msg.encoding in _BAYER:
        frame = _BayerFrame
    elif msg.encoding in _PAIRS:
        frame = _PairsFrame
    elif msg.encoding in _PLANES:
        frame = _PlanesFrame
    if msg.encoding == 'mono16':
        size_hw = (int(msg.height), int(msg.width))
        kind = '>u2' if msg.is_bigendian else '<u2'
        refuse_depth_samples(_view(source, size_hw, stride, kind), topic)
    try:
        return upright(frame(msg, source, stride, in_place=in_place), rotation=rotation)
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
        planes = _planes(msg.encoding, width, height, stride)
        for i, (offset, rows, used, step) in enumerate(planes):
            _view(buffer, (rows, used), step, offset=offset)[:] = _NO_CHROMA if i else _BLACK_LUMA
    elif _PACKED.get(msg.encoding, '').endswith('a'):
        kind = '<u2' if msg.encoding.endswith('16') else 'u1'
        _view(buffer, (height, width, 4), stride, kind)[:, :, 3] = opaque(kind)
    return bytes(buffer)


def is_depth(name: str, topic: str = '') -> bool:
    """
    Return whether an encoding, or the format of a compressed image, holds measurements.

    :param name: such as 16UC1, 32FC1, `16UC1; compressedDepth png` or `16UC1; png compressed`.
    :param topic: its name; one of depth makes distances of 16-bit grey.
    """
    encoding = name.partition(';')[0].strip()
    if encoding == 'mono16' and _DEPTH_TOPIC.search(topic):
        return True
    return 'compressedDepth' in name or bool(re.fullmatch(r'(16[US]|32[SF]|64F)C1?', encoding))


def refuse_depth(name: str) -> None:
    """
    Let nothing pass that holds measurements.

    :raises ImageError: says how to have the topic copied.
    """
    if is_depth(name):
        raise ImageError(f'got {name!r}, {_NO_PICTURE}')


def refuse_depth_samples(samples: NDArray[np.uint16], topic: str = '') -> None:
    """
    Let no grey of 16 bits pass that its topic's name or its samples make distances.

    Distances have holes in their midst, where nothing was measured, and nothing just above zero.

    :param samples: (H, W) uint16.
    :raises ImageError: says how to have the topic copied.
    """
    if _DEPTH_TOPIC.search(topic):
        raise ImageError(f'got 16-bit grey on {topic}, {_NO_PICTURE}; rename it if it is none')
    height, width = samples.shape
    seen = samples[:: max(1, height // _SAMPLED), :: max(1, width // _SAMPLED)]
    levels = np.flatnonzero(np.bincount(seen.ravel(), minlength=1))
    if len(levels) < 3 or levels[0] != 0:
        return
    step = int(np.diff(levels).min())
    if levels[1] < max(_NEAREST, _NEAREST_STEPS * step):
        return
    holes = np.pad(seen == 0, 1, constant_values=False).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(holes, connectivity=4)
    left, top, wide, high, area = stats[1:].T
    rows, columns = seen.shape
    inner = (left > 1) & (top > 1) & (left + wide <= columns) & (top + high <= rows)
    if area[inner].sum() >= _HOLES * seen.size:
        raise ImageError(f'got 16-bit grey whose samples are distances, {_NO_PICTURE}')


def as_buffer(data: Any) -> Buffer:
    """
    Return a message's data as bytes without copying it.

    :param data: bytes, bytearray, memoryview, array.array or a numpy array of uint8.
    :raises ImageError: it is something else.
    """
    if isinstance(data, (bytes, bytearray)):
        return data
    if isinstance(data, memoryview) and (data.format, data.ndim) == ('B', 1) and data.contiguous:
        return data
    try:
        view = memoryview(data)
        # An empty one cannot be cast.
        return view.cast('B') if view.nbytes else b''
    except TypeError as error:
        raise ImageError(
            f'got data of type {type(data).__name__}, expected contiguous bytes'
        ) from error


def writable(data: Buffer, *, in_place: bool) -> Buffer:
    """Return the bytes themselves where they may and can be written to, else a copy."""
    return data if in_place and not memoryview(data).readonly else bytearray(data)


def _layout(msg: Any) -> tuple[int, int]:
    """Return the stride of the first plane and the length of the data, both in bytes."""
    encoding, width, height, step = msg.encoding, int(msg.width), int(msg.height), int(msg.step)
    refuse_depth(encoding)
    if encoding not in ENCODINGS:
        raise ImageError(f'got encoding {encoding!r}, expected one of {", ".join(ENCODINGS)}')
    if width <= 0 or height <= 0:
        raise ImageError(f'{_describe(msg)}: an image without pixels; check the camera')
    row = width
    if encoding in (*_PACKED, *_BAYER):
        channels = len(_PACKED.get(encoding, 'mono').replace('mono', 'm'))
        row = width * channels * (2 if encoding.endswith('16') else 1)
    elif encoding in _PAIRS:
        row = 2 * _even(width)
    elif encoding in _PLANES and encoding != 'nv24':
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
    if encoding in ('i420', 'yv12') and step % 2:
        raise ImageError(f'{_describe(msg)}: got an odd step, expected an even one')
    return step, length


def _planes(
    encoding: str, width: int, height: int, stride: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield of each plane its offset, its rows, the used bytes of a row, and its stride."""
    if encoding not in _PLANES:
        channels = len(_PACKED.get(encoding, 'mono').replace('mono', 'm'))
        row = 2 * _even(width) if encoding in _PAIRS else width * channels
        yield 0, height, row * (2 if encoding.endswith('16') else 1), stride
        return
    block_w, block_h = _chroma_block_wh(encoding)
    rows, columns = -(-height // block_h), -(-width // block_w)
    offset = height * stride
    yield 0, height, width, stride
    if encoding.startswith('nv'):
        yield offset, rows, 2 * columns, stride * 2 // block_w
    else:
        yield offset, rows, columns, stride // 2
        yield offset + rows * stride // 2, rows, columns, stride // 2


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


def _paired(first: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pairs of which the first samples are given, without copying them."""
    shape, strides = (*first.shape, 2), (*first.strides, 1)
    pairs: NDArray[np.uint8] = np.lib.stride_tricks.as_strided(first, shape, strides)
    return pairs


def _even(n: int) -> int:
    """Round up to an even number."""
    return n + n % 2


def _describe(msg: Any) -> str:
    """Name a message in an error's text."""
    return f'{msg.encoding} image of {msg.width}x{msg.height} pixels, step {msg.step}'
