"""The critic: small heads on fixed random mixtures of frozen features, told of hole and points."""

from __future__ import annotations

from ffs_anonymizer.training.generator.features import TAPPED_CHANNELS
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

MIXED_CHANNELS = 64
TOLD_CHANNELS = 4


class Mixer(nn.Module):  # type: ignore[misc]
    """
    Mix feature channels and depths by fixed random convolutions (the idea of Projected GANs).

    A critic on raw pretrained features attends to few of them; on a random mixture it needs all.

    :param mixed: channels of each mixture.
    """

    def __init__(self, mixed: int = MIXED_CHANNELS) -> None:
        """Draw the mixtures."""
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(c, mixed, 1) for c in TAPPED_CHANNELS)
        self.along = nn.ModuleList(
            nn.Conv2d(mixed, mixed, 3, padding=1) for _ in TAPPED_CHANNELS[:-1]
        )
        for conv in (*self.across, *self.along):
            nn.init.kaiming_normal_(conv.weight, nonlinearity='linear')
            nn.init.zeros_(conv.bias)
        self.requires_grad_(False)

    def forward(self, taps: list[torch.Tensor]) -> list[torch.Tensor]:
        """
        Return one mixture for each depth, each with what lies deeper added.

        :param taps: normalized features, shallow to deep.
        """
        mixed = [conv(tap) for conv, tap in zip(self.across, taps, strict=True)]
        out = [mixed[-1]]
        for conv, level in zip(reversed(self.along), reversed(mixed[:-1]), strict=True):
            deeper = functional.interpolate(out[0], size=level.shape[-2:], mode='nearest')
            out.insert(0, conv((level + deeper) * 0.7071))
        return out


def head(inputs: int, channels: int, halvings: int) -> nn.Sequential:
    """
    Make a head: features, mask and points to one logit for each place.

    :param inputs: channels of the features, without what is told beside them.
    :param channels: channels inside.
    :param halvings: how many of its convolutions halve the side.
    """
    layers: list[nn.Module] = []
    last = inputs + TOLD_CHANNELS
    for i in range(2):
        stride = 2 if i < halvings else 1
        layers += [
            spectral_norm(nn.Conv2d(last, channels, 3, stride, 1)),
            nn.LeakyReLU(0.2),
        ]
        last = channels
    layers.append(spectral_norm(nn.Conv2d(last, 1, 1)))
    return nn.Sequential(*layers)


class Critic(nn.Module):  # type: ignore[misc]
    """
    Judge at four depths whether what the hole holds is real.

    :param channels: channels inside each head.
    """

    def __init__(self, channels: int = 96) -> None:
        """Make the mixtures and the heads."""
        super().__init__()
        self.mixer = Mixer()
        self.heads = nn.ModuleList(
            head(MIXED_CHANNELS, channels, halvings) for halvings in (2, 1, 0, 0)
        )

    def forward(self, taps: list[torch.Tensor], told: torch.Tensor) -> list[torch.Tensor]:
        """
        Return the logits of each depth, (N, 1, h, w).

        :param taps: normalized features, shallow to deep.
        :param told: (N, TOLD_CHANNELS, S, S), mask and points.
        """
        logits = []
        for mixture, module in zip(self.mixer(taps), self.heads, strict=True):
            beside = functional.interpolate(told, size=mixture.shape[-2:], mode='area')
            logits.append(module(torch.cat([mixture, beside.to(mixture.dtype)], 1)))
        return logits
