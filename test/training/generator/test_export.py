from collections.abc import Callable
import json
from pathlib import Path

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.datasets.faces import load_packed
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.models.manifest import load_manifest
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.training.checkpoint import load_checkpoint, save_checkpoint
from ffs_anonymizer.training.generator.export import export, export_larger, Provenance
from ffs_anonymizer.training.generator.gallery import of_nobody
from ffs_anonymizer.training.generator.onnx_file import probe, run_onnx
from ffs_anonymizer.training.generator.train import train
from ffs_anonymizer.training.settings import TrainSettings
import numpy as np
import onnx
import pytest

Settled = Callable[..., TrainSettings]


@pytest.fixture(scope='module')
def checkpoint(
    tiny_settings: Settled, packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return train(tiny_settings(packed, tmp_path_factory.mktemp('run'), steps=2), quiet=True)


@pytest.fixture(scope='module')
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('models')
    provenance = Provenance('3', 'drawn faces, ours', 'Apache-2.0', {'retention': 0.5}, 'Poor.')
    done = export(checkpoint, out, gallery='person*', name='tiny', provenance=provenance)
    assert done.fold_error < 1e-5
    assert done.fp32_error < 1e-4
    return out


def test_a_gallery_leaves_out_who_is_named_with_an_exclamation_mark(packed: Path) -> None:
    faces = load_packed(packed)
    everybody = of_nobody(faces, 'person*')
    named = faces.identities[int(everybody[0])]
    rest = of_nobody(faces, f'person*, !{named}')
    assert [faces.identities[i] for i in set(everybody) - set(rest)] == [named]
    assert len(of_nobody(faces, '!*')) == 0


def test_whose_faces_are_worn_is_written_and_read_again(
    exported: Path, packed: Path, tmp_path: Path
) -> None:
    faces = load_packed(packed)
    table = exported / 'tiny-faces.csv'
    names = [line.split(',')[0] for line in table.read_text().splitlines()[1:]]
    assert 0 < len(names) <= len(of_nobody(faces, 'person*'))
    assert {faces.identities[i] for i in of_nobody(faces, str(table))} == set(names)
    # Names in a table are no patterns: nobody else comes into the gallery.
    table = tmp_path / 'pattern.csv'
    table.write_text(f'identity\nperson*\n{names[0]}\n')
    assert {faces.identities[i] for i in of_nobody(faces, str(table))} == {names[0]}
    with pytest.raises(MediaError, match=r'none\.csv: cannot be read as a gallery'):
        of_nobody(faces, str(exported / 'none.csv'))


def test_export_writes_both_files_with_manifest_card_and_picture(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == [
        'tiny-faces.csv',
        'tiny-faces.json',
        'tiny-faces.onnx',
        'tiny-fp16.json',
        'tiny-fp16.onnx',
        'tiny.jpg',
        'tiny.json',
        'tiny.md',
        'tiny.onnx',
    ]
    manifest = load_manifest(exported / 'tiny.onnx')
    assert manifest is not None
    assert (manifest.size_px, manifest.crop_scale, manifest.precision) == (32, 1.3, 'fp32')
    assert manifest.metrics == {'images_seen': 8, 'retention': 0.5}
    half = load_manifest(exported / 'tiny-fp16.onnx')
    assert half is not None
    assert half.precision == 'fp16'
    card = (exported / 'tiny.md').read_text()
    for text in ('drawn faces, ours', 'Apache-2.0', '8 images seen', 'Poor.', 'crop_scale: 1.3'):
        assert text in card


@pytest.mark.parametrize('name', ['tiny.onnx', 'tiny-fp16.onnx'])
def test_onnx_keeps_the_contract(exported: Path, name: str) -> None:
    model = onnx.load(str(exported / name))
    assert [(o.domain, o.version) for o in model.opset_import] == [('', 17)]
    shapes = {}
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        assert kind.elem_type == onnx.TensorProto.FLOAT
        shapes[value.name] = [d.dim_param or d.dim_value for d in kind.shape.dim]
    assert shapes == {
        'condition': ['N', 3, 32, 32],
        'mask': ['N', 1, 32, 32],
        'latent': ['N', 2058],
        'points': ['N', 5, 2],
        'inpainted': ['N', 3, 32, 32],
    }
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}


def test_the_runtime_loads_and_runs_it(exported: Path) -> None:
    feeds = {name: value.numpy() for name, value in probe(32, 5).items()}
    both = [run_onnx(exported / name, feeds) for name in ('tiny.onnx', 'tiny-fp16.onnx')]
    assert np.abs(both[0] - both[1]).max() < 0.02
    runtime = Generator(open_model(exported / 'tiny.onnx'))
    assert (runtime.size_px, runtime.crop_scale, runtime.latent_length) == (32, 1.3, 2058)
    crops = Crops(feeds['condition'], feeds['mask'], np.zeros((5, 3), np.int32))
    beside = {'latents': feeds['latent'], 'points_px': feeds['points']}
    wanted = np.rint((both[0] + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
    painted = runtime.generate(crops, **beside)
    assert np.abs(painted.astype(int) - wanted).max() <= 1
    other = runtime.generate(crops, **{**beside, 'latents': feeds['latent'] + 3})
    moved = runtime.generate(crops, **{**beside, 'points_px': feeds['points'] + 6})
    assert (painted != other).any()
    assert (painted != moved).any()
    assert np.array_equal(runtime.generate(crops), runtime.generate(crops))
    runtime.close()


def test_a_checkpoint_of_another_network_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    values = load_checkpoint(checkpoint)
    values['settings'] = {**values['settings'], 'network': 'ffs-128-small'}
    save_checkpoint(tmp_path / 'other.pt', values)
    with pytest.raises(ModelError, match=r'other\.pt: weights of another network'):
        export(tmp_path / 'other.pt', tmp_path / 'out', gallery='*')
    assert not (tmp_path / 'out').exists()


def test_manifest_is_what_the_issue_of_the_file_says(exported: Path) -> None:
    values = json.loads((exported / 'tiny.json').read_text())
    assert values['task'] == 'generator'
    assert values['version'] == '3'
    assert values['outputs'] == {'inpainted': ['N', 3, 32, 32]}


def test_another_run_may_tell_what_sort_of_face_fits(
    tiny_settings: Settled, checkpoint: Path, packed: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(
        packed, tmp_path / 'run', learns='matching', steps=2, size_px=64, crop_scale=1.6
    )
    matching = train(settings, quiet=True)
    out = tmp_path / 'models'
    export(checkpoint, out, gallery='person*', name='tiny', matching=matching)
    chooser, generator = (load_manifest(out / f'tiny{end}.onnx') for end in ('-faces', ''))
    assert chooser is not None
    assert generator is not None
    assert (chooser.size_px, chooser.crop_scale) == (64, 1.6)
    assert (generator.size_px, generator.crop_scale) == (32, 1.3)
    assert (tmp_path / 'models' / 'tiny.jpg').is_file()
    # Nothing of its generator is needed, whatever it is.
    values = load_checkpoint(matching)
    values['ema'] = {k: v for k, v in values['ema'].items() if k.startswith('matcher.')}
    save_checkpoint(tmp_path / 'matcher.pt', values)
    again = tmp_path / 'again'
    export(checkpoint, again, gallery='person*', name='tiny', matching=tmp_path / 'matcher.pt')
    for name in ('tiny.onnx', 'tiny-faces.onnx', 'tiny-faces.csv'):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_large_faces_are_painted_beside_another_generator(
    tiny_settings: Settled, checkpoint: Path, packed: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(
        packed,
        tmp_path / 'run',
        network='ffs-tiny-detailed',
        init_from=str(checkpoint),
        freeze='generator.base,encoder,matcher',
        size_px=64,
        steps=2,
    )
    detailed, models = train(settings, quiet=True), tmp_path / 'models'
    with pytest.raises(ModelError, match=r'tiny\.onnx: got no chooser beside it'):
        export_larger(detailed, models, above=models / 'tiny.onnx')
    export(checkpoint, models, gallery='person*', name='tiny')
    before = {path: path.read_bytes() for path in models.iterdir()}
    with pytest.raises(ModelError, match=r'tiny\.onnx: would be overwritten'):
        export_larger(detailed, models, above=models / 'tiny.onnx', name='tiny')
    with pytest.raises(ModelError, match='got crops of 32 px, expected more than the 32'):
        export_larger(checkpoint, models, above=models / 'tiny.onnx', name='fine')
    assert {path: path.read_bytes() for path in models.iterdir()} == before
    done = export_larger(detailed, models, above=models / 'tiny.onnx', name='fine')
    assert done.fp32_error < 1e-4
    below, above = (load_manifest(models / f'{name}.onnx') for name in ('tiny', 'fine'))
    assert below is not None
    assert above is not None
    assert (below.larger, above.larger) == ('fine.onnx', '')
    assert below.chooser == above.chooser == 'tiny-faces.onnx'
    assert above.size_px == 2 * below.size_px
    assert (models / 'fine.jpg').is_file()
    assert not (models / 'fine-faces.onnx').exists()

    generator, larger = (
        Generator(open_model(models / f'{name}.onnx', device='cpu')) for name in ('tiny', 'fine')
    )
    generator.join(larger)
    assert generator.larger is larger
    with pytest.raises(ModelError, match='and crops of 32 px, expected 2058 and over 64'):
        larger.join(generator)
