import json
from pathlib import Path

from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.models.manifest import DEFAULT_FOR_CPU, DEFAULT_GENERATOR
from ffs_anonymizer.painting import generator as module
from ffs_anonymizer.painting.crops import cut
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.onnx_models import (
    save_failing_generator,
    save_generator,
    save_wrongly_shaped_generator,
    save_yunet,
)

NONE = np.empty((0, 4), np.int32)


def settings(path: Path, **changes):
    changes = {name.replace('__', '.'): value for name, value in changes.items()}
    return Settings().updated({'generator.model_path': str(path), **changes})


def crops_of(n, size_px=32):
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    rects = np.array([(9 * i, 9 * i, 9 * i + 20, 9 * i + 30) for i in range(n)], np.int32)
    return cut(image, rects.reshape(-1, 4), holes_xyxy_px=NONE, size_px=size_px, crop_scale=1.7)


def test_no_crops_are_no_faces(tmp_path):
    generator = Generator(settings(save_generator(tmp_path / 'g.onnx')))
    assert generator.generate(crops_of(0)).shape == (0, 32, 32, 3)


def test_a_batch_is_cut_to_max_batch_without_a_change(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    whole = Generator(settings(path, generator__max_batch=16)).generate(crops_of(7))
    parts = Generator(settings(path, generator__max_batch=3)).generate(crops_of(7))
    assert whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_values_beyond_the_range_are_clipped(tmp_path):
    path = save_generator(tmp_path / 'g.onnx', scale=1e6)
    assert set(np.unique(Generator(settings(path)).generate(crops_of(3)))) <= {0, 255}


def test_nan_is_an_error(tmp_path):
    generator = Generator(settings(save_generator(tmp_path / 'g.onnx', scale=np.nan)))
    with pytest.raises(ModelError, match='got faces with values that are not finite'):
        generator.generate(crops_of(2))


def test_a_wrong_shape_is_an_error(tmp_path):
    generator = Generator(settings(save_wrongly_shaped_generator(tmp_path / 'g.onnx')))
    with pytest.raises(ModelError, match=r'got faces of shape \(2, 3, 16, 16\), expected'):
        generator.generate(crops_of(2))


def test_a_network_that_raises_is_an_error(tmp_path):
    generator = Generator(settings(save_failing_generator(tmp_path / 'g.onnx')))
    with pytest.raises(ModelError, match='ONNX Runtime failed'):
        generator.generate(crops_of(2))


def test_a_network_without_the_contract_is_refused(tmp_path):
    cells = {8: {'cls': np.zeros((1, 1, 1))}}
    with pytest.raises(ModelError, match='expected condition'):
        Generator(settings(save_yunet(tmp_path / 'g.onnx', cells)))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ModelError, match=r'model file .*none.onnx: got nothing there'):
        Generator(settings(tmp_path / 'none.onnx'))


def test_crop_scale_comes_from_the_setting_or_is_1_7(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    assert Generator(settings(path)).crop_scale == 1.7
    assert Generator(settings(path, generator__crop_scale=1.4)).crop_scale == 1.4
    with pytest.raises(SettingsError, match='generator.crop_scale: got 0.5'):
        Generator(settings(path, generator__crop_scale=0.5))


def test_a_damaged_manifest_is_an_error(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    path.with_suffix('.json').write_text(json.dumps({'name': 'g'}))
    with pytest.raises(ModelError, match='g.json'):
        Generator(settings(path))


@pytest.mark.parametrize(
    ('able', 'own', 'expected'),
    [
        (True, False, 'integers.onnx'),
        (False, False, 'floats.onnx'),
        (True, True, 'own.onnx'),
    ],
)
def test_a_processor_that_can_takes_the_default_in_8_bits(
    tmp_path, monkeypatch, able, own, expected
):
    files = {
        name: save_generator(tmp_path / f'{name}.onnx') for name in ('floats', 'integers', 'own')
    }
    shipped = {
        DEFAULT_FOR_CPU: files['integers'],
        DEFAULT_GENERATOR: files['floats'],
    }
    monkeypatch.setattr(
        module,
        'default_generator',
        lambda name=DEFAULT_GENERATOR: shipped[name],
    )
    monkeypatch.setattr(module, 'multiplies_bytes', lambda: able)
    path = str(files['own']) if own else ''
    chosen = Generator(Settings().updated({'generator.model_path': path, 'device': 'cpu'}))
    assert chosen.model.path.name == expected
    notes = ('asked for', 'in 8 bits') if expected == 'integers.onnx' else ('asked for',)
    assert chosen.model.device == Device('cpu', notes=notes)
    chosen.close()
