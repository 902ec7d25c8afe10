"""Faces in one common place: moved there and back by their five points."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch.nn import functional

FACE_PX = 64
# Eyes, nose and mouth corners of an aligned face, in shares of its side: what is worn reaches from
# the brows to the chin.
TEMPLATE = (
    (20 / 64, 22 / 64),
    (44 / 64, 22 / 64),
    (32 / 64, 35.5 / 64),
    (22 / 64, 48 / 64),
    (42 / 64, 48 / 64),
)


class Similarity(NamedTuple):
    """Turn, scale and shift N sets of points: x' = a x - b y + across, y' = b x + a y + down."""

    a: torch.Tensor
    b: torch.Tensor
    across: torch.Tensor
    down: torch.Tensor

    def of(self, points: torch.Tensor) -> torch.Tensor:
        """
        Return moved points.

        :param points: (N, K, 2).
        """
        a, b, across, down = (each[:, None] for each in self)
        x, y = points[..., 0], points[..., 1]
        return torch.stack([a * x - b * y + across, b * x + a * y + down], -1)

    def inverse(self) -> Similarity:
        """Return what undoes it."""
        scale = (self.a * self.a + self.b * self.b).clamp_min(1e-6)
        a, b = self.a / scale, -self.b / scale
        across, down = self.across, self.down
        return Similarity(a, b, b * down - a * across, -b * across - a * down)

    def grid(self, side: int) -> torch.Tensor:
        """
        Return where each pixel of a square is moved to, (N, side, side, 2), for grid_sample.

        :param side: of the square in pixels; places count in shares of it.
        """
        at = (torch.arange(side, device=self.a.device, dtype=torch.float32) + 0.5) / side
        down, across = torch.meshgrid(at, at, indexing='ij')
        a, b, right, below = (each[:, None, None] for each in self)
        x = a * across - b * down + right
        y = b * across + a * down + below
        return torch.stack([x, y], -1) * 2.0 - 1.0


def similarity(source: torch.Tensor, target: torch.Tensor) -> Similarity:
    """
    Return what moves points nearest to others in the least squares (Umeyama 1991).

    :param source: (N, K, 2).
    :param target: (N, K, 2).
    """
    middle, wanted = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    s, t = source - middle, target - wanted
    size = (s * s).sum((1, 2)).clamp_min(1e-6)
    a = (s * t).sum((1, 2)) / size
    b = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(1) / size
    x, y = middle[:, 0].unbind(-1)
    to_x, to_y = wanted[:, 0].unbind(-1)
    return Similarity(a, b, to_x - a * x + b * y, to_y - b * x - a * y)


@cache
def template_on(device: torch.device) -> torch.Tensor:
    """Return the template, (5, 2), moved to a device once."""
    return torch.tensor(TEMPLATE, device=device)


def align(image: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cut faces out, upright and of one size.

    :param image: (N, 3, S, S).
    :param points: (N, 5, 2), eyes, nose and mouth corners in shares of S.
    :returns: the faces, (N, 3, FACE_PX, FACE_PX), and their own points in shares of FACE_PX.
    """
    moved = similarity(template_on(points.device).expand(len(points), -1, -1), points)
    face = functional.grid_sample(
        image, moved.grid(FACE_PX), padding_mode='border', align_corners=False
    )
    return face, moved.inverse().of(points)


def oval(side: int) -> torch.Tensor:
    """
    Return which part of an aligned face is worn, (1, 1, side, side): 1 inside, soft at its edge.

    Hair, jaw and ears lie outside, and follow from the surroundings.

    :param side: in pixels.
    """
    at = (torch.arange(FACE_PX, dtype=torch.float32) + 0.5) / FACE_PX
    across, down = ((at - 0.5) / 0.47).square(), ((at - 0.52) / 0.52).square()
    distance = (across[None, :] + down[:, None]).sqrt()
    fine = ((1.0 - distance) / 0.12).clamp(0.0, 1.0)[None, None]
    return functional.interpolate(fine, size=(side, side), mode='area')
