"""
The files of pictures, taken apart once: what is coded, apart from all that hides beside it.

JPEG, PNG and WebP keep their coded picture byte for byte; of what stands beside it only colours
and orientation pass, and these by what they hold. BMP and TIFF are always written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import struct
import zlib

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import jpeg
from ffs_anonymizer.frames.metadata import (
    is_profile,
    MOST_PROFILE_BYTES,
    orientation_of,
    orientation_place,
    orientation_tiff,
)
import numpy as np

# What is asked memory for where no setting says it, in files and of a live camera.
MOST_PIXELS, MOST_LIVE_PIXELS = 256_000_000, 64_000_000
# Of a few million, few bytes do no harm.
_FREE_PIXELS, _MOST_PIXELS_PER_BYTE = 16_000_000, 4096

_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_PNG_GREY, _PNG_PALETTE, _PNG_GREY_ALPHA = 0, 3, 4
_PNG_SAMPLES = {_PNG_GREY: 1, 2: 3, _PNG_PALETTE: 1, _PNG_GREY_ALPHA: 2, 6: 4}
PNG_CHANNELS = {_PNG_GREY: 1, 2: 3, _PNG_PALETTE: 3, _PNG_GREY_ALPHA: 4, 6: 4}
_PNG_COLOUR_BYTES = {b'cHRM': 32, b'gAMA': 4, b'sRGB': 1, b'cICP': 4, b'pHYs': 9}
_MOST_CHUNKS = 1 << 16
# Column and row where each pass of an interlaced PNG begins, and their distances.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_INFLATED_AT_ONCE = 1 << 18
# What is inflated as a whole; larger PNGs are decoded and looked at apart, a part at a time.
_MOST_INFLATED = 1 << 26
_STORED_BLOCK = 0xFFFF
_WEBP_SPARE_BYTES = 16
_EXIF = b'Exif\0\0'
_TIFF_TYPE_BYTES = {1: 1, 3: 2, 4: 4}
_FILMS = {b'3gp': 'mp4', b'qt ': 'mov'}
_STILLS = {b'avif': 'avif', b'avis': 'avif', b'heic': 'heif', b'heix': 'heif', b'mif1': 'heif'}


@dataclass(frozen=True)
class Picture:
    """
    Hold a file's picture and the little else that may leave the house.

    :param kind: jpg, png, webp, bmp or tiff.
    :param coded: the file without all that is not needed to decode the picture.
    :param size_wh: of the picture as it is stored.
    :param channels: as decoded: 1, 3 or 4.
    :param bits: of a sample, 8 or 16.
    :param orientation: of Exif, 1 to 8: how a viewer turns the stored pixels.
    :param profile: ICC, or nothing.
    :param colour: chunks of a PNG that say how its colours look.
    :param header: of a JPEG.
    :param lossless: whether a WebP is.
    :param clear_grey: the grey of a PNG that is transparent; None: there is none.
    """

    kind: str
    coded: bytes
    size_wh: tuple[int, int]
    channels: int = 3
    bits: int = 8
    orientation: int = 1
    profile: bytes = b''
    colour: bytes = b''
    header: jpeg.Header | None = None
    lossless: bool = False
    clear_grey: int | None = None


def sniff(data: bytes) -> str:
    """
    Return what a file is by its first bytes, 32 of which are enough; nothing: unknown.

    :returns: of pictures jpg, png, webp, bmp, tiff, gif, heif, avif, jxl or jp2, of films mp4,
        mov, mkv (WebM too), avi, mpg, ts, flv or asf.
    """
    if data[4:8] == b'ftyp':
        brand = data[8:12]
        return _STILLS.get(brand) or _FILMS.get(brand[:3], 'mp4')
    if data[:4] == b'RIFF':
        return {b'WEBP': 'webp', b'AVI ': 'avi'}.get(data[8:12], '')
    if data[4:8] in (b'moov', b'mdat', b'wide'):
        return 'mov'
    return next((kind for magic, kind in _MAGICS if data.startswith(magic)), '')


_MAGICS = (
    (jpeg.MAGIC, 'jpg'),
    (_PNG_MAGIC, 'png'),
    (b'BM', 'bmp'),
    (b'II*\0', 'tiff'),
    (b'MM\0*', 'tiff'),
    (b'GIF8', 'gif'),
    (b'\xff\x0a', 'jxl'),
    (b'\0\0\0\x0cJXL ', 'jxl'),
    (b'\0\0\0\x0cjP  ', 'jp2'),
    (b'\x1aE\xdf\xa3', 'mkv'),
    (b'\0\0\1\xba', 'mpg'),
    (b'\0\0\1\xb3', 'mpg'),
    (b'\x47\x40', 'ts'),
    (b'FLV\1', 'flv'),
    (b'\x30\x26\xb2\x75\x8e\x66\xcf\x11', 'asf'),
)


def parse(data: bytes, *, most_pixels: int = MOST_PIXELS) -> Picture:
    """
    Take a file apart, by its content; no pixel is decoded.

    :param most_pixels: limit of width times height.
    :raises ImageError: a file that is not known here, cut off or damaged, animated, or too large.
    """
    take_apart = _PARSERS.get(sniff(data))
    if take_apart is None:
        raise ImageError(
            f'got {len(data)} bytes that begin with {data[:8].hex(" ") or "nothing"}, '
            'expected a JPEG, PNG, WebP, TIFF or BMP file'
        )
    try:
        picture = take_apart(data)
    except (struct.error, IndexError) as error:
        raise ImageError(f'got a file cut off at {len(data)} bytes; it is damaged') from error
    check_size(picture.kind, picture.size_wh, most_pixels)
    width, height = picture.size_wh
    if not fits(picture.size_wh, data):
        raise ImageError(
            f'got a {picture.kind} of {width}x{height} pixels in {len(data)} bytes, expected at '
            f'most {_MOST_PIXELS_PER_BYTE} a byte; it is made to exhaust memory'
        )
    return picture


def fits(size_wh: tuple[int, int], data: bytes) -> bool:
    """Return whether a file can be of a size that it states, or is made to exhaust memory."""
    most = max(_FREE_PIXELS, len(data) * _MOST_PIXELS_PER_BYTE)
    return size_wh[0] * size_wh[1] <= most


def check_size(kind: str, size_wh: tuple[int, int], most_pixels: int = MOST_PIXELS) -> None:
    """
    Refuse a size before memory is asked for it.

    :raises ImageError: it has no pixels, or more than the limit.
    """
    width, height = size_wh
    if not 0 < width * height <= most_pixels:
        raise ImageError(
            f'got a {kind} of {width}x{height} pixels, expected 1 to {most_pixels} '
            '(`limits.max_pixels`); it is damaged or too large'
        )


def assemble(coded: bytes, picture: Picture) -> bytes:
    """
    Return a file that looks and turns as its source does.

    :param coded: a file with nothing but a coded picture: the source's, or one encoded anew.
    :param picture: where colours and orientation come from.
    """
    exif = orientation_tiff(picture.orientation) if picture.orientation != 1 else b''
    if picture.kind == 'jpg':
        return jpeg.dressed(coded, profile=picture.profile, exif=exif)
    if picture.kind == 'png':
        extra = picture.colour + (png_chunk(b'eXIf', exif) if exif else b'')
        end_of_header = len(_PNG_MAGIC) + 25
        return coded[:end_of_header] + extra + coded[end_of_header:]
    if picture.kind == 'webp' and (picture.profile or exif):
        return _dressed_webp(coded, picture, exif)
    return coded


def runs_on(picture: Picture) -> bool:
    """
    Return whether more is coded in the file than its picture, which nobody would have looked at.

    It then has to be encoded anew. What is not seen: see `jpeg.runs_on`.
    """
    try:
        if picture.header is not None:
            return jpeg.runs_on(picture.header)
        if picture.kind == 'png':
            return _png_runs_on(picture.coded)
        return picture.kind != 'webp' or _webp_runs_on(picture.coded)
    except (cv2.error, zlib.error, IndexError):
        # What cannot be looked at is not known to be nothing.
        return True


def _parse_jpeg(data: bytes) -> Picture:
    header = jpeg.read_header(data)
    return Picture(
        'jpg',
        header.coded,
        header.size_wh,
        channels=len(header.components),
        orientation=header.orientation,
        profile=header.profile,
        header=header,
    )


def _parse_png(data: bytes) -> Picture:
    kept, colour, seen = [_PNG_MAGIC], [], set()
    size_wh, bits, kind, orientation = (0, 0), 8, 2, 1
    has_alpha, clear_grey = False, None
    for name, start, end in _png_chunks(data):
        body = data[start:end]
        is_new = name not in seen
        seen.add(name)
        if name == b'IHDR':
            size_wh, bits, kind = png_header(body)
            kept.append(png_chunk(name, body[:13]))
        elif name == b'acTL':
            raise ImageError('got an animated PNG, expected one picture; split the file')
        elif name == b'eXIf':
            orientation = orientation_of(body)
        elif name == b'IDAT':
            kept.append(data[start - 8 : end + 4])
        elif name == b'PLTE' and kind == _PNG_PALETTE and is_new and len(body) <= 768:
            kept.append(png_chunk(name, body))
        elif name == b'tRNS' and is_new and _fits_transparency(kind, body):
            kept.append(png_chunk(name, body))
            has_alpha = kind != _PNG_GREY
            if kind == _PNG_GREY:
                # OpenCV spreads fewer bits than eight over eight.
                scale = 255 // (2**bits - 1) if bits < 8 else 1
                clear_grey = int.from_bytes(body, 'big') * scale
        elif is_new and _is_png_colour(name, body, kind):
            colour.append(png_chunk(name, body))
    kept.append(png_chunk(b'IEND', b''))
    return Picture(
        'png',
        b''.join(kept),
        size_wh,
        channels=4 if has_alpha else PNG_CHANNELS[kind],
        bits=16 if bits == 16 else 8,
        orientation=orientation,
        colour=b''.join(colour),
        clear_grey=clear_grey,
    )


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = zlib.crc32(name + body)
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', checksum)


def png_header(body: bytes) -> tuple[tuple[int, int], int, int]:
    """
    Return size, bits a sample and colour type.

    :raises ImageError: it is none.
    """
    if len(body) != 13 or body[9] not in _PNG_SAMPLES or body[8] not in (1, 2, 4, 8, 16):
        raise ImageError('got a PNG with an impossible header; it is damaged')
    return struct.unpack_from('>II', body), body[8], body[9]


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each chunk, the end chunk last."""
    at = len(_PNG_MAGIC)
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(data):
            break
        name, start = data[at + 4 : at + 8], at + 8
        end = start + int.from_bytes(data[at : at + 4], 'big')
        if end + 4 > len(data):
            break
        yield name, start, end
        if name == b'IEND':
            return
        at = end + 4
    raise ImageError(f'got a PNG cut off at {len(data)} bytes, without its end chunk')


