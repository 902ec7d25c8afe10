from __future__ import annotations

from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.ranges import measure_ranges
import pytest
from support.quantize_models import feeds, save_unet


@pytest.fixture
def unet(tmp_path):
    return prepare(save_unet(tmp_path / 'unet.onnx'))


@pytest.fixture
def ranges(unet):
    return measure_ranges(unet, [feeds(4, seed=1), feeds(4, seed=2)], 2, 'minmax')
