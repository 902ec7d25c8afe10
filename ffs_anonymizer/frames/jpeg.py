"""
A JPEG file from its first to its last byte: what it says of itself, and whether all is there.

The one walk along its segments also says which bytes are the coded picture and what is needed to
decode it; all others (thumbnails, comments, what is unknown, what follows the end) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
import functools

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.metadata import is_profile, orientation_of
import numpy as np
from numpy.typing import NDArray

MAGIC = b'\xff\xd8\xff'
_SOI, _EOI, _SOS, _DQT, _DHT, _DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_EXIF, _PROFILE = b'Exif\0\0', b'ICC_PROFILE\0'
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = {*range(0xC0, 0xD0)} - {_DHT, 0xC8, 0xCC}
_RESTARTS = range(0xD0, 0xD8)
_ABSENT = 0x3F
# libjpeg writes ten scans; every scan of a hostile file costs as much as a picture.
_FREE_SCANS, _MOST_SCANNED_PIXELS = 16, 1 << 30
_MOST_SEGMENTS = 4096
# Of a file with a table for each scan; more is no table but something else.
_MOST_TABLE_BYTES = 1 << 14
_MOST_PROFILE_PARTS = 4
_PART_BYTES = 65519
# How many units behind a part are looked at, and of how many parts.
_PROBED_UNITS, _MOST_PROBED_PARTS, _MOST_ADDED = 32, 4096, 350

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
    :param spans: where in the file the entropy-coded bytes between the restart markers lie.
    :param restarts: the second byte of each restart marker.
    :param huffman: by class and number, the counts of codes of each length and their symbols.
    """

    components: tuple[tuple[int, int, int], ...]
    band: tuple[int, int]
    bits: tuple[int, int]
    restart_interval: int
    data: bytes
    spans: tuple[tuple[int, int], ...]
    restarts: bytes
    huffman: dict[tuple[int, int], bytes]

    @property
    def parts(self) -> tuple[bytes, ...]:
        """Return the entropy-coded bytes between the restart markers."""
        return tuple(self.data[start:end] for start, end in self.spans)


@dataclass
class Header:
    """
    Hold all that precedes and surrounds the entropy-coded data.

    :param tables: quantization tables by number, 64 values in zigzag order.
    :param profile: the ICC profile, if it is one.
    :param orientation: of Exif, 1 to 8; 1 is upright.
    :param coded: the file without all that is not needed to decode the picture.
    :param table_bytes: how many bytes of tables it has.
    :param has_end: whether there is an end marker.
    """

    size_wh: tuple[int, int] = (0, 0)
    components: tuple[Component, ...] = ()
    progressive: bool = False
    tables: dict[int, tuple[int, ...]] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)
    profile: bytes = b''
    orientation: int = 1
    coded: bytes = b''
    table_bytes: int = 0
    has_end: bool = False


