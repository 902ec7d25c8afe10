"""Going on with a trained generator until no row of the surroundings alone says what it paints."""

from __future__ import annotations

import copy

from ffs_anonymizer.datasets.sampler import Batch, Chance
from ffs_anonymizer.training.generator.alignment import align
from ffs_anonymizer.training.generator.augmentation import relight
from ffs_anonymizer.training.generator.lessons import Lesson, softened, Terms
from ffs_anonymizer.training.generator.losses import (
    inner_border,
    pixel_distance,
    smoothed,
    tone_distance,
)
from ffs_anonymizer.training.generator.network import composite, GeneratorNetwork, packed
import torch

GROWN_PX = (7, 5, 5, 5)  # fewer than, below, above, right and left
BAND_PX = (2, 40)
SMOOTH_PX = 9
WEIGHTS = {
    'detail': 6.0,
    'light': 2.0,
    'tone': 12.0,
    'border': 4.0,
    'ring': 3.0,
    'hole': 1.0,
    'points': 0.1,
}


class Steadying(Lesson):
    """
    Ask for the same face whatever the edges of the hole and what lies beside them.

    A generator reads the tone of the skin where it can, and the edge of a region always lies in
    the same row of its crop: moved by a pixel, it says something else, and in films faces
    pulse. Here holes are grown at random, and bands of any colour, as collars, hoods and hats are,
    lie beside them. The generator's earlier self, which sees neither, is the teacher of detail;
    the photo that of tone.
    """

    def __call__(self, batch: Batch, chance: Chance, step: int, progress: float) -> Terms:
        """
        Return what is asked for, name to weight and loss.

        :param batch: of the step.
        :param chance: of the step.
        :param step: not looked at.
        :param progress: not looked at.
        """
        network, size = self.network, self.settings.size_px
        assert self.teacher is not None
        earlier = self.teacher.teacher
        mask, mean_points = batch.mask, batch.mean_points_px
        image, condition, noise = softened(batch, chance)

        # Whose face is worn, where, and how its earlier self paints that
        with torch.no_grad():
            face, face_points = align(batch.image, batch.points_px / size)
            code = network.encoder(relight(face, chance))
            wears = self.worn_by(batch, chance)
            own = self.share
            guessed = earlier.pose(condition, mask, mean_points)
            at = torch.where((self.rows < own)[:, None, None], batch.points_px, guessed)
            latent = packed(code, face_points)[wears]
            _, wanted = earlier.repaint(condition, mask, latent, at)
            wanted = composite(wanted.clamp(-1.0, 1.0), image, mask)

        # The same with other edges, and with something else beside them
        other = banded(image, mask, chance)
        seen_mask = grown(mask, chance)
        seen = ((other + noise) * seen_mask).clamp(-1.0, 1.0)
        around = composite(image, other, 1.0 - mask)
        moved = network.generator.pose(seen, seen_mask, mean_points)
        _, painted = network.generator.repaint(seen, seen_mask, latent, at)

        hole = 1.0 - seen_mask
        smooth, wanted_smooth = (smoothed(each, SMOOTH_PX) for each in (painted, wanted))
        light = smooth - wanted_smooth
        area = hole.sum((2, 3), keepdim=True).clamp_min(1.0)
        light = light - (light * hole).sum((2, 3), keepdim=True) / area
        terms = {
            'detail': pixel_distance(painted - smooth, wanted - wanted_smooth, hole),
            'light': pixel_distance(light, torch.zeros_like(light), hole),
            'tone': tone_distance(painted, around, batch.rects_xyxy_px),
            'border': pixel_distance(painted, around, inner_border(seen_mask)),
            'ring': pixel_distance(painted, around, seen_mask),
            'hole': pixel_distance(painted[:own], around[:own], hole[:own]),
            'points': (moved - guessed).abs().mean(),
        }
        return {name: (WEIGHTS[name], term) for name, term in terms.items()}


