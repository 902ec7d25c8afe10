"""Batches of faces drawn by chance, all rows at once on one device, by seed and step alone."""

from __future__ import annotations

from dataclasses import dataclass
import math
import random

from ffs_anonymizer.datasets.faces import PackedFaces
from ffs_anonymizer.painting.crops import MEAN_POINTS
import numpy as np
from numpy.typing import NDArray
import torch
from torch.nn import functional

MIRRORED_POINTS = [1, 0, 2, 4, 3]
OVERSAMPLED = 2
BEYOND_PX = 1e6
MAX_HOLES = 2


@dataclass(frozen=True)
class Batch:
    """
    Hold what one step learns from, in pixels of crops of side S.

    :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the holes, as the runtime makes it.
    :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
    :param image: (N, 3, S, S), RGB in [-1, 1], nothing dropped.
    :param rects_xyxy_px: (N, 4), the crop's own region.
    :param points_px: (N, 5, 2), eyes, nose and mouth corners; NaN where not known.
    :param mean_points_px: (N, 5, 2), where they are on average in the region's box.
    :param traits: (N, 3), of TRAIT_COLUMNS; NaN where not known.
    """

    condition: torch.Tensor
    mask: torch.Tensor
    image: torch.Tensor
    rects_xyxy_px: torch.Tensor
    points_px: torch.Tensor
    mean_points_px: torch.Tensor
    traits: torch.Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.mask)


