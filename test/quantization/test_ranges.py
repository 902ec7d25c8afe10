from __future__ import annotations

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.ranges import measure_ranges
import numpy as np
import pytest
from support.quantize_models import CONVS, feeds, save_unet


def test_minmax_is_the_range_of_all_values(unet):
    data = [feeds(2, seed=seed) for seed in range(3)]
    ranges = measure_ranges(unet, data, 3, 'minmax')
    both = np.concatenate([np.concatenate([d['condition'], d['mask']], 1) for d in data])
    assert ranges['both'] == (float(both.min()), float(both.max()))
    assert ranges['top.a'][0] == 0 < ranges['top.a'][1]
    assert {f'{name}.y' for name in CONVS} | {'both', 'large', 'middle.s', 'up.s'} <= set(ranges)


@pytest.mark.parametrize('method', ['entropy', 'percentile'])
def test_the_other_methods_cut_a_lone_outlier_off(tmp_path, method):
    model = prepare(save_unet(tmp_path / 'unet.onnx', size_px=64))
    data = feeds(8, 64)
    data['condition'][0, 0, 0, 0] = 40
    whole = measure_ranges(model, [data], 1, 'minmax')
    cut = measure_ranges(model, [data], 1, method)
    assert whole['both'][1] == 40
    assert 0.5 < cut['both'][1] < 20
    for name, (low, high) in cut.items():
        assert whole[name][0] <= low <= high <= whole[name][1]


def test_calibration_says_what_is_wrong(unet):
    with pytest.raises(ModelError, match="method: got 'guess', expected one of: entropy"):
        measure_ranges(unet, [feeds()], 1, 'guess')
    with pytest.raises(ModelError, match='no data at all'):
        measure_ranges(unet, [], 0, 'minmax')
    bad = feeds()
    bad['condition'][0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match='not finite'):
        measure_ranges(unet, [bad], 1, 'minmax')