class Between:
    """
    Hold weights on the way from earlier ones to those that learn (WiSE-FT, Wortsman et al. 2022).

    :param earlier: where the way begins.
    :param share: how far along it, 1 = all of it.
    """

    def __init__(self, earlier: GeneratorNetwork, share: float) -> None:
        """Copy the earlier network."""
        self.earlier, self.share = earlier, share
        self.network = copy.deepcopy(earlier)

    def follow(self, network: GeneratorNetwork) -> GeneratorNetwork:
        """Return the weights between the earlier ones and these."""
        with torch.no_grad():
            own, earlier, later = (
                [p.detach() for p in each.parameters()]
                for each in (self.network, self.earlier, network)
            )
            torch._foreach_copy_(own, earlier)
            torch._foreach_lerp_(own, later, self.share)
        return self.network


def grown(mask: torch.Tensor, chance: Chance) -> torch.Tensor:
    """
    Return masks whose holes are a few pixels larger at each side.

    :param mask: (N, 1, S, S), 1 = keep.
    """
    hole = 1.0 - mask
    result = hole
    sides = ((2, 1), (2, -1), (3, 1), (3, -1))
    for (dim, sign), most in zip(sides, GROWN_PX, strict=True):
        by = chance.uniform(0, most, len(mask), 1, 1, 1).floor()
        for px in range(1, most):
            shifted = torch.roll(hole, sign * px, dim)
            start = 0 if sign > 0 else mask.shape[dim] - px
            shifted.narrow(dim, start, px).zero_()
            result = torch.where(by >= px, torch.maximum(result, shifted), result)
    return 1.0 - result


def banded(image: torch.Tensor, mask: torch.Tensor, chance: Chance) -> torch.Tensor:
    """
    Return images of which most have a band of one colour at the hole: below, above, beside it.

    :param image: (N, 3, S, S), RGB in [-1, 1].
    :param mask: (N, 1, S, S), 1 = keep; what it leaves out stays as it is.
    """
    n, size = len(mask), mask.shape[-1]
    at = torch.arange(size, device=mask.device, dtype=torch.float32)
    ys, xs = at[None, :, None], at[None, None, :]
    hole = 1.0 - mask[:, 0]

    def ends(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = line.argmax(1)
        return first[:, None, None].float(), (size - 1 - line.flip(1).argmax(1))[:, None, None]

    def number(low: float, high: float) -> torch.Tensor:
        return chance.uniform(low, high, n, 1, 1)

    (top, bottom), (left, right) = ends(hole.amax(2)), ends(hole.amax(1))
    wide = number(*BAND_PX)
    across = (xs >= left - number(-10, 40)) & (xs <= right + number(-10, 40))
    below = (ys > bottom - 2) & (ys <= bottom + wide) & across
    above = (ys < top + 2) & (ys >= top - wide)
    beside = ((xs < left + 2) & (xs >= left - wide)) | ((xs > right - 2) & (xs <= right + wide))
    beside = beside & (ys > top + number(0, 60))
    kind = number(0, 1)
    band = (kind < 0.45) & below
    band = band | ((kind >= 0.45) & (kind < 0.55) & above)
    band = band | ((kind >= 0.55) & (kind < 0.65) & beside)
    band = band[:, None] & (mask > 0)

    # Nearly black, nearly white, or anything
    shade = chance.uniform(0.0, 1.0, n, 1, 1, 1)
    pick = chance.uniform(0.0, 1.0, n, 1, 1, 1)
    colour = torch.where(pick < 0.65, 1.0 - 0.4 * shade, 2.0 * shade - 1.0)
    colour = torch.where(pick < 0.45, 0.5 * shade - 1.0, colour)
    colour = colour + chance.normal(n, 3, 1, 1) * torch.where(pick < 0.7, 0.04, 0.4)
    colour = colour + 0.03 * chance.normal(n, 3, size, size)
    return torch.where(band, colour.clamp(-1.0, 1.0), image)
