import json
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import (
    default_generator,
    file_sha256,
    load_manifest,
    Manifest,
    manifest_path,
    save_manifest,
)
import pytest


def make(onnx: Path) -> Manifest:
    return Manifest(
        name='small',
        task='generator',
        version='1',
        sha256=file_sha256(onnx),
        inputs={'condition': ('N', 3, 128, 128), 'mask': ('N', 1, 128, 128)},
        outputs={'inpainted': ('N', 3, 128, 128)},
        size_px=128,
        crop_scale=1.4,
        precision='fp32',
        training_data='drawn faces',
        licence='Apache-2.0',
        metrics={'images_seen': 3},
    )


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / 'small.onnx'
    path.write_bytes(b'a model')
    return path


def test_saved_manifest_loads_as_it_was(onnx: Path) -> None:
    assert save_manifest(make(onnx), onnx) == onnx.with_name('small.json')
    assert load_manifest(onnx) == make(onnx)
    assert [p.name for p in sorted(onnx.parent.iterdir())] == ['small.json', 'small.onnx']


def test_no_manifest_is_none(onnx: Path) -> None:
    assert load_manifest(onnx) is None


def test_changed_model_is_refused(onnx: Path) -> None:
    save_manifest(make(onnx), onnx)
    onnx.write_bytes(b'another model')
    with pytest.raises(ModelError, match=r'got sha256 \w{64}, expected \w{64} as small.json says'):
        load_manifest(onnx)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({'task': 'poet'}, "task: got 'poet', expected one of generator, detector"),
        ({'precision': 'fp8'}, "precision: got 'fp8', expected one of fp32, fp16, int8"),
        ({'crop_scale': 0.5}, 'got size_px 128 and crop_scale 0.5'),
        ({'size_px': '128'}, "size_px: got '128', expected a number"),
        ({'size_px': True}, 'size_px: got True, expected a number'),
        ({'inputs': [1]}, r'inputs and outputs: got \[1\]'),
        ({'inputs': {'condition': 'N'}}, "shape: got 'N'"),
        ({'licence': None}, 'licence: got None, expected a text'),
        ({'metrics': 3}, 'metrics: got 3'),
        ({'colour': 'red'}, r"missing keys \[\], unknown keys \['colour'\]"),
    ],
)
def test_malformed_manifest_is_refused(onnx: Path, change: dict[str, object], text: str) -> None:
    path = save_manifest(make(onnx), onnx)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=text):
        load_manifest(onnx)


@pytest.mark.parametrize('key', ['sha256', 'size_px', 'outputs'])
def test_missing_key_is_named(onnx: Path, key: str) -> None:
    path = save_manifest(make(onnx), onnx)
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=rf"missing keys \['{key}'\]"):
        load_manifest(onnx)


@pytest.mark.parametrize('content', [b'', b'{', b'[1]', b'\xff\xfe\x00'])
def test_what_is_no_json_object_is_refused(onnx: Path, content: bytes) -> None:
    manifest_path(onnx).write_bytes(content)
    with pytest.raises(ModelError, match=r'small\.json'):
        load_manifest(onnx)


def test_shipped_weights_fit_their_manifest() -> None:
    path = default_generator()
    if path is None:
        pytest.skip('this version ships no weights')
    manifest = load_manifest(path)
    assert manifest is not None
    assert manifest.task == 'generator'
    shipped = sorted(path.parent.glob('*.onnx'))
    assert all(load_manifest(other) is not None for other in shipped)
    assert sum(other.stat().st_size for other in shipped) < 40e6
