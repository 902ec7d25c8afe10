"""Packed pictures with boxes, and what is put into them: one file mapped into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import cv2
from ffs_anonymizer.datasets import plates
from ffs_anonymizer.datasets.faces import BOX_COLUMNS, is_held_out, PackedFaces
from ffs_anonymizer.datasets.heads import cut_out
from ffs_anonymizer.datasets.photos import list_photos, read_photo
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.regions import boxes as geometry
from ffs_anonymizer.regions import detections
from ffs_anonymizer.regions.detections import read_boxes
import numpy as np
from numpy.typing import NDArray

PIXELS = 'pixels.npy'
PICTURES = 'pictures.csv'
BOXES = 'boxes.csv'
KINDS = ('photo', 'plate', 'distractor', 'head')
PHOTO, PLATE, DISTRACTOR, HEAD = range(4)
CHANNELS = (3, 4, 4, 4)
# What boxes are of; what may be one or not is neither asked for nor false where it is found.
CLASSES = detections.CLASSES[:2]
IGNORED = -1
CLASS_NAMES = (*CLASSES, 'ignore')
HELD_OUT_PERCENT = 12
SHEET_PX = 240
# Of faces, of plates and of what is not asked for.
COLOURS_BGR = ((0, 255, 255), (0, 255, 0), (128, 128, 128))


@dataclass(frozen=True)
class Annotated:
    """
    Say where the plates and faces of one photo are.

    :param path: of the photo.
    :param group: what it belongs to: photos of one group never fall on both sides of the split.
    :param boxes_xyxy_px: (N, 4) float32; N = 0 is a photo without a plate.
    :param classes: (N,) int8, index into CLASSES, or IGNORED.
    :param labelled: the classes that were looked for; of others there may be more.
    """

    path: Path
    group: str
    boxes_xyxy_px: NDArray[np.float32]
    classes: NDArray[np.int8]
    labelled: tuple[str, ...] = (CLASSES[detections.PLATE],)


@dataclass(frozen=True)
class Packed:
    """
    Say what was packed.

    :param photos: how many.
    :param objects: boxes in them by class.
    :param unreadable: photos that no decoder could read.
    """

    photos: int
    objects: dict[str, int]
    unreadable: tuple[Path, ...]


@dataclass(frozen=True)
class PackedPictures:
    """
    Hold photos with boxes, and what is put into them: drawn plates and distractors, heads.

    :param pixels: (B,) uint8, mapped from disk: all pictures row by row, one after the other.
    :param kinds: (N,) int8, index into KINDS: photos are BGR, what is put into them is BGRA.
    :param sizes_wh: (N, 2) int32.
    :param groups: N names.
    :param labelled: (N, 2) bool, which of CLASSES were looked for.
    :param boxes_xyxy_px: (M, 4) float32, in pixels of their picture.
    :param classes: (M,) int8, index into CLASSES, or IGNORED.
    :param owners: (M,) int64, the picture of each box, rising.
    """

    pixels: NDArray[np.uint8]
    kinds: NDArray[np.int8]
    sizes_wh: NDArray[np.int32]
    groups: tuple[str, ...]
    labelled: NDArray[np.bool_]
    boxes_xyxy_px: NDArray[np.float32]
    classes: NDArray[np.int8]
    owners: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n, m = len(self.kinds), len(self.owners)
        boxes, labelled = (self.boxes_xyxy_px.shape, self.classes.shape), self.labelled.shape
        got = (self.sizes_wh.shape, len(self.groups), labelled, *boxes)
        if got != ((n, 2), n, (n, len(CLASSES)), (m, 4), (m,)) or self.pixels.shape != (
            self.ends[-1] if n else 0,
        ):
            raise ValueError(
                f'PackedPictures: got {got} and {self.pixels.shape} pixels, expected sizes, '
                f'groups and labels of {n} pictures and {m} boxes'
            )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.kinds)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Return where each picture's pixels end, (N,)."""
        channels = np.array(CHANNELS, np.int64)[self.kinds]
        return np.cumsum(self.sizes_wh.astype(np.int64).prod(1) * channels)

    def image(self, i: int) -> NDArray[np.uint8]:
        """Return a picture, (H, W, 3) BGR or (H, W, 4) BGRA, as it lies on disk: read only."""
        width, height = (int(v) for v in self.sizes_wh[i])
        channels = CHANNELS[self.kinds[i]]
        end = int(self.ends[i])
        return self.pixels[end - width * height * channels : end].reshape(height, width, channels)

    def boxes(self, i: int) -> NDArray[np.float32]:
        """Return the boxes of a picture, (N, 4)."""
        return self.boxes_xyxy_px[self._rows(i)]

    def classes_of(self, i: int) -> NDArray[np.int8]:
        """Return the classes of the boxes of a picture, (N,)."""
        return self.classes[self._rows(i)]

    def _rows(self, i: int) -> slice:
        first, last = np.searchsorted(self.owners, [i, i + 1])
        return slice(int(first), int(last))

    def numbers(self, kind: int) -> NDArray[np.int64]:
        """Return the numbers of the pictures of one kind."""
        return np.flatnonzero(self.kinds == kind)

    def split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the photos to train on and of those held out, by group."""
        photos = self.numbers(PHOTO)
        held = np.array([is_held_out(self.groups[i], HELD_OUT_PERCENT) for i in photos], bool)
        return photos[~held], photos[held]

    def chances(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how often each photo is to be drawn: those of large groups more seldom."""
        names = [self.groups[i] for i in numbers]
        _, group, members = np.unique(names, return_inverse=True, return_counts=True)
        chances = members[group] ** -0.5
        return np.asarray(chances / chances.sum(), np.float64)


