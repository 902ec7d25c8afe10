"""8-bit numbers are multiplied exactly on every processor, also where sums of two overflow."""

from ffs_anonymizer.backend import open_model, ort
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.errors import ModelError
import numpy as np
import onnx
from onnx import helper, numpy_helper
import pytest
from support.program import ROOT

CHANNELS = 16
MICROSOFT = 'com.microsoft'


@pytest.fixture(params=['this processor', 'one without VNNI'])
def processor(request, monkeypatch):
    if request.param == 'one without VNNI':
        monkeypatch.setattr(ort, 'multiplies_bytes', lambda: False)


def network(nodes, x, y, constants):
    """Return a network from x to y, which are arrays of the types and shapes to come."""
    graph = helper.make_graph(
        nodes,
        'integers',
        [described('x', x)],
        [described('y', y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def described(name, array):
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)


def extremes(shape, kind, seed=0):
    limits = np.iinfo(kind)
    values = [limits.min, limits.max, limits.max - 1]
    return np.random.default_rng(seed).choice(values, shape).astype(kind)


def summed(x, x_zero, w, group=1):
    """Return what a 3x3 convolution without padding sums up to, (1, M, H - 2, W - 2) int64."""
    x = x.astype(np.int64) - x_zero
    rows, columns = x.shape[2] - 2, x.shape[3] - 2
    sums = np.zeros((1, len(w), rows, columns), np.int64)
    for m, kernel in enumerate(w.astype(np.int64)):
        first = m * group // len(w) * w.shape[1]
        seen = x[0, first : first + w.shape[1]]
        for i in range(3):
            for j in range(3):
                window = seen[:, i : i + rows, j : j + columns]
                sums[0, m] += (window * kernel[:, i, j, None, None]).sum(0)
    return sums


def rounded(sums, scale, zero, kind):
    limits = np.iinfo(kind)
    return np.clip(np.rint(sums / np.float64(scale)) + zero, limits.min, limits.max).astype(kind)


def conv_case(kind, *, channels_last, group=1):
    """Return a network of one integer convolution, its input, and what numpy makes of it."""
    zero = 128 if kind == np.uint8 else 0
    w = extremes((CHANNELS, CHANNELS // group, 3, 3), np.int8, 1)
    x = extremes((1, CHANNELS, 9, 9), kind, 2)
    sums = summed(x, zero, w, group)
    # A power of two, so that the division is exact and nothing hangs on how halves are rounded.
    scale = np.float32(2.0 ** np.ceil(np.log2(np.abs(sums).max() / 100)))
    wanted = rounded(sums, scale, zero, kind)
    if channels_last:
        x, wanted = (np.ascontiguousarray(v.transpose(0, 2, 3, 1)) for v in (x, wanted))
    last = {'channels_last': 1, 'domain': MICROSOFT} if channels_last else {}
    names = ['x', 'one', 'zero', 'w', 'ones', 'zeros', 'scale', 'zero']
    node = helper.make_node('QLinearConv', names, ['y'], name='conv', group=group, **last)
    constants = {
        'one': np.float32(1),
        'zero': kind(zero),
        'w': w,
        'ones': np.ones(CHANNELS, np.float32),
        'zeros': np.zeros(CHANNELS, np.int8),
        'scale': scale,
    }
    return network([node], x, wanted, constants), x, wanted


@pytest.mark.parametrize('kind', [np.uint8, np.int8])
@pytest.mark.parametrize('channels_last', [True, False])
@pytest.mark.parametrize('group', [1, 4, CHANNELS])
def test_an_integer_convolution_of_extremes_is_exact(processor, kind, channels_last, group):
    model, x, wanted = conv_case(kind, channels_last=channels_last, group=group)
    before = model.SerializeToString()
    (got,) = open_session(model, threads=1).run(None, {'x': x})
    assert np.array_equal(got, wanted)
    assert len(np.unique(wanted)) > 10
    assert model.SerializeToString() == before


@pytest.mark.parametrize('kind', [np.uint8, np.int8])
@pytest.mark.parametrize('operator', ['MatMulInteger', 'MatMulIntegerToFloat', 'QGemm'])
def test_an_integer_product_of_extremes_is_exact(processor, kind, operator):
    zero = kind(128 if kind == np.uint8 else 0)
    x, w = extremes((8, 64), kind, 3), extremes((64, 24), np.int8, 4)
    inputs = {
        'MatMulInteger': ['x', 'w', 'zero', 'w_zero'],
        'MatMulIntegerToFloat': ['x', 'w', 'one', 'one', 'zero', 'w_zero'],
        'QGemm': ['x', 'one', 'zero', 'w', 'one', 'w_zero'],
    }[operator]
    domain = '' if operator == 'MatMulInteger' else MICROSOFT
    output = np.int32 if operator == 'MatMulInteger' else np.float32
    constants = {'one': np.float32(1), 'zero': zero, 'w': w, 'w_zero': np.int8(0)}
    node = helper.make_node(operator, inputs, ['y'], domain=domain)
    wanted = ((x.astype(np.int64) - int(zero)) @ w.astype(np.int64)).astype(output)
    (got,) = open_session(network([node], x, wanted, constants)).run(None, {'x': x})
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize('kind', [np.uint8, np.int8])
def test_a_convolution_between_pairs_is_exact(processor, kind):
    zero = 128 if kind == np.uint8 else 0
    w, q = extremes((8, 8, 3, 3), np.int8, 5), extremes((1, 8, 7, 7), kind, 6)
    sums = summed(q, zero, w)
    scale = np.float32(2.0 ** np.ceil(np.log2(np.abs(sums).max() / 100)))
    nodes = [
        helper.make_node('QuantizeLinear', ['x', 'one', 'zero'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 'one', 'zero'], ['a']),
        helper.make_node('DequantizeLinear', ['w', 'one', 'w_zero'], ['b']),
        helper.make_node('Conv', ['a', 'b'], ['c']),
        helper.make_node('QuantizeLinear', ['c', 'scale', 'zero'], ['d']),
        helper.make_node('DequantizeLinear', ['d', 'scale', 'zero'], ['y']),
    ]
    constants = {
        'one': np.float32(1),
        'zero': kind(zero),
        'w': w,
        'w_zero': np.int8(0),
        'scale': scale,
    }
    x = q.astype(np.float32) - np.float32(zero)
    wanted = (rounded(sums, scale, zero, kind).astype(np.float32) - zero) * scale
    (got,) = open_session(network(nodes, x, wanted, constants)).run(None, {'x': x})
    assert np.array_equal(got, wanted)


def test_openvino_is_exact_without_vnni_too(tmp_path, monkeypatch):
    pytest.importorskip('openvino')
    from ffs_anonymizer.backend import openvino

    monkeypatch.setattr(openvino, 'multiplies_bytes', lambda: False)
    w, q = extremes((8, 8, 3, 3), np.int8, 5), extremes((1, 8, 7, 7), np.int8, 6)
    nodes = [
        helper.make_node('QuantizeLinear', ['x', 'one', 'zero'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 'one', 'zero'], ['a']),
        helper.make_node('DequantizeLinear', ['w', 'one', 'zero'], ['b']),
        helper.make_node('Conv', ['a', 'b'], ['y']),
    ]
    x, wanted = q.astype(np.float32), summed(q, 0, w).astype(np.float32)
    path = tmp_path / 'pairs.onnx'
    constants = {'one': np.float32(1), 'zero': np.int8(0), 'w': w}
    onnx.save(network(nodes, x, wanted, constants), path)
    backend = open_model(path, device='openvino')
    assert 'the processor has no VNNI' in str(backend.device)
    assert np.array_equal(backend.infer({'x': x})['y'], wanted)


def test_what_no_setting_computes_exactly_is_refused(monkeypatch):
    monkeypatch.setattr(ort, 'multiplies_bytes', lambda: False)
    model, *_ = conv_case(np.uint8, channels_last=True)
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.int8(0), 'signed'), numpy_helper.from_array(np.int8(0), 'b')]
    )
    model.graph.node.append(
        helper.make_node('QGemm', ['b', 'one', 'signed', 'b', 'one', 'b'], ['z'], domain=MICROSOFT)
    )
    with pytest.raises(ModelError, match='got integer operators on numbers with and without sign'):
        open_session(model)

    model, *_ = conv_case(np.uint8, channels_last=True)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == 'w')
    model.graph.node.insert(0, helper.make_node('Constant', [], ['w'], value=weights))
    model.graph.initializer.remove(weights)
    with pytest.raises(ModelError, match='conv: got weights that are computed, expected const'):
        open_session(model)


@pytest.mark.parametrize('able', [True, False])
def test_the_user_is_told_of_a_processor_that_needs_wider_products(tmp_path, monkeypatch, able):
    monkeypatch.setattr(ort, 'multiplies_bytes', lambda: able)
    zero, one = np.uint8(0), np.float32(1)
    nodes = [
        helper.make_node('QuantizeLinear', ['x', 'one', 'zero'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 'one', 'zero'], ['y']),
    ]
    x = np.full((1, 3), 7, np.float32)
    path = tmp_path / 'integers.onnx'
    onnx.save(network(nodes, x, x, {'one': one, 'zero': zero}), path)
    backend = open_model(path, device='cpu')
    assert ('the processor has no VNNI' in str(backend.device)) == (not able)
    assert np.array_equal(backend.infer({'x': x})['y'], x)


def test_every_session_is_opened_in_one_place():
    files = [*(ROOT / 'ffs_anonymizer').rglob('*.py'), *(ROOT / 'test').rglob('*.py')]
    users = [path.name for path in files if 'InferenceSession' + '(' in path.read_text('utf-8')]
    assert users == ['ort.py']
