"""Image files: their pixels apart from all that hides beside them (thumbnails, places, names)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import re
import struct
import zlib

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.message import decode_compressed, decode_image, Frame
import numpy as np
from numpy.typing import NDArray

JPEG_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif')
SUFFIXES = (*JPEG_SUFFIXES, '.png', '.webp', '.bmp')

_EXIF = b'Exif\0\0'
_ICC = b'ICC_PROFILE\0'
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_PNG_PIXELS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
_PNG_COLOUR = (b'iCCP', b'sRGB', b'gAMA', b'cHRM', b'cICP', b'pHYs')
_WEBP_PIXELS = (b'VP8 ', b'VP8L', b'ALPH')
_JPEG_SCAN_END = re.compile(rb'\xff+[^\x00\xd0-\xd7\xff]')
# EXIF orientation: is the stored picture to be transposed, then mirrored in x, in y?
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class Picture:
    """
    Hold an image file's pixels and the little else that may leave the house.

    :param data: the file without metadata: no EXIF, thumbnail, XMP, comment or trailing picture.
    :param colour: what says how its colours look: parts of the file, as they stood there.
    :param orientation: EXIF orientation, 1 to 8: how a viewer turns the stored pixels.
    """

    data: bytes
    colour: tuple[bytes, ...] = ()
    orientation: int = 1

    @property
    def is_bmp(self) -> bool:
        """Return whether the file is a BMP."""
        return self.data.startswith(b'BM')


@dataclass(frozen=True)
class _File:
    format: str  # noqa: A003
    data: bytes


@dataclass(frozen=True)
class _Raw:
    height: int
    width: int
    encoding: str
    step: int
    data: bytes
    is_bigendian: int = 0


def parse(data: bytes) -> Picture:
    """
    Take an image file apart, by its content.

    :raises ImageError: not an image file that is known here, truncated, or animated.
    """
    try:
        if data.startswith(b'\xff\xd8'):
            return _parse_jpeg(data)
        if data.startswith(_PNG_MAGIC):
            return _parse_png(data)
        if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
            return _parse_webp(data)
    except (struct.error, IndexError) as error:
        raise ImageError(f'the image file ends after {len(data)} bytes: truncated') from error
    if data.startswith(b'BM'):
        return Picture(data)
    raise ImageError(
        f'got a file that begins with {data[:8].hex(" ") or "nothing"}, '
        'expected a JPEG, PNG, WebP or BMP'
    )


def decode(picture: Picture) -> Frame:
    """
    Decode a picture; the frame is upright, whatever way the pixels are stored.

    :raises ImageError: it cannot be decoded.
    """
    if picture.is_bmp:
        frame = _decode_bmp(picture.data)
    else:
        frame = decode_compressed(_File('', picture.data))
    return Upright(frame, picture.orientation) if picture.orientation != 1 else frame


def assemble(encoded: bytes, source: Picture) -> bytes:
    """
    Return an image file of encoded pixels that looks and turns as its source does.

    :param encoded: the source's own data, or what its frame encoded.
    :param source: where colours and orientation come from.
    """
    if source.is_bmp:
        return _encode_bmp(encoded, source.data)
    pixels = parse(encoded).data
    exif = _orientation_tiff(source.orientation) if source.orientation != 1 else b''
    if pixels.startswith(_PNG_MAGIC):
        extra = b''.join(source.colour) + (_png_chunk(b'eXIf', exif) if exif else b'')
        end_of_header = 8 + 25
        return pixels[:end_of_header] + extra + pixels[end_of_header:]
    if pixels.startswith(b'RIFF'):
        return _assemble_webp(pixels, source.colour, exif)
    extra = b''.join(source.colour) + (_jpeg_segment(0xE1, _EXIF + exif) if exif else b'')
    end_of_jfif = 4 + 16 if pixels[2:4] == b'\xff\xe0' else 2
    return pixels[:end_of_jfif] + extra + pixels[end_of_jfif:]


class Upright(Frame):
    """A frame shown upright: what is stored turned stays stored turned."""

    def __init__(self, stored: Frame, orientation: int) -> None:
        """
        Turn the stored pixels upright.

        :param stored: the frame as it lies in the file.
        :param orientation: EXIF orientation, 1 to 8.
        """
        self._stored = stored
        self._turn = _TURNS[orientation]
        self.image_bgr = self._upright(stored.image_bgr)
        width, height = stored.align_wh_px
        self.align_wh_px = (height, width) if self._turn[0] else (width, height)
        self.bleed_px = stored.bleed_px

    def _upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        transpose, flip_x, flip_y = self._turn
        turned = image.swapaxes(0, 1) if transpose else image
        return np.array(turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1], order='C')

    def _stored_rects(self, rects_xyxy_px: NDArray[np.int32]) -> NDArray[np.int32]:
        transpose, flip_x, flip_y = self._turn
        height, width = self.image_bgr.shape[:2]
        x0, y0, x1, y1 = rects_xyxy_px.reshape(-1, 4).T
        if flip_x:
            x0, x1 = width - x1, width - x0
        if flip_y:
            y0, y1 = height - y1, height - y0
        columns = (y0, x0, y1, x1) if transpose else (x0, y0, x1, y1)
        return np.column_stack(columns).astype(np.int32)

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Keep what lies inside the rectangles out of everything that is derived from samples."""
        self._stored.without(self._stored_rects(rects_xyxy_px))
        self.image_bgr = self._upright(self._stored.image_bgr)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> bytes | bytearray | memoryview:
        """Write the touched rectangles back into the stored picture and encode that."""
        transpose, flip_x, flip_y = self._turn
        turned = self.image_bgr[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        np.copyto(self._stored.image_bgr, turned.swapaxes(0, 1) if transpose else turned)
        return self._stored.encode(self._stored_rects(touched_xyxy_px))


def _parse_jpeg(data: bytes) -> Picture:
    kept, colour, orientation = [b'\xff\xd8'], [], 1
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise ImageError(f'JPEG: got byte {data[at]:#04x} at {at}, expected a marker')
        marker = data[at + 1]
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from('>H', data, at + 2)
        segment, content = data[at : at + 2 + length], data[at + 4 : at + 2 + length]
        if len(segment) != length + 2:
            raise ImageError(f'JPEG: ends after {len(data)} bytes: truncated')
        at += 2 + length
        if marker == 0xE0 and content.startswith(b'JFIF\0'):
            # Its two last bytes give the size of a thumbnail, which follows them.
            kept.append(_jpeg_segment(0xE0, content[:12] + b'\0\0'))
        elif marker == 0xE1 and content.startswith(_EXIF):
            orientation = _orientation(content[len(_EXIF) :])
        elif marker == 0xE2 and content.startswith(_ICC):
            colour.append(segment)
        elif (marker == 0xEE and content.startswith(b'Adobe')) or (
            not 0xE0 <= marker <= 0xEF and marker != 0xFE
        ):
            kept.append(segment)
        if marker == 0xDA:
            end = _JPEG_SCAN_END.search(data, at)
            if end is None:
                raise ImageError(f'JPEG: no end of the image in {len(data)} bytes: truncated')
            kept.append(data[at : end.start()])
            at = end.end() - 2
    kept.append(b'\xff\xd9')
    return Picture(b''.join(kept), tuple(colour), orientation)


def _jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack('>BBH', 0xFF, marker, len(content) + 2) + content


def _parse_png(data: bytes) -> Picture:
    kept, colour, orientation = [_PNG_MAGIC], [], 1
    at = len(_PNG_MAGIC)
    kind = b''
    while kind != b'IEND':
        length, kind = struct.unpack_from('>I4s', data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) != 12 + length:
            raise ImageError(f'PNG: ends after {len(data)} bytes: truncated')
        at += len(chunk)
        if kind == b'acTL':
            raise ImageError('PNG: got an animation, expected one picture; convert it to a video')
        if kind == b'eXIf':
            orientation = _orientation(chunk[8:-4])
        elif kind in _PNG_COLOUR:
            colour.append(chunk)
        elif kind in _PNG_PIXELS:
            kept.append(chunk)
    return Picture(b''.join(kept), tuple(colour), orientation)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', check)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    (size,) = struct.unpack_from('<I', data, 4)
    if len(data) < size + 8:
        raise ImageError(f'WebP: got {len(data)} bytes, expected {size + 8}: truncated')
    at = 12
    while at < size + 8:
        kind, length = struct.unpack_from('<4sI', data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack('<I', len(content)) + content + b'\0' * (len(content) % 2)


def _webp_file(chunks: list[bytes]) -> bytes:
    body = b'WEBP' + b''.join(chunks)
    return b'RIFF' + struct.pack('<I', len(body)) + body


def _parse_webp(data: bytes) -> Picture:
    kept, colour, orientation = [], [], 1
    for kind, content in _webp_chunks(data):
        if kind in (b'ANIM', b'ANMF'):
            raise ImageError('WebP: got an animation, expected one picture; convert it to a video')
        if kind == b'VP8X':
            flags = content[0] & 0x10  # only the alpha channel's bit stays true
            kept.append(_webp_chunk(kind, bytes([flags]) + content[1:]))
        elif kind == b'EXIF':
            orientation = _orientation(content.removeprefix(_EXIF))
        elif kind == b'ICCP':
            colour.append(_webp_chunk(kind, content))
        elif kind in _WEBP_PIXELS:
            kept.append(_webp_chunk(kind, content))
    return Picture(_webp_file(kept), tuple(colour), orientation)


def _assemble_webp(pixels: bytes, colour: tuple[bytes, ...], exif: bytes) -> bytes:
    if not colour and not exif:
        return pixels
    chunks = dict(_webp_chunks(pixels))
    if b'VP8X' not in chunks:
        image = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_UNCHANGED)
        height, width = image.shape[:2]
        alpha = 0x10 if image.ndim == 3 and image.shape[2] == 4 else 0
        size = (width - 1).to_bytes(3, 'little') + (height - 1).to_bytes(3, 'little')
        chunks = {b'VP8X': bytes([alpha, 0, 0, 0]) + size, **chunks}
    header = bytearray(chunks.pop(b'VP8X'))
    header[0] |= (0x20 if colour else 0) | (0x08 if exif else 0)
    return _webp_file(
        [
            _webp_chunk(b'VP8X', bytes(header)),
            *colour,
            *(_webp_chunk(kind, content) for kind, content in chunks.items()),
            *([_webp_chunk(b'EXIF', exif)] if exif else []),
        ]
    )


def _orientation(tiff: bytes) -> int:
    """Return the orientation that a TIFF header's first directory gives, 1 where it gives none."""
    order = {b'II': '<', b'MM': '>'}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f'{order}I', tiff, 4)
        (entries,) = struct.unpack_from(f'{order}H', tiff, at)
        for i in range(entries):
            tag, kind, count, value = struct.unpack_from(f'{order}HHIH', tiff, at + 2 + 12 * i)
            if (tag, kind, count) == (0x0112, 3, 1):
                return value if value in _TURNS else 1
    except struct.error:
        return 1
    return 1


def _orientation_tiff(orientation: int) -> bytes:
    entry = struct.pack('>HHIHH', 0x0112, 3, 1, orientation, 0)
    return b'MM\0*' + struct.pack('>IH', 8, 1) + entry + struct.pack('>I', 0)


def _decode_bmp(data: bytes) -> Frame:
    (length,) = struct.unpack_from('<I', data, 2) if len(data) >= 6 else (6,)
    if len(data) < length:
        raise ImageError(f'BMP: got {len(data)} bytes, expected {length}: truncated')
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageError(f'BMP: {len(data)} bytes that cannot be decoded')
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    encoding = {1: 'mono8', 3: 'bgr8', 4: 'bgra8'}[channels]
    return decode_image(_Raw(height, width, encoding, width * channels, pixels.tobytes()))


def _encode_bmp(samples: bytes, source: bytes) -> bytes:
    shape = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_UNCHANGED).shape
    done, encoded = cv2.imencode('.bmp', np.frombuffer(samples, np.uint8).reshape(shape))
    if not done:
        raise ImageError(f'BMP: OpenCV cannot encode a picture of shape {shape}')
    return bytes(encoded)
