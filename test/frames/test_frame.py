from ffs_anonymizer.frames.frame import bgr_from, Tone, write_bgr
import numpy as np
import pytest

SAMPLE = {
    'mono': 10,
    'bgr': (1, 2, 3),
    'rgb': (3, 2, 1),
    'bgra': (1, 2, 3, 4),
    'rgba': (3, 2, 1, 4),
}


@pytest.mark.parametrize(
    ('value', 'expected'),
    [(0, 0), (1, 0), (255, 0), (256, 1), (1023, 2), (4095, 4), (4096, 5), (65535, 8)],
)
def test_the_brightest_samples_fill_8_bits(value, expected):
    assert Tone.of(np.full((5, 4), value, np.uint16)) == Tone(expected)


@pytest.mark.parametrize(
    ('rects', 'expected'),
    [
        ([], 8),
        ([[0, 0, 4, 4]], 2),
        ([[0, 0, 2, 4], [2, 0, 4, 4]], 2),
        ([[0, 0, 4, 3]], 8),
        ([[0, 0, 8, 8]], 8),
        ([[-3, -3, 99, 99]], 8),
    ],
)
def test_rectangles_have_no_say(rects, expected):
    samples = np.full((8, 8), 1000, np.uint16)
    samples[:4, :4] = 60000
    assert Tone.of(samples, np.array(rects, np.int32).reshape(-1, 4)).shift == expected


def test_alpha_has_no_say_in_brightness():
    samples = np.full((8, 8, 4), 1000, np.uint16)
    samples[..., 3] = 65535
    assert Tone.of(samples) == Tone(2)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('channels', SAMPLE)
def test_there_and_back(channels, bits):
    shift = bits - 8
    pixel = np.left_shift(SAMPLE[channels], shift)
    samples = np.tile(pixel, (4, 6, 1)).astype(f'u{bits // 8}')
    samples = samples[..., 0] if channels == 'mono' else samples
    image = bgr_from(samples, channels, Tone(shift))
    assert (image == ([10] * 3 if channels == 'mono' else [1, 2, 3])).all()
    image = np.full((4, 6, 3), (50, 60, 70) if channels != 'mono' else 60, np.uint8)
    before = samples.copy()
    write_bgr(samples, image, (1, 2, 3, 4), channels, Tone(shift))
    inside = np.zeros((4, 6), bool)
    inside[2:4, 1:3] = True
    assert (samples[~inside] == before[~inside]).all()
    expected = {'mono': 60, 'bgr': (50, 60, 70), 'bgra': (50, 60, 70, 255)}
    expected |= {'rgb': (70, 60, 50), 'rgba': (70, 60, 50, 255)}
    written = np.left_shift(expected[channels], shift)
    if bits == 16 and channels.endswith('a'):
        written[3] = 65535
    assert (samples[inside] == written).all()