class Chance:
    """
    Draw numbers on a device.

    :param seed: where they begin.
    :param device: where they are.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self._numbers = random.Random(seed)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """Return numbers spread evenly from low to high."""
        drawn = torch.rand(*shape, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def number(self, low: float, high: float) -> float:
        """Return one number spread evenly from low to high, without waiting for the device."""
        return self._numbers.uniform(low, high)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return standard normal numbers."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def happens(self, share: float, *shape: int) -> torch.Tensor:
        """Return what is true in a share of the cases."""
        return self.uniform(0.0, 1.0, *shape) < share


class Sampler:
    """
    Draw crops of packed faces as the runtime would cut them, with what it may meet by chance.

    :param faces: the data set; its photos are moved to the device once.
    :param numbers: the photos to draw from, each person as often.
    :param size_px: S.
    :param region_scale: side of a region over the side of its box.
    :param crop_scale: side of a crop over the longer side of its region.
    """

    def __init__(
        self,
        faces: PackedFaces,
        numbers: NDArray[np.int64],
        *,
        size_px: int,
        region_scale: float,
        crop_scale: float,
        device: torch.device,
    ) -> None:
        self.size_px = size_px
        self.region_scale = region_scale
        self.crop_scale = crop_scale
        self.device = device
        self.photo_px = faces.photos_bgr.shape[1]
        kept = np.asarray(faces.photos_bgr[numbers])
        self.photos_bgr = torch.from_numpy(kept).to(device)
        self.boxes = torch.from_numpy(faces.boxes_xyxy_px[numbers]).to(device)
        self.inside = torch.from_numpy(faces.inside_xyxy_px[numbers]).float().to(device)
        self.points = torch.from_numpy(faces.points_px[numbers]).to(device)
        self.traits = torch.from_numpy(faces.traits[numbers]).to(device)
        self.chances = torch.from_numpy(faces.chances[numbers]).float().to(device)
        # Moved once: a step that sends anything to a GPU waits for it
        self._endless = BEYOND_PX * torch.tensor([-1.0, -1.0, 1.0, 1.0], device=device)
        self._inwards = torch.tensor([1.0, 1.0, -1.0, -1.0], device=device)
        self._hole_shares = torch.tensor([0.3, 0.08], device=device)
        self._mean_points = torch.from_numpy(MEAN_POINTS).to(device)

    def draw(self, count: int, *, seed: int, step: int) -> Batch:
        """
        Return the batch of one step; the same seed and step give the same batch.

        :param count: N.
        """
        chance = Chance(seed * 1_000_003 + step, self.device)
        rows = torch.multinomial(self.chances, count, True, generator=chance.generator)
        mirrored = chance.happens(0.5, count)
        box, inside, points = self._seen(rows, mirrored)

        # The rectangle that some detector and about the usual region_scale make of the face: what
        # CenterFace and YuNet differ by from box to box; some wider, for tracked boxes
        spread = torch.where(chance.happens(0.85, count, 1), 1.0, 2.5)
        centre, size_wh = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
        centre = centre + size_wh * chance.normal(count, 2) * 0.024 * spread
        jitter = (1.0 + chance.normal(count, 2) * 0.055 * spread).clamp(0.8, 1.25)
        grown = size_wh * self.region_scale * jitter
        rect = torch.cat([torch.floor(centre - grown / 2), torch.ceil(centre + grown / 2)], 1)

        # The frame may end inside it
        whole = rect
        ends = self._endless.repeat(count, 1)
        edge = torch.randint(4, (count,), generator=chance.generator, device=self.device)
        edge = functional.one_hot(edge, 4).bool() & chance.happens(0.08, count, 1)
        reach = chance.uniform(0.05, 0.45, count, 1) * torch.cat([grown, grown], 1)
        rect = torch.where(edge, torch.round(rect + self._inwards * reach), rect)
        ends = torch.where(edge, rect, ends)

        # The regions of other people that reach into the crop
        turn = chance.uniform(0.0, 2 * math.pi, count, MAX_HOLES)
        far = chance.uniform(0.55, 1.0, count, MAX_HOLES) * grown.amax(1, keepdim=True)
        at = centre[:, None] + far[..., None] * torch.stack([turn.cos(), turn.sin()], -1)
        half = grown[:, None] * chance.uniform(0.2, 1.0, count, MAX_HOLES, 1) / 2
        holes = torch.cat([torch.floor(at - half), torch.ceil(at + half)], -1)
        wanted = chance.uniform(0.0, 1.0, count, 1) < self._hole_shares
        holes = torch.where(wanted[..., None], holes, torch.zeros_like(holes))

        black = chance.happens(0.15, count)
        cut = self._cut(rows, mirrored, rect, holes, inside, ends, black)
        image, mask, left_top, side = cut
        image = self._lit(image, chance)
        traits = self.traits[rows]
        return self._batch(image, mask, rect, whole, points, traits, left_top, side, chance)

    def plain(self, index: NDArray[np.int64]) -> Batch:
        """
        Return photos as they are, cut at the usual region.

        :param index: which of the numbers.
        """
        rows = torch.from_numpy(index).to(self.device)
        count = len(rows)
        no = torch.zeros(count, dtype=torch.bool, device=self.device)
        box, inside, points = self._seen(rows, no)
        centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2
        half = half * self.region_scale
        rect = torch.cat([torch.floor(centre - half), torch.ceil(centre + half)], 1)
        holes = torch.zeros(count, MAX_HOLES, 4, device=self.device)
        cut = self._cut(rows, no, rect, holes, inside, self._endless.repeat(count, 1), no)
        image, mask, left_top, side = cut
        traits = self.traits[rows]
        return self._batch(image, mask, rect, rect, points, traits, left_top, side, None)

    def _seen(
        self, rows: torch.Tensor, mirrored: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes, insides and points of photos, some of which are mirrored."""
        width = self.photo_px

        def turned(rects: torch.Tensor) -> torch.Tensor:
            other = torch.stack(
                [width - rects[:, 2], rects[:, 1], width - rects[:, 0], rects[:, 3]]
            )
            return torch.where(mirrored[:, None], other.T, rects)

        points = self.points[rows]
        other = torch.stack([width - points[..., 0], points[..., 1]], -1)[:, MIRRORED_POINTS]
        points = torch.where(mirrored[:, None, None], other, points)
        return turned(self.boxes[rows]), turned(self.inside[rows]), points

    def _cut(
        self,
        rows: torch.Tensor,
        mirrored: torch.Tensor,
        rect: torch.Tensor,
        holes: torch.Tensor,
        inside: torch.Tensor,
        ends: torch.Tensor,
        black: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images (0 to 1, negative where there is no frame), masks, corners, sides."""
        size, count = self.size_px, len(rows)
        side = torch.ceil((rect[:, 2:] - rect[:, :2]).amax(1) * self.crop_scale)[:, None]
        left_top = torch.floor((rect[:, :2] + rect[:, 2:] - side) / 2)
        fine = size * OVERSAMPLED
        unit = (torch.arange(fine, device=self.device, dtype=torch.float32) + 0.5) / fine
        places = left_top[:, :, None] + unit * side[..., None]  # (N, 2, fine): across, down
        low, high = inside[:, :2, None], inside[:, 2:, None]
        outside = (places < low) | (places > high)
        beyond = (places < ends[:, :2, None]) | (places > ends[:, 2:, None])

        # Mirrored at the edges of what the photo shows
        period = (high - low - 1.0).clamp_min(1.0)
        folded = torch.remainder(places - low - 0.5, 2 * period)
        places = low + 0.5 + period - (folded - period).abs()
        across, down = places.unbind(1)
        across = torch.where(mirrored[:, None], self.photo_px - across, across)
        grid = torch.stack(
            [
                across[:, None, :].expand(count, fine, fine),
                down[:, :, None].expand(count, fine, fine),
            ],
            -1,
        )
        photos = self.photos_bgr[rows].permute(0, 3, 1, 2).flip(1).float() / 255.0
        image = functional.grid_sample(
            photos,
            grid / self.photo_px * 2.0 - 1.0,
            mode='bicubic',
            padding_mode='border',
            align_corners=False,
        )
        image = functional.avg_pool2d(image, OVERSAMPLED).clamp(0.0, 1.0)
        none = (outside & black[:, None, None]) | beyond
        gone = (none[:, 0][:, None, :] | none[:, 1][:, :, None])[:, None].float()
        gone = functional.avg_pool2d(gone, OVERSAMPLED)

        # A pixel that a dropped one contributes to is dropped
        edges = torch.arange(size, device=self.device, dtype=torch.float32) / size
        first = left_top[:, None, :, None] + edges * side[:, None, :, None]
        last = first + side[:, None, :, None] / size
        both = torch.cat([rect[:, None], holes], 1)[..., None]
        within = (last > both[:, :, :2]) & (first < both[:, :, 2:])
        dropped = (within[:, :, 0][:, :, None, :] & within[:, :, 1][:, :, :, None]).any(1)
        return torch.cat([image, gone], 1), 1.0 - dropped[:, None].float(), left_top, side

    def _lit(self, image: torch.Tensor, chance: Chance) -> torch.Tensor:
        """Return images in other light, colours and sharpness."""
        n, size = len(image), self.size_px
        colour, gone = image[:, :3], image[:, 3:]
        gamma = chance.uniform(0.75, 1.35, n, 1, 1, 1)
        gain = chance.uniform(0.72, 1.22, n, 1, 1, 1) * chance.uniform(0.9, 1.1, n, 3, 1, 1)
        colour = (colour.clamp_min(1e-4) ** gamma * gain).clamp(0.0, 1.0)
        haze = chance.uniform(0.0, 0.25, n, 1, 1, 1) * chance.happens(0.4, n, 1, 1, 1)
        colour = haze * chance.uniform(0.8, 1.0, n, 3, 1, 1) + (1.0 - haze) * colour
        grey = colour[:, 1:2].expand(-1, 3, -1, -1)
        colour = torch.where(chance.happens(0.03, n, 1, 1, 1), grey, colour)
        share = chance.number(0.28, 0.78)
        small = functional.interpolate(colour, size=max(round(size * share), 4), mode='area')
        small = functional.interpolate(small, size=size, mode='bilinear', align_corners=False)
        colour = torch.where(chance.happens(0.12, n, 1, 1, 1), small, colour)
        return torch.cat([colour, gone], 1)

    def _batch(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        rect: torch.Tensor,
        whole: torch.Tensor,
        points: torch.Tensor,
        traits: torch.Tensor,
        left_top: torch.Tensor,
        side: torch.Tensor,
        chance: Chance | None,
    ) -> Batch:
        """Return the batch, in pixels of the crops."""
        gone = image[:, 3:]
        image = (image[:, :3] * 255.0).round() / 127.5 - 1.0
        image = image * (1.0 - gone) - gone
        seen = image
        if chance is not None:
            # The noise of a camera, in what is seen but not in what is asked for: the face shall
            # not change with it from frame to frame
            n = len(image)
            level = chance.uniform(0.0, 0.07, n, 1, 1, 1) * chance.happens(0.5, n, 1, 1, 1)
            seen = (image + chance.normal(*image.shape) * level).clamp(-1.0, 1.0)
        scale = self.size_px / side
        rects = (rect - left_top.repeat(1, 2)) * scale
        whole = (whole - left_top.repeat(1, 2)) * scale
        centre, size_wh = (whole[:, :2] + whole[:, 2:]) / 2, whole[:, 2:] - whole[:, :2]
        corner = (centre - size_wh / self.region_scale / 2)[:, None]
        return Batch(
            seen * mask,
            mask,
            image,
            rects,
            (points - left_top[:, None]) * scale[:, None],
            corner + self._mean_points * size_wh[:, None] / self.region_scale,
            traits,
        )
