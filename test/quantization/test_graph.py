from __future__ import annotations

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.quantization.explicit import to_explicit
from ffs_anonymizer.quantization.graph import joining, prepare
from ffs_anonymizer.quantization.half import to_half
from ffs_anonymizer.quantization.integer import to_integer
from ffs_anonymizer.quantization.metric import Candidate
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest
from support.onnx_models import save_wrongly_shaped_generator
from support.quantize_models import CONVS


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
