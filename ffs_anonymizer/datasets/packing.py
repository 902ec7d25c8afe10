"""From a folder of photos to packed faces: a square photo of each, and a sheet to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
from dataclasses import dataclass, replace
from pathlib import Path
import re

import cv2
from ffs_anonymizer.datasets.faces import (
    BOX_COLUMNS,
    INDEX,
    INSIDE_COLUMNS,
    PHOTOS,
    POINT_COLUMNS,
    TRAIT_COLUMNS,
)
from ffs_anonymizer.datasets.photos import list_photos, read_photo
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.painting.crops import cut_square, resize_square
from ffs_anonymizer.regions.detections import read_boxes
import numpy as np
from numpy.typing import NDArray

Detect = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
FindPoints = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float64] | None]


@dataclass(frozen=True)
class Face:
    """
    Say where one face is.

    :param path: of its photo.
    :param identity: the person's name.
    :param box_xyxy_px: (4,) float32, None where a detector has to find it.
    :param inside_xyxy_px: (4,) float32, the part of the photo that shows something; None: all.
    :param points_px: (5, 2) float64 eyes, nose and mouth corners, None where not known.
    :param traits: of TRAIT_COLUMNS, None each where not known.
    """

    path: Path
    identity: str
    box_xyxy_px: NDArray[np.float32] | None
    inside_xyxy_px: NDArray[np.float32] | None = None
    points_px: NDArray[np.float64] | None = None
    traits: tuple[float | None, ...] = (None,) * len(TRAIT_COLUMNS)


@dataclass(frozen=True)
class Packing:
    """
    Say what became of the photos.

    :param packed: faces written.
    :param unreadable: photos that no decoder could read.
    :param without_face: photos in which no face was given or found, or only too small ones.
    """

    packed: int
    unreadable: tuple[Path, ...]
    without_face: tuple[Path, ...]


def identity_of(path: Path) -> str:
    """Return the person's name that a file name gives: the stem less its trailing number."""
    return re.sub(r'[_-]?\d+$', '', path.stem) or path.stem


def list_faces(folder: Path, boxes: Path | None) -> list[Face]:
    """
    Return the faces to pack, with a box each where boxes are given.

    :param boxes: a CSV with the columns path, identity, x0, y0, x1, y1 (paths below the folder),
        perhaps in_x0 to in_y1 (the part that shows something), the columns of the points and
        those of traits, or a folder with a .txt of the same stem for each photo, or None to
        detect.
    :raises MediaError: something is missing, or cannot be read.
    """
    if boxes is None:
        return [Face(path, identity_of(path), None) for path in list_photos(folder)]
    if boxes.suffix == '.csv':
        try:
            with boxes.open(newline='', encoding='utf-8') as file:
                return [face_of(row, folder) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError) as error:
            raise MediaError(f'{boxes}: cannot be read as boxes: {error}') from error
    if not boxes.is_dir():
        raise MediaError(f'{boxes}: got no such folder, expected one with a .txt for each photo')
    faces = []
    for path in list_photos(folder):
        text = boxes / f'{path.stem}.txt'
        found = read_boxes(text).xyxy_px if text.is_file() else np.empty((0, 4), np.float32)
        if not len(found):
            faces.append(Face(path, identity_of(path), np.empty(0, np.float32)))
        for i, box in enumerate(found):
            name = identity_of(path) if len(found) == 1 else f'{path.stem}#{i}'
            faces.append(Face(path, name, box))
    return faces


def face_of(row: Mapping[str, str], folder: Path) -> Face:
    """
    Return the face that a row of a table tells.

    :param row: column to text; empty where not known.
    :param folder: what its path is below.
    """

    def numbers(columns: Sequence[str]) -> NDArray[np.float64] | None:
        texts = [row.get(c) for c in columns]
        return np.array([float(t) for t in texts if t]) if all(texts) else None

    traits = tuple(float(row[c]) if row.get(c) else None for c in TRAIT_COLUMNS)
    off = [v for v in traits if v is not None and not 0.0 <= v <= 1.0]
    if off:
        raise ValueError(f'{row["path"]}: got {off[0]:g}, expected traits from 0 to 1')
    box = np.array([float(row[c]) for c in BOX_COLUMNS], np.float32)
    inside, points = numbers(INSIDE_COLUMNS), numbers(POINT_COLUMNS)
    return Face(
        folder / row['path'],
        row.get('identity') or identity_of(Path(row['path'])),
        box,
        None if inside is None else inside.astype(np.float32),
        None if points is None else points.reshape(5, 2),
        traits,
    )


