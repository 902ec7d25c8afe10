"""How many plates or faces a detector finds, by size, and how often it finds what is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
from ffs_anonymizer.datasets.photos import read_photo
from ffs_anonymizer.datasets.pictures import Annotated, CLASSES, IGNORED, inside
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detector import Network
import numpy as np
from numpy.typing import NDArray

# Edges of the classes of height, in pixels as the network sees them.
HEIGHTS_PX = (0.0, 8.0, 12.0, 20.0, 40.0, 80.0, 1e9)
# Overlap from which an object counts as found, and share of it that has to be covered.
FOUND_IOU = 0.3
LEAST_SCORE = 0.02
FALSE_FINDS = (0.1, 0.3, 1.0)
# The picture of mistakes: side of a tile, how many in a row and how many rows of each kind.
TILE_PX, COLUMNS, ROWS = 160, 8, 6
MISSED_BGR, FALSE_BGR = (0, 255, 0), (0, 0, 255)


@dataclass(frozen=True)
class JudgedDetections:
    """
    Hold what a detector said of photos whose objects of one class are known.

    :param boxes_xyxy_px: (N, 4) the known objects, in pixels of their photo.
    :param heights_px: (N,) of the known objects, as the network sees them.
    :param best_scores: (N,) the highest score of a box that meets the object; 0 where none does.
    :param owners: (N,) the photo of each object.
    :param false_scores: (F,) of boxes that meet no object.
    :param false_xyxy_px: (F, 4) of them, in pixels of their photo.
    :param false_owners: (F,) the photo of each.
    :param frames: how many photos.
    :param name: of the class.
    """

    boxes_xyxy_px: NDArray[np.float32]
    heights_px: NDArray[np.float64]
    best_scores: NDArray[np.float64]
    owners: NDArray[np.int64]
    false_scores: NDArray[np.float64]
    false_xyxy_px: NDArray[np.float32]
    false_owners: NDArray[np.int64]
    frames: int
    name: str = 'plate'

    def threshold_at(self, false_a_frame: float) -> float:
        """Return the lowest threshold with at most so many false finds a frame."""
        allowed = int(false_a_frame * self.frames)
        falling = np.sort(self.false_scores)[::-1]
        return LEAST_SCORE if len(falling) <= allowed else float(falling[allowed]) + 1e-6

    def false_a_frame(self, threshold: float) -> float:
        """Return the false finds a frame at a threshold."""
        return float((self.false_scores >= threshold).sum() / max(self.frames, 1))

    def recall(self, threshold: float, low_px: float = 0.0, high_px: float = 1e9) -> float | None:
        """Return the share of the objects of some heights found; None where there are none."""
        chosen = (self.heights_px >= low_px) & (self.heights_px < high_px)
        return float((self.best_scores[chosen] >= threshold).mean()) if chosen.any() else None


def judge(
    photos: Sequence[Annotated],
    network: Network,
    *,
    scale: float = 1.0,
    nms_iou: float = 0.3,
    progress: Callable[[Sequence[Annotated]], Iterator[Annotated]] = iter,
) -> JudgedDetections:
    """
    Look for the objects of photos that a network finds.

    One is found by a box with an overlap of 0.3 or more; a box that meets none with a tenth of its
    area is a false find. Those lower than 5 px, and what is to be ignored, are neither.

    :param photos: with their objects; the network's class was looked for in all of them.
    :param scale: size at which it sees the photos.
    :param nms_iou: overlap above which two boxes are one.
    :param progress: wraps the photos, for a progress bar.
    :raises MediaError: a photo cannot be read, a box is outside of it, or there is no object.
    """
    name = CLASSES[network.class_index]
    asked_of: list[NDArray[np.float32]] = []
    heights: list[float] = []
    best: list[float] = []
    owners: list[int] = []
    false: list[float] = []
    false_boxes: list[NDArray[np.float32]] = []
    false_owners: list[int] = []
    for number, photo in enumerate(progress(photos)):
        image_bgr = read_photo(photo.path)
        every = inside(photo, image_bgr)
        known = every[photo.classes == network.class_index]
        unsure = every[photo.classes == IGNORED]
        found = network.detect(image_bgr, threshold=LEAST_SCORE, nms_iou=nms_iou, scale=scale)
        meets = boxes.iou(found.xyxy_px, known)
        asked = (known[:, 3] - known[:, 1]) * scale >= 5.0
        scores = np.where(meets >= FOUND_IOU, found.scores[:, None], 0.0)
        for i in np.flatnonzero(asked):
            asked_of.append(known[i])
            heights.append(float(known[i, 3] - known[i, 1]) * scale)
            best.append(float(scores[:, i].max(initial=0.0)))
            owners.append(number)
        either = np.concatenate([known, unsure])
        touches = (boxes.inside(found.xyxy_px, either) >= 0.1).any(1)
        false += found.scores[~touches].astype(float).tolist()
        false_boxes.append(found.xyxy_px[~touches])
        false_owners += [number] * int((~touches).sum())
    if not heights:
        raise MediaError(f'got no {name} in {len(photos)} photos, expected some to judge by')
    return JudgedDetections(
        np.stack(asked_of),
        np.array(heights),
        np.array(best),
        np.array(owners),
        np.array(false),
        np.concatenate(false_boxes),
        np.array(false_owners, np.int64),
        len(photos),
        name,
    )


def figures(judged: JudgedDetections, thresholds: Sequence[float] = ()) -> dict[str, Any]:
    """
    Return recall by height at the usual numbers of false finds a frame, and at thresholds.

    :param judged: what judge() returned.
    :param thresholds: more of them.
    """
    rows = []
    chosen = [judged.threshold_at(allowed) for allowed in FALSE_FINDS]
    for threshold in (*chosen, *thresholds):
        by_height = {
            name_of(low, high): judged.recall(threshold, low, high)
            for low, high in pairwise(HEIGHTS_PX)
        }
        rows.append(
            {
                'threshold': round(threshold, 4),
                'false_a_frame': judged.false_a_frame(threshold),
                'recall_12_px': judged.recall(threshold, 12.0),
                'recall': by_height,
            }
        )
    counts = np.histogram(judged.heights_px, HEIGHTS_PX)[0].tolist()
    pairs = pairwise(HEIGHTS_PX)
    return {
        'frames': judged.frames,
        f'{judged.name}s': {name_of(*edges): n for edges, n in zip(pairs, counts, strict=True)},
        'rows': rows,
    }


def name_of(low_px: float, high_px: float) -> str:
    """Return the name of a class of heights."""
    return f'{low_px:g}-{high_px:g}' if high_px < 1e9 else f'{low_px:g}+'


def to_markdown(values: dict[str, Any]) -> str:
    """
    Return the table in Markdown: recall by the height of the objects in pixels.

    :param values: what figures() returned.
    """
    kind = next(key for key in values if key not in ('frames', 'rows'))
    names = list(values[kind])
    lines = [
        f'| false finds a frame | threshold | 12 px and more | {" | ".join(names)} |',
        '|---' * (len(names) + 3) + '|',
    ]
    for row in values['rows']:
        cells = [row['recall_12_px'], *(row['recall'][name] for name in names)]
        told = ['-' if cell is None else f'{cell:.1%}' for cell in cells]
        lines.append(
            f'| {row["false_a_frame"]:.2f} | {row["threshold"]:.3f} | {" | ".join(told)} |'
        )
    counts = ' | '.join(str(values[kind][name]) for name in names)
    lines.append(f'| {kind} of {values["frames"]} frames | | | {counts} |')
    return '\n'.join(lines) + '\n'


def write_sheet(
    path: Path, photos: Sequence[Annotated], judged: JudgedDetections, threshold: float
) -> tuple[int, int]:
    """
    Write a picture of the objects that were missed and, below them, of what is none.

    The largest misses come first, in green; then the surest false finds, in red. Both with the
    score, of a miss that of the best box that meets it.

    :param judged: what came of the photos.
    :param threshold: below which an object was missed, and from which a find is false.
    :returns: how many there were of each; not all of them need be shown.
    """
    missed = np.flatnonzero(judged.best_scores < threshold)
    missed = missed[np.argsort(-judged.heights_px[missed], kind='stable')]
    false = np.flatnonzero(judged.false_scores >= threshold)
    false = false[np.argsort(-judged.false_scores[false], kind='stable')]
    tiles = []
    for chosen, boxes_px, owners, scores, colour in (
        (missed, judged.boxes_xyxy_px, judged.owners, judged.best_scores, MISSED_BGR),
        (false, judged.false_xyxy_px, judged.false_owners, judged.false_scores, FALSE_BGR),
    ):
        for i in chosen[: COLUMNS * ROWS].tolist():
            image_bgr = read_photo(photos[int(owners[i])].path)
            tiles.append(tile_around(image_bgr, boxes_px[i], colour, f'{scores[i]:.2f}'))
        # Each kind begins a row of its own.
        tiles += [np.zeros((TILE_PX, TILE_PX, 3), np.uint8)] * (-len(tiles) % COLUMNS)
    save_tiles(path, np.stack(tiles or [np.zeros((8, 8, 3), np.uint8)]), columns=COLUMNS)
    return len(missed), len(false)


def tile_around(
    image_bgr: NDArray[np.uint8],
    box_xyxy_px: NDArray[np.float32],
    colour_bgr: tuple[int, int, int] = MISSED_BGR,
    text: str = '',
) -> NDArray[np.uint8]:
    """
    Return an object in its surroundings, marked, (TILE_PX, TILE_PX, 3).

    :param image_bgr: (H, W, 3).
    :param box_xyxy_px: (4,).
    :param colour_bgr: of the mark.
    :param text: is written below it.
    """
    side = max(float((box_xyxy_px[2:] - box_xyxy_px[:2]).max()) * 2, 64.0)
    scale = TILE_PX / side
    corner = (box_xyxy_px[:2] + box_xyxy_px[2:]) / 2 - side / 2
    move = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]], np.float64)
    tile = np.asarray(cv2.warpAffine(image_bgr, move, (TILE_PX, TILE_PX)), np.uint8)
    x0, y0, x1, y1 = (round(float(v)) for v in (box_xyxy_px - np.tile(corner, 2)) * scale)
    cv2.rectangle(tile, (x0, y0), (x1, y1), colour_bgr, 1)
    at_px = (4, TILE_PX - 6)
    for shade, width in (((0, 0, 0), 3), (colour_bgr, 1)):
        cv2.putText(tile, text, at_px, cv2.FONT_HERSHEY_SIMPLEX, 0.45, shade, width, cv2.LINE_AA)
    return tile
