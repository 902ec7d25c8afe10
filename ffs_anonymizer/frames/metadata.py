"""What may accompany a picture, judged by its content: the Exif orientation and the profile."""

from __future__ import annotations

import struct

# Of the profiles that cameras and programs write the largest has some ten thousand bytes.
MOST_PROFILE_BYTES = 1 << 17
_ORIENTATION_TAG, _SHORT = 0x0112, 3
_PROFILE_HEADER_BYTES, _TAG_BYTES, _MOST_TAGS = 128, 12, 100
# How pictures and films begin, of which a profile has none.
_PICTURES = (b'\xff\xd8\xff', b'\x89PNG', b'WEBP', b'GIF8', b'ftyp')


def orientation_of(tiff: bytes) -> int:
    """
    Return the Exif orientation, 1 to 8, that a TIFF header's first directory states; else 1.

    :param tiff: what follows `Exif` in a JPEG file, an eXIf or EXIF chunk, or a TIFF file.
    """
    at = orientation_place(tiff)
    if at is None:
        return 1
    (value,) = struct.unpack_from(_byte_order(tiff) + 'H', tiff, at)
    return value if 1 <= value <= 8 else 1


def orientation_place(tiff: bytes) -> int | None:
    """Return where in a TIFF header the two bytes of the orientation are; None: nowhere."""
    order = _byte_order(tiff)
    if not order:
        return None
    try:
        (directory,) = struct.unpack_from(f'{order}I', tiff, 4)
        (entries,) = struct.unpack_from(f'{order}H', tiff, directory)
        for i in range(entries):
            at = directory + 2 + _TAG_BYTES * i
            tag, kind, count, _ = struct.unpack_from(f'{order}HHII', tiff, at)
            if (tag, kind, count) == (_ORIENTATION_TAG, _SHORT, 1):
                return int(at) + 8
    except struct.error:
        return None
    return None


def orientation_tiff(orientation: int) -> bytes:
    """Return a TIFF header that states an orientation and nothing else."""
    entry = struct.pack('>HHIHH', _ORIENTATION_TAG, _SHORT, 1, orientation, 0)
    return b'MM\0*' + struct.pack('>IH', 8, 1) + entry + struct.pack('>I', 0)


def is_profile(icc: bytes) -> bool:
    """
    Return whether bytes are an ICC profile from the first to the last, and of a sane size.

    Its table of tags is to cover all of it; no tag may be without a type, or hold a picture.
    """
    size = len(icc)
    table = _PROFILE_HEADER_BYTES + 4
    if not table < size <= MOST_PROFILE_BYTES or icc[36:40] != b'acsp':
        return False
    stated, (count,) = struct.unpack_from('>I', icc)[0], struct.unpack_from('>I', icc, table - 4)
    covered = table + _TAG_BYTES * count
    if stated != size or not 0 < count <= _MOST_TAGS or covered > size:
        return False
    spans = sorted(
        struct.unpack_from('>II', icc, table + _TAG_BYTES * i + 4) for i in range(count)
    )
    for start, length in spans:
        kind, reserved = icc[start : start + 4], icc[start + 4 : start + 8]
        typed = kind.isascii() and reserved == bytes(4)
        # Tags are aligned to four bytes, and may share what they hold.
        if not typed or length < 8 or start + length > size or start > covered + 3:
            return False
        covered = max(covered, start + length)
    return size <= covered + 3 and not any(picture in icc for picture in _PICTURES)


def _byte_order(tiff: bytes) -> str:
    return {b'II': '<', b'MM': '>'}.get(tiff[:2], '')