def _fits_transparency(kind: int, body: bytes) -> bool:
    if kind == _PNG_PALETTE:
        return 0 < len(body) <= 256
    return len(body) == {_PNG_GREY: 2, 2: 6}.get(kind)


def _is_png_colour(name: bytes, body: bytes, kind: int) -> bool:
    """Return whether a chunk says how colours look and nothing else."""
    # Grey with alpha is encoded as colour with alpha, which the same profile does not fit.
    if name == b'iCCP' and kind != _PNG_GREY_ALPHA:
        return _is_png_profile(body)
    return _PNG_COLOUR_BYTES.get(name) == len(body)


def _is_png_profile(body: bytes) -> bool:
    """Return whether a name, zlib and nothing else hold a profile."""
    name, zero, rest = body.partition(b'\0')
    if not (0 < len(name) < 80 and zero and rest[:1] == b'\0'):
        return False
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(rest[1:], MOST_PROFILE_BYTES + 1)
    except zlib.error:
        return False
    return inflate.eof and not inflate.unused_data and is_profile(profile)


def _png_runs_on(coded: bytes) -> bool:
    """Inflate a PNG and see that it ends with its picture's last row, and its data with that."""
    left = 0
    inflate = zlib.decompressobj()
    for name, start, end in _png_chunks(coded):
        if name == b'IHDR':
            left = _png_bytes(coded[start:end])
        elif name == b'IDAT':
            waiting = coded[start:end]
            while waiting and left >= 0 and not inflate.eof:
                left -= len(inflate.decompress(waiting, _INFLATED_AT_ONCE))
                waiting = inflate.unconsumed_tail
            if left < 0 or inflate.unused_data or waiting:
                return True
    return bool(left)