def list_annotated(folder: Path, sources: Sequence[Path]) -> list[Annotated]:
    """
    Return the photos to pack and where their plates and faces are.

    :param sources: each a CSV with the columns path (below the folder), x0, y0, x1, y1, empty
        where a photo has no plate, class (plate, which is meant where there is none, face or
        ignore), labelled, the classes that were looked for in the photo (else those that the
        sources tell of), and group, the scene that it belongs to (else the file's stem); or a
        folder with a .txt (x0 y0 x1 y1 a line) or a Pascal VOC .xml of the same stem for each.
        Boxes of all count; a box of which half or more lies in one to ignore is ignored, too.
    :raises MediaError: nothing is there, or something cannot be read.
    """
    groups: dict[Path, str] = {}
    labelled: dict[Path, set[str]] = {}
    found: dict[Path, list[tuple[list[float], int]]] = {}
    for source in sources:
        if not source.exists():
            # Else its photos would pass for some without a plate.
            raise MediaError(f'{source}: got no such file or folder, expected one with boxes')
        if source.is_file():
            for row in read_rows(source):
                path = folder / row.path
                groups[path] = groups.get(path) or row.group
                labelled.setdefault(path, set()).update(row.labelled)
                found.setdefault(path, []).extend([(row.box, row.class_index)] if row.box else [])
        else:
            for path in list_photos(folder):
                groups.setdefault(path, '')
                beside = boxes_beside(source, path.stem).tolist()
                found.setdefault(path, []).extend((box, detections.PLATE) for box in beside)
    told = {CLASSES[k] for rows in found.values() for _, k in rows if k != IGNORED}
    told |= {name for names in labelled.values() for name in names}
    photos = []
    for path, rows in found.items():
        boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
        classes = np.array([class_index for _, class_index in rows], np.int8)
        covered = geometry.inside(boxes, boxes[classes == IGNORED]) >= 0.5
        classes[covered.any(1)] = IGNORED
        names = labelled.get(path) or told or {CLASSES[detections.PLATE]}
        photos.append(
            Annotated(path, groups[path] or path.stem, boxes, classes, tuple(sorted(names)))
        )
    return photos


@dataclass(frozen=True)
class Row:
    """
    Hold what one row of a CSV of boxes tells.

    :param path: of the photo.
    :param group: empty where none is told.
    :param labelled: the classes that were looked for; empty where it is not told.
    :param box: x0 y0 x1 y1, or nothing.
    :param class_index: into CLASSES, or IGNORED.
    """

    path: str
    group: str
    labelled: tuple[str, ...]
    box: list[float]
    class_index: int


def read_rows(path: Path) -> list[Row]:
    """
    Return the rows of a CSV of boxes.

    :raises MediaError: it cannot be read, or has no row.
    """
    rows: list[Row] = []
    try:
        with path.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                labelled = tuple((row.get('labelled') or '').split())
                for name in labelled:
                    CLASSES.index(name)
                box = [float(row[c]) for c in BOX_COLUMNS] if row['x0'] else []
                group, kind = row.get('group') or '', class_index(row.get('class'))
                rows.append(Row(row['path'], group, labelled, box, kind))
    except (OSError, KeyError, ValueError) as error:
        raise MediaError(
            f'{path}: cannot be read as boxes ({type(error).__name__}: {error}); expected the '
            f'columns path, {", ".join(BOX_COLUMNS)}, and class, if any, {", ".join(CLASS_NAMES)}'
        ) from error
    if not rows:
        raise MediaError(f'{path}: got no row, expected one for each plate or photo')
    return rows


