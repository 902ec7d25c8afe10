"""The generator: a U-Net of plain convolutions, batch norm and added skips, in several widths."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ffs_anonymizer.errors import ModelError
import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Architecture:
    """
    Say how wide and how deep a generator is.

    :param channels: of the top and of the levels below it, each half the side of the last.
    :param patch_px: side of the pixel blocks that the top works on; 1 = every pixel.
    :param middle: residual blocks at the lowest level.
    """

    channels: tuple[int, ...]
    patch_px: int = 1
    middle: int = 0


ARCHITECTURES = {
    'ffs-128': Architecture((128, 256, 384, 384, 384), middle=1),
    'ffs-128-lean': Architecture((64, 96, 192, 320, 512), middle=1),
    'ffs-128-small': Architecture((32, 96, 160, 224, 256), patch_px=2, middle=1),
    'ffs-64-small': Architecture((96, 160, 224, 256), patch_px=2, middle=1),
    'ffs-tiny': Architecture((8, 8, 16), patch_px=2, middle=1),
}


class ConvNorm(nn.Module):  # type: ignore[misc]
    """
    Convolve, normalize by batch statistics, add a skip where there is one, rectify.

    :param inputs: channels in.
    :param outputs: channels out.
    :param kernel_px: side of the kernel.
    :param stride: 2 halves the side.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_px: int = 3, stride: int = 1, relu: bool = True
    ) -> None:
        """Make the layers."""
        super().__init__()
        padding = kernel_px // 2 if kernel_px % 2 else 0
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, kernel_px, stride, padding, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """
        Return the next activation.

        :param x: (N, inputs, H, W).
        :param skip: (N, outputs, H / stride, W / stride), added before the rectifier.
        """
        x = self.norm(self.conv(x))
        if skip is not None:
            x = x + skip
        return functional.relu(x) if self.relu else x


class Middle(nn.Module):  # type: ignore[misc]
    """
    Refine the lowest level: two convolutions around a skip.

    :param channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        """Make the layers."""
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the refined activation, (N, channels, H, W) as it came."""
        refined: torch.Tensor = self.second(self.first(x), x)
        return refined


class Generator(nn.Module):  # type: ignore[misc]
    """
    Paint what the mask leaves out.

    :param architecture: the widths.
    """

    def __init__(self, architecture: Architecture) -> None:
        """Make the layers."""
        super().__init__()
        self.architecture = architecture
        patch, channels = architecture.patch_px, architecture.channels
        self.entry = ConvNorm(4, channels[0], kernel_px=patch, stride=patch)
        self.top = ConvNorm(channels[0], channels[0])
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(ConvNorm(c, d, stride=2) for c, d in pairs)
        self.middle = nn.ModuleList(Middle(channels[-1]) for _ in range(architecture.middle))
        self.up = nn.ModuleList(ConvNorm(d, c) for c, d in reversed(pairs))
        self.last = ConvNorm(channels[0], channels[0])
        self.exit = nn.Conv2d(channels[0], 3 * patch * patch, 1)
        alike = self.exit.weight.detach()[:3].repeat_interleave(patch * patch, 0)
        self.exit.weight.data.copy_(alike)

    def features(self, condition: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """
        Return the activations from the lowest level up to the last, for distillation.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        """
        x = self.top(self.entry(torch.cat([condition, mask], 1)))
        skips = [x]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        x = skips.pop()
        for layer in self.middle:
            x = layer(x)
        levels = [x]
        for layer in self.up:
            x = layer(functional.interpolate(x, scale_factor=2.0, mode='nearest'), skips.pop())
            levels.append(x)
        return [*levels, self.last(x)]

    def forward(self, condition: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Return the whole crop repainted, (N, 3, S, S) in [-1, 1].

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        """
        return self.paint(self.features(condition, mask)[-1], condition, mask).clamp(-1.0, 1.0)

    def paint(
        self, last: torch.Tensor, condition: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the picture that the last activation stands for, without a step to what is kept.

        :param last: the last of features().
        :param condition: (N, 3, S, S), what features() saw.
        :param mask: (N, 1, S, S), 1 = keep.
        """
        x = self.exit(last)
        if self.architecture.patch_px > 1:
            x = functional.pixel_shuffle(x, self.architecture.patch_px)
        return meet(torch.tanh(x).float(), condition, mask)


def meet(painted: torch.Tensor, condition: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Return a painting less its error outside the hole, which is continued smoothly into the hole.

    So there is no step at the border, as in seamless cloning (Perez et al. 2003). The error is
    averaged to ever coarser levels and filled in from there (pull-push, Gortler et al. 1996); it
    fades towards the middle of large holes, of which the coarsest level knows nothing.

    :param painted: (N, 3, S, S).
    :param condition: (N, 3, S, S), read where the mask is 1.
    :param mask: (N, 1, S, S), 1 = keep.
    """
    levels = [((condition - painted) * mask, mask)]
    while levels[-1][1].shape[-1] > 4:
        summed, known = (functional.avg_pool2d(each, 2) for each in levels[-1])
        levels.append((summed, known))
    error, known = levels.pop()
    error = error / (known + 1e-3)
    for summed, known in reversed(levels[1:]):
        error = summed + (1.0 - known) * double(error)
    return painted + double(error)


def double(x: torch.Tensor) -> torch.Tensor:
    """Return a map at twice its side, smoothly: repeated, then averaged over 3x3."""
    x = functional.interpolate(x, scale_factor=2.0, mode='nearest')
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def make_generator(name: str) -> Generator:
    """
    Make a generator with random weights.

    :param name: a key of ARCHITECTURES.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'network: got {name!r}, expected one of {", ".join(ARCHITECTURES)}')
    return Generator(ARCHITECTURES[name])


def composite(painted: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Return the image with its hole filled from the painting.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S), what is kept where the mask is 1.
    :param mask: (N, 1, S, S).
    """
    return image * mask + painted * (1.0 - mask)


def transplant(source: Generator, target: Generator) -> None:
    """
    Copy the weights of a network into one of the same widths with as many levels or more on top.

    :param source: for example ffs-64-small.
    :param target: for example ffs-128-small, which sees twice the side; changed in place.
    :raises ModelError: the widths of the common levels differ.
    """
    added = len(target.architecture.channels) - len(source.architecture.channels)
    common = target.architecture.channels[max(added, 0) :]
    if added < 0 or common != source.architecture.channels:
        raise ModelError(
            f'weights of another network: got levels {source.architecture.channels}, '
            f'expected the lower ones of {target.architecture.channels}'
        )
    if added == 0:
        target.load_state_dict(source.state_dict())
        return
    for i, layer in enumerate(source.down):
        target.down[i + added].load_state_dict(layer.state_dict())
    levels = zip(  # the target's last ones are new
        (*source.middle, *source.up), (*target.middle, *target.up), strict=False
    )
    for theirs, ours in levels:
        ours.load_state_dict(theirs.state_dict())