def unpacked(picture: Picture) -> tuple[bytes, bool | None]:
    """
    Return a file that decodes as the picture does, and what `runs_on` says where that is known.

    Of PNGs it is known: they are inflated here, once for both, and stored plainly in the file.
    """
    if picture.kind != 'png':
        return picture.coded, None
    coded = picture.coded
    chunks = [*_png_chunks(coded)]
    parts = [i for i, (name, _, _) in enumerate(chunks) if name == b'IDAT']
    size = _png_bytes(coded[chunks[0][1] : chunks[0][2]])
    if not parts or parts[-1] - parts[0] >= len(parts) or size > _MOST_INFLATED:
        return coded, None
    inflate = zlib.decompressobj()
    packed = b''.join(coded[start:end] for name, start, end in chunks if name == b'IDAT')
    try:
        rows = inflate.decompress(packed, size + 1)
        rest = b'' if inflate.eof else inflate.decompress(inflate.unconsumed_tail, 1)
    except zlib.error:
        # Its decoder may see more in it than nothing.
        return coded, True
    if len(rows) != size or rest or inflate.unused_data or inflate.unconsumed_tail:
        return coded, True
    checksum = packed[-4:] if inflate.eof else struct.pack('>I', zlib.adler32(rows))
    before, after = chunks[parts[0]][1] - 8, chunks[parts[-1]][2] + 4
    return b''.join([coded[:before], *_stored(rows, checksum), coded[after:]]), False


