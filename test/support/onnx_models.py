"""Small ONNX networks of the product's contracts, built on the spot with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto


def save_network(path: Path, nodes, inputs, outputs, weights) -> Path:
    """Save a network; inputs and outputs are given by name and shape."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def save_generator(path: Path, *, size_px: int = 32, seed: int = 0, scale: float = 1.0) -> Path:
    """Every output pixel depends on every input pixel: near ones by a conv, all by a mean."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node('Concat', ['condition', 'mask'], ['both'], axis=1),
        helper.make_node('Conv', ['both', 'near_w'], ['near'], pads=[3, 3, 3, 3]),
        helper.make_node('GlobalAveragePool', ['both'], ['mean']),
        helper.make_node('Conv', ['mean', 'far_w'], ['far']),
        helper.make_node('Add', ['near', 'far'], ['sum']),
        helper.make_node('Tanh', ['sum'], ['bounded']),
        helper.make_node('Mul', ['bounded', 'scale'], ['inpainted']),
    ]
    weights = {
        'near_w': rng.normal(0, 0.2, (3, 4, 7, 7)).astype(np.float32),
        'far_w': rng.normal(0, 5.0, (3, 4, 1, 1)).astype(np.float32),
        'scale': np.float32(scale),
    }
    square = [size_px, size_px]
    return save_network(
        path,
        nodes,
        {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]},
        {'inpainted': ['N', 3, *square]},
        weights,
    )


def save_coded_generator(path: Path, *, size_px: int = 32, length: int = 8) -> Path:
    """Write one that takes latent and points, too; each moves the colour of the whole face."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node('Gemm', ['latent', 'which_w'], ['which']),
        helper.make_node('Flatten', ['points'], ['flat']),
        helper.make_node('Gemm', ['flat', 'where_w'], ['where']),
        helper.make_node('Add', ['which', 'where'], ['moved']),
        helper.make_node('Tanh', ['moved'], ['colour']),
        helper.make_node('Reshape', ['colour', 'shape'], ['spread']),
        helper.make_node('Mul', ['condition', 'mask'], ['kept']),
        helper.make_node('ReduceMean', ['kept'], ['mean'], axes=[2, 3]),
        helper.make_node('Add', ['mean', 'spread'], ['both']),
        helper.make_node('Mul', ['condition', 'none'], ['zeros']),
        helper.make_node('Add', ['zeros', 'both'], ['inpainted']),
    ]
    weights = {
        'which_w': rng.normal(0, 0.2, (length, 3)).astype(np.float32),
        'where_w': rng.normal(0, 0.01, (10, 3)).astype(np.float32),
        'shape': np.array([-1, 3, 1, 1]),
        'none': np.float32(0),
    }
    square = [size_px, size_px]
    inputs = {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]}
    inputs |= {'latent': ['N', length], 'points': ['N', 5, 2]}
    return save_network(path, nodes, inputs, {'inpainted': ['N', 3, *square]}, weights)


def save_chooser(
    path: Path,
    *,
    size_px: int = 32,
    length: int = 8,
    seed: int = 0,
    gallery: int = 0,
    fails: bool = False,
) -> Path:
    """
    Write one whose latents follow from chance and from the mean of what is seen.

    :param gallery: if not 0, chance picks one of so many instead.
    """
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node('Mul', ['condition', 'mask'], ['kept']),
        helper.make_node('ReduceMean', ['kept'], ['mean'], axes=[2, 3], keepdims=0),
        helper.make_node('Flatten', ['points'], ['flat']),
        helper.make_node('Concat', ['chance', 'mean', 'flat'], ['all'], axis=1),
        helper.make_node('Cast', ['far'], ['index'], to=TensorProto.INT64),
        helper.make_node('Gather', ['all', 'index'], ['known'], axis=1),
        helper.make_node('Gemm', ['known', 'mixed_w'], ['latent']),
    ]
    columns = np.arange(4 + 3 + 10, dtype=np.float32)
    weights = {
        'mixed_w': rng.normal(0, 1.0, (len(columns), length)).astype(np.float32),
        'far': columns,
    }
    square = [size_px, size_px]
    inputs = {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]}
    inputs |= {'chance': ['N', 4], 'points': ['N', 5, 2]}
    if gallery:
        nodes[5] = helper.make_node('Slice', ['all', 'zero', 'four', 'axis'], ['known'])
        nodes[6] = helper.make_node('Gemm', ['known', 'mixed_w'], ['fits'])
        nodes.append(helper.make_node('ArgMax', ['fits'], ['best'], axis=1, keepdims=0))
        nodes.append(helper.make_node('Gather', ['faces', 'best'], ['latent'], axis=0))
        del nodes[4], weights['far']
        weights |= {'zero': np.array([0]), 'four': np.array([4]), 'axis': np.array([1])}
        weights['mixed_w'] = rng.normal(0, 1.0, (4, gallery)).astype(np.float32)
        weights['faces'] = rng.normal(0, 1.0, (gallery, length)).astype(np.float32)
    if fails:
        # A column that is not there, by what is seen: no optimizer can know it before
        nodes[4] = helper.make_node('ReduceMax', ['mask'], ['one'], keepdims=0)
        nodes.insert(5, helper.make_node('Mul', ['one', 'far'], ['outside']))
        nodes.insert(6, helper.make_node('Cast', ['outside'], ['index'], to=TensorProto.INT64))
        weights['far'] = columns + 1e6
    return save_network(path, nodes, inputs, {'latent': ['N', length]}, weights)


