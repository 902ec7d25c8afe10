from ffs_anonymizer.frames.frame import bgr_from, may_be_picture, Tone, write_bgr
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


def backlit(share, level=1 / 64, size_wh=(256, 192)):
    """Return a bright sky of 16 bits with a dark patch that has steps of brightness."""
    width, height = size_wh
    samples = np.full((height, width), 60000, np.uint16)
    side = max(8, int((share * width * height) ** 0.5))
    steps = np.linspace(0.5, 1.5, 8).repeat(side // 8 + 1)[:side]
    samples[20 : 20 + side, 30 : 30 + side] = 60000 * level * steps
    return samples, samples[20 : 20 + side, 30 : 30 + side]


@pytest.mark.parametrize('share', [0.01, 0.05, 0.3])
@pytest.mark.parametrize('level', [1 / 64, 1 / 256, 1 / 1024])
def test_shadows_that_8_bits_do_not_resolve_are_lifted(share, level):
    samples, dark = backlit(share, level)
    tone = Tone.of(samples)
    assert tone.lift
    shown = tone.shown(dark).astype(int)
    assert shown.min() >= 30
    assert np.ptp(shown) >= 20
    assert tone.shown(samples).max() >= 230
    assert np.ptp(Tone(8).shown(dark)) <= 4


@pytest.mark.parametrize(
    'samples',
    [
        np.linspace(0, 65535, 64 * 64).reshape(64, 64),
        np.random.default_rng(0).integers(0, 65536, (256, 256)),
        255 * 257 * np.linspace(0, 1, 64 * 64).reshape(64, 64) ** 0.7,
        backlit(0.0005, size_wh=(512, 384))[0],
        np.full((64, 64), 65535),
        np.zeros((64, 64)),
    ],
)
def test_ordinary_pictures_stay_linear(samples):
    assert Tone.of(samples.astype(np.uint16)).lift == 0


@pytest.mark.parametrize('lift', [0, 2, 6, 12])
@pytest.mark.parametrize('shift', [4, 8])
def test_a_tone_leads_there_and_back(shift, lift):
    tone = Tone(shift, lift)
    shown = np.arange(256, dtype=np.uint8).reshape(16, 16)
    samples = tone.samples(shown)
    assert (np.diff(samples.ravel().astype(int)) >= 0).all()
    assert samples.max() < 256 << shift
    # Where a step of the samples is more than one of what is shown, the way is not exact.
    assert np.abs(tone.shown(samples).astype(int) - shown).max() <= (0 if lift < 6 else 20)


def test_what_is_left_out_has_no_say_in_the_lift():
    tones = set()
    for inside in (0, 300, 60000):
        samples, _ = backlit(0.3)
        samples[100:150, 150:200] = inside
        tones.add(Tone.of(samples, np.array([[150, 100, 200, 150]], np.int32)))
    assert len(tones) == 1


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ('alpha', 'hides'),
    [
        (lambda y, x: np.ones_like(x), False),
        (lambda y, x: np.zeros_like(x), False),
        (lambda y, x: (x > 40).astype(float), False),
        (lambda y, x: np.clip((x - 40) / 2, 0, 1), False),
        (lambda y, x: x / x.max(), True),
        (lambda y, x: 0.5 + 0 * x, True),
        (lambda y, x: np.sin(x / 5) ** 2 * np.cos(y / 7) ** 2, True),
    ],
)
def test_an_alpha_plane_that_may_be_a_picture(alpha, hides, dtype):
    y, x = np.mgrid[:64, :96].astype(float)
    assert may_be_picture((alpha(y, x) * np.iinfo(dtype).max).astype(dtype)) is hides
