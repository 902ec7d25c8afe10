"""The networks: one paints a face that is given to it, one chooses which face fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
import re

from ffs_anonymizer.datasets.faces import TRAIT_COLUMNS
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.training.generator.alignment import (
    FACE_PX,
    oval,
    similarity,
    TEMPLATE,
    template_on,
)
import torch
from torch import nn
from torch.nn import functional

CODE_CHANNELS = 8
CODE_SIDE = 16
CODE = CODE_CHANNELS * CODE_SIDE**2
LATENT = CODE + 10
# How far five points lie off the template, in shares of an aligned face: the unit in latents.
POINTS_SPREAD = 0.04
CHANCE = 64
# Standard deviation of a Gumbel variable, by which a softmax is drawn from as a maximum.
GUMBEL = 1.2825
# How far a face may be off what its surroundings want: its traits, and how it is turned, in
# distances between the eyes.
TRAIT_SPREADS = (0.25, 0.12, 0.3)
TURN_SPREAD = 0.03
TURN_UNIT = 0.1
READER_CHANNELS = (32, 48, 64)
SURVEYOR_CHANNELS = (32, 64, 96, 128, 160)
SURVEYED_SIDE = 4
LEAK = 0.2
DETAIL_LAYERS = 3
USUAL_CONTRAST = 0.3
MOST_CHANNELS = 4096


@dataclass(frozen=True)
class GeneratorArchitecture:
    """
    Say how wide and how deep a generator is.

    :param channels: of the top and of the levels below it, each half the side of the last.
    :param patch_px: side of the pixel blocks that the top works on; 1 = every pixel.
    :param middle: residual blocks at the lowest level.
    :param detail: channels of the level that a detailed one has above these, at twice the side;
        0 = none.
    """

    channels: tuple[int, ...]
    patch_px: int = 1
    middle: int = 1
    detail: int = 0


ARCHITECTURES = {
    'ffs-128': GeneratorArchitecture((64, 96, 192, 320, 512)),
    'ffs-128-small': GeneratorArchitecture((32, 64, 128, 192, 256), patch_px=2),
    'ffs-256': GeneratorArchitecture((32, 64, 128, 192, 256), patch_px=2, detail=32),
    'ffs-tiny': GeneratorArchitecture((8, 8, 16), patch_px=2),
    'ffs-tiny-detailed': GeneratorArchitecture((8, 8, 16), patch_px=2, detail=8),
}


class ConvNorm(nn.Module):  # type: ignore[misc]
    """
    Convolve, normalize by batch statistics, add a skip where there is one, rectify.

    :param inputs: channels in.
    :param outputs: channels out.
    :param kernel_px: side of the kernel.
    :param stride: 2 halves the side.
    :param slope: of the rectifier below 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_px: int = 3,
        stride: int = 1,
        slope: float = 0.0,
    ) -> None:
        """Make the layers."""
        super().__init__()
        padding = kernel_px // 2 if kernel_px % 2 else 0
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, kernel_px, stride, padding, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.slope = slope

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """
        Return the next activation.

        :param x: (N, inputs, H, W).
        :param skip: (N, outputs, H / stride, W / stride), added before the rectifier.
        """
        x = self.norm(self.conv(x))
        if skip is not None:
            x = x + skip
        return functional.leaky_relu(x, self.slope) if self.slope else functional.relu(x)


class Middle(nn.Module):  # type: ignore[misc]
    """
    Refine the lowest level: two convolutions around a skip.

    :param channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        """Make the layers."""
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the refined activation, (N, channels, H, W) as it came."""
        refined: torch.Tensor = self.second(self.first(x), x)
        return refined


