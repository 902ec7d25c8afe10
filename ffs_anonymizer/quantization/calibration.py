"""The pictures that a network is calibrated and judged on."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.datasets.photos import Photo, read_photo, SUFFIXES
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.painting.crops import Crops, cut, joined
from ffs_anonymizer.regions.detections import Detections, FACE, read_boxes
from ffs_anonymizer.regions.detector import Network
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

BOX_TABLES = ('boxes.csv', 'index.csv')
PACKED = 'photos.npy'
_CORNERS = ('x0', 'y0', 'x1', 'y1')
# What an object scores that the product replaces, and the least that says anything at all.
THRESHOLD = Settings().face.threshold
_LOWEST = 0.05
_NMS_IOU = Settings().detector.nms_iou


@dataclass(frozen=True)
class _Entry:
    path: Path
    boxes: tuple[tuple[float, ...], ...]
    ignored: tuple[tuple[float, ...], ...]


def load_photos(folder: Path, limit: int, *, seed: int = 0) -> list[Photo]:
    """
    Read photos, drawn at random if there are more than asked for.

    The boxes are in boxes.csv or index.csv of the folder (columns file or path, x0, y0, x1, y1;
    those are ignored that are `invalid`, or `ignore` by their class), or in a text file of the
    photo's stem beside it or in annotations/. Where there is any such file, photos without boxes
    are left out, else none has boxes.

    :param folder: of the photos.
    :param limit: how many at most.
    :raises MediaError: there is no photo to use, or one cannot be read.
    """
    entries = _entries(folder)
    order = np.random.default_rng(seed).permutation(len(entries))[:limit]
    photos = []
    for i in order.tolist():
        entry = entries[i]
        photos.append(
            Photo(
                entry.path,
                read_photo(entry.path),
                np.array(entry.boxes, np.float32).reshape(-1, 4),
                np.array(entry.ignored, np.float32).reshape(-1, 4),
            )
        )
    return photos


def detect(network: Network, photo: Photo) -> Detections:
    """Return all that a network finds in a photo, down to a score that says little."""
    return network.detect(photo.image_bgr, threshold=_LOWEST, nms_iou=_NMS_IOU, scale=1.0)


def found_by(network: Network, photos: list[Photo]) -> list[Photo]:
    """
    Return photos with what a network finds in them as their boxes.

    What scores less than the product replaces is to be ignored: it counts neither way.
    """
    found = []
    for photo in photos:
        detections = detect(network, photo)
        sure = detections.scores >= THRESHOLD
        boxes = detections.xyxy_px
        found.append(replace(photo, boxes_xyxy_px=boxes[sure], ignored_xyxy_px=boxes[~sure]))
    return found


def load_crops(
    source: Path,
    limit: int,
    *,
    size_px: int,
    crop_scale: float,
    region_scale: float,
    seed: int = 0,
) -> Crops:
    """
    Cut crops as the product does, drawn at random if there are more faces than asked for.

    In photos without boxes the default detector finds the faces.

    :param source: a folder for load_photos(), or the faces that `data build` packed (the folder,
        or its photos.npy).
    :param limit: how many at most.
    :param size_px: S of the generator.
    :param crop_scale: of the generator.
    :param region_scale: side of a region over that of its box.
    :raises MediaError: there is no face to cut.
    """
    packed = source.parent if source.name == PACKED else source
    if (packed / PACKED).is_file():
        return _packed_crops(packed, limit, size_px, crop_scale, region_scale, seed)
    photos = load_photos(source, limit, seed=seed)
    if not any(len(photo.boxes_xyxy_px) for photo in photos):
        detector = open_model(default_detector(), device='cpu')
        photos = found_by(Network(detector, FACE), photos)
        detector.close()
    numbered = [(i, box) for i, photo in enumerate(photos) for box in photo.boxes_xyxy_px]
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(numbered))[:limit].tolist())
    parts = []
    for number, photo in enumerate(photos):
        mine = [numbered[i][1] for i in chosen if numbered[i][0] == number]
        if mine:
            regions = _regions(np.stack(mine), region_scale)
            holes = _regions(photo.boxes_xyxy_px, region_scale)
            parts.append(
                cut(
                    photo.image_bgr,
                    regions,
                    holes_xyxy_px=holes,
                    size_px=size_px,
                    crop_scale=crop_scale,
                )
            )
    if not parts:
        raise MediaError(
            f'{source}: got {len(photos)} photos without boxes in which the default detector '
            'finds no face, expected some to calibrate on'
        )
    return joined(parts)


def parted(crops: Crops, first: int) -> tuple[Crops, Crops]:
    """Return the first crops, and the others."""
    return _slice(crops, slice(None, first)), _slice(crops, slice(first, None))


def _slice(crops: Crops, which: slice) -> Crops:
    return Crops(crops.condition[which], crops.mask[which], crops.squares_xys_px[which])


def _packed_crops(
    folder: Path, limit: int, size_px: int, crop_scale: float, region_scale: float, seed: int
) -> Crops:
    from ffs_anonymizer.datasets.faces import load_packed

    faces = load_packed(folder)
    drawn = np.random.default_rng(seed).permutation(len(faces))[:limit].tolist()
    parts = []
    for i in drawn:
        region = _regions(faces.boxes_xyxy_px[i : i + 1], region_scale)
        photo = np.asarray(faces.photos_bgr[i])
        parts.append(
            cut(photo, region, holes_xyxy_px=region, size_px=size_px, crop_scale=crop_scale)
        )
    if not parts:
        raise MediaError(f'{folder}: got no packed face, expected some to calibrate on')
    return joined(parts)


def _regions(boxes_xyxy_px: NDArray[np.float32], region_scale: float) -> NDArray[np.int32]:
    centre = (boxes_xyxy_px[:, :2] + boxes_xyxy_px[:, 2:]) / 2
    half = (boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]) / 2 * region_scale
    rects = np.concatenate([np.floor(centre - half), np.ceil(centre + half)], 1)
    return np.asarray(rects, np.int32)


def _entries(folder: Path) -> list[_Entry]:
    if not folder.is_dir():
        raise MediaError(f'{folder}: got no such folder, expected one with photos')
    table = next((folder / name for name in BOX_TABLES if (folder / name).is_file()), None)
    entries = _tabulated(table) if table is not None else _annotated(folder)
    if not entries:
        raise MediaError(
            f'{folder}: got no photo, or boxes in none, expected photos '
            f'({", ".join(SUFFIXES)}) alone, or with boxes in {" or ".join(BOX_TABLES)} with the '
            'columns file, x0, y0, x1, y1, or in a text file `x0 y0 x1 y1` beside each'
        )
    return entries


def _tabulated(table: Path) -> list[_Entry]:
    boxes: dict[str, list[tuple[float, ...]]] = {}
    ignored: dict[str, list[tuple[float, ...]]] = {}
    try:
        with table.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                name = row['file'] if 'file' in row else row['path']
                is_ignored = row.get('invalid', '0') not in ('0', '', None)
                into = ignored if is_ignored or row.get('class') == 'ignore' else boxes
                into.setdefault(name, []).append(tuple(float(row[c]) for c in _CORNERS))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise MediaError(
            f'{table}: cannot be read as boxes ({error}), expected the columns file (or path), '
            'x0, y0, x1, y1'
        ) from error
    return [
        _Entry(table.parent / name, tuple(found), tuple(ignored.get(name, ())))
        for name, found in sorted(boxes.items())
    ]


def _annotated(folder: Path) -> list[_Entry]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    texts: dict[Path, Path] = {}
    for path in paths:
        for text in (path.with_suffix('.txt'), folder / 'annotations' / f'{path.stem}.txt'):
            if text.is_file():
                texts.setdefault(path, text)
    if not texts:
        return [_Entry(path, (), ()) for path in paths]
    boxes = {path: read_boxes(text).xyxy_px.tolist() for path, text in texts.items()}
    return [_Entry(path, tuple(map(tuple, found)), ()) for path, found in boxes.items() if found]
