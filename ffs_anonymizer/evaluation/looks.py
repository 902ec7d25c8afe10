"""How faces look beside the originals: sharpness, skin, pose, and whether people differ."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
from ffs_anonymizer.evaluation.judges import SAME_PERSON
import numpy as np
from numpy.typing import NDArray

SIZES_PX = (64.0, 150.0)
SHARP_WITHIN = 0.8
SKIN_WITHIN = 0.5
FIFTH = 0.2
LEAST_FACES = 3


@dataclass(frozen=True)
class Looks:
    """
    Hold how faces look, one row a face.

    :param photo: (N,) int64, number of the photo.
    :param size_px: (N,) float64, the longer side of its box.
    :param detail: (N,) float64, the standard deviation of the Laplacian of its brightness.
    :param skin_lab: (N, 3) float64, mean CIE Lab of its middle (D65, L 0 to 100).
    """

    photo: NDArray[np.int64]
    size_px: NDArray[np.float64]
    detail: NDArray[np.float64]
    skin_lab: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n = len(self.photo)
        got = (self.photo.shape, self.size_px.shape, self.detail.shape, self.skin_lab.shape)
        if got != ((n,), (n,), (n,), (n, 3)):
            raise ValueError(f'Looks: got shapes {got}, expected one row for each of {n} faces')


def look_at(image_bgr: NDArray[np.uint8], boxes_xyxy_px: NDArray[np.float32], photo: int) -> Looks:
    """
    Measure the faces of one photo.

    :param image_bgr: (H, W, 3) uint8.
    :param boxes_xyxy_px: (N, 4) the faces.
    :param photo: its number.
    """
    details, skins = [], []
    for box in boxes_xyxy_px:
        grey = cv2.cvtColor(within(image_bgr, box, SHARP_WITHIN), cv2.COLOR_BGR2GRAY)
        details.append(float(cv2.Laplacian(grey, cv2.CV_64F).std()))
        middle = within(image_bgr, box, SKIN_WITHIN).astype(np.float32) / 255
        skins.append(cv2.cvtColor(middle, cv2.COLOR_BGR2LAB).reshape(-1, 3).mean(0))
    size_wh = boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]
    return Looks(
        np.full(len(boxes_xyxy_px), photo, np.int64),
        size_wh.max(1, initial=0).astype(np.float64),
        np.array(details, np.float64),
        np.array(skins, np.float64).reshape(-1, 3),
    )


def joined(parts: list[Looks]) -> Looks:
    """Return the faces of several photos, in their order; there must be some."""
    return Looks(
        np.concatenate([part.photo for part in parts]),
        np.concatenate([part.size_px for part in parts]),
        np.concatenate([part.detail for part in parts]),
        np.concatenate([part.skin_lab for part in parts]),
    )


def within(
    image_bgr: NDArray[np.uint8], box_xyxy_px: NDArray[np.float32], share: float
) -> NDArray[np.uint8]:
    """
    Return the middle of a box, at least one pixel.

    :param image_bgr: (H, W, 3) uint8.
    :param box_xyxy_px: (4,), it may reach out of the image.
    :param share: of its sides.
    """
    limit = np.array([image_bgr.shape[1], image_bgr.shape[0]]) - 1
    centre, half = (box_xyxy_px[:2] + box_xyxy_px[2:]) / 2, box_xyxy_px[2:] - box_xyxy_px[:2]
    x0, y0 = np.clip(np.floor(centre - half * share / 2), 0, limit).astype(int)
    x1, y1 = np.clip(np.ceil(centre + half * share / 2), 1, limit + 1).astype(int)
    return image_bgr[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


def sharpness(original: Looks, other: Looks) -> dict[str, float | None]:
    """
    Return the median share of detail that is left, of small, usual and large faces.

    :param original: the faces as they were.
    :param other: the same faces anonymized.
    """
    left = other.detail / np.maximum(original.detail, 1e-9)
    low, high = SIZES_PX
    size = original.size_px
    groups = {
        'sharpness_small': size < low,
        'sharpness': (size >= low) & (size <= high),
        'sharpness_large': size > high,
    }
    return {
        name: float(np.median(left[group])) if group.any() else None
        for name, group in groups.items()
    }


def skin(original: Looks, other: Looks) -> dict[str, float | None]:
    """
    Return how skin changes: median Delta E (CIE 1976), and L of the darkest and lightest fifth.

    :param original: the faces as they were.
    :param other: the same faces anonymized.
    """
    apart = np.linalg.norm(original.skin_lab - other.skin_lab, axis=1)
    order = np.argsort(original.skin_lab[:, 0])
    count = max(round(len(order) * FIFTH), 1)
    shift = other.skin_lab[:, 0] - original.skin_lab[:, 0]
    return {
        'skin': float(np.median(apart)),
        'skin_dark': float(shift[order[:count]].mean()),
        'skin_light': float(shift[order[-count:]].mean()),
    }


def sameness(vectors: NDArray[np.float64], photo: NDArray[np.int64]) -> float | None:
    """
    Return the share of pairs in one photo that a recognizer takes for one person.

    :param vectors: (N, D) of length 1; rows of NaN do not count.
    :param photo: (N,) number of the photo.
    :returns: None where no photo has two faces.
    """
    first, second = np.triu_indices(len(vectors), 1)
    known = np.asarray(np.isfinite(vectors).all(1))
    pairs = (photo[first] == photo[second]) & known[first] & known[second]
    if not pairs.any():
        return None
    cosines = (vectors[first[pairs]] * vectors[second[pairs]]).sum(1)
    return float((cosines > SAME_PERSON).mean())


def pose(
    original_px: NDArray[np.float64], other_px: NDArray[np.float64]
) -> dict[str, float | None]:
    """
    Return how well turned heads stay turned: correlations of yaw and of roll.

    :param original_px: (N, 5, 2) eyes, nose and mouth corners; NaN where not known.
    :param other_px: the same of the anonymized faces.
    """
    known = np.isfinite(original_px).all((1, 2)) & np.isfinite(other_px).all((1, 2))
    if known.sum() < LEAST_FACES:
        return {'yaw': None, 'roll': None}
    ours, theirs = angles(original_px[known]), angles(other_px[known])
    return {
        name: None
        if min(ours[:, i].std(), theirs[:, i].std()) < 1e-9
        else float(np.corrcoef(ours[:, i], theirs[:, i])[0, 1])
        for i, name in enumerate(('yaw', 'roll'))
    }


def angles(points_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Return yaw and roll of faces, (N, 2).

    Yaw is how far the nose is from the middle between the eyes, along them, over their distance;
    roll is the angle of the line through the eyes, in radians.

    :param points_px: (N, 5, 2) eyes, nose and mouth corners.
    """
    right, left, nose = points_px[:, 0], points_px[:, 1], points_px[:, 2]
    across = left - right
    length = np.maximum(np.linalg.norm(across, axis=1), 1e-9)
    aside = ((nose - (right + left) / 2) * across).sum(1) / length**2
    return np.column_stack([aside, np.arctan2(across[:, 1], across[:, 0])])
