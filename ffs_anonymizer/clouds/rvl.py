"""
RVL, the lossless code of depth images: runs of zeros, and differences of what is none.

Source: A. D. Wilson, Fast Lossless Depth Image Compression, ISS 2017. A number is a chain of
groups of 4 bits, the lowest first: 3 bits of it, and whether more follow. By turns there stand the
number of zeros, the number of other samples, and the difference of each of these to the one
before, with its sign in the lowest bit. Eight groups make a little-endian word of 32 bits, the
first on top.
"""

from __future__ import annotations

from ffs_anonymizer.errors import ImageError
import numpy as np
from numpy.typing import NDArray

_WORD_BYTES = 4
# More groups than a number of 32 bits has.
_MOST_GROUPS = 11


def decode(data: bytes, count: int) -> NDArray[np.uint16]:
    """
    Return samples (count,); what stands behind them is not read.

    :param count: greater than 0.
    :raises ImageError: the data does not hold just so many.
    """
    values = _numbers(data)
    headers, pairs = _runs(values, count)
    used = headers[-1] + 2 + pairs[-1, 1]
    if used > len(values):
        raise _cut_off(count)
    steps = np.delete(values[:used], np.concatenate([headers, headers + 1]))
    steps = (steps >> 1) ^ -(steps & 1)
    is_sample = np.repeat(np.arange(pairs.size) % 2 == 1, pairs.ravel())
    samples = np.zeros(count, np.uint16)
    # As the encoder's, differences wrap around at 16 bits.
    samples[is_sample] = np.cumsum(steps) & 0xFFFF
    return samples


def encode(samples: NDArray[np.uint16]) -> bytes:
    """
    Return the code of samples, row by row.

    :param samples: of any shape, one of them or more.
    """
    flat = samples.ravel()
    is_sample = flat != 0
    bounds = np.flatnonzero(np.diff(is_sample, prepend=False)).tolist()
    # Runs go by turns, of zeros first; one of length 0 where the image begins with a sample.
    lengths = np.diff([0, *bounds, len(flat)])
    lengths = np.append(lengths, 0) if len(lengths) % 2 else lengths
    pairs = lengths.reshape(-1, 2)
    headers = 2 * np.arange(len(pairs)) + np.cumsum(pairs[:, 1]) - pairs[:, 1]
    steps = np.diff(flat[is_sample].astype(np.int64), prepend=0)
    values = np.empty(2 * len(pairs) + len(steps), np.int64)
    is_step = np.ones(len(values), np.bool_)
    is_step[headers] = is_step[headers + 1] = False
    values[headers], values[headers + 1] = pairs.T
    values[is_step] = (steps << 1) ^ (steps >> 63)
    return _packed(values)


def _runs(values: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where runs begin among the numbers, (n,), and their zeros and samples, (n, 2)."""
    headers, total, place = [], 0, 0
    # A run at a time, each being as long as only it says.
    numbers = values.data
    while total < count:
        if place + 2 > len(values):
            raise _cut_off(count)
        headers.append(place)
        zeros, others = numbers[place], numbers[place + 1]
        total += zeros + others
        place += 2 + others
    if total != count:
        raise ImageError(f'got RVL of {total} samples or more, expected {count}; it is damaged')
    found = np.array(headers, np.int64)
    return found, np.stack([values[found], values[found + 1]], axis=1)


def _numbers(data: bytes) -> NDArray[np.int64]:
    """Return all numbers of the code, and such that its padding seems to hold."""
    words = np.frombuffer(data, '<u4', len(data) // _WORD_BYTES)
    octets = words.astype('>u4').view(np.uint8)
    groups = np.stack([octets >> 4, octets & 15], axis=1).ravel()
    last = np.flatnonzero(groups < 8)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    lengths = last + 1 - first
    longest = int(lengths.max(initial=1))
    if longest > _MOST_GROUPS:
        raise ImageError(f'got RVL with a number of {3 * longest} bits, expected up to 32')
    values: NDArray[np.int64] = (groups[first] & 7).astype(np.int64)
    longer = np.flatnonzero(lengths > 1)
    for k in range(1, longest):
        values[longer] |= (groups[first[longer] + k] & 7).astype(np.int64) << 3 * k
        longer = longer[lengths[longer] > k + 1]
    return values


def _packed(values: NDArray[np.int64]) -> bytes:
    """Return the words that hold numbers of 0 or more."""
    bounds = 1 << np.arange(3, int(values.max()).bit_length() + 1, 3)
    lengths = np.ones(len(values), np.uint8)
    for bound in bounds:
        lengths += values >= bound
    end = np.cumsum(lengths, dtype=np.int64)
    first = end - lengths
    groups = np.zeros(-(-int(end[-1]) // 8) * 8, np.uint8)
    groups[first] = values & 7
    longer = np.flatnonzero(lengths > 1)
    for k in range(1, len(bounds) + 1):
        place = first[longer] + k
        groups[place - 1] |= 8
        groups[place] = (values[longer] >> 3 * k) & 7
        longer = longer[lengths[longer] > k + 1]
    octets = groups[0::2] << 4 | groups[1::2]
    return octets.view('>u4').astype('<u4').tobytes()


def _cut_off(count: int) -> ImageError:
    return ImageError(f'got RVL of fewer samples than the {count} expected; it is cut off')