def save_wrongly_shaped_generator(path: Path, *, size_px: int = 32) -> Path:
    """Write one whose output is half as large as it should be, which its description hides."""
    nodes = [
        helper.make_node('Mul', ['condition', 'mask'], ['kept']),
        helper.make_node(
            'AveragePool', ['kept'], ['inpainted'], kernel_shape=[2, 2], strides=[2, 2]
        ),
    ]
    square = [size_px, size_px]
    return save_network(
        path,
        nodes,
        {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]},
        {'inpainted': ['N', 3, 'h', 'w']},
        {},
    )


def save_failing_generator(path: Path, *, size_px: int = 32) -> Path:
    """Write one that loads, and raises on every run: it picks a column far outside the crop."""
    nodes = [
        helper.make_node('ReduceMax', ['mask'], ['one'], keepdims=0),
        helper.make_node('Mul', ['one', 'far'], ['outside']),
        helper.make_node('Cast', ['outside'], ['index'], to=TensorProto.INT64),
        helper.make_node('Gather', ['condition', 'index'], ['column'], axis=3),
        helper.make_node('Add', ['column', 'mask'], ['inpainted']),
    ]
    square = [size_px, size_px]
    return save_network(
        path,
        nodes,
        {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]},
        {'inpainted': ['N', 3, *square]},
        {'far': np.full(1, 1e6, np.float32)},
    )


def save_hanging_generator(path: Path, *, size_px: int = 32) -> Path:
    """Write one that loads, and counts further than anyone can wait on every run."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node('Identity', ['go'], ['go_on']),
            helper.make_node('Add', ['count', 'count'], ['counted']),
        ],
        'body',
        [
            scalar('turn', TensorProto.INT64, []),
            scalar('go', TensorProto.BOOL, []),
            scalar('count', TensorProto.FLOAT, []),
        ],
        [scalar('go_on', TensorProto.BOOL, []), scalar('counted', TensorProto.FLOAT, [])],
    )
    nodes = [
        helper.make_node('ReduceMax', ['mask'], ['one'], keepdims=0),
        helper.make_node('Loop', ['turns', 'true', 'one'], ['total'], body=body),
        helper.make_node('Mul', ['condition', 'total'], ['inpainted']),
    ]
    square = [size_px, size_px]
    return save_network(
        path,
        nodes,
        {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]},
        {'inpainted': ['N', 3, *square]},
        {'turns': np.int64(2**62), 'true': np.bool_(True)},
    )


def save_yunet(path: Path, cells: dict[int, dict[str, np.ndarray]]) -> Path:
    """Write a network of YuNet's outputs that returns the given cells, whatever it sees."""
    values = {
        f'{name}_{stride}': v for stride, named in cells.items() for name, v in named.items()
    }
    return save_answering(path, values)


def save_answering(
    path: Path, values: dict[str, np.ndarray], *, input_hw: tuple[object, object] = ('h', 'w')
) -> Path:
    """Write a network of one image that returns the given outputs, whatever it sees."""
    nodes, outputs, weights = [], {}, {}
    nodes.append(helper.make_node('ReduceMean', ['input'], ['mean'], keepdims=0))
    nodes.append(helper.make_node('Mul', ['mean', 'nothing'], ['zero']))
    weights['nothing'] = np.float32(0)
    for output, value in values.items():
        weights[f'{output}_value'] = value.astype(np.float32)
        nodes.append(helper.make_node('Add', [f'{output}_value', 'zero'], [output]))
        outputs[output] = list(value.shape)
    return save_network(path, nodes, {'input': [1, 3, *input_hw]}, outputs, weights)


def save_seeing(path: Path) -> Path:
    """Write a YOLO whose one row tells what it sees: the mean of red, green, blue, and all."""
    nodes = [
        helper.make_node('ReduceMean', ['images'], ['mean'], axes=[2, 3], keepdims=0),
        helper.make_node('ReduceMax', ['images'], ['most'], axes=[1, 2, 3], keepdims=0),
        helper.make_node('Reshape', ['most', 'one'], ['column']),
        helper.make_node('Concat', ['mean', 'column', 'rest'], ['row'], axis=1),
        helper.make_node('Unsqueeze', ['row', 'axes'], ['output0']),
    ]
    weights = {
        'one': np.array([1, 1], np.int64),
        'axes': np.array([1], np.int64),
        'rest': np.array([[0.9, 0.0]], np.float32),
    }
    return save_network(path, nodes, {'images': [1, 3, 64, 64]}, {'output0': [1, 1, 6]}, weights)


def exchange(path: Path) -> None:
    """Put another file of the same network in the place of one."""
    other = onnx.load(path)
    other.doc_string += 'another'
    onnx.save(other, path)
