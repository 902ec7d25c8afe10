from dataclasses import replace

from ffs_anonymizer import networks
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.models import roster
from ffs_anonymizer.models.manifest import (
    DEFAULT_FOR_CPU,
    DEFAULT_GENERATOR,
    file_sha256,
    load_manifest,
    Manifest,
    save_manifest,
)
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.regions.detections import FACE, PLATE
from ffs_anonymizer.regions.detector import detect
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.onnx_models import save_answering, save_generator

# Faces are drawn, and plates are not looked for.
DRAWN = {'face.method': 'generate', 'detector.plate_model_path': 'none'}


def generating(path, **changes):
    named = {name.replace('__', '.'): value for name, value in changes.items()}
    return Settings().updated({**DRAWN, 'generator.model_path': str(path), **named})


def test_what_is_open_is_opened_once_and_what_is_missing_then(tmp_path):
    drawn = generating(save_generator(tmp_path / 'g.onnx'))
    blurred = drawn.updated({'face.method': 'blur'})
    with Networks(blurred) as opened:
        detectors, generators, _ = opened.of(blurred)
        assert (len(detectors), generators) == (1, ())
        again, generators, painters = opened.of(drawn)
        assert again[0] is detectors[0]
        assert opened.of(drawn)[1:] == (generators, painters)
        (tmp_path / 'g.onnx').unlink()
        assert opened.of(drawn.updated({'face.threshold': 0.5}))[1] == generators
        roles = [running.role for running in opened.describe()]
        assert roles == ['face detector', 'generator']


def test_a_missing_model_is_an_error_at_once_and_leaves_what_is_open(tmp_path):
    blurred = Settings().updated({**DRAWN, 'face.method': 'blur'})
    missing = generating(tmp_path / 'none.onnx')
    with pytest.raises(ModelError, match='none.onnx: got nothing there'):
        Networks(missing)
    with Networks(blurred) as opened:
        with pytest.raises(ModelError, match='none.onnx: got nothing there'):
            opened.of(missing)
        assert len(opened.of(blurred)[0]) == 1
        with pytest.raises(SettingsError, match='generator.crop_scale: got 0.5'):
            opened.of(generating(save_generator(tmp_path / 'g.onnx'), generator__crop_scale=0.5))


def test_describe_says_in_fields_what_runs_where(tmp_path):
    settings = generating(save_generator(tmp_path / 'g.onnx'), device='cpu')
    with Networks(settings) as opened:
        detector, generator = opened.describe()
        assert detector.file == 'centerface.onnx'
        assert (generator.library, generator.device.kind) == ('onnxruntime', 'cpu')
        words = opened.words()
    assert words['face detector'].startswith('centerface.onnx sha256:')
    assert words['generator'].endswith(' in onnxruntime on cpu (asked for)')
    assert "generator's licence" not in words


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
        roster,
        'default_generator',
        lambda name=DEFAULT_GENERATOR: shipped[name],
    )
    monkeypatch.setattr(networks, 'gains_by_bytes', lambda: able)
    path = str(files['own']) if own else ''
    settings = Settings().updated({**DRAWN, 'generator.model_path': path, 'device': 'cpu'})
    with Networks(settings) as opened:
        (chosen,) = opened.of(settings)[1]
        assert chosen.model.path.name == expected
        notes = ('asked for', 'in 8 bits') if expected == 'integers.onnx' else ('asked for',)
        assert chosen.model.device == Device('cpu', notes=notes)


@pytest.mark.parametrize(
    ('threads', 'concurrency', 'searches', 'lanes'),
    [(1, 1, 0, 1), (2, 1, 0, 2), (4, 2, 0, 1), (4, 2, 2, 1), (4, 2, 1, 2)],
)
def test_who_searches_alone_looks_twice_at_once(threads, concurrency, searches, lanes):
    settings = Settings().updated({**DRAWN, 'face.method': 'blur', 'threads': threads})
    with Networks(settings, concurrency=concurrency, searches=searches) as opened:
        assert opened.lanes == lanes


@pytest.fixture
def of_two_classes(tmp_path):
    """Find a plate at (8, 16)-(40, 32), scored 0.8, and a face at (48, 48)-(64, 64), 0.6."""
    values = {}
    for stride in (8, 16, 32):
        side = 64 // stride
        values[f'score_{stride}'] = np.zeros((1, 2, side, side))
        values[f'box_{stride}'] = np.zeros((1, 4, side, side))
    values['score_16'][0, 0, 1, 1], values['score_16'][0, 1, 3, 3] = 0.8, 0.6
    values['box_16'][0, 2, 1, 1] = np.log(2)
    path = save_answering(tmp_path / 'both.onnx', values)
    manifest = Manifest(
        name='both',
        task='detector',
        version='1',
        sha256=file_sha256(path),
        inputs={'input': (1, 3, 'h', 'w')},
        outputs={name: value.shape for name, value in values.items()},
        size_px=0,
        crop_scale=0.0,
        precision='fp32',
        training_data='none',
        licence='none',
        layout='ffs',
        classes=('plate', 'face'),
    )
    save_manifest(manifest, path)
    return path


@pytest.mark.parametrize('lanes', [1, 2])
def test_one_file_for_faces_and_plates_runs_once_a_look(of_two_classes, lanes, monkeypatch):
    named = {
        'detector.model_path': str(of_two_classes),
        'detector.plate_model_path': str(of_two_classes.parent / '.' / 'both.onnx'),
    }
    settings = Settings().updated({**named, 'face.method': 'blur'})
    with Networks(settings) as opened:
        faces, plates = opened.of(settings)[0]
        assert faces.model is plates.model
        assert [running.role for running in opened.describe()] == [*roster.DETECTORS]
        runs, infer = [], faces.model.infer
        monkeypatch.setattr(faces.model, 'infer', lambda feed: runs.append(1) or infer(feed))
        image = np.zeros((64, 64, 3), np.uint8)
        found = detect(image, (faces, plates), settings, lanes=lanes)
        assert len(runs) == len(faces.looks((64, 64), 1.0))
        assert found.classes.tolist() == [FACE, PLATE]
        np.testing.assert_allclose(found.xyxy_px, [[48, 48, 64, 64], [8, 16, 40, 32]], atol=1e-4)
        np.testing.assert_allclose(found.scores, [0.6, 0.8], atol=1e-6)
        alone = faces.detect(image, threshold=0.2, nms_iou=0.3, scale=1.0)
        np.testing.assert_array_equal(alone.xyxy_px, found.xyxy_px[:1])


def test_links_to_one_file_go_by_manifests_of_their_own(of_two_classes, tmp_path):
    named = {}
    for role, classes in (('', ('none', 'face')), ('plate_', ('plate', 'x'))):
        link = tmp_path / f'{classes[0]}.onnx'
        link.symlink_to(of_two_classes)
        save_manifest(replace(load_manifest(of_two_classes), classes=classes), link)
        named[f'detector.{role}model_path'] = str(link)
    settings = Settings().updated({**named, 'face.method': 'blur'})
    with Networks(settings) as opened:
        found = detect(np.zeros((64, 64, 3), np.uint8), opened.of(settings)[0], settings)
    assert found.classes.tolist() == [FACE, PLATE]
