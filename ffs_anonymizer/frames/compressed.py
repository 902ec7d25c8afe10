"""The pictures of sensor_msgs/CompressedImage, to BGR and back: JPEG, PNG and WebP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import jpeg
from ffs_anonymizer.frames.frame import bgr_from, brightness_shift, Buffer, Frame, write_bgr
from ffs_anonymizer.frames.raw import as_buffer, refuse_depth
import numpy as np
from numpy.typing import NDArray

LOSSY_WEBP_QUALITY = 90
BLACK_JPEG_QUALITY = 95
MAX_PIXELS = 1 << 28
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_KEPT_PNG_CHUNKS = (b'cHRM', b'gAMA', b'iCCP', b'sRGB', b'pHYs')
# Grey with alpha comes back as colour with alpha, which the same colour profile does not fit.
_PNG_GREY_ALPHA = 4
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, _PNG_GREY_ALPHA: 4, 6: 4}
_CHANNELS = {1: 'mono', 3: 'bgr', 4: 'bgra'}
_LOSSLESS = 101
# How a further picture or a film behind the end of the first one begins.
_APPENDED = (b'\xff\xd8\xff', b'ftyp')


@dataclass(frozen=True)
class _Picture:
    """
    Say what a file holds and how its like is written.

    :param options: for cv2.imencode.
    :param kept: parts of the source that go into a new file as they are.
    :param header: of a JPEG.
    """

    kind: str
    size_wh: tuple[int, int]
    options: tuple[int, ...]
    kept: bytes = b''
    header: jpeg.Header | None = None
    channels: int = 3
    dtype: str = 'u1'

    def __post_init__(self) -> None:
        """Refuse a size that no camera has before memory is asked for it."""
        width, height = self.size_wh
        if not 0 < width * height <= MAX_PIXELS:
            raise ImageError(
                f'got a {self.kind} of {width}x{height} pixels, expected 1 to {MAX_PIXELS}; '
                'it is damaged'
            )

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return the samples, (H, W) or (H, W, C), not turned by any Exif orientation."""
        flags = cv2.IMREAD_UNCHANGED
        if self.header is not None:
            grey = len(self.header.components) == 1
            flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
            flags |= cv2.IMREAD_IGNORE_ORIENTATION
        try:
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise ImageError(f'got a {self.kind} that OpenCV cannot decode: {error}') from error
        width, height = self.size_wh
        if samples is None or samples.shape[:2] != (height, width):
            got = 'nothing' if samples is None else f'{samples.shape[1]}x{samples.shape[0]} pixels'
            raise ImageError(
                f'{self.kind} of {width}x{height} pixels: OpenCV decoded {got}; it is damaged'
            )
        channels = 1 if samples.ndim == 2 else samples.shape[2]
        if samples.dtype not in (np.uint8, np.uint16) or channels not in _CHANNELS:
            raise ImageError(
                f'got a {self.kind} of {channels} channels of {samples.dtype}, '
                'expected 1, 3 or 4 of 8 or 16 bits; encode it anew'
            )
        if self.header is not None:
            jpeg.check_complete(self.header, samples)
        return np.asarray(samples)

    def encode(self, samples: NDArray[Any]) -> bytes:
        """Return a file of the same kind."""
        try:
            done, encoded = cv2.imencode(f'.{self.kind}', samples, self.options)
        except cv2.error as error:
            raise ImageError(f'OpenCV cannot encode a {self.kind}: {error}') from error
        if not done:
            raise ImageError(f'OpenCV cannot encode a {self.kind} of {samples.shape}')
        data: bytes = encoded.tobytes()
        if not self.kept:
            return data
        if self.header is not None:
            return jpeg.insert_metadata(data, self.kept)
        after_ihdr = len(_PNG_MAGIC) + 25
        return data[:after_ihdr] + self.kept + data[after_ihdr:]


