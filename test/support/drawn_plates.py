"""Photos of plates made on the spot: bright rectangles with dark strokes on a dim ground."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
from ffs_anonymizer.datasets.faces import PackedFaces
from ffs_anonymizer.datasets.pictures import list_annotated, pack_pictures
from ffs_anonymizer.training.settings import DetectorTrainSettings, from_mapping
import numpy as np
from numpy.typing import NDArray
import pytest

Box = tuple[int, int, int, int]


def draw_street(number: int) -> tuple[NDArray[np.uint8], list[Box]]:
    rng = np.random.default_rng(number)
    image = rng.integers(40, 90, (240, 320, 3)).astype(np.uint8)
    boxes: list[Box] = []
    for i in range(number % 3):
        high = int(rng.integers(12, 28))
        x, y = 20 + 150 * i, int(rng.integers(20, 180))
        box = (x, y, x + 4 * high, y + high)
        cv2.rectangle(image, box[:2], (box[2] - 1, box[3] - 1), (240, 240, 240), -1)
        for k in range(x + 4, box[2] - 4, 6):
            cv2.line(image, (k, y + 4), (k, box[3] - 4), (10, 10, 10), 2)
        boxes.append(box)
    return image, boxes


def write_streets(folder: Path, count: int = 30) -> Path:
    """Write photos and boxes.csv below a folder; return the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'boxes.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['path', 'group', 'x0', 'y0', 'x1', 'y1'])
        for number in range(count):
            image, boxes = draw_street(number)
            cv2.imwrite(str(folder / f'{number:03d}.png'), image)
            for box in boxes or [('', '', '', '')]:
                writer.writerow([f'{number:03d}.png', f'scene {number // 2}', *box])
    return folder / 'boxes.csv'


@pytest.fixture(scope='session')
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed pictures for a detector, without drawn plates: those need the system's fonts."""
    folder = tmp_path_factory.mktemp('streets')
    boxes_csv = write_streets(folder / 'photos')
    pack_pictures(list_annotated(folder / 'photos', [boxes_csv]), folder / 'packed', drawn=0)
    return folder / 'packed'


def draw_faces(count: int = 12, side: int = 48) -> PackedFaces:
    """Return round bright faces with dark eyes, each 20 by 24 px in the middle of its photo."""
    photos = np.full((count, side, side, 3), 60, np.uint8)
    middle = side // 2
    for number, photo in enumerate(photos):
        tone = (90 + 8 * number, 130 + 5 * number, 200)
        cv2.ellipse(photo, (middle, middle), (10, 12), 0, 0, 360, tone, -1)
        for x in (middle - 4, middle + 4):
            cv2.circle(photo, (x, middle - 3), 2, (10, 10, 10), -1)
    box = [middle - 10, middle - 12, middle + 10, middle + 12]
    return PackedFaces(
        photos,
        np.array([box] * count, np.float32),
        np.array([[0, 0, side, side]] * count, np.int32),
        np.full((count, 5, 2), np.nan, np.float32),
        np.full((count, 3), np.nan, np.float32),
        tuple(f'person {number}' for number in range(count)),
    )


@pytest.fixture(scope='session')
def streets_with_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed pictures with heads to put in; faces were looked for in half of them."""
    folder = tmp_path_factory.mktemp('streets_with_heads')
    photos = list_annotated(folder / 'photos', [write_streets(folder / 'photos')])
    both = [replace(p, labelled=('face', 'plate')) for p in photos[::2]]
    pack_pictures([*both, *photos[1::2]], folder / 'packed', faces=draw_faces(), drawn=0)
    return folder / 'packed'


def detector_settings(packed: Path, out: Path, **changes: object) -> DetectorTrainSettings:
    return from_mapping(
        {
            'data': str(packed),
            'out': str(out),
            'network': 'plates-tiny',
            'size_px': 96,
            'batch': 2,
            'steps': 4,
            'threads': 1,
            'log_every': 1,
            'grid_every': 4,
            'save_every': 2,
            **changes,
        },
        DetectorTrainSettings,
    )
