from __future__ import annotations

import argparse
import json
import sys

import cv2
from ffs_anonymizer.errors import (
    AnonymizerError,
    MediaError,
    ModelError,
    OutputError,
    SettingsError,
)
from ffs_anonymizer.models.manifest import (
    companion_of,
    file_sha256,
    load_manifest,
    Manifest,
    save_manifest,
)
from ffs_anonymizer.quantization import command as quantize
import numpy as np
import onnx
import pytest
from support.onnx_models import save_chooser
from support.quantize_models import CONVS, pairs, save_photos, save_spots, save_spotter, save_unet


def command(*words):
    parser = argparse.ArgumentParser()
    quantize.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(['quantize', *map(str, words), '--disable-progress-output'])
    return args.run(args)


@pytest.fixture
def job(tmp_path):
    model = save_unet(tmp_path / 'unet.onnx', outlier=100.0)
    photos = save_photos(tmp_path / 'photos', 6)
    out = tmp_path / 'out'
    words = ['-i', model, '-o', out, '--calibration', photos, '--crops', 4, '--evaluate', 2]
    return words, out


def test_the_command_writes_three_files_with_manifests_and_a_plot(job, tmp_path, capsys):
    words, out = job
    figures = tmp_path / 'figures.json'
    assert command(*words, '--metric', 'error', '--keep', '0.9', '--json', figures) == 0
    names = ['unet-int8', 'unet-int8-cpu', 'unet-int8-fp16']
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [f'{n}.{end}' for n in names for end in ('json', 'onnx')]
        + ['unet-int8.png', 'unet-int8-faces.png']
    )
    for name in names:
        manifest = load_manifest(out / f'{name}.onnx')
        assert manifest is not None
        assert (manifest.precision, manifest.size_px, manifest.crop_scale) == ('int8', 32, 1.7)
        numbers = manifest.metrics['quantization']
        assert numbers['judged_against'] == 'the FP32 network'
        assert numbers['score'] >= 0.9
        assert sorted(layer['name'] for layer in numbers['layers']) == sorted(CONVS)
        assert (numbers['calibrated_on'], numbers['judged_on']) == (4, 2)
        order = [layer['name'] for layer in numbers['layers']]
        kept = numbers['kept_in_float']
        assert 'top' in kept
        if name == 'unet-int8-cpu':
            assert kept == order[: len(kept)]
        else:
            assert 'entry' in kept
        if name != 'unet-int8-fp16':
            assert len(numbers['curve']) == len(CONVS) + 1
            n = numbers['curve'].index(numbers['score'])
            assert set(kept) - {'entry'} == set(order[:n]) - {'entry'}
            assert all(score < 0.9 for score in numbers['curve'][:n])
    # Two crops, seen and painted by four networks, under a title of 18 px.
    assert cv2.imread(str(out / 'unet-int8-faces.png')).shape == (2 * 32 + 18, 5 * 32, 3)
    assert set(json.loads(figures.read_text())) == {'A', 'B', 'CPU'}
    assert cv2.imread(str(out / 'unet-int8.png')).shape[1] > 1000
    assert 'the most sensitive first' in capsys.readouterr().out

    with pytest.raises(
        ModelError, match=r'unet-int8\.onnx.* there already, expected no such file'
    ):
        command(*words)


def test_what_chooses_the_faces_of_a_generator_lies_beside_its_quantized_files(job, tmp_path):
    words, out = job
    model, chooser = tmp_path / 'unet.onnx', save_chooser(tmp_path / 'f.onnx')
    shape = {'condition': ('N', 3, 32, 32)}
    for path, name in ((chooser, ''), (model, 'f.onnx')):
        told = path.stem, 'generator' if name else 'chooser', '1', file_sha256(path), shape, shape
        save_manifest(Manifest(*told, 32, 1.7, 'fp32', '', '', chooser=name), path)
    quick = [*words, '--files', 'CPU', '--quick', '--keep', '0.01', '--no-plot']
    assert command(*quick) == 0
    path = out / 'unet-int8-cpu.onnx'
    assert companion_of(path, 'chooser') == out / 'f.onnx'
    assert (out / 'f.onnx').read_bytes() == chooser.read_bytes()
    assert load_manifest(out / 'f.onnx') == load_manifest(chooser)

    # One that is there already stays as it is, and another is not overwritten
    assert command(*quick, '--name', 'again') == 0
    (out / 'f.onnx').write_bytes(b'another')
    with pytest.raises(ModelError, match=r'f\.onnx.* there already'):
        command(*quick, '--name', 'third')


@pytest.mark.parametrize('n', [0, 2])
def test_the_number_kept_in_float_can_be_told(job, n):
    words, out = job
    assert command(*words, '--keep-float', n, '--no-plot', '--name', 'told') == 0
    manifest = load_manifest(out / 'told-int8.onnx')
    worst = [layer['name'] for layer in manifest.metrics['quantization']['layers']][:n]
    for name, quantized in pairs(onnx.load(out / 'told-int8.onnx')).items():
        assert any(quantized) == (name not in {*worst, 'entry'}), name
    cpu = onnx.load(out / 'told-int8-cpu.onnx')
    assert [node.op_type for node in cpu.graph.node].count('Conv') == n
    assert not (out / 'told-int8.png').exists()


