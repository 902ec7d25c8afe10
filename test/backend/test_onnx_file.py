"""A fully convolutional network takes pictures of any size, whatever the one of its export."""

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.backend.onnx_file import free_inputs
from ffs_anonymizer.backend.ort import open_session
import numpy as np
import onnx
from onnx import helper
import pytest
from support.onnx_models import save_network

EXPORTED_PX = 32
CHANNELS = 4


@pytest.fixture
def save(tmp_path):
    def saved(shape=(1, -1, CHANNELS), *, sizes=False):
        """Write one as YuNet is: halved, doubled and joined, then cells in a list."""
        half = EXPORTED_PX // 2
        resized = ['deep', '', '', 'size'] if sizes else ['deep', '', 'scales']
        nodes = [
            helper.make_node('Conv', ['input', 'w'], ['fine'], pads=[1, 1, 1, 1]),
            helper.make_node('Relu', ['fine'], ['seen']),
            helper.make_node('MaxPool', ['seen'], ['deep'], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node('Resize', resized, ['back'], mode='nearest'),
            helper.make_node('Add', ['seen', 'back'], ['both']),
            helper.make_node('Transpose', ['both'], ['last'], perm=[0, 2, 3, 1]),
            helper.make_node('Reshape', ['last', 'shape'], ['flat']),
            helper.make_node('Sigmoid', ['flat'], ['cells']),
        ]
        weights = {
            'w': np.random.default_rng(0).normal(0, 0.01, (CHANNELS, 3, 3, 3)).astype(np.float32),
            'shape': np.array(shape),
        }
        resizing = {'size': np.array([1, CHANNELS, 2 * half, 2 * half])}
        weights |= resizing if sizes else {'scales': np.array([1, 1, 2, 2], np.float32)}
        return save_network(
            tmp_path / 'network.onnx',
            nodes,
            {'input': [1, 3, EXPORTED_PX, EXPORTED_PX]},
            {'cells': [1, EXPORTED_PX**2, CHANNELS]},
            weights,
        )

    return saved


def test_lists_of_cells_take_any_size(save):
    path = save()
    network = open_model(path, device='cpu')
    assert network.inputs[0].shape == (1, 3, -1, -1)
    assert network.outputs[0].shape == (1, -1, CHANNELS)
    image = np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    whole = network.infer({'input': image})['cells'].reshape(64, 96, CHANNELS)
    as_exported = open_session(onnx.load(path))
    part = np.ascontiguousarray(image[:, :, :EXPORTED_PX, :EXPORTED_PX])
    (expected,) = as_exported.run(None, {'input': part})
    np.testing.assert_allclose(network.infer({'input': part})['cells'], expected, rtol=1e-5)
    # A cell sees at most two pixels around it.
    inner = expected.reshape(EXPORTED_PX, EXPORTED_PX, CHANNELS)[:-4, :-4]
    np.testing.assert_allclose(whole[: EXPORTED_PX - 4, : EXPORTED_PX - 4], inner, rtol=1e-5)


@pytest.mark.parametrize(
    'made',
    [
        {'shape': (1, EXPORTED_PX**2, CHANNELS)},
        {'shape': (-1, EXPORTED_PX**2, CHANNELS)},
        {'shape': (1, EXPORTED_PX**2, -1)},
        {'sizes': True},
    ],
)
def test_what_knows_its_size_keeps_it(save, made):
    path = save(**made)
    network = open_model(path, device='cpu')
    assert network.inputs[0].shape == (1, 3, EXPORTED_PX, EXPORTED_PX)
    model = onnx.load(path)
    free_inputs(model)
    assert model == onnx.load(path)


def test_a_generator_keeps_the_size_that_it_was_trained_for(tmp_path):
    side = EXPORTED_PX
    inputs = {'condition': ['N', 3, side, side], 'mask': ['N', 1, side, side]}
    nodes = [
        helper.make_node('Concat', ['condition', 'mask'], ['both'], axis=1),
        helper.make_node('Conv', ['both', 'w'], ['deep'], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node('Resize', ['deep', '', 'scales'], ['inpainted'], mode='nearest'),
    ]
    weights = {
        'w': np.ones((3, 4, 3, 3), np.float32),
        'scales': np.array([1, 1, 2, 2], np.float32),
    }
    path = save_network(
        tmp_path / 'g.onnx', nodes, inputs, {'inpainted': ['N', 3, side, side]}, weights
    )
    condition, mask = open_model(path, device='cpu').inputs
    assert condition.shape[1:] == (3, side, side)
    assert mask.shape[1:] == (1, side, side)
