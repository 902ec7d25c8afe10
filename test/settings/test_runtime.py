from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.settings.runtime import PARAMETERS, Settings
import pytest


def test_every_default_passes_its_own_check():
    for parameter in PARAMETERS:
        assert parameter.check(parameter.default) == parameter.default
        assert parameter.meaning.endswith('.'), parameter.name


def test_flat_and_updated_are_inverse():
    changed = Settings().updated({'face.method': 'solid', 'detector.scale': 2, 'threads': 3})
    assert Settings().updated(changed.flat()) == changed
    assert changed.detector.scale == 2.0
    assert isinstance(changed.detector.scale, float)
    assert changed.plate.method == 'blur'


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('detector.scal', 1.0, r"unknown setting 'detector.scal': did you mean detector.scale\?"),
        ('zzz', 1, "unknown setting 'zzz': see"),
        ('detector.scale', 9.0, r'detector.scale: got 9.0, expected double from 0.1 to 4 times'),
        ('detector.scale', float('nan'), r'got nan, expected double from 0.1 to 4'),
        ('detector.scale', True, r'got True, expected double'),
        ('detector.scale', '1', r"got '1', expected double"),
        ('threads', 1.5, r'threads: got 1.5, expected integer'),
        ('threads', True, r'threads: got True, expected integer'),
        ('lazy', 1, r'lazy: got 1, expected bool'),
        (
            'face.method',
            'hide',
            r"got 'hide', expected string, one of: generate, blur, mosaic, solid",
        ),
        ('plate.method', 'hide', r"got 'hide', expected string, one of: generate, blur"),
        ('face.fallback', 'generate', r"got 'generate', expected string, one of: blur"),
        ('image_topics', '/camera', r"got '/camera', expected string array; write it as a list"),
        ('image_topics', [1], r'every item must be a str'),
        ('obscure.solid_bgr', [0, 0], r'expected integer array of 3 numbers'),
        ('obscure.solid_bgr', [0, 0, 256], r'from 0 to 255'),
    ],
)
def test_wrong_values_are_refused(name, value, message):
    with pytest.raises(SettingsError, match=message):
        Settings().updated({name: value})