@pytest.mark.parametrize('files', [['CPU'], ['B'], ['A', 'CPU']])
def test_only_the_files_asked_for_are_made(job, tmp_path, files):
    words, out = job
    figures = tmp_path / 'figures.json'
    wanted = ['--metric', 'error', '--keep', '0.9', '--files', *files, '--json', figures]
    assert command(*words, *wanted) == 0
    suffixes = {'A': '', 'B': '-fp16', 'CPU': '-cpu'}
    names = {f'unet-int8{suffixes[file]}.onnx' for file in files}
    assert {path.name for path in out.glob('*.onnx')} == names
    for numbers in json.loads(figures.read_text()).values():
        assert numbers['layers'][0]['name'] == 'top'
        assert numbers['score'] >= 0.9
    columns = 2 + len(files)
    assert cv2.imread(str(out / 'unet-int8-faces.png')).shape == (2 * 32 + 18, columns * 32, 3)


def test_a_dry_run_writes_nothing(job, capsys):
    words, out = job
    assert command(*words, '--dry-run') == 0
    assert 'unet-int8-cpu.onnx' in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ('changes', 'error', 'text'),
    [
        (['--keep', '1.5'], SettingsError, '--keep: got 1.5'),
        (['--crops', '0'], SettingsError, '--crops: got 0, expected 1 or more'),
        (['--keep-float', '99'], SettingsError, '--keep-float: got 99, expected 0 to 6'),
        (['--metric', 'ap'], SettingsError, "--metric: got 'ap' for a generator"),
        (['--task', 'detector'], ModelError, r'got a network with the outputs \[.inpainted.\]'),
        (['--calibration', 'nowhere'], MediaError, 'nowhere: got no such folder'),
        (['-i', 'nowhere.onnx'], ModelError, 'nowhere.onnx: cannot be read: .*No such file'),
        (['--output', __file__], OutputError, 'got a file, expected a folder or nothing there'),
        (['--json', 'no/such/folder/a.json'], ModelError, 'got no folder no/such/folder'),
    ],
)
def test_the_command_says_what_is_wrong(job, changes, error, text):
    words, out = job
    with pytest.raises(error, match=text):
        command(*words, *changes)
    assert not out.exists()


def test_a_missing_library_is_missed_before_the_work(job, monkeypatch):
    words, out = job
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(ModelError, match='got no matplotlib; install it'):
        command(*words)
    assert not out.exists()
    assert command(*words, '--no-plot', '--dry-run') == 0


def test_a_network_of_another_contract_is_refused(job, tmp_path):
    words, out = job
    model = onnx.load(tmp_path / 'unet.onnx')
    model.graph.output[0].name = 'faces'
    model.graph.node[-1].output[0] = 'faces'
    onnx.save(model, tmp_path / 'unet.onnx')
    with pytest.raises(AnonymizerError, match='and inpainted'):
        command(*words)
    assert not out.exists()


@pytest.fixture
def spotting(tmp_path):
    model = save_spotter(tmp_path / 'spotter.onnx')
    photos = save_spots(tmp_path / 'frames')
    words = ['-i', model, '--task', 'detector', '--calibration', photos, '--evaluate', 3]
    return [*words, '-o', tmp_path / 'out', '--no-plot', '--keep-float', 0], photos


@pytest.mark.parametrize('boxes', [False, True])
def test_a_detector_is_judged_by_its_fp32_self_where_there_are_no_boxes(
    spotting, tmp_path, capsys, boxes
):
    words, photos = spotting
    if boxes:
        for i in range(6):
            (photos / f'{i}.txt').write_text(f'{8 + 4 * i} 8 {20 + 4 * i} 20\n60 40 72 52\n')
    assert command(*words, '--json', tmp_path / 'figures.json') == 0
    against, objects = ('boxes', 6) if boxes else ('the FP32 network', 3)
    printed = capsys.readouterr().out
    assert f'judged against: {against}, {objects} objects\n' in printed
    assert 'CPU   3 found by both, 0 by FP32 alone, 0 by the file alone' in printed
    for numbers in json.loads((tmp_path / 'figures.json').read_text()).values():
        assert numbers['judged_against'] == against
        assert numbers['objects'] == objects
        assert (numbers['calibrated_on'], numbers['judged_on']) == (3, 3)
        assert numbers['float_score'] == numbers['score'] == 1.0
        counts = {'threshold': 0.2, 'both': 3, 'fp32_alone': 0, 'file_alone': 0}
        assert numbers['found'] == counts


@pytest.mark.parametrize(
    ('keep', 'ranked'), [(['--keep', '0.5'], False), (['--keep-float', '0'], False), ([], True)]
)
def test_the_quick_way_ranks_layers_only_where_it_must(job, capsys, keep, ranked):
    words, out = job
    assert command(*words, '--quick', '--metric', 'error', '--keep', '0.99', *keep) == 0
    assert ('the most sensitive first' in capsys.readouterr().out) == ranked
    assert (out / 'unet-int8.png').exists() == ranked
    for name in ('unet-int8', 'unet-int8-fp16', 'unet-int8-cpu'):
        numbers = load_manifest(out / f'{name}.onnx').metrics['quantization']
        assert len(numbers['layers']) == (len(CONVS) if ranked else 0)
        assert ('entry' in numbers['kept_in_float']) >= (name != 'unet-int8-cpu')
        if not keep:
            assert numbers['score'] >= 0.99


def test_frames_in_which_nothing_is_found_cannot_judge(spotting, tmp_path):
    words, photos = spotting
    for path in photos.iterdir():
        cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(MediaError, match='got 3 photos without boxes in which the FP32 network'):
        command(*words)
    assert not (tmp_path / 'out').exists()
