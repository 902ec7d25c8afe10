"""What a generator is fed with: crops, and where it takes them, which face and where it goes."""

from __future__ import annotations

from collections.abc import Iterable
import hashlib

from ffs_anonymizer.backend import Tensors, TensorSpec
from ffs_anonymizer.painting.crops import Crops, mean_points
from ffs_anonymizer.regions.detections import Regions
import numpy as np
from numpy.typing import NDArray

# The shape of most faces' boxes and the usual region, for crops of which nothing else is known.
USUAL_WIDTH = 0.72
USUAL_REGION = 1.2
USUAL_CROP = 1.3


def feeds_of(
    inputs: Iterable[TensorSpec],
    crops: Crops,
    *,
    latents: NDArray[np.float32] | None = None,
    points_px: NDArray[np.float32] | None = None,
) -> Tensors:
    """
    Return a value for every input of a generator.

    :param inputs: of the network: condition and mask, perhaps latent and points.
    :param crops: N crops.
    :param latents: (N, Z) float32, standard normal; None takes always the same ones.
    :param points_px: (N, 5, 2) float32, eyes, nose and mouth corners in pixels of the crops; None
        takes the mean places in the middle of a crop.
    """
    values: dict[str, NDArray[np.float32]] = {'condition': crops.condition, 'mask': crops.mask}
    for spec in inputs:
        if spec.name == 'latent':
            some = latents if latents is not None else some_latents(len(crops), spec.shape[1])
            values['latent'] = np.ascontiguousarray(some, np.float32)
        elif spec.name == 'points':
            size_px = crops.condition.shape[-1]
            placed = points_px if points_px is not None else usual_points(len(crops), size_px)
            values['points'] = np.ascontiguousarray(placed, np.float32)
    return values


def usual_points(count: int, size_px: int, crop_scale: float = USUAL_CROP) -> NDArray[np.float32]:
    """
    Return the mean places of eyes, nose and mouth corners in a usual crop, (N, 5, 2).

    :param count: N.
    :param size_px: S.
    :param crop_scale: of the crop.
    """
    height = size_px / crop_scale / USUAL_REGION
    half = np.array([height * USUAL_WIDTH, height], np.float32) / 2
    box = np.concatenate([size_px / 2 - half, size_px / 2 + half]).astype(np.float32)
    return np.repeat(mean_points(box[None]), count, axis=0)


def some_latents(count: int, length: int) -> NDArray[np.float32]:
    """
    Return standard normal numbers, always the same, (N, Z).

    :param count: N.
    :param length: Z.
    """
    return np.random.default_rng(0).standard_normal((count, length), np.float32)


def latent_seeds(seed: int, stream: str, track_ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """
    Return where the latent of each track begins: the same seed, stream and track, the same face.

    :param seed: of the run.
    :param stream: its name.
    :param track_ids: (N,), numbers in the stream.
    """
    texts = (
        f'{seed}/{track}/{stream}'.encode('utf-8', 'surrogateescape')
        for track in track_ids.tolist()
    )
    digests = [hashlib.sha256(text).digest() for text in texts]
    return np.array([int.from_bytes(d[:8], 'big') for d in digests], np.uint64)


def latents_of(seeds: NDArray[np.uint64], length: int) -> NDArray[np.float32]:
    """
    Return the latents of seeds, (N, Z) float32, standard normal.

    :param seeds: (N,), of latent_seeds().
    :param length: Z.
    """
    rows = [np.random.default_rng(seed).standard_normal(length, np.float32) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, length), np.float32)


def points_of(regions: Regions, *, pose: bool) -> NDArray[np.float32]:
    """
    Return where the eyes, the nose and the corners of the mouth of drawn faces go, (N, 5, 2).

    :param regions: N regions, in pixels of the frame.
    :param pose: their own points where the frame has some; else, and without, the mean ones, which
        say nothing that the boxes do not.
    """
    points = mean_points(regions.ungrown_xyxy_px)
    if pose:
        known = np.isfinite(regions.points_px).all((1, 2))
        points[known] = regions.points_px[known]
    return points


def in_crops(
    points_px: NDArray[np.float32], squares_xys_px: NDArray[np.int32], size_px: int
) -> NDArray[np.float32]:
    """
    Return points of the frame in pixels of crops, (N, 5, 2).

    :param points_px: (N, 5, 2), in pixels of the frame.
    :param squares_xys_px: (N, 3), left, top and side of each crop.
    :param size_px: S.
    """
    scale = size_px / squares_xys_px[:, 2, None, None]
    return np.asarray((points_px - squares_xys_px[:, None, :2]) * scale, np.float32)