class _CompressedFrame(Frame):
    """Hold the samples of a file; where it is not 8-bit BGR, also apart from the picture."""

    def __init__(self, picture: _Picture, source: Buffer, data: bytes) -> None:
        self._picture, self._source = picture, source
        self._samples = picture.decode(data)
        channels = 1 if self._samples.ndim == 2 else self._samples.shape[2]
        self._channels = _CHANNELS[channels]
        self._shift = brightness_shift(self._samples) if self._is_deep() else 0
        self.image_bgr = bgr_from(self._samples, self._channels, self._shift)

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Choose the brightness of 16 bits from the samples outside the rectangles."""
        if not self._is_deep():
            return
        shift = brightness_shift(self._samples, rects_xyxy_px)
        if shift != self._shift:
            self._shift = shift
            self.image_bgr[:] = bgr_from(self._samples, self._channels, shift)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return the source's bytes if nothing was touched, else a new file of the same kind."""
        rects = list(self._inside(touched_xyxy_px))
        if not rects:
            return self._source
        if not np.shares_memory(self._samples, self.image_bgr):
            for rect in rects:
                write_bgr(self._samples, self.image_bgr, rect, self._channels, self._shift)
        return self._picture.encode(self._samples)

    def _is_deep(self) -> bool:
        return bool(self._samples.dtype == np.uint16)


def decode_compressed(msg: Any) -> Frame:
    """
    Decode a sensor_msgs/CompressedImage, or anything with its fields.

    What the data is, its first bytes say; the format string is only asked whether it is a depth
    image. JPEG comes back in the quality and chroma subsampling it came in, PNG and lossless WebP
    bit-identical outside the touched rectangles, lossy WebP in quality `LOSSY_WEBP_QUALITY`.
    Colour profiles of JPEG and PNG and the orientation of JPEG are kept; all other metadata, which
    may hold a small copy of the picture, and bytes behind the end are left out of a new file. A
    JPEG that nothing was written to keeps the bytes behind its end too, unless there is a further
    picture among them, which nobody looked at.

    :param msg: format and data.
    :raises ImageError: a depth image, another kind of file, one that is cut off or damaged, or
        one that holds more than one picture.
    """
    refuse_depth(msg.format)
    source = as_buffer(msg.data)
    data = bytes(source)
    picture = _read(data)
    if picture.header is not None:
        tail = data[picture.header.end :]
        if any(beginning in tail for beginning in _APPENDED):
            source = data = data[: picture.header.end]
    return _CompressedFrame(picture, source, data)


def black_compressed(msg: Any, size_wh: tuple[int, int] | None = None) -> bytes:
    """
    Return a black file of the kind, size, depth and colours of a message that may be damaged.

    :param size_wh: taken where the data does not say its size.
    :raises ImageError: neither the data nor `size_wh` say the size, or nothing says the kind.
    """
    refuse_depth(msg.format)
    data = bytes(as_buffer(msg.data))
    try:
        picture = _read(data)
    except ImageError as error:
        picture = _guess(data, msg.format, size_wh, error)
    width, height = picture.size_wh
    shape = (height, width) if picture.channels == 1 else (height, width, picture.channels)
    black = np.zeros(shape, picture.dtype)
    if picture.channels == 4:
        black[..., 3] = np.iinfo(black.dtype).max
    return picture.encode(black)


def _read(data: bytes) -> _Picture:
    """Tell the kind of a file from its first bytes and check its structure to the end."""
    if data.startswith(jpeg.MAGIC):
        return _read_jpeg(data)
    if data.startswith(_PNG_MAGIC):
        return _read_png(data)
    if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
        return _read_webp(data)
    raise ImageError(
        f'got {len(data)} bytes that begin with {data[:8].hex(" ") or "nothing"}, '
        'expected a JPEG, PNG or WebP file'
    )


def _read_jpeg(data: bytes) -> _Picture:
    """Describe a JPEG file."""
    header = jpeg.read_header(data)
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg.quality_of(header)]
    if header.progressive:
        options += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    # OpenCV before 4.7 has no choice and writes 4:2:0.
    sampling = getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{jpeg.sampling_of(header)}', None)
    if sampling is not None:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return _Picture(
        'jpg',
        header.size_wh,
        tuple(options),
        kept=jpeg.metadata_of(header),
        header=header,
        channels=len(header.components),
    )


