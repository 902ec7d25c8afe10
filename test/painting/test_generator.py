import json

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.painting.crops import cut
from ffs_anonymizer.painting.generator import Generator
import numpy as np
import pytest
from support.onnx_models import (
    save_failing_generator,
    save_generator,
    save_wrongly_shaped_generator,
    save_yunet,
)

NONE = np.empty((0, 4), np.int32)


def crops_of(n, size_px=32):
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    rects = np.array([(9 * i, 9 * i, 9 * i + 20, 9 * i + 30) for i in range(n)], np.int32)
    return cut(image, rects.reshape(-1, 4), holes_xyxy_px=NONE, size_px=size_px, crop_scale=1.7)


def test_no_crops_are_no_faces(tmp_path):
    generator = Generator(open_model(save_generator(tmp_path / 'g.onnx')))
    assert generator.generate(crops_of(0)).shape == (0, 32, 32, 3)


def test_a_batch_is_cut_to_max_batch_without_a_change(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    whole = Generator(open_model(path), max_batch=16).generate(crops_of(7))
    parts = Generator(open_model(path), max_batch=3).generate(crops_of(7))
    assert whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_values_beyond_the_range_are_clipped(tmp_path):
    path = save_generator(tmp_path / 'g.onnx', scale=1e6)
    assert set(np.unique(Generator(open_model(path)).generate(crops_of(3)))) <= {0, 255}


def test_nan_is_an_error(tmp_path):
    generator = Generator(open_model(save_generator(tmp_path / 'g.onnx', scale=np.nan)))
    with pytest.raises(ModelError, match='got faces with values that are not finite'):
        generator.generate(crops_of(2))


def test_a_wrong_shape_is_an_error(tmp_path):
    generator = Generator(open_model(save_wrongly_shaped_generator(tmp_path / 'g.onnx')))
    with pytest.raises(ModelError, match=r'got faces of shape \(2, 3, 16, 16\), expected'):
        generator.generate(crops_of(2))


def test_a_network_that_raises_is_an_error(tmp_path):
    generator = Generator(open_model(save_failing_generator(tmp_path / 'g.onnx')))
    with pytest.raises(ModelError, match='ONNX Runtime failed'):
        generator.generate(crops_of(2))


def test_a_network_without_the_contract_is_refused(tmp_path):
    cells = {8: {'cls': np.zeros((1, 1, 1))}}
    with pytest.raises(ModelError, match='expected condition'):
        Generator(open_model(save_yunet(tmp_path / 'g.onnx', cells)))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ModelError, match=r'model file .*none.onnx: got nothing there'):
        Generator(open_model(tmp_path / 'none.onnx'))


def test_crop_scale_comes_from_the_setting_or_is_1_7(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    assert Generator(open_model(path)).crop_scale == 1.7
    assert Generator(open_model(path), crop_scale=1.4).crop_scale == 1.4
    with pytest.raises(SettingsError, match='generator.crop_scale: got 0.5'):
        Generator(open_model(path), crop_scale=0.5)


def test_a_damaged_manifest_is_an_error(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    path.with_suffix('.json').write_text(json.dumps({'name': 'g'}))
    with pytest.raises(ModelError, match='g.json'):
        Generator(open_model(path))
