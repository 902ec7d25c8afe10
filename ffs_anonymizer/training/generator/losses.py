"""What the generator and the critic are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


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
    near = functional.avg_pool2d(mask, 2 * reach + 1, 1, reach, count_include_pad=False)
    return near * (1.0 - mask)


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


def texture_distance(
    filled: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, own: int
) -> torch.Tensor:
    """
    Return how far the strengths of fine detail in the holes are apart: as sharp as the photo.

    :param filled: (N, 3, S, S).
    :param image: (N, 3, S, S).
    :param mask: (N, 1, S, S), 1 = keep.
    :param own: the first rows, in which each place of 8 x 8 pixels is compared, since they show
        the same face; of the others only the means.
    """
    hole = functional.avg_pool2d(1.0 - mask, 8)
    counts = (hole > 0.5).float()
    strengths = []
    for picture in (filled, image):
        light = picture.mean(1, keepdim=True)
        detail = (light - functional.avg_pool2d(light, 3, 1, 1)).square() * (1.0 - mask)
        strengths.append((functional.avg_pool2d(detail, 8) / hole.clamp_min(0.1) + 2e-4).log())
    apart = (strengths[0] - strengths[1]) * counts
    means = apart.sum((1, 2, 3)) / counts.sum((1, 2, 3)).clamp_min(1.0)
    placed = apart[:own].abs().sum() / counts[:own].sum().clamp_min(1.0)
    return 0.5 * placed + means[own:].abs().sum() / max(len(mask) - own, 1)


def guess_distance(mean: torch.Tensor, spread: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """
    Return how unlikely codes are to the prior (negative logarithm, less a constant).

    :param mean: (N, CODE).
    :param spread: (N, CODE), its logarithm.
    :param code: (N, CODE), what the encoder read; no gradient reaches it.
    """
    return (0.5 * ((code.detach() - mean) / spread.exp()).square() + spread).mean()


def augment(
    images: Sequence[torch.Tensor],
    told: Sequence[torch.Tensor],
    generator: torch.Generator,
    look_px: int,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """
    Change colours and take a window, alike for all that is given, so that gradients pass.

    DiffAugment (Zhao et al. 2020), with a window drawn for the whole batch in place of a shift:
    less is to be looked at, so more steps fit into the time.

    :param images: each (N, 3, S, S), the same change for each.
    :param told: (N, C, S, S), mask and points, of which only the window is taken.
    :param generator: where the chance comes from, on the CPU.
    :param look_px: side of the window; S or more takes all.
    :returns: the changed images and what is told, in the window.
    """
    n, side = len(images[0]), images[0].shape[-1]

    def draw(low: float, high: float) -> torch.Tensor:
        chance = torch.rand((n, 1, 1, 1), generator=generator)
        return (chance * (high - low) + low).to(images[0].device)

    brightness, saturation, contrast = draw(-0.25, 0.25), draw(0.5, 1.5), draw(0.6, 1.4)
    look = min(look_px, side)
    top, left = torch.randint(0, side - look + 1, (2,), generator=generator).tolist()
    window = (..., slice(top, top + look), slice(left, left + look))
    changed = []
    for image in images:
        x = image[window] + brightness
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * saturation
        middle = x.mean((1, 2, 3), keepdim=True)
        changed.append(middle + (x - middle) * contrast)
    return changed, [each[window] for each in told]
