"""
One set of weights for generators of many widths: each has the first channels of every layer.

As in GAN Compression (Li et al. 2020) and Once-for-All (Cai et al. 2020).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from ffs_anonymizer.datasets.sampler import Batch, Chance
from ffs_anonymizer.training.checkpoint import load_weights
from ffs_anonymizer.training.generator.alignment import align
from ffs_anonymizer.training.generator.augmentation import relight
from ffs_anonymizer.training.generator.distil import Teacher
from ffs_anonymizer.training.generator.lessons import autocast, Lesson, softened, Terms
from ffs_anonymizer.training.generator.losses import gradient_distance, pixel_distance
from ffs_anonymizer.training.generator.network import (
    ConvNorm,
    FaceNetwork,
    GeneratorNetwork,
    packed,
)
from ffs_anonymizer.training.generator.widths import Channels, make_table, outline
import torch
from torch import nn

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Group:
    """
    Name the layers between which channels are one and the same.

    :param writers: whose outputs they are, of which some are added to others.
    :param readers: whose inputs they are.
    """

    writers: tuple[nn.Module, ...]
    readers: tuple[nn.Module, ...]


def groups(generator: GeneratorNetwork) -> list[Group]:
    """Return all channels of a generator that may be put into another order."""
    down, up, lowest = generator.down, generator.up, len(generator.down)
    found = [Group((generator.entry, generator.worn), (generator.top,))]
    for level, comes in enumerate((generator.top, *down)):
        if level == lowest:
            inside = tuple(middle.second for middle in generator.middle)
            first = tuple(middle.first for middle in generator.middle)
            found.append(Group((comes, *inside), (*first, up[0].reduce)))
        else:
            rise = up[lowest - 1 - level]
            found.append(Group((comes, rise.reduce), (down[level], rise.both)))
    found += [Group((middle.first,), (middle.second,)) for middle in generator.middle]
    nexts = (*(rise.reduce for rise in up[1:]), generator.last)
    found += [Group((rise.both,), (after,)) for rise, after in zip(up, nexts, strict=True)]
    return [*found, Group((generator.last,), (generator.exit,))]


def sort_channels(generator: GeneratorNetwork) -> None:
    """
    Put the channels that are read with the largest weights first; the network paints the same.

    :param generator: changed in place.
    """
    with torch.no_grad():
        for group in groups(generator):
            read = [_convolution(reader).weight for reader in group.readers]
            importance = torch.stack([weight.abs().sum((0, 2, 3)) for weight in read]).sum(0)
            order = importance.argsort(descending=True)
            for weight in read:
                weight.copy_(weight[:, order].clone())
            for writer in group.writers:
                for values in _by_output(writer):
                    values.copy_(values[order].clone())


def _convolution(layer: nn.Module) -> nn.Conv2d:
    return layer.conv if isinstance(layer, ConvNorm) else layer


def _by_output(layer: nn.Module) -> list[torch.Tensor]:
    """Return all of a layer that has one value, or one row, for each of its outputs."""
    values = [*layer.parameters(), *layer.buffers()]
    return [value for value in values if value.ndim]


def first_of(shared: Weights, wanted: Weights) -> Weights:
    """
    Return views of the first of shared weights, in the shapes of others.

    :param shared: of a generator.
    :param wanted: of the same generator, narrower.
    """
    return {
        name: shared[name][tuple(slice(length) for length in value.shape)]
        for name, value in wanted.items()
    }


def narrowed(generator: GeneratorNetwork, channels: Channels) -> GeneratorNetwork:
    """
    Return a narrower generator with the first of another one's weights, copied, for use.

    :param generator: its channels are sorted.
    :param channels: at most as wide.
    """
    narrow = GeneratorNetwork(replace(generator.architecture, channels=channels))
    narrow.load_state_dict(first_of(generator.state_dict(), narrow.state_dict()))
    narrow.to(next(generator.parameters()).device).eval()
    return narrow


class _Painting(nn.Module):  # type: ignore[misc]
    def __init__(self, generator: GeneratorNetwork) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, *seen: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        return self.generator.repaint(*seen)


class Shared:
    """
    Paint in any width with the weights of one generator, which learn from it.

    :param generator: as wide as the widest.
    """

    def __init__(self, generator: GeneratorNetwork) -> None:
        """Keep the generator."""
        self.generator = generator
        self._outlines: dict[Channels, _Painting] = {}

    def __call__(
        self,
        channels: Channels,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Return what features() and paint() of a narrower generator return.

        :param channels: its widths.
        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param latent: (N, LATENT), the face to wear.
        :param points_px: (N, 5, 2), where it goes.
        """
        if channels not in self._outlines:
            made = _Painting(outline(self.generator.architecture, channels))
            self._outlines[channels] = made
        narrow = self._outlines[channels].train(self.generator.training)
        views = first_of(_all_of(self.generator), _all_of(narrow.generator))
        views = {f'generator.{name}': value for name, value in views.items()}
        given = condition, mask, latent, points_px
        painted: tuple[list[torch.Tensor], torch.Tensor]
        painted = torch.func.functional_call(narrow, views, given)
        return painted


