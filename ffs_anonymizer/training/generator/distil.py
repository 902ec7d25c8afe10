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
import torch
from torch import nn


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
        with torch.no_grad():
            wanted = self.teacher.features(condition, mask, latent, points_px)
            picture = self.teacher.paint(wanted, condition, mask)
        total = pixel_distance(painted, picture, torch.ones_like(mask))
        for adapter, (i, j) in zip(self.adapters, self.pairs, strict=True):
            target = wanted[j].float()
            difference = (adapter(levels[i]).float() - target).abs().mean()
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
    trained_at = int(values['settings']['size_px'])
    if trained_at != size_px:
        raise ModelError(
            f'{path}: got a teacher for crops of {trained_at} px, expected {size_px}; train both '
            'at one size'
        )
    teacher = make_network(str(values['settings']['network']))
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
