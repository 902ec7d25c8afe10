"""Packed faces on disk and the batches drawn from them, each by seed and step alone."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
import csv
from dataclasses import dataclass, replace
from functools import cached_property
import hashlib
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import cv2
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.painting.crops import cut, cut_square, enclosing_squares, resize_square
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

T = TypeVar('T')
PHOTOS = 'photos.npy'
INDEX = 'index.csv'
BOX_COLUMNS = ('x0', 'y0', 'x1', 'y1')
INSIDE_COLUMNS = ('in_x0', 'in_y0', 'in_x1', 'in_y1')
POINT_COLUMNS = tuple(
    f'{name}_{axis}'
    for name in ('right_eye', 'left_eye', 'nose', 'mouth_right', 'mouth_left')
    for axis in 'xy'
)
MIRRORED_POINTS = (1, 0, 2, 4, 3)
HELD_OUT_PERCENT = 6
_REGION_SCALE = Settings().face.region_scale


@dataclass(frozen=True)
class PackedFaces:
    """
    Hold square photos of one main face each.

    :param photos_bgr: (N, P, P, 3) uint8, mapped from disk.
    :param boxes_xyxy_px: (N, 4) float32, the face, in pixels of the photo.
    :param inside_xyxy_px: (N, 4) int32, the part of the photo that was inside its source.
    :param points_px: (N, 5, 2) float32, eyes, nose and mouth corners; NaN where not known.
    :param identities: N names; photos of one name never fall on both sides of the split.
    """

    photos_bgr: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]
    inside_xyxy_px: NDArray[np.int32]
    points_px: NDArray[np.float32]
    identities: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n = len(self.photos_bgr)
        got = (
            self.boxes_xyxy_px.shape,
            self.inside_xyxy_px.shape,
            self.points_px.shape,
            len(self.identities),
        )
        if got != ((n, 4), (n, 4), (n, 5, 2), n):
            raise ValueError(
                f'PackedFaces: got {got}, expected boxes, points and names of {n} photos'
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


@dataclass(frozen=True)
class Batch:
    """
    Hold what one step learns from.

    :param condition: (N, 3, S, S) float32, as the runtime makes it.
    :param mask: (N, 1, S, S) float32, 1 = keep, 0 = synthesize.
    :param image: (N, 3, S, S) float32, RGB in [-1, 1], nothing dropped.
    :param points_px: (N, 5, 2) float32, eyes, nose and mouth corners; NaN where not known.
    """

    condition: NDArray[np.float32]
    mask: NDArray[np.float32]
    image: NDArray[np.float32]
    points_px: NDArray[np.float32]


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
        identities,
    )


def draw_rect(box_xyxy_px: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int32]:
    """
    Return the rectangle that some detector and about the default region_scale make of a face.

    :param box_xyxy_px: (4,) the face.
    :param rng: where the chance comes from.
    """
    centre = (box_xyxy_px[:2] + box_xyxy_px[2:]) / 2
    size_wh = box_xyxy_px[2:] - box_xyxy_px[:2]
    # What CenterFace and YuNet differ by from box to box. The narrower this is, the better the
    # network knows where the eyes were; some are drawn wider, for tracked boxes and other scales.
    spread = 1.0 if rng.random() < 0.85 else 2.5
    centre = centre + size_wh * rng.normal(0.0, 0.024 * spread, 2)
    scale = np.clip(rng.normal(1.0, 0.055 * spread, 2), 0.8, 1.25)
    size_wh = size_wh * _REGION_SCALE * scale
    low, high = centre - size_wh / 2, centre + size_wh / 2
    return np.concatenate([np.floor(low), np.ceil(high)]).astype(np.int32)


def draw_holes(rect_xyxy_px: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """
    Return the regions of other people that happen to reach into the crop, (M, 4), often none.

    :param rect_xyxy_px: (4,) the rectangle of the crop's own face.
    :param rng: where the chance comes from.
    """
    count = int(rng.choice((0, 1, 2), p=(0.7, 0.22, 0.08)))
    size_wh = (rect_xyxy_px[2:] - rect_xyxy_px[:2]).astype(np.float64)
    centre = (rect_xyxy_px[:2] + rect_xyxy_px[2:]) / 2
    holes = np.empty((count, 4), np.int32)
    for hole in holes:
        half = size_wh * rng.uniform(0.2, 1.0) / 2
        angle = rng.uniform(0, 2 * np.pi)
        far = size_wh.max() * rng.uniform(0.55, 1.0)
        at = centre + far * np.array([np.cos(angle), np.sin(angle)])
        hole[:] = np.concatenate([np.floor(at - half), np.ceil(at + half)])
    return holes


def draw_colours(rng: np.random.Generator) -> NDArray[np.uint8]:
    """
    Return a table for cv2.LUT that changes light and colour, (1, 256, 3).

    :param rng: where the chance comes from.
    """
    level = np.linspace(0, 1, 256)[:, None]
    gain = rng.uniform(0.7, 1.25) * rng.uniform(0.88, 1.12, 3)
    table = np.clip(level ** rng.uniform(0.7, 1.4) * gain, 0, 1)
    if rng.random() < 0.5:
        haze = rng.uniform(0.0, 0.3)
        table = haze * rng.uniform(0.8, 1.0) + (1.0 - haze) * table
    return np.rint(table * 255).astype(np.uint8)[None]


def surround(
    photo_bgr: NDArray[np.uint8], inside_xyxy_px: NDArray[np.int32], black: bool
) -> NDArray[np.uint8]:
    """
    Return the photo with a border of half its side, mirrored or black.

    :param photo_bgr: (P, P, 3).
    :param inside_xyxy_px: (4,) the part to mirror at its edges.
    :param black: leave the border black, as where a crop leaves a frame.
    """
    x0, y0, x1, y1 = (int(v) for v in inside_xyxy_px)
    side = photo_bgr.shape[0]
    border = side // 2
    edges = (border + y0, border + side - y1, border + x0, border + side - x1)
    kind = cv2.BORDER_CONSTANT if black else cv2.BORDER_REFLECT_101
    return np.asarray(cv2.copyMakeBorder(photo_bgr[y0:y1, x0:x1], *edges, kind), np.uint8)


def end_frame(
    photo_bgr: NDArray[np.uint8], rect_xyxy_px: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """
    Let the frame end inside the rectangle: black beyond, and the rectangle ends there too.

    :param photo_bgr: (H, W, 3), changed in place.
    :param rect_xyxy_px: (4,) the rectangle.
    :param rng: where the chance comes from.
    :returns: the photo and what is left of the rectangle.
    """
    rect = rect_xyxy_px.copy()
    edge = int(rng.integers(4))
    axis, far = edge % 2, (edge + 2) % 4
    rect[edge] += int((rect[far] - rect[edge]) * rng.uniform(0.05, 0.45))
    outside = slice(None, int(rect[edge])) if edge < 2 else slice(int(rect[edge]), None)
    if axis:
        photo_bgr[outside] = 0
    else:
        photo_bgr[:, outside] = 0
    return photo_bgr, rect


def mirrored(rect_xyxy_px: NDArray[Any], width_px: int) -> NDArray[Any]:
    """
    Return a rectangle as it lies in the mirrored image.

    :param rect_xyxy_px: (4,).
    :param width_px: of the image.
    """
    x0, y0, x1, y1 = rect_xyxy_px
    return np.array([width_px - x1, y0, width_px - x0, y1], rect_xyxy_px.dtype)


def draw_sample(
    faces: PackedFaces, i: int, rng: np.random.Generator, size_px: int, crop_scale: float
) -> Batch:
    """
    Return one face, changed by chance and cut by the runtime's own code, as a batch of one.

    :param faces: the data set.
    :param i: which photo.
    :param rng: where the chance comes from.
    :param size_px: S.
    :param crop_scale: side of the crop over the longer side of the rectangle.
    """
    photo, box = faces.photos_bgr[i], faces.boxes_xyxy_px[i]
    inside, points = faces.inside_xyxy_px[i], faces.points_px[i]
    side = faces.photos_bgr.shape[1]
    if rng.random() < 0.5:
        photo = photo[:, ::-1]
        box, inside = mirrored(box, side), mirrored(inside, side)
        points = (points * [-1, 1] + [side, 0])[list(MIRRORED_POINTS)]
    photo = np.asarray(cv2.LUT(np.ascontiguousarray(photo), draw_colours(rng)), np.uint8)
    if rng.random() < 0.01:
        photo = np.asarray(np.repeat(photo[:, :, 1:2], 3, 2), np.uint8)
    if rng.random() < 0.15:
        small_px = max(int(side * rng.uniform(0.3, 0.8)), 8)
        photo = np.asarray(cv2.resize(resize_square(photo, small_px), (side, side)), np.uint8)
    photo = surround(photo, inside, bool(rng.random() < 0.15))
    box = box + side // 2
    rect = draw_rect(box, rng)
    if rng.random() < 0.08:
        photo, rect = end_frame(photo, rect, rng)
    holes = draw_holes(rect, rng)
    sample = cut_sample(photo, rect, holes, points + side // 2, size_px, crop_scale)
    if rng.random() < 0.5:
        # The noise of a camera, in what is seen but not in what is asked for: the face shall not
        # change with it from frame to frame
        noise = rng.normal(0.0, rng.uniform(0.0, 0.08), sample.condition.shape)
        noisy = np.clip(sample.condition + noise, -1.0, 1.0) * sample.mask
        sample = replace(sample, condition=noisy.astype(np.float32))
    return sample


def cut_sample(
    photo_bgr: NDArray[np.uint8],
    rect_xyxy_px: NDArray[np.int32],
    holes_xyxy_px: NDArray[np.int32],
    points_px: NDArray[np.floating[Any]],
    size_px: int,
    crop_scale: float,
) -> Batch:
    """
    Return what the runtime would see of one face, and beside it what was there.

    :param photo_bgr: (H, W, 3) uint8.
    :param rect_xyxy_px: (4,) the rectangle to synthesize.
    :param holes_xyxy_px: (M, 4) other regions.
    :param points_px: (5, 2) eyes, nose and mouth corners, or NaN.
    :param size_px: S.
    :param crop_scale: side of the crop over the longer side of the rectangle.
    """
    crops = cut(
        photo_bgr,
        rect_xyxy_px[None],
        holes_xyxy_px=holes_xyxy_px,
        size_px=size_px,
        crop_scale=crop_scale,
    )
    square = enclosing_squares(rect_xyxy_px[None], crop_scale)[0]
    whole = resize_square(cut_square(photo_bgr, square), size_px)[:, :, ::-1]
    image = whole.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1.0
    points = (points_px - square[:2]) * (size_px / square[2])
    return Batch(crops.condition, crops.mask, image, points[None].astype(np.float32))


def draw_batch(
    faces: PackedFaces,
    numbers: NDArray[np.int64],
    *,
    seed: int,
    step: int,
    batch: int,
    size_px: int,
    crop_scale: float,
) -> Batch:
    """
    Return the batch of one step; the same seed and step give the same batch.

    :param faces: the data set.
    :param numbers: the photos to draw from.
    :param seed: of the run.
    :param step: of the run.
    :param batch: how many faces.
    :param size_px: S.
    :param crop_scale: side of the crop over the longer side of the rectangle.
    """
    rng = np.random.default_rng((seed, step))
    chances = faces.chances[numbers]
    drawn = [
        draw_sample(faces, int(i), rng, size_px, crop_scale)
        for i in rng.choice(numbers, batch, len(numbers) < batch, chances / chances.sum())
    ]
    return Batch(
        np.concatenate([one.condition for one in drawn]),
        np.concatenate([one.mask for one in drawn]),
        np.concatenate([one.image for one in drawn]),
        np.concatenate([one.points_px for one in drawn]),
    )


def batches(
    faces: PackedFaces,
    numbers: NDArray[np.int64],
    *,
    seed: int,
    steps: range,
    batch: int,
    size_px: int,
    crop_scale: float,
) -> Generator[Batch, None, None]:
    """
    Yield the batch of each step, made one ahead in a thread.

    :param faces: the data set.
    :param numbers: the photos to draw from.
    :param seed: of the run.
    :param steps: which steps.
    :param batch: how many faces.
    :param size_px: S.
    :param crop_scale: side of the crop over the longer side of the rectangle.
    """
    return batches_ahead(
        lambda step: draw_batch(
            faces,
            numbers,
            seed=seed,
            step=step,
            batch=batch,
            size_px=size_px,
            crop_scale=crop_scale,
        ),
        steps,
    )


def batches_ahead(draw: Callable[[int], T], steps: range) -> Generator[T, None, None]:
    """
    Yield what is drawn for each step, made a few ahead in a thread.

    :param draw: step to batch.
    :param steps: which steps.
    """
    made: Queue[T | BaseException] = Queue(maxsize=4)
    stopped = Event()

    def put(item: T | BaseException) -> None:
        while not stopped.is_set():
            with suppress(Full):
                made.put(item, timeout=0.2)
                return

    def make() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(draw(step))
        except BaseException as error:
            put(error)

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