def square_around(
    image_bgr: NDArray[np.uint8], face: Face, photo_px: int, margin: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """
    Cut the photo of one face.

    :param image_bgr: (H, W, 3) uint8.
    :param face: where it is; it has a box.
    :param photo_px: P, the side of the result.
    :param margin: side of the cut over the root of the face's area.
    :returns: the photo (P, P, 3), the box in it, the part of it that was inside the image, and
        the points in it, (5, 2), NaN where not known.
    """
    assert face.box_xyxy_px is not None
    box_xyxy_px = face.box_xyxy_px
    size_wh = (box_xyxy_px[2:] - box_xyxy_px[:2]).astype(np.float64)
    side = max(round(float(np.sqrt(size_wh.prod())) * margin), 1)
    centre = (box_xyxy_px[:2] + box_xyxy_px[2:]).astype(np.float64) / 2
    corner = np.round(centre - side / 2).astype(np.int32)
    photo = resize_square(cut_square(image_bgr, np.append(corner, side)), photo_px)
    scale = photo_px / side
    box = (box_xyxy_px.astype(np.float64) - np.tile(corner, 2)) * scale
    ends = np.array([0, 0, image_bgr.shape[1], image_bgr.shape[0]], np.float64)
    if face.inside_xyxy_px is not None:
        ends = face.inside_xyxy_px.astype(np.float64)
    inside = np.clip(ends - np.tile(corner, 2), 0, side) * scale
    points = np.full((5, 2), np.nan)
    if face.points_px is not None:
        points = np.asarray(face.points_px, np.float64)
    shown = np.append(np.ceil(inside[:2]), np.floor(inside[2:])).astype(np.int64)
    return photo, box, shown, np.asarray((points - corner) * scale, np.float64)


def pack(
    faces: Sequence[Face],
    out: Path,
    *,
    detect: Detect | None = None,
    find_points: FindPoints | None = None,
    photo_px: int = 160,
    margin: float = 2.0,
    min_face_px: float = 24.0,
    progress: Callable[[Sequence[Face]], Iterator[Face]] = iter,
) -> Packing:
    """
    Write photos.npy, index.csv and sheet.jpg into a new folder.

    :param out: the folder; it must not hold a data set yet.
    :param detect: image to (N, 4) boxes, asked for faces without a box; the largest is taken.
    :param find_points: photo and box to (5, 2) eyes, nose and mouth corners, or None; without
        it, or where it finds none, the index says nothing of them.
    :param photo_px: P, the side of the packed photos.
    :param margin: side of a photo over the root of the face's area.
    :param min_face_px: faces of a smaller root area are left out.
    :param progress: wraps the sequence, for a progress bar.
    :raises MediaError: nothing could be packed, or the folder cannot be written.
    """
    if (out / PHOTOS).exists():
        raise MediaError(f'{out}: holds a data set already; give another folder or delete it')
    partial = out / f'{PHOTOS}.partial'
    rows: list[list[object]] = []
    unreadable: list[Path] = []
    without: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        photos = np.lib.format.open_memmap(
            partial, 'w+', np.uint8, (max(len(faces), 1), photo_px, photo_px, 3)
        )
        for face in progress(faces):
            try:
                image_bgr = read_photo(face.path)
            except MediaError:
                unreadable.append(face.path)
                continue
            box = face.box_xyxy_px
            if box is None:
                found = np.empty((0, 4), np.float32) if detect is None else detect(image_bgr)
                areas = (found[:, 2:] - found[:, :2]).prod(1)
                box = found[areas.argmax()] if len(found) else np.empty(0, np.float32)
            if len(box) != 4 or np.sqrt(max(0.0, float((box[2:] - box[:2]).prod()))) < min_face_px:
                without.append(face.path)
                continue
            photo, in_photo, inside, known = square_around(
                image_bgr, replace(face, box_xyxy_px=box), photo_px, margin
            )
            photos[len(rows)] = photo
            points = known if np.isfinite(known).all() else None
            if points is None and find_points is not None:
                points = find_points(photo, in_photo.astype(np.float32))
            numbers = [f'{v:.1f}' for v in in_photo]
            unknown = [''] * len(POINT_COLUMNS)
            placed = unknown if points is None else [f'{v:.1f}' for v in points.ravel()]
            told = ['' if value is None else f'{value:g}' for value in face.traits]
            rows.append(
                [face.path.name, face.identity, *numbers, *inside.tolist(), *placed, *told]
            )
        if not rows:
            raise MediaError(
                f'got no face in {len({f.path for f in faces})} photos ({len(unreadable)} '
                f'unreadable), expected at least one of {min_face_px:g} px or more'
            )
        photos.flush()
        shrink(partial, len(rows))
        with (out / INDEX).open('w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            columns = (*BOX_COLUMNS, *INSIDE_COLUMNS, *POINT_COLUMNS, *TRAIT_COLUMNS)
            writer.writerow(['path', 'identity', *columns])
            writer.writerows(rows)
        write_sheet(out / 'sheet.jpg', photos[: len(rows)], rows)
        partial.replace(out / PHOTOS)
    except OSError as error:
        raise MediaError(f'{out}: cannot be written: {error}') from error
    finally:
        partial.unlink(missing_ok=True)
    return Packing(len(rows), tuple(unreadable), tuple(without))


def shrink(path: Path, count: int) -> None:
    """
    Cut an .npy file down to its first rows.

    :param count: rows to keep.
    """
    whole = np.load(path, mmap_mode='r')
    if len(whole) == count:
        return
    shape = (count, *whole.shape[1:])
    smaller = path.with_suffix('.smaller')
    kept = np.lib.format.open_memmap(smaller, 'w+', whole.dtype, shape)
    for start in range(0, count, 1024):
        end = min(start + 1024, count)
        kept[start:end] = whole[start:end]
    kept.flush()
    smaller.replace(path)


def write_sheet(
    path: Path, photos_bgr: NDArray[np.uint8], rows: Sequence[Sequence[object]], count: int = 64
) -> None:
    """
    Write a contact sheet of evenly chosen photos with their boxes and points drawn.

    :param photos_bgr: (N, P, P, 3).
    :param rows: of the index.
    :param count: how many at most.
    """
    tiles = []
    for i in np.unique(np.linspace(0, len(rows) - 1, count).astype(int)):
        tile = np.array(photos_bgr[i])  # a copy: the photos themselves are mapped from disk
        x0, y0, x1, y1 = (int(float(str(v))) for v in rows[i][2:6])
        cv2.rectangle(tile, (x0, y0), (x1 - 1, y1 - 1), (0, 255, 0), 1)
        placed = [float(str(v)) for v in rows[i][10 : 10 + len(POINT_COLUMNS)] if v]
        for x, y in zip(placed[::2], placed[1::2], strict=True):
            cv2.circle(tile, (round(x), round(y)), 1, (0, 255, 255), -1)
        tiles.append(tile)
    save_tiles(path, np.stack(tiles), columns=8)
