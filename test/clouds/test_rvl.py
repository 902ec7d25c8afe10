"""RVL beside a plain loop over groups of 4 bits, as its paper describes it."""

from __future__ import annotations

from ffs_anonymizer.clouds import rvl
from ffs_anonymizer.errors import ImageError
from hypothesis import given, strategies
import numpy as np
import pytest


def groups_of(number):
    found = []
    while True:
        group, number = number & 7, number >> 3
        found.append(group | (8 if number else 0))
        if not number:
            return found


def words_of(groups):
    groups = groups + [0] * (-len(groups) % 8)
    words = [
        sum(group << 4 * (7 - i) for i, group in enumerate(groups[at : at + 8]))
        for at in range(0, len(groups), 8)
    ]
    return np.array(words, '<u4').tobytes()


def plainly_encoded(samples):
    groups, before, at = [], 0, 0
    while at < len(samples):
        for is_sample in (False, True):
            end = at
            while end < len(samples) and bool(samples[end]) == is_sample:
                end += 1
            groups += groups_of(end - at)
            if is_sample:
                for sample in samples[at:end]:
                    step = int(sample) - before
                    groups += groups_of(2 * step if step >= 0 else -2 * step - 1)
                    before = int(sample)
            at = end
    return words_of(groups)


def plainly_decoded(data, count):
    groups = [
        int(word) >> 4 * (7 - i) & 15 for word in np.frombuffer(data, '<u4') for i in range(8)
    ]
    at = 0

    def number():
        nonlocal at
        value, bits = 0, 0
        while True:
            group = groups[at]
            at += 1
            value |= (group & 7) << bits
            bits += 3
            if group < 8:
                return value

    samples, before = [], 0
    while len(samples) < count:
        samples += [0] * number()
        for _ in range(number()):
            step = number()
            before = (before + (step // 2 if step % 2 == 0 else -(step // 2) - 1)) % 65536
            samples.append(before)
    return samples


EVERY = strategies.lists(
    strategies.one_of(
        strategies.just(0), strategies.integers(995, 1005), strategies.integers(0, 65535)
    ),
    min_size=1,
    max_size=200,
)


@given(EVERY)
def test_same_as_a_plain_loop(samples):
    data = rvl.encode(np.array(samples, np.uint16))
    assert data == plainly_encoded(samples)
    assert plainly_decoded(data, len(samples)) == samples
    assert rvl.decode(data, len(samples)).tolist() == samples


@pytest.mark.parametrize(
    'samples',
    [
        np.zeros((480, 640), np.uint16),
        np.full((480, 640), 65535, np.uint16),
        (np.arange(307200).reshape(480, 640) % 7 * 1000).astype(np.uint16),
        np.random.default_rng(0).integers(0, 65536, (480, 640)).astype(np.uint16),
    ],
    ids=['nothing', 'the furthest', 'holes', 'noise'],
)
def test_a_whole_image_comes_back(samples):
    data = rvl.encode(samples)
    assert (rvl.decode(data, samples.size).reshape(samples.shape) == samples).all()
    assert len(data) <= 1.5 * samples.nbytes + 8


def test_known_bytes():
    # No zeros, three samples: 1, then two more, then one less.
    samples = np.array([1, 3, 2], np.uint16)
    assert rvl.encode(samples) == words_of([0, 3, 2, 4, 1])
    assert rvl.encode(samples).hex() == '00102403'


def test_what_stands_behind_the_samples_is_not_read():
    samples = np.array([0, 0, 7], np.uint16)
    data = rvl.encode(samples)
    assert rvl.decode(data + b'faces!!', 3).tolist() == [0, 0, 7]


@pytest.mark.parametrize(
    ('data', 'count', 'text'),
    [
        (b'', 1, 'cut off'),
        (b'\0\0\0', 1, 'cut off'),
        (rvl.encode(np.array([5, 6, 7, 8] * 9, np.uint16))[:-4], 36, 'cut off'),
        (rvl.encode(np.array([5, 6], np.uint16)), 1, 'of 2 samples or more, expected 1'),
        (rvl.encode(np.array([0, 0, 5], np.uint16)), 2, 'expected 2; it is damaged'),
        (b'\xff' * 8, 4, 'cut off'),
        (words_of([15] * 12 + [1]), 4, 'a number of 39 bits'),
        (bytes(4096), 4, 'cut off'),
    ],
)
def test_damaged_data(data, count, text):
    with pytest.raises(ImageError, match=text):
        rvl.decode(data, count)


@given(strategies.binary(max_size=60), strategies.integers(1, 50))
def test_noise_is_decoded_or_refused(data, count):
    try:
        samples = rvl.decode(data, count)
    except ImageError:
        return
    assert samples.shape == (count,)