def _stored(rows: bytes, adler32: bytes) -> list[bytes | memoryview]:
    """Return the parts of an IDAT chunk in which nothing is compressed (RFC 1950 and 1951)."""
    parts: list[bytes | memoryview] = [b'IDAT', b'\x78\x01']
    view = memoryview(rows)
    for start in range(0, len(rows), _STORED_BLOCK):
        block = view[start : start + _STORED_BLOCK]
        is_last = start + _STORED_BLOCK >= len(rows)
        parts += [struct.pack('<BHH', is_last, len(block), len(block) ^ _STORED_BLOCK), block]
    parts.append(adler32)
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    size = sum(map(len, parts)) - 4
    return [struct.pack('>I', size), *parts, struct.pack('>I', checksum)]


def _png_bytes(body: bytes) -> int:
    """Return how many bytes a PNG's rows and their filters have."""
    (width, height), bits, kind = png_header(body)
    total = 0
    for x, y, step_x, step_y in _PASSES if body[12] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _PNG_SAMPLES[kind] // 8))
    return total


def _parse_webp(data: bytes) -> Picture:
    kept: list[bytes] = []
    profile, orientation = b'', 1
    lossless, size_wh, alpha = False, None, False
    for name, body in _webp_chunks(data):
        if name in (b'ANIM', b'ANMF'):
            raise ImageError('got an animated WebP, expected one picture; split the file')
        if name == b'VP8X' and not kept:
            # Only the bit of the alpha channel stays true.
            kept.append(_webp_chunk(name, bytes([body[0] & 0x10, 0, 0, 0]) + body[4:10]))
        elif name == b'EXIF':
            orientation = orientation_of(body.removeprefix(_EXIF))
        elif name == b'ICCP' and is_profile(body):
            profile = body
        elif name == b'ALPH' and not alpha:
            alpha = True
            kept.append(_webp_chunk(name, body))
        elif name in (b'VP8 ', b'VP8L'):
            if size_wh is not None:
                raise ImageError('got a WebP of several pictures, expected one; split the file')
            lossless = name == b'VP8L'
            size_wh = webp_size(name, body)
            alpha = alpha or (lossless and bool(body[4] & 0x10))
            kept.append(_webp_chunk(name, body))
    if size_wh is None:
        raise ImageError('got a WebP without a picture; it is damaged')
    return Picture(
        'webp',
        _webp_file(kept),
        size_wh,
        channels=4 if alpha else 3,
        orientation=orientation,
        profile=profile,
        lossless=lossless,
    )


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    stated = 8 + int.from_bytes(data[4:8], 'little')
    if stated > len(data):
        raise ImageError(f'got a WebP cut off at {len(data)} bytes, expected {stated}')
    at = 12
    while at + 8 <= stated:
        name, length = struct.unpack_from('<4sI', data, at)
        end = at + 8 + length
        if end > stated:
            raise ImageError('got a WebP whose parts are longer than the file; it is damaged')
        yield name, data[at + 8 : end]
        at = end + length % 2


