"""DeepPrivacy2's generator for 128 px faces, written from its description, to measure against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

STYLE_CHANNELS = 512


class StyledConv(nn.Module):  # type: ignore[misc]
    """
    Scale and shift the input by a style, convolve, normalize each face's channels, rectify.

    :param inputs: channels in.
    :param outputs: channels out.
    :param styled: without, the input is taken as it is.
    """

    def __init__(self, inputs: int, outputs: int, *, styled: bool) -> None:
        """Make the layers."""
        super().__init__()
        self.affine = nn.Linear(STYLE_CHANNELS, inputs * 2) if styled else None
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.InstanceNorm2d(outputs)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Return the next activation, (N, outputs, H, W)."""
        if self.affine is not None:
            scale, shift = self.affine(style)[:, :, None, None].chunk(2, 1)
            x = x * (scale + 1) + shift
        return functional.leaky_relu(self.norm(self.conv(x)), 0.2)


class ResidualBlock(nn.Module):  # type: ignore[misc]
    """
    Convolve twice around a projected skip.

    :param inputs: channels in.
    :param outputs: channels out.
    :param styled: whether the style changes its inputs.
    """

    def __init__(self, inputs: int, outputs: int, *, styled: bool) -> None:
        """Make the layers."""
        super().__init__()
        self.first = StyledConv(inputs, outputs, styled=styled)
        self.second = StyledConv(outputs, outputs, styled=styled)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Return the next activation."""
        y: torch.Tensor = self.second(self.first(x, style), style)
        return (y + self.skip(x)) * 0.7071


class DeepPrivacyGenerator(nn.Module):  # type: ignore[misc]
    """Paint the hole as DeepPrivacy2's FDF128 generator does: a styled residual U-Net."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        widths = (128, 256, 512, 512, 512, 512)
        pairs = list(pairwise(widths))
        self.entry = nn.Conv2d(4, widths[0], 1)
        self.down = nn.ModuleList(ResidualBlock(c, d, styled=False) for c, d in pairs)
        self.skips = nn.ModuleList(nn.Conv2d(d, d, 1) for _, d in reversed(pairs))
        self.up = nn.ModuleList(ResidualBlock(d, c, styled=True) for c, d in reversed(pairs))
        self.exit = nn.Conv2d(widths[0], 3, 1)

    def forward(
        self, condition: torch.Tensor, mask: torch.Tensor, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Return the whole crop repainted, (N, 3, S, S) in [-1, 1].

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        :param latent: (N, 512), zeros where there is none.
        """
        if latent is None:
            latent = condition.new_zeros((len(condition), STYLE_CHANNELS))
        x = self.entry(torch.cat([condition, mask], 1))
        kept = []
        for i, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if i else x, latent)
            kept.append(x)
        for i, (block, skip) in enumerate(zip(self.up, self.skips, strict=True)):
            if i:
                x = functional.interpolate(x, scale_factor=2.0, mode='bilinear')
            x = block(x + skip(kept.pop()), latent)
        return torch.tanh(self.exit(x))
