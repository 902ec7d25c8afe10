"""Ask a recognizer: the same person from a face's own code, somebody else from a drawn one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.judges import ALIGNED_POINTS_PX, ALIGNED_PX
from ffs_anonymizer.training.generator.recognizer import DLIB, load_dlib
import torch
from torch import nn
from torch.nn import functional

ALIKE = 0.2
CALIBRATED = 32  # faces at once


@dataclass(frozen=True)
class Likeness:
    """
    Say how alike faces are to a recognizer.

    :param own: mean of 1 less the cosine of a repainted face and its original.
    :param drawn: how far cosines of drawn faces pass ALIKE, with each other and the original.
    """

    own: torch.Tensor
    drawn: torch.Tensor


class Identity(nn.Module):  # type: ignore[misc]
    """
    Compare painted faces with originals and with each other.

    :param recognizer: aligned faces (N, 3, 112, 112), RGB in [-1, 1], to vectors (N, D).
    """

    def __init__(self, recognizer: nn.Module) -> None:
        """Fix the recognizer."""
        super().__init__()
        self.recognizer = recognizer.requires_grad_(False)
        self.register_buffer('centre', torch.zeros(()))

    def calibrate(self, image: torch.Tensor, points_px: torch.Tensor) -> None:
        """
        Take the mean vector from real faces, so that cosines of strangers are about 0.

        :param image: (N, 3, S, S), RGB in [-1, 1].
        :param points_px: (N, 5, 2); rows of NaN are left out.
        """
        known = points_px.isfinite().all(2).all(1)
        aligned = align(image[known].float(), points_px[known])
        with torch.no_grad():
            vectors = torch.cat([self.recognizer(part) for part in aligned.split(CALIBRATED)])
        self.centre = vectors.float().mean(0)

    def forward(
        self,
        filled: torch.Tensor,
        image: torch.Tensor,
        placed_px: torch.Tensor,
        points_px: torch.Tensor,
        own: int,
    ) -> Likeness:
        """
        Return how alike the faces are.

        :param filled: (N, 3, S, S), RGB in [-1, 1], painted faces with what is around them.
        :param image: (N, 3, S, S), the originals.
        :param placed_px: (N, 5, 2), eyes, nose and mouth corners of the painted faces.
        :param points_px: (N, 5, 2), those of the originals; rows of NaN where they are not known
            do not count.
        :param own: the first rows are repainted from their own code, the others drawn.
        """
        known = points_px.isfinite().all(2).all(1)
        points_px = torch.where(known[:, None, None], points_px, placed_px)
        painted = self.vectors(filled, placed_px)
        with torch.no_grad():
            originals = self.vectors(image, points_px)
        cosines = (painted * originals).sum(1)
        counts = known[:own].float()
        unlike = ((1.0 - cosines[:own]) * counts).sum() / counts.sum().clamp_min(1.0)
        among = painted[own:] @ painted[own:].T
        others = ~torch.eye(len(among), dtype=torch.bool, device=among.device)
        pairs = functional.relu(among - ALIKE)[others]
        drawn = functional.relu(cosines[own:] - ALIKE).sum() / max(len(among), 1)
        return Likeness(unlike, drawn + pairs.sum() / max(len(pairs), 1))

    def vectors(self, images: torch.Tensor, points_px: torch.Tensor) -> torch.Tensor:
        """
        Return the vectors of faces, of length 1, (N, D).

        :param images: (N, 3, S, S), RGB in [-1, 1].
        :param points_px: (N, 5, 2) eyes, nose and mouth corners.
        """
        found = self.recognizer(align(images.float(), points_px))
        return functional.normalize(found.float() - self.get_buffer('centre'), dim=1)


def align(images: torch.Tensor, points_px: torch.Tensor) -> torch.Tensor:
    """
    Shift, turn and scale faces to where recognizers expect them, (N, 3, 112, 112).

    The similarity brings the points closest to the aligned ones; sampling asks for its inverse.

    :param images: (N, 3, S, S).
    :param points_px: (N, 5, 2) eyes, nose and mouth corners.
    """
    aligned = torch.from_numpy(ALIGNED_POINTS_PX).to(points_px)
    wanted = aligned - aligned.mean(0)
    given = points_px - points_px.mean(1, keepdim=True)
    grow = (given * wanted).sum((1, 2))
    turn = (given[..., 0] * wanted[:, 1] - given[..., 1] * wanted[:, 0]).sum(1)
    back = given.square().sum((1, 2)) / (grow.square() + turn.square()).clamp_min(1e-9)
    grow, turn = (grow * back)[:, None, None], (-turn * back)[:, None, None]
    at = torch.arange(ALIGNED_PX).to(points_px) - aligned.mean(0)[:, None]
    across, down = at[0][None, None, :], at[1][None, :, None]
    centre = points_px.mean(1)
    x = grow * across - turn * down + centre[:, 0, None, None]
    y = turn * across + grow * down + centre[:, 1, None, None]
    grid = (2.0 * torch.stack([x, y], -1) + 1.0) / images.shape[-1] - 1.0
    return functional.grid_sample(
        images, grid.to(images), padding_mode='border', align_corners=False
    )


def load_identity(name: str) -> Identity:
    """
    Make the term of a recognizer.

    :param name: `dlib`, or a .pt2 file that `torch.export.save` wrote; its program takes
        (N, 3, 112, 112) RGB in [-1, 1], aligned as those of the ArcFace family, N free, and
        returns (N, D).
    :raises ModelError: the file cannot be read or takes something else.
    """
    if name == DLIB:
        return Identity(load_dlib())
    path = Path(name)
    try:
        recognizer = torch.export.load(str(path)).module()
        for n in (2, 3):
            found = recognizer(torch.zeros(n, 3, ALIGNED_PX, ALIGNED_PX))
    except Exception as error:
        raise ModelError(f'{path}: cannot be used as a recognizer: {error}') from error
    if found.ndim != 2 or len(found) != 3:
        raise ModelError(f'{path}: got an output of {tuple(found.shape)}, expected (N, D)')
    return Identity(recognizer)
