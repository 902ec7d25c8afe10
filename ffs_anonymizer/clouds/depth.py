"""Depth images, whose regions are those of the colour camera that they are registered to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import struct
from typing import Any

import cv2
from ffs_anonymizer.clouds import rvl, surface
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.containers import MOST_PIXELS
from ffs_anonymizer.frames.frame import Buffer, Rect
from ffs_anonymizer.frames.raw import as_buffer
import numpy as np
from numpy.typing import NDArray

GEOMETRIES = ('flatten', 'drop')
# Millimetres and metres of REP 118; some cameras call the former a grey picture.
_RAW = {'16UC1': 'u2', 'mono16': 'u2', '32FC1': 'f4'}
# Of compressed_depth_image_transport: a number and two parameters of the quantization; of RVL,
# columns and rows follow.
_HEADER_BYTES = 12
_RVL_SIZE = struct.Struct('<II')
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_PNG_CHUNKS = (b'IHDR', b'IDAT', b'IEND')
# As compressed_depth_image_transport and compressed_image_transport compress depth.
_PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_SIZE_TOLERANCE = 0.01


class Depth:
    """
    Hold a depth image.

    :param msg: the fields of a sensor_msgs Image or CompressedImage.
    :raises ImageError: the encoding is none of 16UC1, mono16, 32FC1, PNG and RVL, or sizes and
        data do not go together.
    """

    def __init__(self, msg: Any) -> None:
        self._source = as_buffer(msg.data)
        self._encode: Callable[[NDArray[Any]], Buffer]
        if hasattr(msg, 'encoding'):
            self._samples, self._encode = self._read_raw(msg), self._raw_bytes
            return
        is_transport = 'compressedDepth' in msg.format
        self._head = bytes(self._source[: _HEADER_BYTES if is_transport else 0])
        self._is_depth = msg.format.partition(';')[0].strip() != '32FC1'
        if 'compressedDepth rvl' in msg.format:
            self._samples, self._encode = self._read_rvl(), self._rvl_bytes
        else:
            self._samples, self._encode = self._read_png(msg.format), self._png_bytes

    @property
    def size_wh(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        return self._samples.shape[1], self._samples.shape[0]

    def cover(self, rects_xyxy_px: NDArray[np.int32], geometry: str) -> Buffer:
        """
        Return the image in its own encoding, with the shape in the rectangles gone.

        All samples outside are the same; row padding is zero. With N = 0 the result is the
        source's own bytes, where there is nothing in them but the image.

        :param rects_xyxy_px: (N, 4) int32, right and bottom exclusive.
        :param geometry: flatten puts a smooth surface in place of the shape, with noise of the
            sensor's size; drop, or nothing known around, says that nothing was measured.
        :raises ImageError: the image cannot be encoded.
        """
        rects = self._inside(rects_xyxy_px)
        patches = [self._patch(rect, rects) if geometry == 'flatten' else None for rect in rects]
        if not rects and not self._has_more:
            return self._source
        samples = self._samples.copy()
        nothing = np.nan if samples.dtype.kind == 'f' else 0
        for (x0, y0, x1, y1), patch in zip(rects, patches, strict=True):
            samples[y0:y1, x0:x1] = nothing if patch is None else patch
        return self._encode(samples)

    def nearness(self) -> NDArray[np.float64]:
        """Return inverse depth of any unit, (H, W); what was not measured is NaN or 0 or less."""
        with np.errstate(all='ignore'):
            samples = self._samples.astype(np.float64)
            return np.asarray(np.where(samples > 0, 1 / samples if self._is_depth else samples, 0))

    def left_in(self, after: Depth, xyxy_px: NDArray[np.int32]) -> float:
        """
        Return which share of the shape in a rectangle another image of it still has, 0 to 1.

        Where that is flat, but for noise, there is no shape.

        :param after: of the same size.
        :param xyxy_px: (4,).
        :raises ImageError: the sizes differ.
        """
        if after.size_wh != self.size_wh:
            raise ImageError(f'got depth of {after.size_wh} pixels, expected {self.size_wh}')
        rects = self._inside(xyxy_px)
        if not rects:
            return 0.0
        x0, y0, x1, y1 = rects[0]
        before = self._samples[y0:y1, x0:x1]
        with np.errstate(invalid='ignore'):
            measured = np.isfinite(before) & (before > 0)
        same = (before == after._samples[y0:y1, x0:x1])[measured]
        step = 0.0 if self._is_depth else 1.0
        if not same.any() or surface.is_flat(*after._around(rects[0]), step):
            return 0.0
        return float(same.mean())

    def _patch(self, rect: Rect, rects: Sequence[Rect]) -> NDArray[np.float64] | None:
        """Return the samples of a smooth surface; None where nothing is known around."""
        values, known, hole = self._around(rect)
        known &= surface.outside(surface.around(rect, self.size_wh), rects)
        values = values[..., 0]
        spanned = surface.span(values[..., None], known, hole)
        if spanned is None:
            return None
        film = spanned[..., 0]
        noisy = film + surface.noise_size(values, known) * surface.noise(rect)
        values = np.maximum(noisy, film / 2)
        patch = 1 / values if self._is_depth else values
        if self._samples.dtype.kind == 'f':
            return patch
        return np.clip(np.rint(patch), 1, np.iinfo(np.uint16).max)

    def _around(self, rect: Rect) -> tuple[NDArray[np.float64], NDArray[np.bool_], Rect]:
        """Return nearness (h, w, 1) in and around a rectangle, where it is known, and which."""
        left, top, right, bottom = surface.around(rect, self.size_wh)
        with np.errstate(all='ignore'):
            samples = self._samples[top:bottom, left:right].astype(np.float64)
            known = np.isfinite(samples) & (samples > 0)
            # Planes are linear in inverse depth, which compressed depth holds already.
            values = 1 / samples if self._is_depth else samples
        known &= np.isfinite(values)
        hole = (rect[0] - left, rect[1] - top, rect[2] - left, rect[3] - top)
        return values[..., None], known, hole

    def _inside(self, rects_xyxy_px: NDArray[np.int32]) -> list[Rect]:
        width, height = self.size_wh
        limit = np.array([width, height, width, height])
        rects = np.clip(np.asarray(rects_xyxy_px).reshape(-1, 4), 0, limit).tolist()
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in rects if x0 < x1 and y0 < y1]

    def _read_raw(self, msg: Any) -> NDArray[Any]:
        width, height, step = int(msg.width), int(msg.height), int(msg.step)
        what = f'depth image of {width}x{height} pixels in {msg.encoding!r}'
        if msg.encoding not in _RAW:
            raise ImageError(f'{what}: expected one of {", ".join(_RAW)}')
        dtype = np.dtype(('>' if msg.is_bigendian else '<') + _RAW[msg.encoding])
        if width <= 0 or height <= 0:
            raise ImageError(f'{what}: an image without pixels; check the camera')
        if step < width * dtype.itemsize:
            raise ImageError(
                f'{what}: got a step of {step} bytes, expected {width * dtype.itemsize} or more'
            )
        if len(self._source) != step * height:
            raise ImageError(
                f'{what}: got {len(self._source)} bytes of data, expected {step * height}; '
                'the message is cut off or its fields are wrong'
            )
        self._step, self._is_depth = step, True
        self._has_more = step > width * dtype.itemsize
        samples: NDArray[Any] = np.ndarray(
            (height, width), dtype, self._source, strides=(step, dtype.itemsize)
        )
        return samples

    def _read_rvl(self) -> NDArray[Any]:
        data = bytes(self._source)[_HEADER_BYTES:]
        if len(data) < _RVL_SIZE.size:
            raise ImageError(f'got depth in RVL of {len(data)} bytes; it is cut off')
        width, height = _RVL_SIZE.unpack_from(data)
        _check_size('RVL', width, height)
        # A run of nothing may be written in more ways than one: this one is written anew.
        self._has_more = True
        samples = rvl.decode(data[_RVL_SIZE.size :], width * height)
        return np.asarray(samples.reshape(height, width))

    def _read_png(self, described: str) -> NDArray[Any]:
        png = bytes(self._source)[len(self._head) :]
        if not png.startswith(_PNG_MAGIC) or len(png) < 24:
            raise ImageError(
                f'got depth of the format {described!r} that begins with '
                f'{png[:8].hex(" ") or "nothing"}, expected PNG or RVL of '
                'compressed_depth_image_transport'
            )
        if not self._is_depth and not self._head:
            raise ImageError(f'got the format {described!r}, which no PNG can hold')
        width, height = struct.unpack_from('>II', png, 16)
        _check_size('PNG', width, height)
        self._has_more = _holds_more(png)
        try:
            samples = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ImageError(f'got a PNG that OpenCV cannot decode: {error}') from error
        if samples is None or samples.dtype != np.uint16 or samples.shape != (height, width):
            got = 'nothing' if samples is None else f'{samples.dtype} of shape {samples.shape}'
            raise ImageError(
                f'depth of {width}x{height} pixels: OpenCV decoded {got}, expected one channel of '
                '16 bits'
            )
        return np.asarray(samples)

    def _raw_bytes(self, samples: NDArray[Any]) -> bytearray:
        buffer = bytearray(len(self._source))
        target: NDArray[Any] = np.ndarray(
            samples.shape, samples.dtype, buffer, strides=(self._step, samples.dtype.itemsize)
        )
        target[:] = samples
        return buffer

    def _png_bytes(self, samples: NDArray[Any]) -> bytes:
        done, png = cv2.imencode('.png', samples, _PNG_OPTIONS)
        if not done:
            raise ImageError(f'OpenCV cannot encode a PNG of {samples.shape}')
        return b''.join((self._head, png.tobytes()))

    def _rvl_bytes(self, samples: NDArray[Any]) -> bytes:
        return self._head + _RVL_SIZE.pack(*self.size_wh) + rvl.encode(samples)


def blank_depth(msg: Any) -> Buffer:
    """
    Return the data of a depth image in which nothing was measured.

    :raises ImageError: the message holds no depth image.
    """
    image = Depth(msg)
    return image.cover(np.array([[0, 0, *image.size_wh]], np.int32), 'drop')


def scaled(
    xyxy_px: NDArray[np.floating[Any]], from_wh: tuple[int, int], to_wh: tuple[int, int]
) -> NDArray[np.int32]:
    """
    Return boxes (N, 4) of a picture as whole pixels of another size of the same view, outward.

    :raises ImageError: the two have other proportions, so they cannot show the same.
    """
    factors = np.array(to_wh) / np.array(from_wh)
    if abs(factors[0] / factors[1] - 1) > _SIZE_TOLERANCE:
        raise ImageError(
            f'got {to_wh[0]}x{to_wh[1]} pixels beside a picture of '
            f'{from_wh[0]}x{from_wh[1]}, expected the same proportions; list the topic that is '
            'registered to this camera'
        )
    boxes = np.asarray(xyxy_px).reshape(-1, 4) * np.tile(factors, 2)
    return np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1).astype(np.int32)


def _check_size(kind: str, width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PIXELS:
        raise ImageError(
            f'got {kind} of {width}x{height} pixels, expected 1 to {MOST_PIXELS}; it is damaged'
        )


def _holds_more(png: bytes) -> bool:
    """Return whether a PNG file holds anything but its picture."""
    at = len(_PNG_MAGIC)
    while at + 12 <= len(png):
        kind = png[at + 4 : at + 8]
        at += int.from_bytes(png[at : at + 4], 'big') + 12
        if kind not in _PNG_CHUNKS:
            return True
        if kind == b'IEND':
            return at != len(png)
    return True
