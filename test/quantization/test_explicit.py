from __future__ import annotations

from ffs_anonymizer.backend import multiplies_bytes, open_model
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.quantization.explicit import check_explicit, to_explicit, to_portable
from ffs_anonymizer.quantization.graph import joining, prepare
from ffs_anonymizer.quantization.metric import Candidate
from ffs_anonymizer.quantization.ranges import measure_ranges
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest
from support.onnx_models import save_network
from support.quantize_models import CONVS, feeds, LEVEL, painted, pairs


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
    if multiplies_bytes():
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
