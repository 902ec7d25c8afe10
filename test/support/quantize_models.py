"""A small generator of the shape of the real ones, for the tests of quantizing and timing."""

from __future__ import annotations

from pathlib import Path

import cv2
from ffs_anonymizer.quantization.metric import Candidate
import numpy as np
from onnx import helper
from support.onnx_models import save_network

CONVS = ['entry', 'top', 'down', 'middle', 'up', 'exit']
CHANNELS = 8
LEVEL = 2 / 255


def save_unet(
    path: Path,
    *,
    size_px: int = 32,
    seed: int = 0,
    outlier: float = 1.0,
    resize: dict[str, str] | None = None,
    scales: tuple[float, ...] = (1, 1, 2, 2),
) -> Path:
    """
    Save a U-Net with two skips.

    :param outlier: factor of one channel between `entry` and `top`; what the network paints is
        the same, but `top` then loses its other channels when its input is quantized.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {'scales': np.array(scales, np.float32)}

    def conv(name: str, source: str, inputs: int, outputs: int, side: int, stride: int = 1):
        deviation = np.sqrt(2 / (inputs * side * side))
        kernel = rng.normal(0, deviation, (outputs, inputs, side, side))
        weights[f'{name}.w'] = kernel.astype(np.float32)
        weights[f'{name}.b'] = rng.normal(0, 0.1, outputs).astype(np.float32)
        return helper.make_node(
            'Conv',
            [source, f'{name}.w', f'{name}.b'],
            [f'{name}.y'],
            name=name,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )

    def relu(name: str, source: str):
        return helper.make_node('Relu', [source], [f'{name}.a'], name=f'{name}.relu')

    def add(name: str, one: str, other: str):
        return helper.make_node('Add', [one, other], [f'{name}.s'], name=f'{name}.add')

    nearest = {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'}
    c = CHANNELS
    nodes = [
        helper.make_node('Concat', ['condition', 'mask'], ['both'], name='concat', axis=1),
        conv('entry', 'both', 4, c, 1),
        relu('entry', 'entry.y'),
        conv('top', 'entry.a', c, c, 3),
        relu('top', 'top.y'),
        conv('down', 'top.a', c, c, 3, 2),
        relu('down', 'down.y'),
        conv('middle', 'down.a', c, c, 3),
        add('middle', 'middle.y', 'down.a'),
        relu('middle', 'middle.s'),
        helper.make_node(
            'Resize', ['middle.a', '', 'scales'], ['large'], name='double', **(resize or nearest)
        ),
        conv('up', 'large', c, c, 3),
        add('up', 'up.y', 'top.a'),
        relu('up', 'up.s'),
        conv('exit', 'up.a', c, 3, 1),
        helper.make_node('Tanh', ['exit.y'], ['inpainted'], name='tanh'),
    ]
    weights['entry.w'][0] *= outlier
    weights['entry.b'][0] *= outlier
    weights['top.w'][:, 0] /= outlier
    square = [size_px, size_px]
    shapes = {'condition': ['N', 3, *square], 'mask': ['N', 1, *square]}
    return save_network(path, nodes, shapes, {'inpainted': ['N', 3, *square]}, weights)


def save_spotter(path: Path) -> Path:
    """Save a detector of CenterFace's layout that finds white squares of 12 px, on a grid of 4."""
    weights = {
        'see.w': np.full((2, 3, 12, 12), 1 / (3 * 12 * 12), np.float32),
        'heat.w': np.full((1, 2, 1, 1), 10 / 255, np.float32),
        'heat.b': np.array([-15], np.float32),
        'size.w': np.zeros((2, 2, 1, 1), np.float32),
        'size.b': np.full(2, np.log(12 / 4), np.float32),
        'shift.w': np.zeros((2, 2, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node(
            'Conv', ['image', 'see.w'], ['seen'], name='see', strides=[4, 4], pads=[4] * 4
        ),
        helper.make_node('Relu', ['seen'], ['a'], name='relu'),
        helper.make_node('Conv', ['a', 'heat.w', 'heat.b'], ['logit'], name='heat'),
        helper.make_node('Sigmoid', ['logit'], ['537'], name='sigmoid'),
        helper.make_node('Conv', ['a', 'size.w', 'size.b'], ['538'], name='size'),
        helper.make_node('Conv', ['a', 'shift.w'], ['539'], name='shift'),
    ]
    maps = {name: [1, n, 'rows', 'columns'] for name, n in (('537', 1), ('538', 2), ('539', 2))}
    return save_network(path, nodes, {'image': [1, 3, 'h', 'w']}, maps, weights)


def save_spots(folder: Path, count: int = 6) -> Path:
    """Save black photos with a white square in each, and one that is grey; no boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = np.zeros((64, 96, 3), np.uint8)
        image[8:20, 8 + 4 * i : 20 + 4 * i] = 255
        image[40:52, 60:72] = 166
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return folder


def feeds(count: int = 2, size_px: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    """Return smooth pictures with a hole, as the generator is fed."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 6, 6, 3)).astype(np.float32)
    images = [cv2.resize(image, (size_px, size_px)).transpose(2, 0, 1) for image in coarse]
    mask = np.ones((count, 1, size_px, size_px), np.float32)
    mask[:, :, size_px // 4 : -size_px // 4, size_px // 4 : -size_px // 4] = 0
    return {'condition': (np.stack(images) * mask).astype(np.float32), 'mask': mask}


def save_photos(folder: Path, count: int = 4, *, side_px: int = 96) -> Path:
    """Save noise of several scales with a box in each, in a text file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f'{i}.png'), cv2.resize(coarse, (side_px, side_px)))
        (folder / f'{i}.txt').write_text(f'{20 + i} 24 {60 + i} 70\n')
    return folder


def painted(model, seed=3, *, optimized=True, size_px=32):
    """Return what a network makes of feeds()."""
    return Candidate(model, optimized=optimized).infer(feeds(2, size_px, seed))['inpainted']


def pairs(model):
    """Return, for each convolution, which of its inputs come out of a DequantizeLinear."""
    made = {n.output[0] for n in model.graph.node if n.op_type == 'DequantizeLinear'}
    return {n.name: [i in made for i in n.input] for n in model.graph.node if n.op_type == 'Conv'}
