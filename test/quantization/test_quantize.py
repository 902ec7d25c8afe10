from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

import cv2
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import AnonymizerError, MediaError, ModelError, SettingsError
from ffs_anonymizer.models.manifest import load_manifest
from ffs_anonymizer.quantization import command as quantize
from ffs_anonymizer.quantization.calibration import found_by, load_crops, load_photos, Photo
from ffs_anonymizer.quantization.explicit import check_explicit, to_explicit, to_portable
from ffs_anonymizer.quantization.graph import joining, prepare
from ffs_anonymizer.quantization.half import halved, to_half
from ffs_anonymizer.quantization.integer import to_integer
from ffs_anonymizer.quantization.metric import (
    agreement,
    average_precision,
    Candidate,
    DetectorQuality,
    GeneratorQuality,
    in_common,
    photo_feeds,
    structural_similarity,
)
from ffs_anonymizer.quantization.ranges import measure_ranges
from ffs_anonymizer.quantization.sensitivity import choose, curve, rank
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.regions.detector import default_model, Network
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest
from support.onnx_models import save_network, save_wrongly_shaped_generator
from support.quantize_models import CONVS, feeds, save_photos, save_spots, save_spotter, save_unet

WIDER = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'detection' / 'wider416'
YUNET = WIDER.parents[1] / 'models' / 'yunet_n_dynamic.onnx'
LEVEL = 2 / 255


@pytest.fixture
def unet(tmp_path):
    return prepare(save_unet(tmp_path / 'unet.onnx'))


@pytest.fixture
def ranges(unet):
    return measure_ranges(unet, [feeds(4, seed=1), feeds(4, seed=2)], 2, 'minmax')


def painted(model, seed=3, *, optimized=True, size_px=32):
    return Candidate(model, optimized=optimized).infer(feeds(2, size_px, seed))['inpainted']


def pairs(model):
    """Return, for each convolution, which of its inputs come out of a DequantizeLinear."""
    made = {n.output[0] for n in model.graph.node if n.op_type == 'DequantizeLinear'}
    return {n.name: [i in made for i in n.input] for n in model.graph.node if n.op_type == 'Conv'}


# -- file A


@pytest.mark.parametrize(
    'kept', [[], ['exit'], ['entry', 'down', 'middle'], [n for n in CONVS if n != 'up'], CONVS]
)
def test_file_a_has_pairs_before_the_quantized_convolutions_only(unet, ranges, kept):
    model = to_explicit(unet, ranges, kept)
    assert {o.domain: o.version for o in model.opset_import}[''] == 17
    for name, quantized in pairs(model).items():
        assert quantized == ([False] * 3 if name in kept else [True, True, False]), name
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            assert constants[node.input[1]].data_type == TensorProto.FLOAT
            assert not numpy_helper.to_array(constants[node.input[2]]).any()
            assert constants[node.input[2]].data_type == TensorProto.INT8
    assert [v.name for v in model.graph.output] == ['inpainted']
    error = np.abs(painted(model) - painted(unet)).max()
    assert error < 12 * LEVEL
    assert (error == 0) == (kept == CONVS)


def test_a_skip_is_quantized_once_for_the_convolution_and_the_sum(unet, ranges):
    nodes = {n.name: n for n in to_explicit(unet, ranges).graph.node}
    assert nodes['middle.add'].input[1] == nodes['middle'].input[0]
    assert nodes['middle.add'].input[0] == 'middle.y'


@pytest.mark.parametrize('kept', [[], ['one'], ['other'], ['one', 'other']])
def test_what_stays_in_float_has_no_pair_even_beside_what_does_not(tmp_path, kept):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node('Relu', ['x'], ['a'], name='relu'),
        helper.make_node('Conv', ['a', 'v'], ['y'], name='one'),
        helper.make_node('Conv', ['a', 'w'], ['z'], name='other'),
        helper.make_node('Add', ['y', 'z'], ['s'], name='sum'),
        helper.make_node('Add', ['s', 'a'], ['out'], name='skip'),
    ]
    weights = {name: rng.normal(0, 1, (3, 3, 1, 1)).astype(np.float32) for name in 'vw'}
    shape = ['N', 3, 8, 8]
    path = tmp_path / 'shared.onnx'
    model = prepare(save_network(path, nodes, {'x': shape}, {'out': shape}, weights))
    x = rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    explicit = to_explicit(model, measure_ranges(model, [{'x': x}], 1, 'minmax'), kept)
    for name, quantized in pairs(explicit).items():
        assert quantized == [name not in kept] * 2
    skip = next(n for n in explicit.graph.node if n.name == 'skip')
    assert (skip.input[1] == 'a') == (len(kept) == 2)
    wanted = Candidate(model).infer({'x': x})['out']
    assert np.abs(Candidate(explicit).infer({'x': x})['out'] - wanted).max() < 0.15