def read_header(data: bytes) -> Header:
    """
    Read a JPEG file from its start to its end marker, or to where its data ends without one.

    Of several pictures (MPO) it is the first.

    :raises ImageError: the file is cut off or contradicts itself, or is of a kind that is not
        supported.
    """
    header = Header()
    kept, profile = [data[:2]], []
    huffman: dict[tuple[int, int], bytes] = {}
    restart_interval = 0
    marks = _Marks(data)
    for marker, start, end in _segments(data, marks):
        body = data[start:end]
        is_needed = marker in (*_FRAMES, _DQT, _DHT, _DRI)
        if is_needed:
            kept.append(data[start - 4 : end])
        if marker in (_DQT, _DHT):
            header.table_bytes += len(body)
        if marker == _EOI:
            header.has_end = start > 0
        elif marker in _FRAMES:
            _read_frame(header, marker, body)
        elif marker == _DQT:
            header.tables.update(_quantization_tables(body))
        elif marker == _DHT:
            huffman = {**huffman, **_huffman_tables(body)}
        elif marker == _DRI:
            if len(body) != 2:
                raise ImageError('got a JPEG with an impossible restart interval; it is damaged')
            restart_interval = int.from_bytes(body, 'big')
        elif marker == _SOS:
            tables = huffman or _standard_tables()
            scan = _read_scan(header, data, (start, end), marks, restart_interval, tables)
            header.scans.append(scan)
            kept.append(data[start - 4 : scan.spans[-1][1]])
            _check_cost(header)
        elif marker == _APP0 and body.startswith(b'JFIF\0'):
            # Its two last bytes give the size of a thumbnail, which follows them.
            kept.append(segment(_APP0, body[:12].ljust(12, b'\0') + b'\0\0'))
        elif marker == _APP14 and body.startswith(b'Adobe'):
            kept.append(segment(_APP14, body[:12]))
        elif marker == _APP1 and body.startswith(_EXIF):
            header.orientation = orientation_of(body[len(_EXIF) :])
        elif marker == _APP2 and body.startswith(_PROFILE):
            profile.append(body[len(_PROFILE) :])
    if not header.components:
        raise ImageError('got a JPEG without a frame header; the file is damaged')
    _check_scans(header)
    if header.progressive and not header.has_end:
        raise ImageError(_cut_off(data))
    header.coded = b''.join([*kept, b'\xff\xd9'])
    header.profile = _joined_profile(profile)
    return header


