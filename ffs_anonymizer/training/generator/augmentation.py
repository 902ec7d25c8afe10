"""Other light, colours, sharpness and windows, drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence

from ffs_anonymizer.datasets.sampler import Chance
import torch
from torch.nn import functional

SOFTENED = 0.3
REACH_PX = 4


def relight(faces: torch.Tensor, chance: Chance) -> torch.Tensor:
    """
    Return faces in light and colours of other places, from one side, too.

    What reads them learns to tell the face from its light; what paints them has to take the light
    from the surroundings.

    :param faces: (N, 3, h, w), RGB in [-1, 1].
    """
    n = len(faces)
    gamma = torch.exp(0.2 * chance.normal(n, 1, 1, 1))
    gain = torch.exp(0.16 * chance.normal(n, 1, 1, 1) + 0.07 * chance.normal(n, 3, 1, 1))
    lit = ((faces + 1.0) / 2.0).clamp_min(1e-4) ** gamma * gain
    at = torch.linspace(-1.0, 1.0, faces.shape[-1], device=faces.device)
    turn = chance.uniform(0.0, 2.0 * torch.pi, n, 1, 1, 1)
    slope = at[None, :] * turn.cos() + at[:, None] * turn.sin()
    lit = lit * (1.0 + chance.uniform(0.0, 0.35, n, 1, 1, 1) * slope)
    grey = lit.mean(1, keepdim=True)
    lit = grey + (lit - grey) * chance.uniform(0.5, 1.35, n, 1, 1, 1)
    return lit.clamp(0.0, 1.0) * 2.0 - 1.0


def soften(images: torch.Tensor, chance: Chance) -> torch.Tensor:
    """
    Return images of which some are out of focus, as their surroundings then are.

    :param images: (N, 3, S, S).
    """
    n, _, height, width = images.shape
    spread = chance.number(0.3, 1.6)
    at = torch.arange(-REACH_PX, REACH_PX + 1, device=images.device)
    kernel = torch.exp(-0.5 * (at / spread).square())
    kernel = kernel / kernel.sum()
    padded = functional.pad(images, (REACH_PX,) * 4, mode='replicate')
    single = padded.reshape(n * 3, 1, height + 2 * REACH_PX, width + 2 * REACH_PX)
    blurred = functional.conv2d(single, kernel[None, None, :, None])
    blurred = functional.conv2d(blurred, kernel[None, None, None, :]).reshape_as(images)
    return torch.where(chance.happens(SOFTENED, n, 1, 1, 1), blurred, images)


def magnified(images: torch.Tensor, zoom: int) -> torch.Tensor:
    """
    Return images larger, so that networks whose first layers halve the side see every pixel.

    :param images: (N, 3, S, S).
    :param zoom: how many times.
    """
    if zoom == 1:
        return images
    return functional.interpolate(
        images, scale_factor=float(zoom), mode='bilinear', align_corners=False
    )


def augment(
    images: Sequence[torch.Tensor],
    told: Sequence[torch.Tensor],
    chance: Chance,
    look_px: int,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """
    Change colours and take a window, alike for all that is given, so that gradients pass.

    DiffAugment (Zhao et al. 2020), with a window drawn for the whole batch in place of a shift:
    less is to be looked at, so more steps fit into the time.

    :param images: each (N, 3, S, S), the same change for each.
    :param told: (N, C, S, S), mask and points, of which only the window is taken.
    :param look_px: side of the window; S or more takes all.
    :returns: the changed images and what is told, in the window.
    """
    n, side = len(images[0]), images[0].shape[-1]

    brightness, saturation, contrast = (
        chance.uniform(low, high, n, 1, 1, 1)
        for low, high in ((-0.25, 0.25), (0.5, 1.5), (0.6, 1.4))
    )
    look = min(look_px, side)
    top, left = (round(chance.number(0, side - look)) for _ in range(2))
    window = (..., slice(top, top + look), slice(left, left + look))
    changed = []
    for image in images:
        x = image[window] + brightness
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * saturation
        middle = x.mean((1, 2, 3), keepdim=True)
        changed.append(middle + (x - middle) * contrast)
    return changed, [each[window] for each in told]
