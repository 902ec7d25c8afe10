"""The networks: a U-Net that paints the face of a code, what reads codes, what guesses them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ffs_anonymizer.errors import ModelError
import torch
from torch import nn
from torch.nn import functional

CODE = 64
STYLE_CHANNELS = 128
STYLED_LEVELS = 3
READER_CHANNELS = (32, 64, 128, 192, 256)
GUESSER_CHANNELS = (32, 64, 96, 128, 160)
GUESSED_SIDE = 4
LEAK = 0.2


@dataclass(frozen=True)
class GeneratorArchitecture:
    """
    Say how wide and how deep a generator is.

    :param channels: of the top and of the levels below it, each half the side of the last.
    :param patch_px: side of the pixel blocks that the top works on; 1 = every pixel.
    :param middle: residual blocks at the lowest level.
    """

    channels: tuple[int, ...]
    patch_px: int = 1
    middle: int = 1


ARCHITECTURES = {
    'ffs-128': GeneratorArchitecture((64, 96, 192, 320, 512)),
    'ffs-128-small': GeneratorArchitecture((32, 96, 160, 224, 256), patch_px=2),
    'ffs-tiny': GeneratorArchitecture((8, 8, 16), patch_px=2),
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


class Styled(nn.Module):  # type: ignore[misc]
    """
    Scale and shift channels by a style (FiLM, Perez et al. 2018).

    :param channels: of what is scaled.
    """

    def __init__(self, channels: int) -> None:
        """Start near to changing nothing."""
        super().__init__()
        self.both = nn.Linear(STYLE_CHANNELS, 2 * channels)
        nn.init.normal_(self.both.weight, std=0.05)
        nn.init.zeros_(self.both.bias)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """
        Return the activation in the style.

        :param x: (N, channels, H, W).
        :param style: (N, STYLE_CHANNELS).
        """
        scale, shift = self.both(style)[:, :, None, None].chunk(2, 1)
        return x * (1.0 + scale) + shift


class GeneratorNetwork(nn.Module):  # type: ignore[misc]
    """
    Paint what the mask leaves out, as the face that a code stands for.

    :param architecture: the widths.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        """Make the layers."""
        super().__init__()
        self.architecture = architecture
        patch, channels = architecture.patch_px, architecture.channels
        self.style = nn.Sequential(
            nn.Linear(CODE, STYLE_CHANNELS),
            nn.LeakyReLU(LEAK),
            nn.Linear(STYLE_CHANNELS, STYLE_CHANNELS),
            nn.LeakyReLU(LEAK),
        )
        self.entry = ConvNorm(7, channels[0], kernel_px=patch, stride=patch)
        self.top = ConvNorm(channels[0], channels[0])
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(ConvNorm(c, d, stride=2) for c, d in pairs)
        self.middle = nn.ModuleList(Middle(channels[-1]) for _ in range(architecture.middle))
        self.up = nn.ModuleList(ConvNorm(d, c) for c, d in reversed(pairs))
        self.last = ConvNorm(channels[0], channels[0])
        self.exit = nn.Conv2d(channels[0], 3 * patch * patch, 1)
        alike = self.exit.weight.detach()[:3].repeat_interleave(patch * patch, 0)
        self.exit.weight.data.copy_(alike)
        rising = [c for c, _ in reversed(pairs)][:STYLED_LEVELS]
        self.styled = nn.ModuleList(Styled(c) for c in (channels[-1], *rising))

    def features(
        self,
        condition: torch.Tensor,
        mask: torch.Tensor,
        code: torch.Tensor,
        placed: torch.Tensor,
    ) -> list[torch.Tensor]:
        """
        Return the activations from the lowest level up to the last, for distillation.

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep, 0 = synthesize.
        :param code: (N, CODE), which face.
        :param placed: (N, 3, S, S), what place() made of the points.
        """
        style = self.style(code)
        x = self.top(self.entry(torch.cat([condition, mask, placed], 1)))
        skips = [x]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        x = skips.pop()
        for layer in self.middle:
            x = layer(x)
        x = self.styled[0](x, style)
        levels = [x]
        for i, layer in enumerate(self.up):
            x = layer(functional.interpolate(x, scale_factor=2.0, mode='nearest'), skips.pop())
            if i + 1 < len(self.styled):
                x = self.styled[i + 1](x, style)
            levels.append(x)
        return [*levels, self.last(x)]

    def paint(
        self, last: torch.Tensor, condition: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the picture that the last activation stands for, without a step to what is kept.

        :param last: the last of features().
        :param condition: (N, 3, S, S), what features() saw.
        :param mask: (N, 1, S, S), 1 = keep.
        """
        x = self.exit(last)
        if self.architecture.patch_px > 1:
            x = functional.pixel_shuffle(x, self.architecture.patch_px)
        return meet(torch.tanh(x).float(), condition, mask)


class Encoder(nn.Module):  # type: ignore[misc]
    """
    Read the code of a face; only training has the face.

    The last norm makes each number of the code standard over a batch, so that codes lie densely
    and what lies between two of them is a face, too.
    """

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = halving(4, READER_CHANNELS)
        self.code = nn.Linear(READER_CHANNELS[-1] * GUESSED_SIDE**2, CODE)
        self.norm = nn.BatchNorm1d(CODE, affine=False)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Return the codes, (N, CODE).

        :param image: (N, 3, S, S), RGB in [-1, 1]; read where the mask is 0.
        :param mask: (N, 1, S, S), 1 = keep.
        """
        seen = self.layers(torch.cat([image * (1.0 - mask), mask], 1))
        code: torch.Tensor = self.norm(self.code(to_side(seen).flatten(1)).float())
        return code


class Prior(nn.Module):  # type: ignore[misc]
    """Guess the code of a face from what is around the hole: hair, neck, light."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = halving(7, GUESSER_CHANNELS)
        self.both = nn.Linear(GUESSER_CHANNELS[-1] * GUESSED_SIDE**2, 2 * CODE)
        nn.init.normal_(self.both.weight, std=0.01)
        nn.init.zeros_(self.both.bias)

    def forward(
        self, condition: torch.Tensor, mask: torch.Tensor, placed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return mean and logarithm of the spread of the code, each (N, CODE).

        :param condition: (N, 3, S, S), RGB in [-1, 1], 0.0 in the hole.
        :param mask: (N, 1, S, S), 1 = keep.
        :param placed: (N, 3, S, S), what place() made of the points.
        """
        seen = self.layers(torch.cat([condition, mask, placed], 1))
        mean, spread = self.both(to_side(seen).flatten(1)).float().chunk(2, 1)
        return mean, spread.clamp(-3.0, 1.0)


class FaceNetwork(nn.Module):  # type: ignore[misc]
    """
    Hold what is trained together; called, it paints the faces that latents stand for.

    :param architecture: the widths of the generator.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        """Make the networks."""
        super().__init__()
        self.generator = GeneratorNetwork(architecture)
        self.prior = Prior()
        self.encoder: nn.Module = Encoder()

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
        :param latent: (N, CODE), standard normal: which of the faces that fit.
        :param points_px: (N, 5, 2), eyes, nose and mouth corners in pixels of the crop.
        """
        placed = place(points_px, condition.shape[-1])
        mean, spread = self.prior(condition, mask, placed)
        code = mean + spread.exp() * latent
        levels = self.generator.features(condition, mask, code, placed)
        return self.generator.paint(levels[-1], condition, mask).clamp(-1.0, 1.0)


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
    Return a map at the side that the last layer of encoder and prior expects.

    :param x: (N, C, h, w); crops of 128 px have that side already.
    """
    if x.shape[-1] == GUESSED_SIDE:
        return x
    return functional.interpolate(x, size=(GUESSED_SIDE, GUESSED_SIDE), mode='nearest')


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


def double(x: torch.Tensor) -> torch.Tensor:
    """Return a map at twice its side, smoothly: repeated, then averaged over 3x3."""
    x = functional.interpolate(x, scale_factor=2.0, mode='nearest')
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def make_network(name: str) -> FaceNetwork:
    """
    Make the networks of a name with random weights.

    :param name: a key of ARCHITECTURES.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'network: got {name!r}, expected one of {", ".join(ARCHITECTURES)}')
    return FaceNetwork(ARCHITECTURES[name])


def composite(painted: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Return the image with its hole filled from the painting.

    :param painted: (N, 3, S, S).
    :param image: (N, 3, S, S), what is kept where the mask is 1.
    :param mask: (N, 1, S, S).
    """
    return image * mask + painted * (1.0 - mask)
