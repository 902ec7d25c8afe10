"""Faces made on the spot: an oval with eyes and a mouth, another colour for each person."""

from collections.abc import Callable
from pathlib import Path

import cv2
from ffs_anonymizer.training.settings import from_mapping, TrainSettings
import numpy as np
from numpy.typing import NDArray
import pytest

PERSONS = 24
BOX = (46, 30, 114, 126)
POINTS = ((66, 68), (94, 68), (80, 88), (68, 106), (92, 106))


def draw_face(person: int, size_px: int = 160) -> NDArray[np.uint8]:
    rng = np.random.default_rng(person)
    image = np.full((size_px, size_px, 3), rng.integers(0, 255, 3), np.uint8)
    skin = tuple(int(v) for v in rng.integers(90, 230, 3))
    cv2.ellipse(image, (80, 78), (34, 48), 0, 0, 360, skin, -1)
    for x in (66, 94):
        cv2.circle(image, (x, 68), 5, (30, 30, 30), -1)
    cv2.ellipse(image, (80, 104), (14, 6), 0, 0, 180, (40, 40, 160), -1)
    return image


def make_settings(packed: Path, out: Path, **changes: object) -> TrainSettings:
    return from_mapping(
        {
            'data': str(packed),
            'out': str(out),
            'network': 'ffs-tiny',
            'size_px': 32,
            'batch': 4,
            'steps': 4,
            'weight_critic': 0.25,
            'critic_from': 0.0,
            'critic_full': 0.0,
            'drawn_from': 1,
            'features_from': 0,
            'features_every': 1,
            'critic_channels': 8,
            'features': 'random',
            'threads': 1,
            'half': False,
            'log_every': 1,
            'grid_every': 4,
            'save_every': 2,
            **changes,
        },
        TrainSettings,
    )


@pytest.fixture(scope='session')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('photos')
    for person in range(PERSONS):
        cv2.imwrite(str(folder / f'person{chr(97 + person)}_1.png'), draw_face(person))
    return folder


@pytest.fixture(scope='session')
def boxes(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('boxes')
    for path in photos.iterdir():
        (folder / f'{path.stem}.txt').write_text(' '.join(str(v) for v in BOX))
    return folder


@pytest.fixture(scope='session')
def table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ffs_anonymizer.datasets.faces import BOX_COLUMNS, POINT_COLUMNS

    path = tmp_path_factory.mktemp('table') / 'faces.csv'
    numbers = ','.join(str(v) for v in (*BOX, *np.ravel(POINTS)))
    lines = [','.join(('path', *BOX_COLUMNS, *POINT_COLUMNS))]
    lines += [f'{photo.name},{numbers}' for photo in sorted(photos.iterdir())]
    path.write_text('\n'.join(lines))
    return path


@pytest.fixture(scope='session')
def packed(photos: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ffs_anonymizer.datasets.packing import list_faces, pack

    out = tmp_path_factory.mktemp('packed')
    pack(list_faces(photos, table), out)
    return out


@pytest.fixture(scope='session')
def tiny_settings() -> Callable[..., TrainSettings]:
    return make_settings