def segment(marker: int, body: bytes) -> bytes:
    """Return a segment with its marker."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, 'big') + body


def dressed(coded: bytes, *, profile: bytes, exif: bytes) -> bytes:
    """
    Return a file with segments behind its start marker and its JFIF segment.

    :param profile: ICC, or nothing.
    :param exif: a TIFF header, or nothing.
    """
    at = 2
    if coded[2:4] == bytes([0xFF, _APP0]):
        at += 2 + int.from_bytes(coded[4:6], 'big')
    parts = [profile[i : i + _PART_BYTES] for i in range(0, len(profile), _PART_BYTES)]
    segments = [segment(_APP1, _EXIF + exif)] if exif else []
    segments += [
        segment(_APP2, _PROFILE + bytes([i, len(parts)]) + part)
        for i, part in enumerate(parts, start=1)
    ]
    return b''.join([coded[:at], *segments, coded[at:]])


def jpeg_size_wh(data: bytes) -> tuple[int, int]:
    """
    Return width and height, even if the file is cut off after them.

    :raises ImageError: there is no readable frame header.
    """
    for marker, start, end in _segments(data, _Marks(data)):
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


def runs_on(header: Header) -> bool:
    """
    Return whether more may be coded than the picture, be it behind the last block or in tables.

    Decoders pass over bytes behind the last block that a scan, or the part before a restart
    marker, has. So each part is decoded once more, as a picture that is a few units larger and at
    an eighth of its size; zeros are put behind the part, and all that the further units show must
    come from them. What this does not see: what looks like zeros to begin with for longer than it
    looks. Progressive pictures cannot be looked at so, and may hold more.
    """
    if header.table_bytes > _MOST_TABLE_BYTES:
        return True
    if header.progressive:
        # What stands behind the last blocks of its scans is not seen: it does not pass.
        return True
    for scan in header.scans:
        across, down = _mcus(header, scan)
        step = scan.restart_interval or across * down
        if len(scan.spans) > _MOST_PROBED_PARTS or len(scan.components) not in (1, 3):
            return True
        for i, part in enumerate(scan.parts):
            units = min(step, across * down - i * step)
            if _part_runs_on(header, scan, part, (min(units, across), units)):
                return True
    return False


def _part_runs_on(header: Header, scan: Scan, part: bytes, across_units: tuple[int, int]) -> bool:
    """Return whether a part holds more than so many units, as far as is seen."""
    across, units = across_units
    by_number = {component.number: component for component in header.components}
    chosen = [by_number[number] for number, _, _ in scan.components]
    sampling = [(1, 1)] if len(chosen) == 1 else [c.sampling_wh for c in chosen]
    block_w, block_h = sampling[0]
    if any(w > block_w or h > block_h for w, h in sampling):
        return True
    down = -(-(units + _PROBED_UNITS) // across)
    size_wh = (8 * block_w * across, 8 * block_h * down)
    frame = bytes([8]) + size_wh[1].to_bytes(2, 'big') + size_wh[0].to_bytes(2, 'big')
    frame += bytes([len(chosen)])
    order = bytes([len(chosen)])
    zero_bits = 0
    for i, ((w, h), (_, dc, ac)) in enumerate(zip(sampling, scan.components, strict=True)):
        frame += bytes([i, w << 4 | h, 0])
        order += bytes([i, dc << 4 | ac])
        if (0, dc) not in scan.huffman or (1, ac) not in scan.huffman:
            return True
        zero_bits += w * h * _zero_bits(scan.huffman[0, dc], scan.huffman[1, ac])
    # Zeros decode with all tables, ones do not: they may stand behind the last block.
    part = part.rstrip(b'\xff')
    if part.endswith(b'\xff\0'):
        part = part[:-2] + b'\0'
    last = part[-1] if part else 0
    part = part[:-1] + bytes([last & (last + 1)])
    zeros = bytes((across * down - units + 1) * zero_bits // 8 + 64)
    tables = b''.join(
        bytes([kind << 4 | number]) + table for (kind, number), table in scan.huffman.items()
    )
    probe = b''.join(
        [
            b'\xff\xd8',
            # The grey of a block is its first coefficient over eight: nothing saturates.
            segment(_DQT, bytes([0]) + bytes([1]) * 64),
            segment(_BASELINE if _is_baseline(scan) else _EXTENDED, frame),
            segment(_DHT, tables),
            segment(_SOS, order + bytes([0, 63, 0])),
            part,
            zeros,
        ]
    )
    shown = cv2.imdecode(np.frombuffer(probe, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if shown is None or shown.shape != (down * block_h, across * block_w):
        return True
    blocks = shown.reshape(down, block_h, across, block_w).transpose(0, 2, 1, 3).reshape(-1)
    last, behind = int(blocks[units * block_w * block_h - 1]), blocks[units * block_w * block_h :]
    # What a block of zeros adds to the one before; decoders wrap where it adds up to too much.
    step = -(2 ** scan.huffman[0, scan.components[0][1]][16] - 1) / 8
    behind = behind[: int(_MOST_ADDED / max(-step, 1e-9))].astype(int)
    if last == 255 and step:
        return bool((np.diff(behind) > 0).any())
    expected = np.clip(last + step * np.arange(1, len(behind) + 1), 0, 255)
    return bool((np.abs(behind - expected) > (1 if step else 0)).any())


def _is_baseline(scan: Scan) -> bool:
    return all(dc < 2 and ac < 2 for _, dc, ac in scan.components)


def _zero_bits(dc: bytes, ac: bytes) -> int:
    """Return how many bits a block takes whose bits are all zero."""
    lengths = [next((i for i in range(16) if table[i]), 15) + 1 for table in (dc, ac)]
    run, size = ac[16] >> 4, ac[16] & 15
    steps = 1 if not size and run < 15 else -(-63 // (run + 1))
    return lengths[0] + dc[16] + steps * (lengths[1] + size)


@functools.lru_cache(maxsize=1)
def _standard_tables() -> dict[tuple[int, int], bytes]:
    """Return the Huffman tables that a file without any means, as films of JPEG pictures do."""
    _, encoded = cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))
    data = encoded.tobytes()
    tables: dict[tuple[int, int], bytes] = {}
    for marker, start, end in _segments(data, _Marks(data)):
        if marker == _DHT:
            tables.update(_huffman_tables(data[start:end]))
    return tables


def _joined_profile(parts: list[bytes]) -> bytes:
    """Return the profile of numbered parts; nothing where they make none."""
    ordered = sorted(parts)
    numbers = [part[:2] for part in ordered]
    count = len(ordered)
    if count > _MOST_PROFILE_PARTS or numbers != [bytes([i + 1, count]) for i in range(count)]:
        return b''
    profile = b''.join(part[2:] for part in ordered)
    return profile if is_profile(profile) else b''


def _check_cost(header: Header) -> None:
    """
    Refuse a file of so many scans that decoding would stall.

    :raises ImageError: each scan costs a pass over the picture.
    """
    width, height = header.size_wh
    most = max(_FREE_SCANS, _MOST_SCANNED_PIXELS // max(1, width * height))
    if len(header.scans) > min(most, 100):
        raise ImageError(
            f'got a JPEG of more than {min(most, 100)} scans for {width}x{height} pixels, '
            'expected ten; encode it anew'
        )


class _Marks:
    """
    Hold where all markers of a file are, found at one go.

    :param at: (N,) int, indices of their first bytes, those within segments too.
    """

    def __init__(self, data: bytes) -> None:
        values = np.frombuffer(data, np.uint8)
        at = np.flatnonzero(values[:-1] == 0xFF)
        second = values[at + 1]
        is_marker = (second != 0) & (second != 0xFF)
        self.at, self._second = at[is_marker], second[is_marker]
        is_restart = (self._second >= _RESTARTS.start) & (self._second < _RESTARTS.stop)
        self._stops = self.at[~is_restart]
        self._end = len(data)

    def of_scan(self, start: int) -> tuple[list[int], bytes, int]:
        """Return where a scan's restart markers are, their second bytes, and where it ends."""
        next_stop = int(np.searchsorted(self._stops, start))
        end = int(self._stops[next_stop]) if next_stop < len(self._stops) else self._end
        first, last = np.searchsorted(self.at, [start, end])
        return self.at[first:last].tolist(), self._second[first:last].tobytes(), end


