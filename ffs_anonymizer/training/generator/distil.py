"""A large trained generator as the teacher of a small one: its pictures and its activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.training.checkpoint import load_checkpoint, load_weights
from ffs_anonymizer.training.generator.losses import pixel_distance
from ffs_anonymizer.training.generator.network import (
    DetailedGenerator,
    FaceNetwork,
    GeneratorNetwork,
    make_network,
)
from ffs_anonymizer.training.settings import from_mapping, TrainSettings
import torch
from torch import nn
from torch.nn import functional


class Teacher(nn.Module):  # type: ignore[misc]
    """
    Measure how far a student is from a fixed teacher.

    Activations are compared where both networks have one of the same side, through a learned
    1x1 convolution that turns the student's channels into the teacher's.

    :param teacher: a trained generator.
    :param student: the one that learns.
    :param size_px: S.
    """

    def __init__(self, teacher: GeneratorNetwork, student: GeneratorNetwork, size_px: int) -> None:
        """Find the common sides and make the adapters."""
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        theirs, ours = sides(teacher, size_px), sides(student, size_px)
        self.pairs = [(ours.index(side), theirs.index(side)) for side in ours if side in theirs]
        channels = [level_channels(network) for network in (student, teacher)]
        self.adapters = nn.ModuleList(
            nn.Conv2d(channels[0][i], channels[1][j], 1) for i, j in self.pairs
        )

    def forward(
        self,
        levels: Sequence[torch.Tensor],
        painted: torch.Tensor,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> torch.Tensor:
        """
        Return the distance of the student's picture and activations from the teacher's.

        :param levels: what the student's features() returned.
        :param painted: the student's picture.
        :param condition: (N, 3, S, S), what both see.
        :param mask: (N, 1, S, S), 1 = keep.
        :param latent: (N, LATENT), the face that both paint.
        :param points_px: (N, 5, 2), where both paint it.
        """
        theirs, picture = self.paints(condition, mask, latent, points_px)
        whole = pixel_distance(painted, picture, torch.ones_like(mask))
        return whole + self.distance(levels, theirs)

    def paints(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Return the teacher's activations and its picture.

        :param condition: (N, 3, S, S), what both see.
        :param mask: (N, 1, S, S), 1 = keep.
        :param latent: (N, LATENT), the face that both paint.
        :param points_px: (N, 5, 2), where both paint it.
        """
        with torch.no_grad():
            levels, picture = self.teacher.repaint(condition, mask, latent, points_px)
        return levels, picture

    def distance(
        self, levels: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """
        Return how far a student's activations are from the teacher's, 1 = as far as zeros.

        :param levels: what the student's features() returned; a narrower one has the first of its
            channels.
        :param theirs: the teacher's.
        """
        total = torch.zeros((), device=levels[0].device)
        for adapter, (i, j) in zip(self.adapters, self.pairs, strict=True):
            target = theirs[j].float()
            weight = adapter.weight[:, : levels[i].shape[1]]
            adapted = functional.conv2d(levels[i], weight, adapter.bias).float()
            difference = (adapted - target).abs().mean()
            total = total + difference / target.abs().mean().clamp_min(1e-6) / len(self.pairs)
        return total


def sides(network: GeneratorNetwork, size_px: int) -> list[int]:
    """
    Return the side of each activation of features(), the last one left out.

    :param size_px: S.
    """
    top = size_px // network.architecture.patch_px
    return [top >> i for i in reversed(range(len(network.architecture.channels)))]


def level_channels(network: GeneratorNetwork) -> list[int]:
    """Return the channels of each activation of features(), the last one left out."""
    return list(reversed(network.architecture.channels))


def load_teacher(path: Path, student: FaceNetwork, size_px: int) -> Teacher:
    """
    Make a teacher of a checkpoint; the student takes over all but the painting, and keeps it.

    So one latent stands for one face in both, and goes to one place.

    :param path: the checkpoint, of a network for crops of the same side.
    :param student: the one that learns; changed in place.
    :param size_px: S.
    :raises ModelError: the checkpoint is unfit.
    """
    values = load_checkpoint(path)
    settings = from_mapping(values['settings'], TrainSettings)
    trained_at = settings.size_px
    if trained_at != size_px:
        raise ModelError(
            f'{path}: got a teacher for crops of {trained_at} px, expected {size_px}; train both '
            'at one size'
        )
    teacher = make_network(settings.network, settings.channels)
    load_weights(teacher, values['ema'], str(path))
    painter, learner = teacher.generator, student.generator
    if isinstance(painter, DetailedGenerator) or isinstance(learner, DetailedGenerator):
        raise ModelError(
            f'{path}: got a network with a level of detail as teacher or to be taught, expected '
            'none; that level is learned above a network by init_from'
        )
    pairs = (
        (student.encoder, teacher.encoder),
        (student.matcher, teacher.matcher),
        (learner.pose, painter.pose),
    )
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
        ours.requires_grad_(False)
    return Teacher(painter, learner, size_px)