def _all_of(module: nn.Module) -> Weights:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def share_start(teacher: Teacher, generator: GeneratorNetwork, whence: str) -> None:
    """
    Make a generator start as its teacher, both with their channels sorted.

    :param teacher: changed in place; it asks for its own activations, channel by channel.
    :param generator: changed in place; all learns but where the points are.
    :param whence: the teacher's checkpoint, named in the error.
    :raises ModelError: the teacher is another network.
    """
    load_weights(generator, teacher.teacher.state_dict(), whence)
    sort_channels(teacher.teacher)
    generator.load_state_dict(teacher.teacher.state_dict())
    with torch.no_grad():
        for adapter in teacher.adapters:
            nn.init.dirac_(adapter.weight)
            nn.init.zeros_(adapter.bias)


class Sharing(Lesson):
    """Ask generators of all widths, another one each step, to paint what the teacher paints."""

    def __post_init__(self) -> None:
        """Read the table of widths."""
        super().__post_init__()
        generator = self.network.generator
        assert isinstance(generator, GeneratorNetwork)
        self.table = make_table(self.settings.widths, generator.architecture.channels)
        self.shared = Shared(generator)

    def __call__(self, batch: Batch, chance: Chance, step: int, progress: float) -> Terms:
        """
        Return what is asked for, name to weight and loss.

        :param batch: of the step.
        :param chance: of the step.
        :param step: not looked at.
        :param progress: not looked at.
        """
        settings, network, teacher = self.settings, self.network, self.teacher
        assert teacher is not None
        mask, size = batch.mask, settings.size_px
        _, condition, _ = softened(batch, chance)

        # Whose face is worn, and where
        with torch.no_grad(), autocast(settings, self.device):
            face, face_points = align(batch.image, batch.points_px / size)
            code = network.encoder(relight(face, chance))
            points = network.generator.pose(condition, mask, self.given_points(batch, chance))
            wears = self.worn_by(batch, chance)
            own = (self.rows < self.share)[:, None, None]
            at = torch.where(own, batch.points_px, points)
            noisy = code + chance.normal(*code.shape) * settings.code_noise
            given = condition, mask, packed(noisy, face_points)[wears], at

        # It is painted by the teacher, and by one of many
        with autocast(settings, self.device):
            wanted, picture = teacher.paints(*given)
            levels, painted = self.shared(self.table.drawn(chance.number), *given)
            distance = teacher.distance(levels, wanted)
        hole = 1.0 - mask
        return {
            'hole': (settings.weight_hole, pixel_distance(painted, picture, hole)),
            'gradient': (settings.weight_gradient, gradient_distance(painted, picture, hole)),
            'ring': (settings.weight_ring, pixel_distance(painted, picture, mask)),
            'distil': (settings.weight_distil, distance),
        }

    def shown(self, average: FaceNetwork) -> FaceNetwork:
        """
        Return the widest one, with the statistics of what is shown: no width has those of others.

        :param average: in evaluation mode.
        """
        widest = copy.deepcopy(average)
        assert isinstance(widest.generator, GeneratorNetwork)
        for name, module in widest.generator.named_modules():
            if isinstance(module, nn.BatchNorm2d) and not name.startswith('pose.'):
                module.train()
        return widest