def small_network(nodes):
    """Return a network of two inputs, x and m."""
    weights = [
        numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), node.input[1])
        for node in nodes
        if node.op_type == 'Conv'
    ]
    graph = helper.make_graph(
        nodes,
        'small',
        [
            helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', 3, 8, 8]),
            helper.make_tensor_value_info('m', TensorProto.FLOAT, ['N', 1, 8, 8]),
        ],
        [helper.make_tensor_value_info('out', TensorProto.FLOAT, ['N', 3, 8, 8])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)


def conv(name, source, target):
    return helper.make_node('Conv', [source, f'{name}.w'], [target], name=name)


def join(target, *sources):
    return helper.make_node('Concat', list(sources), [target], axis=1)


@pytest.mark.parametrize(
    ('nodes', 'found'),
    [
        ([join('both', 'x', 'm'), conv('one', 'both', 'y'), conv('two', 'y', 'out')], {'one'}),
        (
            [
                helper.make_node('Mul', ['x', 'm'], ['hole']),
                join('both', 'hole', 'm'),
                helper.make_node('Relu', ['both'], ['z']),
                conv('one', 'z', 'y'),
                conv('two', 'y', 'out'),
            ],
            {'one'},
        ),
        ([helper.make_node('Mul', ['x', 'm'], ['z']), conv('one', 'z', 'out')], set()),
        ([conv('one', 'x', 'y'), join('both', 'y', 'm'), conv('two', 'both', 'out')], set()),
        (
            [
                join('both', 'x', 'm'),
                conv('one', 'both', 'y'),
                join('again', 'y', 'x'),
                conv('two', 'again', 'out'),
            ],
            {'one'},
        ),
    ],
)
def test_only_a_convolution_of_joined_inputs_is_found(nodes, found):
    assert joining(small_network(nodes)) == found


def test_file_a_leaves_the_joined_inputs_in_float(unet, ranges):
    assert joining(unet) == {'entry'}
    for kept in ([], ['entry'], ['exit']):
        for name, quantized in pairs(to_portable(unet, ranges, kept)).items():
            assert any(quantized) == (name != 'entry' and name not in kept), name
    assert not any(map(any, pairs(to_portable(unet, ranges, CONVS)).values()))


def test_openvino_takes_file_a(tmp_path, unet, ranges):
    pytest.importorskip('openvino')
    path = tmp_path / 'a.onnx'
    onnx.save(to_explicit(unet, ranges), path)
    with pytest.raises(ModelError, match="'inpainted' from OpenVINO"):
        open_model(path, device='openvino')
    model = to_portable(unet, ranges)
    onnx.save(model, path)
    got = open_model(path, device='openvino').infer(feeds(2, seed=3))['inpainted']
    assert np.abs(got - painted(model)).mean() < 2 * LEVEL


def broken(model, what):
    constants = {t.name: t for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == 'QuantizeLinear')
    scale, zero = constants[node.input[1]], constants[node.input[2]]
    if what == 'zero point':
        zero.CopyFrom(numpy_helper.from_array(np.int8(3), zero.name))
    elif what == 'scale type':
        half = numpy_helper.to_array(scale).astype(np.float16)
        scale.CopyFrom(numpy_helper.from_array(half, scale.name))
    elif what == 'scale of zero':
        nothing = np.zeros_like(numpy_helper.to_array(scale))
        scale.CopyFrom(numpy_helper.from_array(nothing, scale.name))


@pytest.mark.parametrize(
    ('what', 'text'),
    [
        ('zero point', 'got a zero point other than zero'),
        ('scale of zero', 'got a scale that is not positive'),
    ],
)
def test_a_file_that_tensorrt_would_refuse_is_refused(unet, ranges, what, text):
    model = to_explicit(unet, ranges)
    broken(model, what)
    with pytest.raises(ModelError, match=text):
        check_explicit(model, [], scale_type=TensorProto.FLOAT, opset=17)


def test_the_check_knows_types_opset_and_layers_kept(unet, ranges):
    model = to_explicit(unet, ranges)
    with pytest.raises(ModelError, match='got a scale of another type'):
        check_explicit(model, [], scale_type=TensorProto.FLOAT16, opset=17)
    with pytest.raises(ModelError, match='got opset 17, expected 19'):
        check_explicit(model, [], scale_type=TensorProto.FLOAT, opset=19)
    with pytest.raises(ModelError, match='top: got a pair, expected none'):
        check_explicit(model, ['top'], scale_type=TensorProto.FLOAT, opset=17)
    with pytest.raises(ModelError, match='exit: got 0 pairs, expected two'):
        check_explicit(
            to_explicit(unet, ranges, ['exit']), [], scale_type=TensorProto.FLOAT, opset=17
        )


# -- file B


@pytest.mark.parametrize('kept', [[], ['top', 'exit'], CONVS])
def test_file_b_is_fp16_inside_with_fp16_scales(unet, ranges, kept):
    model = to_half(to_explicit(unet, ranges, kept))
    check_explicit(model, kept, scale_type=TensorProto.FLOAT16, opset=19)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {n for n, kind in kinds.items() if kind == TensorProto.FLOAT} == {'scales'}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == [
        *('condition', 'mask', 'inpainted')
    ]
    error = np.abs(painted(model, optimized=False) - painted(unet)).max()
    assert error < (0.01 if kept == CONVS else 14 * LEVEL)


def test_a_float_network_is_halved_at_its_own_opset(unet):
    model = halved(unet)
    assert {o.domain: o.version for o in model.opset_import}[''] == 17
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {n for n, kind in kinds.items() if kind == TensorProto.FLOAT} == {'scales'}
    assert 0 < np.abs(painted(model) - painted(unet)).max() < 0.01


def test_weights_that_fp16_cannot_hold_are_refused(tmp_path, ranges):
    model = prepare(save_unet(tmp_path / 'large.onnx', outlier=1e6))
    with pytest.raises(ModelError, match=r'entry\.[wb]: got values over 65504'):
        to_half(to_explicit(model, ranges, CONVS))


def test_a_scale_never_becomes_zero_in_fp16(tmp_path):
    path = save_unet(tmp_path / 'tiny.onnx')
    model = onnx.load(path)
    kernel = next(t for t in model.graph.initializer if t.name == 'down.w')
    values = numpy_helper.to_array(kernel).copy()
    values[2] *= 1e-9
    kernel.CopyFrom(numpy_helper.from_array(values, 'down.w'))
    onnx.save(model, path)
    model = prepare(path)
    half = to_half(to_explicit(model, measure_ranges(model, [feeds()], 1, 'minmax')))
    check_explicit(half, [], scale_type=TensorProto.FLOAT16, opset=19)
    assert np.isfinite(painted(half, optimized=False)).all()


@pytest.mark.parametrize('kept', [[], ['top', 'exit']])
def test_tensorrt_takes_both_files(unet, ranges, kept):
    try:
        import tensorrt_rtx_bindings as rtx
    except (ImportError, OSError) as error:
        pytest.skip(f'needs TensorRT-RTX, see docs/tensorrt.md: {error}')
    from ffs_anonymizer.backend.tensorrt.runner import build_engine

    shapes = [{'condition': (n, 3, 32, 32), 'mask': (n, 1, 32, 32)} for n in (1, 4)]
    explicit = to_explicit(unet, ranges, kept)
    for model, precision in ((explicit, 'int8+fp32'), (to_half(explicit), 'int8+fp16')):
        built = build_engine(rtx, model.SerializeToString(), shapes)
        assert built.precision == precision
        assert len(built.data) > 1000


# -- the file for the CPU


@pytest.mark.parametrize('kept', [[], ['up'], ['entry', 'exit'], ['top', 'middle'], CONVS])
def test_the_integer_file_paints_what_the_float_one_does(unet, ranges, kept):
    model = to_integer(unet, ranges, kept)
    operators = [n.op_type for n in model.graph.node]
    assert operators.count('Conv') == len(kept)
    assert ('Resize' in operators) == ('up' in kept)
    error = np.abs(painted(model) - painted(unet)).max()
    assert error < (1e-5 if kept == CONVS else 8 * LEVEL)


def test_doubling_is_exact_up_to_the_edges(tmp_path):
    """Weights and pictures are small integers, so that nothing is rounded anywhere."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-3, 4, (2, 3, 3, 3)).astype(np.float32)
    # Each quarter's largest weight decides its scale, so all of them are made 127.
    kernel[:, 0] = 0
    kernel[:, 0, 1, 1] = 127
    image = rng.integers(0, 256, (1, 3, 5, 7)).astype(np.float32)
    resize = {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'}
    nodes = [
        helper.make_node('Resize', ['x', '', 'scales'], ['large'], name='double', **resize),
        helper.make_node('Conv', ['large', 'w'], ['y'], name='up', pads=[1, 1, 1, 1]),
        helper.make_node('Relu', ['y'], ['z'], name='relu'),
    ]
    weights = {'w': kernel, 'scales': np.array([1, 1, 2, 2], np.float32)}
    path = tmp_path / 'doubling.onnx'
    inputs, outputs = {'x': ['N', 3, 5, 7]}, {'z': ['N', 2, 10, 14]}
    model = prepare(save_network(path, nodes, inputs, outputs, weights))
    wanted = Candidate(model).infer({'x': image})['z']
    top = float(np.ceil(wanted.max() / 255) * 255)
    quantized = to_integer(model, {'x': (0.0, 255.0), 'y': (0.0, top), 'z': (0.0, top)})
    assert 'Resize' not in {n.op_type for n in quantized.graph.node}
    got = Candidate(quantized).infer({'x': image})['z']
    assert np.abs(got - wanted).max() <= top / 255 / 2 + 1e-3


@pytest.mark.parametrize(
    ('resize', 'scales'),
    [
        ({'mode': 'linear', 'coordinate_transformation_mode': 'half_pixel'}, (1, 1, 2, 2)),
        ({'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'ceil'}, (1, 1, 2, 2)),
        ({'coordinate_transformation_mode': 'align_corners'}, (1, 1, 2, 2)),
    ],
)
def test_other_resizes_stay_what_they_are(tmp_path, resize, scales):
    path = save_unet(tmp_path / 'other.onnx', resize=resize, scales=scales)
    model = prepare(path)
    quantized = to_integer(model, measure_ranges(model, [feeds(4)], 1, 'minmax'))
    assert 'Resize' in {n.op_type for n in quantized.graph.node}
    assert np.abs(painted(quantized, 0) - painted(model, 0)).max() < 8 * LEVEL


def test_a_dead_channel_with_a_bias_keeps_its_bias(tmp_path):
    path = save_unet(tmp_path / 'dead.onnx')
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == 'top.w':
            values[1] = 1e-12
        if tensor.name == 'top.b':
            values[1] = 5
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    model = prepare(path)
    quantized = to_integer(model, measure_ranges(model, [feeds(4)], 1, 'minmax'))
    assert np.abs(painted(quantized, 0) - painted(model, 0)).max() < 8 * LEVEL


# -- ranges


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


# -- sensitivity


def crops_of(feed):
    from ffs_anonymizer.painting.crops import Crops

    return Crops(feed['condition'], feed['mask'], np.zeros((len(feed['mask']), 3), np.int32))


@pytest.mark.parametrize(('outlier', 'found'), [(100.0, True), (1.0, False)])
def test_the_layer_made_sensitive_is_found(tmp_path, outlier, found):
    model = prepare(save_unet(tmp_path / 'unet.onnx', outlier=outlier))
    ranges = measure_ranges(model, [feeds(8, seed=1)], 1, 'minmax')
    quality = GeneratorQuality(Candidate(model), crops_of(feeds(4, seed=2)), 'error')
    layers = rank(model, ranges, quality, quality.score(Candidate(model)))
    assert sorted(layer.name for layer in layers) == sorted(CONVS)
    losses = [layer.loss for layer in layers]
    assert losses == sorted(losses, reverse=True)
    assert (layers[0].name == 'top' and losses[0] > 3 * losses[1]) == found
    if found:
        order = [layer.name for layer in layers]
        scores = curve(model, ranges, quality, order, to_explicit)
        assert len(scores) == len(CONVS) + 1
        assert scores[-1] == 1.0
        assert scores[1] > scores[0] + 0.05
        assert choose(scores, 1.0, (scores[0] + scores[1]) / 2) == 1


@pytest.mark.parametrize(
    ('scores', 'float_score', 'keep', 'n'),
    [
        ([0.99, 1.0], 1.0, 0.95, 0),
        ([0.90, 0.94, 0.951, 1.0], 1.0, 0.95, 2),
        ([0.90, 0.96, 0.94, 1.0], 1.0, 0.95, 1),
        ([0.40, 0.47, 0.48, 0.50], 0.5, 0.95, 2),
        ([0.40, 0.475, 0.48, 0.50], 0.5, 0.95, 1),
        ([0.90, 0.99], 1.0, 1.0, 1),
        ([0.5], 1.0, 0.95, 0),
    ],
)
def test_the_smallest_n_that_keeps_enough_is_chosen(scores, float_score, keep, n):
    assert choose(scores, float_score, keep) == n


# -- metrics


def test_only_the_hole_counts():
    rng = np.random.default_rng(0)
    wanted = rng.uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    hole = np.zeros((32, 32), bool)
    hole[12:20, 12:20] = True
    outside = wanted.copy()
    outside[:, :4] = 1
    inside = wanted.copy()
    inside[:, 12:20, 12:20] = 0
    for measure in (structural_similarity, agreement):
        assert measure(wanted, wanted, hole) == pytest.approx(1)
        assert measure(outside, wanted, hole) == pytest.approx(1)
        assert measure(inside, wanted, hole) < 0.3
        assert measure(inside, wanted, np.zeros_like(hole)) == 1


def test_agreement_is_one_less_the_error_over_the_contrast():
    wanted = np.stack([np.full((4, 4), v, np.float32) for v in (-1, 0, 1)])
    hole = np.ones((4, 4), bool)
    contrast = float(np.sqrt(2 / 3))
    assert agreement(wanted + np.float32(0.1), wanted, hole) == pytest.approx(1 - 0.1 / contrast)
    assert agreement(wanted + 9, wanted, hole) == 0


BOX, OTHER, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ('found', 'boxes', 'ignored', 'ap'),
    [
        ([], [BOX], [], 0.0),
        ([(BOX, 0.9)], [], [], 0.0),
        ([(BOX, 0.9)], [BOX], [], 1.0),
        ([(BOX, 0.9)], [BOX, OTHER], [], 0.5),
        ([(BOX, 0.9), (BOX, 0.8)], [BOX], [], 1.0),
        ([(FAR, 0.9), (BOX, 0.8)], [BOX], [], 0.5),
        ([(FAR, 0.9), (BOX, 0.8)], [BOX], [FAR], 1.0),
        ([(BOX, 0.9), (FAR, 0.8), (OTHER, 0.7)], [BOX, OTHER], [], 0.5 + 0.5 * 2 / 3),
        ([((0, 0, 10, 5), 0.9)], [BOX], [], 1.0),
        ([((0, 0, 10, 4.9), 0.9)], [BOX], [], 0.0),
    ],
)
def test_average_precision(found, boxes, ignored, ap):
    detections = Detections.of([b for b, _ in found], [s for _, s in found], FACE)
    as_array = [np.array(b, np.float32).reshape(-1, 4) for b in (boxes, ignored)]
    photo = Photo(np.zeros((8, 8, 3), np.uint8), *as_array)
    assert average_precision([detections], [photo]) == pytest.approx(ap)


@pytest.mark.parametrize(
    ('one', 'other', 'counts'),
    [
        ([], [], (0, 0, 0)),
        ([(BOX, 0.9)], [], (0, 1, 0)),
        ([], [(BOX, 0.2), (FAR, 0.19)], (0, 0, 1)),
        ([(BOX, 0.9)], [(BOX, 0.2)], (1, 0, 0)),
        ([(BOX, 0.9)], [(BOX, 0.19)], (0, 1, 0)),
        ([(BOX, 0.19)], [(BOX, 0.9)], (0, 0, 1)),
        ([(BOX, 0.9), (OTHER, 0.8)], [(FAR, 0.9), (BOX, 0.3)], (1, 1, 1)),
        ([(BOX, 0.9)], [((0, 0, 10, 4.9), 0.9)], (0, 1, 1)),
    ],
)
def test_objects_that_two_networks_find_are_counted_at_the_threshold(one, other, counts):
    found = [
        [Detections.of([b for b, _ in boxes], [s for _, s in boxes], FACE)]
        for boxes in (one, other)
    ]
    assert in_common(*found) == dict(zip(('both', 'first', 'second'), counts, strict=True))


# -- what is read


@pytest.mark.parametrize('opset', [9, 11, 13])
def test_older_opsets_and_batch_norms_are_brought_into_shape(tmp_path, opset):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node('Conv', ['x', 'w'], ['y'], pads=[1, 1, 1, 1]),
        helper.make_node('BatchNormalization', ['y', 'g', 'b', 'm', 'v'], ['n']),
        helper.make_node('Relu', ['n'], ['z']),
    ]
    weights = {'w': rng.normal(0, 1, (4, 3, 3, 3)), 'v': rng.uniform(1, 2, 4)}
    weights.update({name: rng.normal(0, 1, 4) for name in 'gbm'})
    graph = helper.make_graph(
        nodes,
        'old',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info('z', TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    )
    path = tmp_path / 'old.onnx'
    opsets = [helper.make_opsetid('', opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=4), path)
    model = prepare(path)
    assert 'BatchNormalization' not in {n.op_type for n in model.graph.node}
    assert [o.version for o in model.opset_import if o.domain == ''] == [17]
    assert all(node.name for node in model.graph.node)
    x = rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    wanted = open_model(path, device='cpu').infer({'x': x})['z']
    assert Candidate(model).infer({'x': x})['z'] == pytest.approx(wanted, abs=1e-5)


def test_what_cannot_be_quantized_is_refused(tmp_path, unet, ranges):
    path = tmp_path / 'unfit.onnx'
    path.write_bytes(b'nothing')
    with pytest.raises(ModelError, match='no valid ONNX model'):
        prepare(path)
    onnx.save(to_explicit(unet, ranges), path)
    with pytest.raises(ModelError, match='got one quantized already, expected an FP32 network'):
        prepare(path)
    onnx.save(to_integer(unet, ranges), path)
    with pytest.raises(ModelError, match='got one quantized already'):
        prepare(path)
    onnx.save(to_half(to_explicit(unet, ranges, CONVS)), path)
    with pytest.raises(ModelError, match='got an FP16 one'):
        prepare(path)
    save_wrongly_shaped_generator(path)
    with pytest.raises(ModelError, match='got no convolution'):
        prepare(path)


def test_photos_with_a_table_of_boxes(tmp_path):
    save_photos(tmp_path, 3)
    (tmp_path / 'boxes.csv').write_text(
        'file,x0,y0,x1,y1,invalid\n0.png,1,2,30,40,0\n0.png,50,50,60,60,1\n1.png,5,5,9,9,1\n'
    )
    (photo,) = load_photos(tmp_path, 10)
    assert photo.image_bgr.shape == (96, 96, 3)
    assert photo.boxes_xyxy_px.tolist() == [[1, 2, 30, 40]]
    assert photo.ignored_xyxy_px.tolist() == [[50, 50, 60, 60]]


def test_photos_without_any_file_of_boxes_have_none(tmp_path):
    save_spots(tmp_path, 3)
    assert [photo.boxes_xyxy_px.shape for photo in load_photos(tmp_path, 10)] == [(0, 4)] * 3
    (tmp_path / '1.txt').write_text('1 2 3 4')
    (photo,) = load_photos(tmp_path, 10)
    assert photo.boxes_xyxy_px.tolist() == [[1, 2, 3, 4]]


def test_what_a_network_finds_are_the_boxes_and_what_it_doubts_is_ignored(tmp_path):
    model = Candidate(prepare(save_spotter(tmp_path / 'spotter.onnx')))
    photos = load_photos(save_spots(tmp_path / 'frames', 2), 10)
    found = found_by(Network(model, FACE), photos)
    assert sorted(photo.boxes_xyxy_px[0, 0] for photo in found) == pytest.approx([8, 12])
    for photo in found:
        x = photo.boxes_xyxy_px[0, 0]
        assert photo.boxes_xyxy_px == pytest.approx(np.array([[x, 8, x + 12, 20]]))
        assert photo.ignored_xyxy_px == pytest.approx(np.array([[60, 40, 72, 52]]))
    assert DetectorQuality(found, 'the FP32 network').score(model) == 1.0


def test_crops_without_boxes_are_of_what_the_default_detector_finds(tmp_path):
    try:
        default_model()
    except ModelError as error:
        pytest.skip(str(error))
    save_spots(tmp_path, 2)
    with pytest.raises(MediaError, match='got 2 photos without boxes in which the default'):
        load_crops(tmp_path, 10, size_px=32, crop_scale=2.0, region_scale=1.0)
    picture = Path(__file__).resolve().parents[2] / 'docs' / 'before_after.jpg'
    cv2.imwrite(str(tmp_path / 'face.jpg'), cv2.imread(str(picture)))
    assert 1 <= len(load_crops(tmp_path, 10, size_px=32, crop_scale=2.0, region_scale=1.0)) <= 10


def test_crops_have_every_face_of_their_photo_cut_out(tmp_path):
    save_photos(tmp_path, 1)
    (tmp_path / '0.txt').write_text('20 24 40 44\n42 24 60 44\n')
    crops = load_crops(tmp_path, 10, size_px=32, crop_scale=2.0, region_scale=1.0)
    assert len(crops) == 2
    # The crop of the left face is 10..50, 14..54 in the photo: the right one fills its end.
    holes = {
        tuple(square): mask[0] == 0
        for square, mask in zip(crops.squares_xys_px.tolist(), crops.mask, strict=True)
    }
    left = holes[10, 14, 40]
    assert left[8:24, 8:24].all()
    assert left[8:24, 27:].all()
    assert not left[:7].any()
    one = load_crops(tmp_path, 1, size_px=32, crop_scale=2.0, region_scale=1.0)
    assert len(one) == 1
    assert (one.mask[0, 0] == 0).sum() == holes[tuple(one.squares_xys_px[0].tolist())].sum()


def test_packed_faces_are_calibrated_on_too(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    np.save(tmp_path / 'photos.npy', photos)
    header = 'path,identity,x0,y0,x1,y1,in_x0,in_y0,in_x1,in_y1'
    rows = [f'{i}.jpg,{i},16,16,48,48,0,0,64,64' for i in range(3)]
    (tmp_path / 'index.csv').write_text('\n'.join([header, *rows]) + '\n')
    for source in (tmp_path, tmp_path / 'photos.npy'):
        crops = load_crops(source, 2, size_px=32, crop_scale=1.7, region_scale=1.25)
        assert crops.condition.shape == (2, 3, 32, 32)
        assert 0.2 < (crops.mask == 0).mean() < 0.6


def test_photos_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(MediaError, match='got no such folder'):
        load_photos(tmp_path / 'nowhere', 1)
    with pytest.raises(MediaError, match='got no photo, or boxes in none, expected photos'):
        load_photos(tmp_path, 1)
    save_photos(tmp_path, 1)
    (tmp_path / '0.txt').write_text('')
    with pytest.raises(MediaError, match='got no photo, or boxes in none, expected photos'):
        load_photos(tmp_path, 1)
    (tmp_path / '0.txt').write_text('1 2 3 4')
    (tmp_path / '0.png').write_bytes(b'torn')
    with pytest.raises(MediaError, match=r'0\.png: got no image'):
        load_photos(tmp_path, 1)
    (tmp_path / 'boxes.csv').write_text('file,x0\n0.png,1\n')
    with pytest.raises(MediaError, match='cannot be read as boxes'):
        load_photos(tmp_path, 1)


# -- the command


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
        (['-i', 'nowhere.onnx'], ModelError, 'no valid ONNX model'),
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


@pytest.mark.skipif(not WIDER.is_dir() or not YUNET.is_file(), reason=f'needs {WIDER}')
def test_a_real_detector_still_finds_faces_in_eight_bits():
    photos = load_photos(WIDER, 6)
    model = prepare(YUNET)
    feed = photo_feeds(Candidate(model), photos[:3])
    ranges = measure_ranges(model, feed, 3, 'minmax')
    quality = DetectorQuality(photos, 'boxes')
    wanted = quality.score(Candidate(model))
    assert wanted > 0.2
    for build in (to_explicit, to_integer):
        assert quality.score(Candidate(build(model, ranges, ()))) > 0.85 * wanted