class Rise(nn.Module):  # type: ignore[misc]
    """
    Double the side: fewer channels, repeated, joined with what came down, convolved.

    :param inputs: channels in.
    :param outputs: channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        """Make the layers."""
        super().__init__()
        self.reduce = nn.Conv2d(inputs, outputs, 1)
        self.both = ConvNorm(outputs, outputs)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """
        Return the activation of the level above.

        :param x: (N, inputs, H, W).
        :param skip: (N, outputs, 2 H, 2 W).
        """
        doubled = functional.interpolate(self.reduce(x), scale_factor=2.0, mode='nearest')
        risen: torch.Tensor = self.both(doubled + skip)
        return risen


class Surveyor(nn.Module):  # type: ignore[misc]
    """
    Look at what is around a hole, and at where its points are.

    :param outputs: numbers that are told.
    """

    def __init__(self, outputs: int) -> None:
        """Make the layers, which tell 0 at first."""
        super().__init__()
        self.layers = halving(7, SURVEYOR_CHANNELS)
        self.exit = nn.Linear(SURVEYOR_CHANNELS[-1] * SURVEYED_SIDE**2, outputs)
        nn.init.normal_(self.exit.weight, std=0.01)
        nn.init.zeros_(self.exit.bias)

    def forward(
        self, condition: torch.Tensor, mask: torch.Tensor, points_px: torch.Tensor
    ) -> torch.Tensor:
        """
        Return what is told, (N, outputs).

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param points_px: (N, 5, 2), in pixels of the crop.
        """
        placed = place(points_px, condition.shape[-1])
        seen = self.layers(torch.cat([condition, mask, placed], 1))
        told: torch.Tensor = self.exit(to_side(seen).flatten(1)).float()
        return told


class Poser(Surveyor):
    """Say where the points of a head would be, by what is around it."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__(10)

    def forward(
        self, condition: torch.Tensor, mask: torch.Tensor, points_px: torch.Tensor
    ) -> torch.Tensor:
        """
        Return eyes, nose and mouth corners, (N, 5, 2) in pixels of the crop.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param points_px: (N, 5, 2): the mean ones of its box, or its own.
        """
        moves = super().forward(condition, mask, points_px).reshape(-1, 5, 2)
        return points_px + 0.1 * condition.shape[-1] * moves