def class_index(name: str | None) -> int:
    """
    Return the number of a class, IGNORED for `ignore`.

    :param name: nothing stands for plates.
    :raises ValueError: nobody knows it.
    """
    index = CLASS_NAMES.index(name or CLASSES[detections.PLATE])
    return IGNORED if index == len(CLASSES) else index


def boxes_beside(folder: Path, stem: str) -> NDArray[np.float32]:
    """
    Return the boxes in a photo's .txt or Pascal VOC .xml, none where there is neither.

    :param folder: where the file is.
    :param stem: of the photo.
    """
    text, xml = folder / f'{stem}.txt', folder / f'{stem}.xml'
    if text.is_file():
        return read_boxes(text).xyxy_px
    if not xml.is_file():
        return np.empty((0, 4), np.float32)
    try:
        found = [
            [float(box.findtext(key) or 'nan') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
            for box in ElementTree.parse(xml).getroot().iter('bndbox')
        ]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise MediaError(f'{xml}: cannot be read as Pascal VOC: {error}') from error
    return np.array(found, np.float32).reshape(-1, 4)


def inside(photo: Annotated, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """
    Return a photo's boxes, cut at its edges.

    :param photo: what is said of it.
    :param image_bgr: (H, W, 3).
    :raises MediaError: a box has no area, or lies outside the picture.
    """
    height, width = image_bgr.shape[:2]
    cut = np.clip(photo.boxes_xyxy_px, 0, np.array([width, height] * 2, np.float32))
    for box, whole in zip(cut, photo.boxes_xyxy_px, strict=True):
        area = np.prod(whole[2:] - whole[:2])
        if not (np.isfinite(whole).all() and (box[2:] > box[:2]).all()) or (
            np.prod(box[2:] - box[:2]) < 0.2 * area
        ):
            raise MediaError(
                f'{photo.path}: got a box {" ".join(f"{v:g}" for v in whole)}, expected x0 y0 x1 '
                f'y1 with x0 < x1 and y0 < y1, in a picture of {width}x{height} pixels'
            )
    return cut


def pack_pictures(
    photos: Sequence[Annotated],
    out: Path,
    *,
    faces: PackedFaces | None = None,
    photo_px: int = 1280,
    drawn: int = 4000,
    seed: int = 0,
    progress: Callable[[Sequence[int]], Iterator[int]] = iter,
) -> Packed:
    """
    Write pixels.npy, pictures.csv, boxes.csv and sheet.jpg into a new folder.

    :param out: the folder; it must not hold a data set yet.
    :param faces: whose heads are to be put into the photos.
    :param photo_px: longer side above which photos are scaled down.
    :param drawn: how many plates to draw; two thirds as many distractors.
    :param seed: of what is drawn.
    :param progress: wraps the numbers, for a progress bar.
    :raises MediaError: no plate, a box outside its picture, no fonts, or nothing can be written.
    """
    if (out / PIXELS).exists():
        raise MediaError(f'{out}: holds a data set already; give another folder or delete it')
    if not any((photo.classes != IGNORED).any() for photo in photos):
        raise MediaError(f'got no plate in {len(photos)} photos, expected at least one')
    if drawn:
        plates.refuse_missing_fonts()
    chance = np.random.default_rng(seed)
    kinds = [PHOTO] * len(photos) + [PLATE] * drawn + [DISTRACTOR] * (drawn * 2 // 3)
    heads_from = len(kinds)
    kinds += [HEAD] * (0 if faces is None else len(faces))
    rows: list[list[object]] = []
    boxes: list[list[object]] = []
    counts: dict[str, int] = {}
    unreadable: list[Path] = []
    partial = out / f'{PIXELS}.partial'
    try:
        out.mkdir(parents=True, exist_ok=True)
        raw = partial.with_suffix('.raw')
        with raw.open('wb') as file:
            for i in progress(range(len(kinds))):
                if kinds[i] == PHOTO:
                    photo = photos[i]
                    try:
                        image = read_photo(photo.path)
                    except MediaError:
                        unreadable.append(photo.path)
                        continue
                    found = inside(photo, image)
                    scale = min(1.0, photo_px / max(image.shape[:2]))
                    if scale < 1:
                        image = cv2.resize(
                            image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
                        )
                    found, classes, told = found * scale, photo.classes, photo.labelled
                    name, group = photo.path.name, photo.group
                elif kinds[i] == HEAD and faces is not None:
                    image = cut_out(faces, i - heads_from)
                    found = faces.boxes_xyxy_px[[i - heads_from]]
                    classes, told = np.full(1, detections.FACE, np.int8), ()
                    name, group = '', faces.identities[i - heads_from]
                else:
                    draw = plates.draw_plate if kinds[i] == PLATE else plates.draw_distractor
                    image, name, group = draw(chance), '', ''
                    found, classes, told = np.empty((0, 4), np.float32), np.empty(0, np.int8), ()
                file.write(np.ascontiguousarray(image).tobytes())
                kind, size = KINDS[kinds[i]], (image.shape[1], image.shape[0])
                for box, k in zip(found, classes.tolist(), strict=True):
                    boxes.append([len(rows), *(f'{v:.1f}' for v in box), CLASS_NAMES[k]])
                    if kinds[i] == PHOTO:
                        counts[CLASS_NAMES[k]] = counts.get(CLASS_NAMES[k], 0) + 1
                rows.append([name, group, kind, *size, ' '.join(told)])
        if not counts:
            raise MediaError(
                f'got no plate in {len(photos)} photos, {len(unreadable)} of them unreadable'
            )
        with_header(raw, partial)
        for name, columns, values in (
            (PICTURES, ('path', 'group', 'kind', 'width', 'height', 'labelled'), rows),
            (BOXES, ('picture', *BOX_COLUMNS, 'class'), boxes),
        ):
            with (out / name).open('w', newline='', encoding='utf-8') as text:
                writer = csv.writer(text)
                writer.writerow(columns)
                writer.writerows(values)
        partial.replace(out / PIXELS)
        write_sheet(out / 'sheet.jpg', load_pictures(out))
    except OSError as error:
        raise MediaError(f'{out}: cannot be written: {error}') from error
    finally:
        partial.unlink(missing_ok=True)
        partial.with_suffix('.raw').unlink(missing_ok=True)
    return Packed(len(photos) - len(unreadable), counts, tuple(unreadable))


def with_header(raw: Path, path: Path) -> None:
    """
    Write the bytes of a file as an .npy of uint8.

    :param raw: the bytes; deleted.
    :param path: the .npy.
    """
    pixels = np.lib.format.open_memmap(path, 'w+', np.uint8, (raw.stat().st_size,))
    pixels[:] = np.memmap(raw, np.uint8, 'r')
    pixels.flush()
    raw.unlink()


def load_pictures(folder: Path) -> PackedPictures:
    """
    Open what `data build --task detector` wrote.

    :param folder: holds pixels.npy, pictures.csv and boxes.csv.
    :raises MediaError: one of them is missing, broken or does not fit the others.
    """
    try:
        pixels = np.load(folder / PIXELS, mmap_mode='r')
        with (folder / PICTURES).open(newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        with (folder / BOXES).open(newline='', encoding='utf-8') as file:
            boxes = list(csv.DictReader(file))
        labels = [(row.get('labelled') or '').split() for row in rows]
        if rows and 'labelled' not in rows[0]:  # packed when plates were all there was
            labels = [[CLASSES[detections.PLATE]] for _ in rows]
        return PackedPictures(
            pixels,
            np.array([KINDS.index(row['kind']) for row in rows], np.int8),
            np.array([[int(row['width']), int(row['height'])] for row in rows], np.int32),
            tuple(row['group'] for row in rows),
            np.array([[name in told for name in CLASSES] for told in labels], np.bool_),
            np.array([[float(b[c]) for c in BOX_COLUMNS] for b in boxes], np.float32),
            np.array([class_index(b.get('class')) for b in boxes], np.int8),
            np.array([int(b['picture']) for b in boxes], np.int64),
        )
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(
            f'{folder}: not a data set for detectors ({error}); make one with `ffs_anonymizer '
            'data build --task detector`'
        ) from error


def write_sheet(path: Path, pictures: PackedPictures, count: int = 32) -> None:
    """
    Write a contact sheet: photos with their boxes, then what was drawn.

    :param count: how many of each kind at most.
    """
    tiles = []
    for kind in range(len(KINDS)):
        numbers = pictures.numbers(kind)
        for number in np.unique(np.linspace(0, len(numbers) - 1, count).astype(int)):
            if not len(numbers):
                continue
            image = pictures.image(int(numbers[number]))
            scale = SHEET_PX / max(image.shape[:2])
            size = tuple(max(round(side * scale), 1) for side in image.shape[1::-1])
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., :3]
            tile = np.zeros((SHEET_PX, SHEET_PX, 3), np.uint8)
            tile[: small.shape[0], : small.shape[1]] = small
            boxes = pictures.boxes(int(numbers[number])) * scale
            for box, k in zip(boxes, pictures.classes_of(int(numbers[number])), strict=True):
                x0, y0, x1, y1 = (round(float(v)) for v in box)
                cv2.rectangle(tile, (x0, y0), (x1, y1), COLOURS_BGR[k], 1)
            tiles.append(tile)
    save_tiles(path, np.stack(tiles), columns=8)