def _webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack('<I', len(body)) + body + b'\0' * (len(body) % 2)


def _webp_file(chunks: list[bytes]) -> bytes:
    body = b'WEBP' + b''.join(chunks)
    return b'RIFF' + struct.pack('<I', len(body)) + body


def webp_size(name: bytes, body: bytes) -> tuple[int, int]:
    """
    Return width and height from the first ten bytes of a picture.

    :raises ImageError: there are fewer.
    """
    if len(body) < 10:
        raise ImageError('got a WebP with a cut-off picture header; it is damaged')
    if name == b'VP8L':
        bits = int.from_bytes(body[1:5], 'little')
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = int.from_bytes(body[6:8], 'little'), int.from_bytes(body[8:10], 'little')
    return width & 0x3FFF, height & 0x3FFF


def _dressed_webp(coded: bytes, picture: Picture, exif: bytes) -> bytes:
    chunks = dict(_webp_chunks(coded))
    width, height = picture.size_wh
    size = (width - 1).to_bytes(3, 'little') + (height - 1).to_bytes(3, 'little')
    flags = 0x10 * (picture.channels == 4) | 0x20 * bool(picture.profile) | 0x08 * bool(exif)
    chunks.pop(b'VP8X', None)
    return _webp_file(
        [
            _webp_chunk(b'VP8X', bytes([flags, 0, 0, 0]) + size),
            *([_webp_chunk(b'ICCP', picture.profile)] if picture.profile else []),
            *(_webp_chunk(name, body) for name, body in chunks.items()),
            *([_webp_chunk(b'EXIF', exif)] if exif else []),
        ]
    )


def _webp_runs_on(coded: bytes) -> bool:
    """
    Return whether a WebP can be decoded without its parts' last bytes.

    Unlike others, its decoder refuses a picture whose data ends too early.
    """
    chunks = list(_webp_chunks(coded))
    for i, (name, body) in enumerate(chunks):
        if name == b'VP8X' or len(body) <= 2 * _WEBP_SPARE_BYTES:
            continue
        shorter = [*chunks[:i], (name, body[:-_WEBP_SPARE_BYTES]), *chunks[i + 1 :]]
        probe = _webp_file([_webp_chunk(*chunk) for chunk in shorter])
        if cv2.imdecode(np.frombuffer(probe, np.uint8), cv2.IMREAD_UNCHANGED) is not None:
            return True
    return False