def _cut_off(data: bytes) -> str:
    return f'got a JPEG cut off at {len(data)} bytes, without its end marker; it is damaged'


def _segments(data: bytes, marks: _Marks) -> Iterator[tuple[int, int, int]]:
    """
    Yield each marker with the start and the end of what it holds, the end marker last.

    An end marker that is not there, where a scan has come before, begins at 0.
    """
    at, has_scan = 2, False
    for _ in range(_MOST_SEGMENTS):
        while data[at : at + 2] == b'\xff\xff':
            at += 1
        if at + 2 > len(data):
            if has_scan:
                yield _EOI, 0, 0
                return
            raise ImageError(_cut_off(data))
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
            _, _, at = marks.of_scan(end)
            has_scan = True
    raise ImageError(f'got a JPEG of more than {_MOST_SEGMENTS} segments; encode it anew')


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
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
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
    span: tuple[int, int],
    marks: _Marks,
    restart_interval: int,
    huffman: dict[tuple[int, int], bytes],
) -> Scan:
    """Take a scan in, up to the next marker that is not part of it."""
    start, end = span
    body = data[start:end]
    count = body[0] if body else 0
    if len(body) != 4 + 2 * count or not 1 <= count <= len(header.components):
        raise ImageError('got a JPEG with a scan header that does not fit it; it is damaged')
    pairs = [body[1 + 2 * i : 3 + 2 * i] for i in range(count)]
    restarts, numbers, stop = marks.of_scan(end)
    starts, ends = [end, *(mark + 2 for mark in restarts)], [*restarts, stop]
    return Scan(
        components=tuple((pair[0], pair[1] >> 4, pair[1] & 15) for pair in pairs),
        band=(body[-3], body[-2]),
        bits=(body[-1] >> 4, body[-1] & 15),
        restart_interval=restart_interval,
        data=data,
        spans=tuple(zip(starts, ends, strict=True)),
        restarts=numbers,
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
