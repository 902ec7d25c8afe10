"""Ask for faces that look no more like the person who was there than others alike do."""

from __future__ import annotations

from pathlib import Path

import cv2
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.judges import ALIGNED_POINTS_PX, ALIGNED_PX, similarity
import numpy as np
import torch
from torch import nn
from torch.nn import functional

NEAREST = 3


class Stranger(nn.Module):  # type: ignore[misc]
    """
    Measure how much nearer generated faces are to their originals than to those most like them.

    Compared is with the third nearest of the other people of a batch, not with all of them: a face
    as far from the person as from anybody would have to be of another sex and age than the hair
    around it.

    :param recognizer: aligned faces (N, 3, 112, 112), RGB in [-1, 1], to vectors (N, D).
    """

    def __init__(self, recognizer: nn.Module) -> None:
        """Fix the recognizer."""
        super().__init__()
        self.recognizer = recognizer.requires_grad_(False)

    def forward(
        self, generated: torch.Tensor, original: torch.Tensor, points_px: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the share of the way from a person alike to the person, 0 where it is not begun.

        :param generated: (N, 3, S, S), RGB in [-1, 1], with what is around the face.
        :param original: (N, 3, S, S), row by row of the same faces.
        :param points_px: (N, 5, 2) eyes, nose and mouth corners of the originals; rows of NaN
            where they are not known do not count.
        """
        known = points_px.isfinite().all(2).all(1)
        n = int(known.sum())
        if n <= NEAREST:
            return generated.new_zeros(())
        points_px = points_px[known]
        with torch.no_grad():
            people = self.vectors(original[known], points_px)
        likeness = self.vectors(generated[known], points_px) @ people.T
        own = likeness.diagonal()
        others = likeness.detach() - 2.0 * torch.eye(n, device=likeness.device)
        alike = others.topk(NEAREST, dim=1).values[:, -1]
        return functional.relu((own - alike) / (1.0 - alike)).mean()

    def vectors(self, images: torch.Tensor, points_px: torch.Tensor) -> torch.Tensor:
        """
        Return the vectors of faces, of length 1, (N, D).

        :param images: (N, 3, S, S), RGB in [-1, 1].
        :param points_px: (N, 5, 2) eyes, nose and mouth corners.
        """
        found = self.recognizer(align(images.float(), points_px))
        return functional.normalize(found.float(), dim=1)


def align(images: torch.Tensor, points_px: torch.Tensor) -> torch.Tensor:
    """
    Shift, turn and scale faces to where recognizers expect them, (N, 3, 112, 112).

    :param images: (N, 3, S, S).
    :param points_px: (N, 5, 2) eyes, nose and mouth corners.
    """
    # Sampling asks where each aligned pixel comes from
    turned = (similarity(each, ALIGNED_POINTS_PX) for each in points_px.double().cpu().numpy())
    back = torch.from_numpy(np.stack([cv2.invertAffineTransform(m) for m in turned])).to(images)
    at = torch.arange(ALIGNED_PX).to(images)
    places = torch.stack(torch.meshgrid(at, at, indexing='xy'), -1)
    grid = torch.einsum('nij,hwj->nhwi', back[..., :2], places) + back[:, None, None, :, 2]
    size_wh = images.new_tensor([images.shape[3], images.shape[2]])
    return functional.grid_sample(
        images, (2.0 * grid + 1.0) / size_wh - 1.0, padding_mode='border', align_corners=False
    )


def load_stranger(path: Path) -> Stranger:
    """
    Make the term of a recognizer that `torch.export.save` wrote.

    :param path: a .pt2 file; its program takes (N, 3, 112, 112) RGB in [-1, 1], aligned as those
        of the ArcFace family, N free, and returns (N, D).
    :raises ModelError: the file cannot be read or takes something else.
    """
    try:
        recognizer = torch.export.load(str(path)).module()
        for n in (2, 3):
            found = recognizer(torch.zeros(n, 3, ALIGNED_PX, ALIGNED_PX))
    except Exception as error:
        raise ModelError(f'{path}: cannot be used as a recognizer: {error}') from error
    if found.ndim != 2 or len(found) != 3:
        raise ModelError(f'{path}: got an output of {tuple(found.shape)}, expected (N, D)')
    return Stranger(recognizer)
