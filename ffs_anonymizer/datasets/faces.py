"""Packed faces on disk, and who of them is never trained on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
import hashlib
from pathlib import Path

from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray

PHOTOS = 'photos.npy'
INDEX = 'index.csv'
BOX_COLUMNS = ('x0', 'y0', 'x1', 'y1')
INSIDE_COLUMNS = ('in_x0', 'in_y0', 'in_x1', 'in_y1')
POINT_COLUMNS = tuple(
    f'{name}_{axis}'
    for name in ('right_eye', 'left_eye', 'nose', 'mouth_right', 'mouth_left')
    for axis in 'xy'
)
# What surroundings tell of a face, as it looks, each from 0 to 1: from a man to a woman, from a
# child to an old person, from the lightest to the darkest skin.
TRAIT_COLUMNS = ('woman', 'age', 'skin')
HELD_OUT_PERCENT = 10


@dataclass(frozen=True)
class PackedFaces:
    """
    Hold square photos of one main face each.

    :param photos_bgr: (N, P, P, 3) uint8, mapped from disk.
    :param boxes_xyxy_px: (N, 4) float32, the face, in pixels of the photo.
    :param inside_xyxy_px: (N, 4) int32, the part of the photo that was inside its source.
    :param points_px: (N, 5, 2) float32, eyes, nose and mouth corners; NaN where not known.
    :param traits: (N, 3) float32 of TRAIT_COLUMNS, from 0 to 1; NaN where not known.
    :param identities: N names; photos of one name never fall on both sides of the split.
    """

    photos_bgr: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]
    inside_xyxy_px: NDArray[np.int32]
    points_px: NDArray[np.float32]
    traits: NDArray[np.float32]
    identities: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n = len(self.photos_bgr)
        got = (
            self.boxes_xyxy_px.shape,
            self.inside_xyxy_px.shape,
            self.points_px.shape,
            self.traits.shape,
            len(self.identities),
        )
        if got != ((n, 4), (n, 4), (n, 5, 2), (n, len(TRAIT_COLUMNS)), n):
            raise ValueError(
                f'PackedFaces: got {got}, expected boxes, points, traits and names of {n} photos'
            )

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.photos_bgr)

    @cached_property
    def chances(self) -> NDArray[np.float64]:
        """Return how often each photo is to be drawn, (N,), so that each person is as often."""
        _, person, photos = np.unique(self.identities, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / photos[person], np.float64)

    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the photos to train on and of those held out, by identity."""
        held = np.array([is_held_out(name) for name in self.identities], bool)
        return np.flatnonzero(~held), np.flatnonzero(held)


def is_held_out(name: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Tell whether a person or scene is kept for evaluation; it depends on the name alone."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], 'big') % 100 < percent


def load_packed(folder: Path) -> PackedFaces:
    """
    Open what `data build` wrote.

    :param folder: holds photos.npy and index.csv.
    :raises MediaError: one of them is missing, broken or does not fit the other.
    """
    try:
        photos = np.load(folder / PHOTOS, mmap_mode='r')
        with (folder / INDEX).open(newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        boxes = [[float(row[c]) for c in BOX_COLUMNS] for row in rows]
        inside = [[int(row[c]) for c in INSIDE_COLUMNS] for row in rows]
        points = [[float(row.get(c) or 'nan') for c in POINT_COLUMNS] for row in rows]
        traits = [[float(row.get(c) or 'nan') for c in TRAIT_COLUMNS] for row in rows]
        identities = tuple(row['identity'] for row in rows)
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(
            f'{folder}: not a packed data set ({error}); make one with `ffs_anonymizer data build`'
        ) from error
    if len(photos) != len(rows) or photos.dtype != np.uint8 or photos.ndim != 4:
        raise MediaError(
            f'{folder}: got {photos.dtype} photos {photos.shape} and {len(rows)} rows, '
            'expected one row for each photo; build the data set again'
        )
    return PackedFaces(
        photos,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(inside, np.int32).reshape(-1, 4),
        np.array(points, np.float32).reshape(-1, 5, 2),
        np.array(traits, np.float32).reshape(-1, len(TRAIT_COLUMNS)),
        identities,
    )