class Repainting(nn.Module):  # type: ignore[misc]
    """Repaint crops by what a generator has: `pose`, `features` and `paint`."""

    def repaint(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Return the activations and the picture of a face, (N, 3, S, S), which may leave [-1, 1].

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        :param latent: (N, LATENT), the face to wear.
        :param points_px: (N, 5, 2), where it goes; its own shape is kept.
        """
        levels = self.features(condition, mask, latent, points_px)
        return levels, self.paint(levels, condition, mask)

    def forward(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> torch.Tensor:
        """
        Return the whole crop repainted, (N, 3, S, S) in [-1, 1].

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        :param latent: (N, LATENT), the face to wear.
        :param points_px: (N, 5, 2), eyes, nose and mouth corners in pixels of the crop: the mean
            ones of the box, or the person's own.
        """
        at = self.pose(condition, mask, points_px)
        _, painted = self.repaint(condition, mask, latent, at)
        return painted.clamp(-1.0, 1.0)


class GeneratorNetwork(Repainting):
    """
    Paint what the mask leaves out, wearing the face that a latent stands for.

    :param architecture: the widths.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        """Make the layers."""
        super().__init__()
        self.architecture = architecture
        patch, channels = architecture.patch_px, architecture.channels
        self.pose = Poser()
        self.entry = ConvNorm(7, channels[0], kernel_px=patch, stride=patch)
        self.worn = nn.Conv2d(CODE_CHANNELS + 1, channels[0], 3, padding=1)
        self.top = ConvNorm(channels[0], channels[0])
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(ConvNorm(c, d, stride=2) for c, d in pairs)
        self.middle = nn.ModuleList(Middle(channels[-1]) for _ in range(architecture.middle))
        self.up = nn.ModuleList(Rise(d, c) for c, d in reversed(pairs))
        self.last = ConvNorm(channels[0], channels[0])
        self.exit = nn.Conv2d(channels[0], 3 * patch * patch, 1)
        alike = self.exit.weight.detach()[:3].repeat_interleave(patch * patch, 0)
        self.exit.weight.data.copy_(alike)
        self.register_buffer('oval', oval(CODE_SIDE))
        self.register_buffer('template', torch.tensor(TEMPLATE)[None])

    def features(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> list[torch.Tensor]:
        """
        Return the activations from the lowest level up to the last, for distillation.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        :param latent: (N, LATENT), the face to wear.
        :param points_px: (N, 5, 2), where it goes; its own shape is kept.
        """
        size = condition.shape[-1]
        code, points = unpacked(latent, self.template)
        moved = similarity(points, points_px / size)
        placed = place(moved.of(points) * size, size)
        face = torch.cat([self.oval + torch.zeros_like(code[:, :1]), code], 1)
        grid = moved.inverse().grid(size // self.architecture.patch_px)
        face = functional.grid_sample(face, grid, padding_mode='zeros', align_corners=False)
        x = self.entry(torch.cat([condition, mask, placed], 1), self.worn(face))
        skips = [self.top(x)]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        x = skips.pop()
        for layer in self.middle:
            x = layer(x)
        levels = [x]
        for layer in self.up:
            levels.append(layer(levels[-1], skips.pop()))
        return [*levels, self.last(levels[-1])]

    def paint(
        self, levels: list[torch.Tensor], condition: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the picture that activations stand for, without a step to what is kept.

        :param levels: as features() told them.
        :param condition: (N, 3, S, S), what features() saw.
        :param mask: (N, 1, S, S), 1 = keep.
        """
        x = self.exit(levels[-1])
        if self.architecture.patch_px > 1:
            x = functional.pixel_shuffle(x, self.architecture.patch_px)
        return meet(torch.tanh(x).float(), condition, mask)


class DetailedGenerator(Repainting):
    """
    Paint as a generator of half the side does, then the detail that a larger face shows.

    As networks that grow (Karras et al. 2018), but the lower levels stay as they are: the same
    faces, the same codes.

    :param architecture: the widths, of the detail too.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        """Make the layers; they add nothing at first."""
        super().__init__()
        self.architecture = architecture
        channels = architecture.detail
        self.base = GeneratorNetwork(architecture)
        self.entry = ConvNorm(7, channels, kernel_px=2, stride=2)
        self.rise = Rise(architecture.channels[0], channels)
        self.refine = nn.ModuleList(ConvNorm(channels, channels) for _ in range(DETAIL_LAYERS))
        self.exit = nn.Conv2d(channels, 12, 1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def pose(
        self, condition: torch.Tensor, mask: torch.Tensor, points_px: torch.Tensor
    ) -> torch.Tensor:
        """Return where the points of a head would be, as Poser does."""
        return 2.0 * self.base.pose(*halved(condition, mask), points_px / 2)

    def features(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        latent: torch.Tensor,
        points_px: torch.Tensor,
    ) -> list[torch.Tensor]:
        """
        Return the activations from the lowest level up, then the small picture and its detail.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        :param latent: (N, LATENT), the face to wear.
        :param points_px: (N, 5, 2), where it goes; its own shape is kept.
        """
        small = halved(condition, mask)
        levels, painted = self.base.repaint(*small, latent, points_px / 2)
        x = self.rise(levels[-1], self.entry(torch.cat([condition, mask, double(painted)], 1)))
        for layer in self.refine:
            x = layer(x)
        return [*levels, painted, x]

    def paint(
        self, levels: list[torch.Tensor], condition: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the picture that activations stand for, without a step to what is kept.

        :param levels: as features() told them.
        :param condition: (N, 3, S, S), what features() saw.
        :param mask: (N, 1, S, S), 1 = keep.
        """
        detail = functional.pixel_shuffle(self.exit(levels[-1]), 2).float()
        return meet(double(levels[-2]) + detail, condition, mask)


class Encoder(nn.Module):  # type: ignore[misc]
    """Read the code of an aligned face; only training and the making of a gallery have faces."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        first, second, third = READER_CHANNELS
        self.layers = nn.Sequential(
            ConvNorm(3, first, stride=2, slope=LEAK),
            ConvNorm(first, second, slope=LEAK),
            ConvNorm(second, third, stride=2, slope=LEAK),
            ConvNorm(third, third, slope=LEAK),
        )
        self.exit = nn.Conv2d(third, CODE_CHANNELS, 1)
        self.register_buffer('oval', oval(FACE_PX))

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        """
        Return the codes, (N, CODE_CHANNELS, CODE_SIDE, CODE_SIDE) in [-1, 1].

        :param face: (N, 3, FACE_PX, FACE_PX), aligned, RGB in [-1, 1].
        """
        code: torch.Tensor = torch.tanh(self.exit(self.layers(self.evened(face))).float())
        return code

    def evened(self, face: torch.Tensor) -> torch.Tensor:
        """
        Return a face of the usual brightness, contrast and colours: the place gives it its own.

        :param face: (N, 3, FACE_PX, FACE_PX).
        """
        area = self.oval.sum()
        mean = (face * self.oval).sum((2, 3), keepdim=True) / area
        off = (face - mean) * self.oval
        contrast = ((off * off).sum((1, 2, 3), keepdim=True) / (3.0 * area)).sqrt()
        return USUAL_CONTRAST * off / contrast.clamp_min(0.02)


class Matcher(Surveyor):
    """Say what sort of face surroundings want: its traits, and how its head is turned."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__(len(TRAIT_COLUMNS) + 1)

    def logits(
        self, condition: torch.Tensor, mask: torch.Tensor, points_px: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return what is wanted: (N, 3) logits of the traits, and (N,) how heads are turned.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param points_px: (N, 5, 2), in pixels of the crop.
        """
        told = super().forward(condition, mask, points_px)
        return told[:, :-1], told[:, -1] * TURN_UNIT

    def forward(
        self, condition: torch.Tensor, mask: torch.Tensor, points_px: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return what is wanted: (N, 3) traits from 0 to 1, and (N,) how heads are turned.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param points_px: (N, 5, 2), in pixels of the crop.
        """
        logits, turns = self.logits(condition, mask, points_px)
        return logits.sigmoid(), turns


def likeness(wanted: torch.Tensor, traits: torch.Tensor) -> torch.Tensor:
    """
    Return how well faces fit, (N, M), as logits: 0 is a perfect fit.

    :param wanted: (N, 3) traits; NaN where not known, which is as good as met.
    :param traits: (M, 3) of the faces; NaN where not known.
    """
    known = wanted.isfinite()[:, None] & traits.isfinite()
    return -misfit(wanted.nan_to_num(), traits.nan_to_num(), known / spreads_on(traits.device))


def misfit(wanted: torch.Tensor, traits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    Return half the squared distances from faces to what is wanted, (N, M).

    :param wanted: (N, 3).
    :param traits: (M, 3).
    :param weights: (M, 3) or (N, M, 3), what distances are multiplied by.
    """
    return 0.5 * ((wanted[:, None] - traits) * weights).square().sum(-1)


def spreads_on(device: torch.device) -> torch.Tensor:
    """Return how far off traits may be, (3,), on a device."""
    return torch.tensor(TRAIT_SPREADS, device=device)


class Chooser(nn.Module):  # type: ignore[misc]
    """
    Draw faces of a gallery that fit what is around the hole, and are turned as the head is.

    A softmax over all is drawn from as the greatest logit after noise (Gumbel's trick, with
    normal noise): the same chance and the same surroundings, the same face.

    :param matcher: trained.
    :param latents: (M, LATENT), the faces of the gallery.
    :param traits: (M, 3) of them, from 0 to 1; NaN where not known.
    """

    def __init__(self, matcher: Matcher, latents: torch.Tensor, traits: torch.Tensor) -> None:
        """Draw the directions by which chance tells faces apart."""
        super().__init__()
        self.matcher = matcher
        self.register_buffer('latents', latents.half())
        _, points = unpacked(latents, torch.tensor(TEMPLATE)[None])
        self.register_buffer('turns', turned(points))
        self.register_buffer('traits', traits.nan_to_num())
        self.register_buffer('weights', traits.isfinite() / spreads_on(traits.device))
        seeded = torch.Generator().manual_seed(0)
        directions = torch.randn((len(latents), CHANCE), generator=seeded)
        self.register_buffer('directions', functional.normalize(directions, dim=1) * GUMBEL)

    def forward(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        chance: torch.Tensor,
        points_px: torch.Tensor,
    ) -> torch.Tensor:
        """
        Return the latents of the chosen faces, (N, LATENT).

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param chance: (N, CHANCE), standard normal: which of the faces that fit.
        :param points_px: (N, 5, 2), in pixels of the crop.
        """
        wanted, turns = self.matcher(condition, mask, points_px)
        fits = -misfit(wanted, self.traits, self.weights)
        fits = fits - 0.5 * ((turns[:, None] - self.turns) / TURN_SPREAD).square()
        best = (fits + chance @ self.directions.T).argmax(1)
        return self.latents[best].float()


class FaceNetwork(nn.Module):  # type: ignore[misc]
    """
    Hold what is trained together.

    :param architecture: the widths of the generator.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        """Make the networks."""
        super().__init__()
        self.generator: GeneratorNetwork | DetailedGenerator = (
            DetailedGenerator(architecture)
            if architecture.detail
            else GeneratorNetwork(architecture)
        )
        self.encoder = Encoder()
        self.matcher = Matcher()


def turned(points: torch.Tensor) -> torch.Tensor:
    """
    Return how far heads are turned, (N,), positive to the right of the picture.

    :param points: (N, 5, 2); the nose off the middle of the eyes, over their distance.
    """
    right, left, nose = points[:, 0], points[:, 1], points[:, 2]
    across = left - right
    off = ((nose - (right + left) / 2) * across).sum(1)
    return off / (across * across).sum(1).clamp_min(1e-6)


def packed(code: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """
    Return faces as latents, (N, LATENT).

    :param code: (N, CODE_CHANNELS, CODE_SIDE, CODE_SIDE).
    :param points: (N, 5, 2), the face's own, in shares of the aligned face.
    """
    off = (points - template_on(points.device)) / POINTS_SPREAD
    return torch.cat([code.flatten(1), off.flatten(1)], 1)


def unpacked(latent: torch.Tensor, template: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return code and points of faces, as packed() was given them.

    :param latent: (N, LATENT).
    :param template: (1, 5, 2).
    """
    code = latent[:, :CODE].reshape(-1, CODE_CHANNELS, CODE_SIDE, CODE_SIDE)
    return code, template + latent[:, CODE:].reshape(-1, 5, 2) * POINTS_SPREAD


def halving(inputs: int, channels: tuple[int, ...]) -> nn.Sequential:
    """
    Make convolutions that each halve the side.

    :param inputs: channels in.
    :param channels: of the convolutions.
    """
    pairs = pairwise((inputs, *channels))
    return nn.Sequential(*(ConvNorm(c, d, stride=2, slope=LEAK) for c, d in pairs))


def to_side(x: torch.Tensor) -> torch.Tensor:
    """
    Return a map at the side that a surveyor's last layer expects.

    :param x: (N, C, h, w); crops of 128 px have that side already.
    """
    if x.shape[-1] == SURVEYED_SIDE:
        return x
    return functional.interpolate(x, size=(SURVEYED_SIDE, SURVEYED_SIDE), mode='nearest')


def place(points_px: torch.Tensor, size_px: int, radius: float = 3.0 / 128.0) -> torch.Tensor:
    """
    Draw points as soft spots, (N, 3, S, S): eyes, nose, mouth corners.

    :param points_px: (N, 5, 2), eyes, nose and mouth corners in pixels of the crop.
    :param size_px: S.
    :param radius: standard deviation of a spot over S.
    """
    spread = size_px * radius
    at = torch.arange(size_px, device=points_px.device, dtype=torch.float32) + 0.5
    across = (at - points_px[:, :, 0:1]) / spread
    down = (at - points_px[:, :, 1:2]) / spread
    across, down = torch.exp(-0.5 * across * across), torch.exp(-0.5 * down * down)
    spots = down[:, :, :, None] * across[:, :, None, :]
    eyes = torch.maximum(spots[:, 0], spots[:, 1])
    return torch.stack([eyes, spots[:, 2], torch.maximum(spots[:, 3], spots[:, 4])], 1)


def meet(painted: torch.Tensor, condition: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Return a painting less its error outside the hole, which is continued smoothly into the hole.

    So there is no step at the border, as in seamless cloning (Perez et al. 2003). The error is
    averaged to ever coarser levels and filled in from there (pull-push, Gortler et al. 1996); it
    fades towards the middle of large holes, of which the coarsest level knows nothing.

    :param painted: (N, 3, S, S).
    :param condition: (N, 3, S, S), read where the mask is 1.
    :param mask: (N, 1, S, S), 1 = keep.
    """
    levels = [((condition - painted) * mask, mask)]
    while levels[-1][1].shape[-1] > 4:
        summed, known = (functional.avg_pool2d(each, 2) for each in levels[-1])
        levels.append((summed, known))
    error, known = levels.pop()
    error = error / (known + 1e-3)
    for summed, known in reversed(levels[1:]):
        error = summed + (1.0 - known) * double(error)
    return painted + double(error)


def halved(condition: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return condition and mask at half their side; what a dropped pixel contributes to is dropped.

    :param condition: (N, 3, S, S), 0.0 in the hole.
    :param mask: (N, 1, S, S), 1 = keep.
    """
    kept = 1.0 - functional.max_pool2d(1.0 - mask, 2)
    return functional.avg_pool2d(condition, 2) * kept, kept


def double(x: torch.Tensor) -> torch.Tensor:
    """Return a map at twice its side, smoothly: repeated, then averaged over 3x3."""
    x = functional.interpolate(x, scale_factor=2.0, mode='nearest')
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def beneath(weights: dict[str, torch.Tensor], network: FaceNetwork) -> dict[str, torch.Tensor]:
    """
    Return the weights of a network that a detailed one is to begin with, as its own.

    :param weights: of a network; as they are where it is detailed itself, or this one is not.
    :param network: the detail is as it has it.
    """
    own = network.state_dict()
    if weights.keys() == own.keys() or not isinstance(network.generator, DetailedGenerator):
        return weights
    moved = {re.sub('^generator[.]', 'generator.base.', k): v for k, v in weights.items()}
    detail = {k: v for k, v in own.items() if k.startswith('generator.') and '.base.' not in k}
    return {**detail, **moved}


def make_network(name: str, channels: str = '') -> FaceNetwork:
    """
    Make the networks of a name with random weights.

    :param name: a key of ARCHITECTURES.
    :param channels: widths of the levels instead of its own, commas between; empty: its own.
    """
    return FaceNetwork(architecture(name, channels))


def architecture(name: str, channels: str = '') -> GeneratorArchitecture:
    """
    Return how wide and how deep the generator of a name is.

    :param name: a key of ARCHITECTURES.
    :param channels: widths of the levels instead of its own, commas between; empty: its own.
    :raises ModelError: there is no such network, or it has no such widths.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'network: got {name!r}, expected one of {", ".join(ARCHITECTURES)}')
    usual = ARCHITECTURES[name]
    if not channels.strip():
        return usual
    widths = [int(width) if width.strip().isdecimal() else 0 for width in channels.split(',')]
    if len(widths) != len(usual.channels) or not all(
        1 <= width <= MOST_CHANNELS for width in widths
    ):
        raise ModelError(
            f'channels: got {channels!r}, expected {len(usual.channels)} numbers from 1 to '
            f'{MOST_CHANNELS}, commas between, for {name}'
        )
    return replace(usual, channels=tuple(widths))


def composite(painted: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Return the image with its hole filled from the painting.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S), what is kept where the mask is 1.
    :param mask: (N, 1, S, S).
    """
    return image * mask + painted * (1.0 - mask)