def _parse_bmp(data: bytes) -> Picture:
    length, header_bytes = struct.unpack_from('<I8xI', data, 2)
    if length > len(data):
        raise ImageError(f'got a BMP cut off at {len(data)} bytes, expected {length}')
    kind = '<HH2xH' if header_bytes == 12 else '<ii2xHI'
    width, height, bits, *compression = struct.unpack_from(kind, data, 18)
    size_wh = (width, abs(height))
    if not any(compression):
        row = -(-width * bits // 32) * 4
        if len(data) < 14 + header_bytes + row * abs(height):
            raise ImageError(f'got a BMP of {size_wh} pixels in {len(data)} bytes; it is cut off')
    return Picture('bmp', data, size_wh, lossless=True)


def _parse_tiff(data: bytes) -> Picture:
    order = '<' if data.startswith(b'II') else '>'
    (directory,) = struct.unpack_from(f'{order}I', data, 4)
    (entries,) = struct.unpack_from(f'{order}H', data, directory)
    values = {}
    for i in range(entries):
        at = directory + 2 + 12 * i
        tag, kind, count = struct.unpack_from(f'{order}HHI', data, at)
        if kind in (3, 4):
            at = at + 8
            if count * _TIFF_TYPE_BYTES[kind] > 4:
                (at,) = struct.unpack_from(f'{order}I', data, at)
            (values[tag],) = struct.unpack_from(f'{order}{"HI"[kind - 3]}', data, at)
    (following,) = struct.unpack_from(f'{order}I', data, directory + 2 + 12 * entries)
    if following:
        raise ImageError('got a TIFF of several pictures, expected one; split the file')
    place = orientation_place(data)
    coded = data
    if place is not None:
        # OpenCV would turn the pixels; here they are turned like those of other files.
        coded = data[:place] + struct.pack(f'{order}H', 1) + data[place + 2 :]
    bits = values.get(258, 1)
    return Picture(
        'tiff',
        coded,
        (values.get(256, 0), values.get(257, 0)),
        channels=values.get(277, 1),
        bits=bits,
        orientation=orientation_of(data),
        lossless=values.get(259, 1) != 1,
    )


def write_tiff(samples: np.ndarray, picture: Picture) -> bytes:
    """
    Return a TIFF file of samples, in one strip, compressed where its source is.

    :param samples: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA; uint8 or uint16.
    :param picture: where the orientation comes from.
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    strip = np.ascontiguousarray(samples, samples.dtype.newbyteorder('<')).tobytes()
    if picture.lossless:
        strip = zlib.compress(strip, 1)
    bits = samples.dtype.itemsize * 8
    at_bits = 8 + len(strip) + len(strip) % 2
    shorts = struct.pack(f'<{channels}H', *[bits] * channels)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits if channels == 1 else at_bits),
        (259, 3, 1, 8 if picture.lossless else 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (273, 4, 1, 8),
        (274, 3, 1, picture.orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(strip)),
        (284, 3, 1, 1),
        *([(338, 3, 1, 2)] if channels == 4 else []),
    ]
    return b''.join(
        [
            b'II*\0' + struct.pack('<I', at_bits + len(shorts)),
            strip.ljust(at_bits - 8, b'\0') + shorts,
            struct.pack('<H', len(entries)),
            *(struct.pack('<HHII', *entry) for entry in entries),
            bytes(4),
        ]
    )


_PARSERS: dict[str, Callable[[bytes], Picture]] = {
    'jpg': _parse_jpeg,
    'png': _parse_png,
    'webp': _parse_webp,
    'bmp': _parse_bmp,
    'tiff': _parse_tiff,
}
KINDS = tuple(_PARSERS)
