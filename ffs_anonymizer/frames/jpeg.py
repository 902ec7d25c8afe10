"""What a JPEG file says of itself, and whether its data is all there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ffs_anonymizer.errors import ImageError
import numpy as np
from numpy.typing import NDArray

MAGIC = b'\xff\xd8\xff'
_SOI, _EOI, _SOS, _DQT, _DHT, _DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD
_APP0, _APP1, _APP2 = 0xE0, 0xE1, 0xE2
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = {*range(0xC0, 0xD0)} - {_DHT, 0xC8, 0xCC}
_RESTARTS = range(0xD0, 0xD8)
_ORIENTATION_TAG = 0x0112
_ABSENT = 0x3F

# Annex K of the standard, which the IJG quality scales, in zigzag order as the file has it.
_LUMA = bytes.fromhex(
    '100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933383740485c4e404457453738506d'
    '51575f626768673e4d71797064785c656763'
)
_CHROMA = bytes.fromhex('111212181518' + '2f1a1a2f63423842' + '63' * 50)


@dataclass(frozen=True)
class Component:
    """
    Describe a colour component.

    :param sampling_wh: samples of this component a block of pixels, across and down.
    :param table: the number of its quantization table.
    """

    number: int
    sampling_wh: tuple[int, int]
    table: int


@dataclass(frozen=True)
class Scan:
    """
    Describe one scan.

    :param components: of each, its number and the numbers of its DC and AC Huffman tables.
    :param band: first and last coefficient.
    :param bits: successive approximation, the bit position before and now.
    :param parts: the entropy-coded bytes between the restart markers.
    :param restarts: the second byte of each restart marker.
    :param huffman: by class and number, the counts of codes of each length and their symbols.
    """

    components: tuple[tuple[int, int, int], ...]
    band: tuple[int, int]
    bits: tuple[int, int]
    restart_interval: int
    parts: tuple[bytes, ...]
    restarts: bytes
    huffman: dict[tuple[int, int], bytes]


@dataclass
class Header:
    """
    Hold all that precedes and surrounds the entropy-coded data.

    :param tables: quantization tables by number, 64 values in zigzag order.
    :param icc: the colour profile's segments, as in the file.
    :param orientation: of Exif, 1 to 8; 1 is upright.
    :param end: the index after the end marker.
    """

    size_wh: tuple[int, int] = (0, 0)
    components: tuple[Component, ...] = ()
    progressive: bool = False
    tables: dict[int, tuple[int, ...]] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)
    icc: bytes = b''
    orientation: int = 1
    end: int = 0


def read_header(data: bytes) -> Header:
    """
    Read a JPEG file from its start to its end marker.

    :raises ImageError: the file is cut off or contradicts itself, is of a kind that is not
        supported, or holds more than one picture.
    """
    header = Header()
    huffman: dict[tuple[int, int], bytes] = {}
    restart_interval = 0
    for marker, start, end in _segments(data):
        body = data[start:end]
        if marker == _EOI:
            header.end = end
        elif marker in _FRAMES:
            _read_frame(header, marker, body)
        elif marker == _DQT:
            header.tables.update(_quantization_tables(body))
        elif marker == _DHT:
            huffman = {**huffman, **_huffman_tables(body)}
        elif marker == _DRI:
            restart_interval = int.from_bytes(body[:2], 'big')
        elif marker == _SOS:
            header.scans.append(_read_scan(header, data, start, end, restart_interval, huffman))
        elif marker == _APP1 and body.startswith(b'Exif\0\0'):
            header.orientation = _orientation(body[6:])
        elif marker == _APP2 and body.startswith(b'ICC_PROFILE\0'):
            header.icc += data[start - 4 : end]
        elif marker == _APP2 and body.startswith(b'MPF\0'):
            raise ImageError('got a JPEG of several pictures (MPO), expected one; split the file')
    if not header.components:
        raise ImageError('got a JPEG without a frame header; the file is damaged')
    _check_scans(header)
    return header


def jpeg_size_wh(data: bytes) -> tuple[int, int]:
    """
    Return width and height, even if the file is cut off after them.

    :raises ImageError: there is no readable frame header.
    """
    for marker, start, end in _segments(data):
        if marker in _FRAMES and end - start >= 6:
            return _size_wh(data[start:end])
    raise ImageError('got a JPEG without a frame header; the file is damaged')


def jpeg_quality(data: bytes) -> int:
    """
    Return the IJG quality, 1 to 100, whose tables are nearest to the file's.

    :raises ImageError: the file is not a readable JPEG.
    """
    return quality_of(read_header(data))


def jpeg_sampling(data: bytes) -> str:
    """
    Return the chroma subsampling as 444, 422, 440, 420, 411 or grey.

    Others are named by the next finer one.

    :raises ImageError: the file is not a readable JPEG.
    """
    return sampling_of(read_header(data))


def quality_of(header: Header) -> int:
    """Return the IJG quality, 1 to 100, whose tables are nearest to the header's."""
    numbers = [component.table for component in header.components[:2]]
    source = np.array([header.tables[number] for number in numbers], np.float32)
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    standard = np.array([list(_LUMA), list(_CHROMA)])[: len(source)]
    scaled = np.clip((standard[None] * scale[:, None, None] + 50) // 100, 1, 255)
    distance = np.abs(np.log(scaled) - np.log(source)).sum(axis=(1, 2))
    return int(quality[distance.argmin()])


def sampling_of(header: Header) -> str:
    """Return the chroma subsampling, or the next finer one that has a name."""
    if len(header.components) == 1:
        return 'grey'
    luma, *chroma = (component.sampling_wh for component in header.components)
    across = luma[0] // max(w for w, _ in chroma)
    down = luma[1] // max(h for _, h in chroma)
    names = {(2, 1): '422', (1, 2): '440', (2, 2): '420', (4, 1): '411'}
    return names.get((across, down), '444')


def check_complete(header: Header, image: NDArray[np.uint8]) -> None:
    """
    Check that the decoded picture came from the file's data to its last block.

    Decoders fill blocks that the data does not reach with mid grey and say nothing. So a picture
    (or the part before a restart marker) that ends in a unit of mid grey is counted again, block
    by block. What this does not see: a last unit of which only a part is missing, data that is
    wrong but long enough, and missing refinement of a progressive file.

    :param image: (H, W) or (H, W, 3), as decoded.
    :raises ImageError: the data ends before the picture does.
    """
    if header.progressive:
        return
    for scan in header.scans:
        if len(scan.components) < len(header.components):
            count_blocks(header, scan)
            continue
        across, down = _mcus(header, scan)
        step = scan.restart_interval or across * down
        last = np.append(np.arange(step, across * down, step), across * down) - 1
        mcu_w, mcu_h = _mcu_size(header)
        height, width = image.shape[:2]
        x0, y0 = last % across * mcu_w, last // across * mcu_h
        x1, y1 = np.minimum(x0 + mcu_w, width), np.minimum(y0 + mcu_h, height)
        middle = image[(y0 + y1) // 2, (x0 + x1) // 2].reshape(len(last), -1)
        suspects = np.column_stack([x0, y0, x1, y1])[(middle == 128).all(axis=1)]
        if any(_is_grey(image[t:b, left:r]) for left, t, r, b in suspects.tolist()):
            count_blocks(header, scan)


def count_blocks(header: Header, scan: Scan) -> None:
    """
    Read a sequential scan code by code and see that no block is missing.

    This is slow, about a second for a megabyte, and exact.

    :raises ImageError: the data holds a code that does not exist, or ends before the picture does.
    """
    across, down = _mcus(header, scan)
    total = across * down
    sampling = {component.number: component.sampling_wh for component in header.components}
    lookups = {key: _lookup(table) for key, table in scan.huffman.items()}
    blocks = []
    for number, dc, ac in scan.components:
        repeat = 1 if len(scan.components) == 1 else sampling[number][0] * sampling[number][1]
        if (0, dc) not in lookups or (1, ac) not in lookups:
            raise ImageError('got a JPEG that refers to a Huffman table it does not have')
        blocks += [(lookups[0, dc], lookups[1, ac])] * repeat
    step = scan.restart_interval or total
    for i, part in enumerate(scan.parts):
        _count_part(part, blocks, min(step, total - i * step))


def metadata_of(header: Header) -> bytes:
    """Return the segments worth keeping, none of which can hold a picture: turn and colours."""
    if header.orientation == 1:
        return header.icc
    tag = _ORIENTATION_TAG.to_bytes(2, 'big')
    entry = tag + b'\0\3\0\0\0\1' + bytes([0, header.orientation]) + b'\0\0'
    body = b'Exif\0\0MM\0*\0\0\0\x08\0\1' + entry + b'\0\0\0\0'
    return bytes([0xFF, _APP1]) + (len(body) + 2).to_bytes(2, 'big') + body + header.icc


def insert_metadata(data: bytes, segments: bytes) -> bytes:
    """Put segments behind the start marker and the JFIF segment of a file just encoded."""
    at = 2
    if data[2:4] == bytes([0xFF, _APP0]):
        at += 2 + int.from_bytes(data[4:6], 'big')
    return data[:at] + segments + data[at:]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each marker with the start and the end of what it holds, the end marker last."""
    at = 2
    while True:
        while data[at : at + 2] == b'\xff\xff':
            at += 1
        if at + 2 > len(data):
            raise ImageError(
                f'got a JPEG cut off at {len(data)} bytes, without its end marker; it is damaged'
            )
        if data[at] != 0xFF:
            raise ImageError(f'got a JPEG with no marker at byte {at}; it is damaged')
        marker = data[at + 1]
        start = at + 4
        if marker == _EOI:
            yield marker, at + 2, at + 2
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
        if end < start or end > len(data):
            raise ImageError(f'got a JPEG cut off at {len(data)} bytes, inside a header segment')
        yield marker, start, end
        at = end
        if marker == _SOS:
            at = _scan_marks(data, end)[-1]


def _scan_marks(data: bytes, start: int) -> list[int]:
    """Return where each restart marker of a scan is, and last where the scan ends."""
    marks = []
    at = data.find(b'\xff', start)
    while 0 <= at < len(data) - 1:
        following = data[at + 1]
        if following in _RESTARTS:
            marks.append(at)
        elif following not in (0x00, 0xFF):
            return [*marks, at]
        at = data.find(b'\xff', at + (1 if following == 0xFF else 2))
    return [*marks, len(data)]


def _size_wh(body: bytes) -> tuple[int, int]:
    """Return width and height from the body of a frame header."""
    return int.from_bytes(body[3:5], 'big'), int.from_bytes(body[1:3], 'big')


def _read_frame(header: Header, marker: int, body: bytes) -> None:
    """Take the frame header in."""
    if header.components:
        raise ImageError('got a JPEG with two frame headers; it is damaged')
    if marker not in (_BASELINE, _EXTENDED, _PROGRESSIVE) or body[:1] != b'\x08':
        raise ImageError(
            f'got a JPEG of kind SOF{marker - _BASELINE} with {body[0] if body else 0} bits, '
            'expected baseline or progressive with 8; encode it anew'
        )
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise ImageError('got a JPEG with a cut-off frame header; it is damaged')
    if body[5] not in (1, 3):
        raise ImageError(f'got a JPEG of {body[5]} components, expected 1 or 3; encode it anew')
    header.size_wh = _size_wh(body)
    header.progressive = marker == _PROGRESSIVE
    parts = [body[6 + 3 * i : 9 + 3 * i] for i in range(body[5])]
    header.components = tuple(Component(p[0], (p[1] >> 4, p[1] & 15), p[2]) for p in parts)
    if min(header.size_wh) < 1 or any(min(c.sampling_wh) < 1 for c in header.components):
        raise ImageError(f'got a JPEG of {header.size_wh} pixels; it is damaged')


def _read_scan(
    header: Header,
    data: bytes,
    start: int,
    end: int,
    restart_interval: int,
    huffman: dict[tuple[int, int], bytes],
) -> Scan:
    """Take a scan in, up to the next marker that is not part of it."""
    body = data[start:end]
    count = body[0] if body else 0
    if len(body) != 4 + 2 * count or not 1 <= count <= len(header.components):
        raise ImageError('got a JPEG with a scan header that does not fit it; it is damaged')
    pairs = [body[1 + 2 * i : 3 + 2 * i] for i in range(count)]
    marks = _scan_marks(data, end)
    starts = [end, *(mark + 2 for mark in marks)]
    return Scan(
        components=tuple((pair[0], pair[1] >> 4, pair[1] & 15) for pair in pairs),
        band=(body[-3], body[-2]),
        bits=(body[-1] >> 4, body[-1] & 15),
        restart_interval=restart_interval,
        parts=tuple(data[a:b] for a, b in zip(starts, marks, strict=False)),
        restarts=bytes(data[mark + 1] for mark in marks[:-1]),
        huffman=huffman,
    )


def _check_scans(header: Header) -> None:
    """Check that the scans hold all components, coefficients, bits and restart markers."""
    missing = {component.number: np.full(64, _ABSENT) for component in header.components}
    for scan in header.scans:
        if any(number not in missing for number, _, _ in scan.components):
            raise ImageError('got a JPEG with a scan of an unknown component; it is damaged')
        for number, _, _ in scan.components:
            first, last = scan.band if header.progressive else (0, 63)
            missing[number][first : last + 1] = scan.bits[1] if header.progressive else 0
        across, down = _mcus(header, scan)
        step = scan.restart_interval
        expected = -(-across * down // step) - 1 if step else 0
        if scan.restarts != bytes(0xD0 + i % 8 for i in range(expected)):
            raise ImageError(
                f'got a JPEG with {len(scan.restarts)} restart markers, '
                f'expected {expected} in order; part of its data is missing'
            )
    if any(bits.any() for bits in missing.values()):
        raise ImageError('got a JPEG whose last scans are missing; it is cut off')
    if any(component.table not in header.tables for component in header.components):
        raise ImageError('got a JPEG that refers to a quantization table it does not have')


def _mcu_size(header: Header) -> tuple[int, int]:
    """Return width and height in pixels of the smallest unit of an interleaved scan."""
    if len(header.components) == 1:
        return 8, 8
    sampling = [component.sampling_wh for component in header.components]
    return 8 * max(w for w, _ in sampling), 8 * max(h for _, h in sampling)


def _mcus(header: Header, scan: Scan) -> tuple[int, int]:
    """Return the number of units of a scan, across and down."""
    width, height = header.size_wh
    mcu_w, mcu_h = _mcu_size(header)
    if len(scan.components) == 1 and len(header.components) > 1:
        largest_w, largest_h = mcu_w // 8, mcu_h // 8
        own = next(c for c in header.components if c.number == scan.components[0][0])
        width = -(-width * own.sampling_wh[0] // largest_w)
        height = -(-height * own.sampling_wh[1] // largest_h)
        mcu_w = mcu_h = 8
    return -(-width // mcu_w), -(-height // mcu_h)


def _is_grey(unit: NDArray[np.uint8]) -> bool:
    """Return whether a unit is mid grey, but for edges that take colour from its neighbours."""
    margin_y, margin_x = (2 if size > 4 else 0 for size in unit.shape[:2])
    inner = unit[margin_y : unit.shape[0] - margin_y, margin_x : unit.shape[1] - margin_x]
    return bool((inner == 128).all())


def _quantization_tables(body: bytes) -> dict[int, tuple[int, ...]]:
    """Return the tables of one segment by number."""
    tables = {}
    at = 0
    while at < len(body):
        width = 2 if body[at] >> 4 else 1
        values = body[at + 1 : at + 1 + 64 * width]
        if len(values) != 64 * width or not any(values):
            raise ImageError('got a JPEG with a cut-off quantization table; it is damaged')
        tables[body[at] & 15] = tuple(
            max(1, int.from_bytes(values[i : i + width], 'big'))
            for i in range(0, len(values), width)
        )
        at += 1 + 64 * width
    return tables


def _huffman_tables(body: bytes) -> dict[tuple[int, int], bytes]:
    """Return the tables of one segment by class and number."""
    tables = {}
    at = 0
    while at < len(body):
        size = 16 + sum(body[at + 1 : at + 17])
        table = body[at + 1 : at + 1 + size]
        if len(table) != size:
            raise ImageError('got a JPEG with a cut-off Huffman table; it is damaged')
        tables[body[at] >> 4, body[at] & 15] = table
        at += 1 + size
    return tables


def _lookup(table: bytes) -> list[tuple[int, int]]:
    """Return, for each 16 bits, the length of the code they begin with and its symbol."""
    lookup = [(0, 0)] * (1 << 16)
    code, at = 0, 16
    for length in range(1, 17):
        for _ in range(table[length - 1]):
            span = 1 << (16 - length)
            lookup[code * span : (code + 1) * span] = [(length, table[at])] * span
            code, at = code + 1, at + 1
        if code > 1 << length:
            raise ImageError('got a JPEG with an impossible Huffman table; it is damaged')
        code *= 2
    return lookup


def _count_part(
    part: bytes, blocks: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]], units: int
) -> None:
    """Read the codes of so many units from the bytes between two restart markers."""
    stream = part.replace(b'\xff\x00', b'\xff')
    bits = 8 * len(stream)
    stream += b'\0\0\0'
    at = 0

    def step(lookup: list[tuple[int, int]]) -> tuple[int, int]:
        byte, offset = at >> 3, at & 7
        window = int.from_bytes(stream[byte : byte + 3], 'big')
        return lookup[window >> (8 - offset) & 0xFFFF]

    for _ in range(units):
        for dc, ac in blocks:
            length, symbol = step(dc) if at < bits else (0, 0)
            at += length + symbol
            coefficient = 1
            while length and coefficient < 64 and at < bits:
                length, symbol = step(ac)
                at += length + (symbol & 15)
                if symbol & 15 == 0 and symbol != 0xF0:
                    break
                coefficient += (symbol >> 4) + 1
            else:
                length = length if coefficient >= 64 else 0
            if not length or at > bits:
                raise ImageError('got a JPEG whose data ends before its picture; it is cut off')


def _orientation(tiff: bytes) -> int:
    """Return the orientation that an Exif segment states, 1 if it states none."""
    order = {b'II': 'little', b'MM': 'big'}.get(tiff[:2])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], 'little' if order == 'little' else 'big')

    directory = number(4, 4)
    for i in range(number(directory, 2)):
        entry = directory + 2 + 12 * i
        if number(entry, 2) == _ORIENTATION_TAG:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
