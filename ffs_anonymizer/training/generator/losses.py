"""What the generator and the critic are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

DETAIL_PX = 13
LEAST_DETAIL = 0.01  # below it lies what quantization leaves


def hole_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Return the mean of a map over the hole.

    :param values: (N, C, h, w).
    :param mask: (N, 1, S, S), 1 = keep.
    """
    hole = 1.0 - functional.interpolate(mask, size=values.shape[-2:], mode='area')
    return (values.float() * hole).sum() / (hole.sum() * values.shape[1]).clamp_min(1.0)


def critic_hinge(
    real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """
    Ask the critic for logits over 1 where the hole holds a real face, under -1 where not.

    :param real: logits of each depth for real faces.
    :param fake: the same for generated ones.
    :param mask: (N, 1, S, S), 1 = keep.
    """
    terms = [
        hole_mean(functional.relu(1.0 - r), mask) + hole_mean(functional.relu(1.0 + f), mask)
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def generator_hinge(fake: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """
    Ask the generator for faces that the critic takes for real.

    :param fake: logits of each depth.
    :param mask: (N, 1, S, S), 1 = keep.
    """
    return torch.stack([-hole_mean(f, mask) for f in fake]).mean()


def feature_distance(
    real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """
    Return the mean distance of normalized features over the hole.

    :param real: features of each depth for the original.
    :param fake: the same for the generated face.
    :param mask: (N, 1, S, S), 1 = keep.
    """
    terms = [hole_mean((r - f).abs(), mask) for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def pixel_distance(
    painted: torch.Tensor, image: torch.Tensor, where: torch.Tensor
) -> torch.Tensor:
    """
    Return the mean absolute difference of pixels.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S).
    :param where: (N, 1, S, S), 1 = counts.
    """
    total = ((painted - image).abs() * where).sum()
    return total / (where.sum() * painted.shape[1]).clamp_min(1.0)


def inner_border(mask: torch.Tensor) -> torch.Tensor:
    """
    Return how close each pixel of the hole is to what is kept, (N, 1, S, S): 1 at best, then 0.

    What lies there follows from the surroundings, and a step there is a seam.

    :param mask: (N, 1, S, S), 1 = keep.
    """
    reach = max(mask.shape[-1] // 16, 1)
    return smoothed(mask, 2 * reach + 1) * (1.0 - mask)


def tone_distance(
    painted: torch.Tensor, image: torch.Tensor, rects_xyxy_px: torch.Tensor
) -> torch.Tensor:
    """
    Return how far the mean colours of the middle of faces are apart: the skin keeps its tone.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S).
    :param rects_xyxy_px: (N, 4), the regions; the middle is an ellipse of 0.56 by 0.6 of one.
    """
    at = torch.arange(image.shape[-1], device=image.device, dtype=torch.float32) + 0.5
    centre = (rects_xyxy_px[:, :2] + rects_xyxy_px[:, 2:]) / 2
    size_wh = (rects_xyxy_px[:, 2:] - rects_xyxy_px[:, :2]).clamp_min(1.0)
    across = (at - centre[:, :1]) / (0.28 * size_wh[:, :1])
    down = (at - centre[:, 1:]) / (0.3 * size_wh[:, 1:])
    middle = (across[:, None, None, :].square() + down[:, None, :, None].square() < 1.0).float()
    shift = ((painted - image) * middle).sum((2, 3)) / middle.sum((2, 3)).clamp_min(1.0)
    return shift.abs().mean()


def gradient_distance(
    painted: torch.Tensor, image: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """
    Return the mean absolute difference of the steps from pixel to pixel: as sharp as the photo.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S).
    :param counts: (N, 1, S, S), how much each pixel counts.
    """
    error = painted - image
    across = (error[..., 1:] - error[..., :-1]).abs() * counts[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * counts[..., 1:, :]
    return (across.sum() + down.sum()) / (counts.sum() * image.shape[1]).clamp_min(1.0)


def detail_distance(
    painted: torch.Tensor, image: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """
    Return how far the amounts of fine detail are apart, as logarithms: softer and harsher cost.

    Detail is what a blur takes away, its amount the mean over a neighbourhood: where it lies need
    not be known, so that what cannot be guessed is not painted smooth.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S).
    :param counts: (N, 1, S, S), how much each pixel counts.
    """
    theirs, ours = (
        torch.log(smoothed(_fine(each), DETAIL_PX) + LEAST_DETAIL) for each in (image, painted)
    )
    return ((ours - theirs).abs() * counts).sum() / counts.sum().clamp_min(1.0)


def smoothed(image: torch.Tensor, side_px: int) -> torch.Tensor:
    """
    Return the mean around each pixel, of what is inside.

    :param image: (N, C, S, S).
    :param side_px: of the square that is averaged, odd.
    """
    half = side_px // 2
    rows = functional.avg_pool2d(image, (1, side_px), 1, (0, half), count_include_pad=False)
    return functional.avg_pool2d(rows, (side_px, 1), 1, (half, 0), count_include_pad=False)


def _fine(image: torch.Tensor) -> torch.Tensor:
    grey = image.mean(1, keepdim=True)
    return (grey - smoothed(grey, 3)).abs()


def trait_distance(logits: torch.Tensor, traits: torch.Tensor) -> torch.Tensor:
    """
    Return how badly traits are told, as binary cross entropy over those that are known.

    :param logits: (N, 3).
    :param traits: (N, 3), from 0 to 1; NaN where not known.
    """
    known = traits.isfinite()
    each = functional.binary_cross_entropy_with_logits(
        logits, traits.nan_to_num(), reduction='none'
    )
    return (each * known).sum() / known.sum().clamp_min(1)
