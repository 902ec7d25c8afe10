from __future__ import annotations

from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.integer import to_integer
from ffs_anonymizer.quantization.metric import Candidate
from ffs_anonymizer.quantization.ranges import measure_ranges
import numpy as np
import onnx
from onnx import helper, numpy_helper
import pytest
from support.onnx_models import save_network
from support.quantize_models import CONVS, feeds, LEVEL, painted, save_unet


@pytest.mark.parametrize('kept', [[], ['up'], ['entry', 'exit'], ['top', 'middle'], CONVS])
def test_the_integer_file_paints_what_the_float_one_does(unet, ranges, kept):
    model = to_integer(unet, ranges, kept)
    operators = [n.op_type for n in model.graph.node]
    assert operators.count('Conv') == len(kept)
    assert ('Resize' in operators) == ('up' in kept)
    error = np.abs(painted(model) - painted(unet)).max()
    assert error < (1e-5 if kept == CONVS else 8 * LEVEL)


def sized(model):
    """Give a network of one input, which is free to take any size, the one size of a generator."""
    for value, sides in ((model.graph.input[0], (5, 7)), (model.graph.output[0], (10, 14))):
        for axis, side in zip((2, 3), sides, strict=True):
            value.type.tensor_type.shape.dim[axis].dim_value = side
    return onnx.shape_inference.infer_shapes(model)


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
    model = sized(prepare(save_network(path, nodes, inputs, outputs, weights)))
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