def _read_png(data: bytes) -> _Picture:
    """Describe a PNG file."""
    kept = b''
    size_wh, depth, colour = (0, 0), 8, 2
    for name, start, end in _png_chunks(data):
        if name == b'IHDR':
            size_wh, depth, colour = _png_header(data[start:end])
        elif name == b'acTL':
            raise ImageError('got an animated PNG, expected one picture; split the file')
        elif name in _KEPT_PNG_CHUNKS and not (name == b'iCCP' and colour == _PNG_GREY_ALPHA):
            kept += data[start - 8 : end + 4]
    dtype = 'u2' if depth == 16 else 'u1'
    return _Picture('png', size_wh, (), kept, channels=_PNG_CHANNELS[colour], dtype=dtype)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each chunk, the end chunk last."""
    at = len(_PNG_MAGIC)
    while at + 12 <= len(data):
        name, start = data[at + 4 : at + 8], at + 8
        end = start + int.from_bytes(data[at : at + 4], 'big')
        if end + 4 > len(data):
            break
        yield name, start, end
        if name == b'IEND':
            return
        at = end + 4
    raise ImageError(f'got a PNG cut off at {len(data)} bytes, without its end chunk')


def _png_header(body: bytes) -> tuple[tuple[int, int], int, int]:
    """Return size, bits a sample and colour type."""
    if len(body) != 13 or body[9] not in _PNG_CHANNELS:
        raise ImageError('got a PNG with an impossible header; it is damaged')
    size_wh = (int.from_bytes(body[:4], 'big'), int.from_bytes(body[4:8], 'big'))
    return size_wh, body[8], body[9]


def _read_webp(data: bytes) -> _Picture:
    """Describe a WebP file."""
    stated = 8 + int.from_bytes(data[4:8], 'little')
    if stated > len(data):
        raise ImageError(f'got a WebP cut off at {len(data)} bytes, expected {stated}')
    lossless, size_wh, alpha = False, None, False
    at = 12
    while at + 8 <= stated:
        name, start = data[at : at + 4], at + 8
        end = start + int.from_bytes(data[at + 4 : start], 'little')
        if end > stated:
            raise ImageError('got a WebP whose parts are longer than the file; it is damaged')
        body = data[start : min(end, start + 10)]
        if name in (b'ANIM', b'ANMF'):
            raise ImageError('got an animated WebP, expected one picture; split the file')
        if name in (b'VP8 ', b'VP8L'):
            if size_wh is not None:
                raise ImageError('got a WebP of several pictures, expected one; split the file')
            lossless = name == b'VP8L'
            size_wh = _webp_size(name, body)
            alpha = alpha or (lossless and bool(body[4] & 0x10))
        elif name == b'ALPH':
            alpha = True
        at = end + end % 2
    if size_wh is None:
        raise ImageError('got a WebP without a picture; it is damaged')
    options = [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS if lossless else LOSSY_WEBP_QUALITY]
    if lossless and hasattr(cv2, 'IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR'):
        options += [cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]
    return _Picture('webp', size_wh, tuple(options), channels=4 if alpha else 3)


def _webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    """Return width and height from the first ten bytes of a picture."""
    if len(body) < 10:
        raise ImageError('got a WebP with a cut-off picture header; it is damaged')
    if name == b'VP8L':
        bits = int.from_bytes(body[1:5], 'little')
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = int.from_bytes(body[6:8], 'little'), int.from_bytes(body[8:10], 'little')
    return width & 0x3FFF, height & 0x3FFF


def _guess(
    data: bytes, format_name: str, size_wh: tuple[int, int] | None, reason: ImageError
) -> _Picture:
    """Describe a file of the kind that damaged data begins with, or else that the format names."""
    kinds = {'png': 'png', 'webp': 'webp', 'jpeg': 'jpg', 'jpg': 'jpg'}
    kind = next((kind for word, kind in kinds.items() if word in format_name.lower()), '')
    channels, dtype = 3, 'u1'
    try:
        if data.startswith(jpeg.MAGIC):
            kind = 'jpg'
            size_wh = jpeg.jpeg_size_wh(data)
        elif data.startswith(_PNG_MAGIC):
            kind = 'png'
            size_wh, depth, colour = _png_header(data[16:29])
            channels, dtype = _PNG_CHANNELS[colour], 'u2' if depth == 16 else 'u1'
        elif data.startswith(b'RIFF') and data[12:16] in (b'VP8 ', b'VP8L'):
            kind = 'webp'
            size_wh = _webp_size(data[12:16], data[20:30])
    except ImageError:
        pass
    if not kind or size_wh is None:
        raise ImageError(
            f'no black picture for {format_name!r}: the data states no kind or size ({reason})'
        ) from reason
    options = {'jpg': (cv2.IMWRITE_JPEG_QUALITY, BLACK_JPEG_QUALITY)}.get(kind, ())
    return _Picture(kind, size_wh, options, channels=channels, dtype=dtype)
