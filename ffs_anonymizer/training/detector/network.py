"""The detector: a small convolutional network that answers at three strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffs_anonymizer.errors import ModelError
import torch
from torch import nn
from torch.nn import functional

Weights = dict[str, torch.Tensor]
STRIDES = (8, 16, 32)
# What a network with random weights takes each cell for: no object.
PRIOR = 0.01


@dataclass(frozen=True)
class DetectorArchitecture:
    """
    Say how wide and how deep a detector is.

    :param channels: at the strides 2, 4, 8, 16 and 32.
    :param blocks: at the strides 4, 8, 16 and 32, besides the one that halves the side.
    :param neck: channels where the strides meet.
    :param wide_px: side of the kernels at stride 32, which have to see a large plate's ends.
    """

    channels: tuple[int, int, int, int, int]
    blocks: tuple[int, int, int, int]
    neck: int
    wide_px: int = 5


ARCHITECTURES = {
    'plates': DetectorArchitecture((8, 24, 48, 96, 192), (1, 3, 4, 3), neck=48),
    'streets': DetectorArchitecture((16, 32, 64, 128, 256), (1, 3, 4, 3), neck=64),
    'plates-tiny': DetectorArchitecture((4, 8, 8, 8, 16), (0, 0, 0, 0), neck=8, wide_px=3),
}


class NormedConv(nn.Sequential):  # type: ignore[misc]
    """
    Convolve and normalize by batch statistics.

    :param inputs: channels in.
    :param outputs: channels out.
    :param kernel_px: side of the kernel.
    :param stride: 2 halves the side.
    :param groups: as many as channels for one kernel a channel.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_px: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        """Make the layers."""
        padding = kernel_px // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_px, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )


class Block(nn.Module):  # type: ignore[misc]
    """
    One kernel a channel, then all channels mixed; a skip where the shape allows it.

    :param inputs: channels in.
    :param outputs: channels out.
    :param kernel_px: side of the kernel.
    :param stride: 2 halves the side.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel_px: int = 3, stride: int = 1) -> None:
        """Make the layers."""
        super().__init__()
        self.skips = stride == 1 and inputs == outputs
        self.each = NormedConv(inputs, inputs, kernel_px=kernel_px, stride=stride, groups=inputs)
        self.mix = NormedConv(inputs, outputs, kernel_px=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the next activation, (N, outputs, H / stride, W / stride)."""
        y = self.mix(self.each(x))
        return functional.relu(x + y if self.skips else y)


class DetectorNetwork(nn.Module):  # type: ignore[misc]
    """
    Say for each cell of each stride what is in it and where its box is.

    :param architecture: the widths.
    :param classes: how many.
    """

    def __init__(self, architecture: DetectorArchitecture, classes: int = 1) -> None:
        """Make the layers."""
        super().__init__()
        self.classes = classes
        c, blocks, neck = architecture.channels, architecture.blocks, architecture.neck
        wide = architecture.wide_px
        self.entry = nn.Sequential(
            NormedConv(3, c[0], stride=2), nn.ReLU(), NormedConv(c[0], c[1], stride=2), nn.ReLU()
        )
        self.at_4 = nn.Sequential(*(Block(c[1], c[1]) for _ in range(blocks[0])))
        self.down = nn.ModuleList(
            nn.Sequential(
                Block(c[i], c[i + 1], stride=2),
                *(
                    Block(c[i + 1], c[i + 1], kernel_px=wide if i == 3 else 3)
                    for _ in range(blocks[i])
                ),
            )
            for i in (1, 2, 3)
        )
        self.side = nn.ModuleList(NormedConv(width, neck, kernel_px=1) for width in c[2:])
        self.join = nn.ModuleList(Block(neck, neck) for _ in STRIDES)
        self.heads = nn.ModuleList(
            nn.Sequential(Block(neck, neck), nn.Conv2d(neck, classes + 4, 1)) for _ in STRIDES
        )
        for _, last in self.heads:
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            last.bias.data[:classes] = -torch.log(torch.tensor((1 - PRIOR) / PRIOR))
            last.bias.data[classes + 2] = 1.0  # plates are wide

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """
        Return the answer at each stride, finest first, (N, classes + 4, H / stride, W / stride).

        Each cell holds a logit for each class, then the box: how far its centre lies right of and
        below the cell's own and the logarithms of its width and height, all in strides.

        :param image: (N, 3, H, W) BGR, 0 to 255, H and W multiples of 32.
        """
        x = self.at_4(self.entry(image * (1.0 / 64.0)))
        levels = []
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        answers: list[torch.Tensor] = []
        above: torch.Tensor | None = None
        for i in reversed(range(len(STRIDES))):
            x = self.side[i](levels[i])
            if above is not None:
                x = x + functional.interpolate(above, scale_factor=2.0, mode='nearest')
            above = self.join[i](functional.relu(x))
            answers.append(self.heads[i](above))
        return answers[::-1]


def with_classes(
    weights: Weights, was: Sequence[str], classes: Sequence[str], fresh: Weights
) -> Weights:
    """
    Return a detector's weights for other classes: the scores of those it knew, new ones else.

    :param weights: its state.
    :param was: the classes that it finds.
    :param classes: those that it is to find.
    :param fresh: the state of a new network of these, from which unknown scores are taken.
    """
    if tuple(was) == tuple(classes):
        return weights
    fitted = dict(weights)
    for number in range(len(STRIDES)):
        for kind in ('weight', 'bias'):
            name = f'heads.{number}.1.{kind}'
            old = weights[name]
            scores = [
                old[was.index(k)] if k in was else fresh[name][i] for i, k in enumerate(classes)
            ]
            fitted[name] = torch.cat([torch.stack(scores), old[len(was) :]])
    return fitted


def make_detector(name: str, classes: int = 1) -> DetectorNetwork:
    """
    Make a detector with random weights.

    :param name: a key of ARCHITECTURES.
    :param classes: how many.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'network: got {name!r}, expected one of {", ".join(ARCHITECTURES)}')
    return DetectorNetwork(ARCHITECTURES[name], classes)
