from __future__ import annotations

import re

from ffs_anonymizer.node.weakenings import weakenings
from ffs_anonymizer.settings.runtime import Settings
import pytest


def found(size_wh: tuple[int, int] | None = None, **values: object) -> list[str]:
    changes = {name.replace('__', '.'): value for name, value in values.items()}
    return weakenings(Settings().updated(changes), '/cam', size_wh)


def test_defaults_weaken_nothing() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        ({'face__threshold': 1.0}, 'face.threshold is 1: no face is ever replaced'),
        ({'face__threshold': 0.6}, 'face.threshold is 0.6: faces of a lower score stay visible'),
        ({'plate__threshold': 1.0}, 'plate.threshold is 1: no plate is ever replaced'),
        ({'detector__plate_model_path': 'none'}, 'plate_model_path is none: no plate is ever'),
        ({'face__region_scale': 1.0}, 'face.region_scale is 1: the edges of faces stay visible'),
        ({'tracker__max_gap_ms': 0.0}, 'tracker.max_gap_ms is 0: .* missed in one frame is seen'),
        ({'detector__scale': 0.3}, 'detector.scale is 0.3: small faces are not found'),
        ({'detector__scale': 4.0}, 'a search takes 16 times as long as at 1, so frames may be dr'),
        ({'obscure__cells': 16}, 'obscure.cells is 16: blurred and mosaic faces may be recog'),
        ({'generator__pose': True}, 'generator.pose is true: eyes, nose and mouth of drawn faces'),
        ({'snapshot_folder': '/private'}, 'snapshot_folder is set'),
        ({'generator__on_error': 'fallback'}, 'where the generator fails, frames still leave'),
        ({'ignore_zones': ['/cam 0 0 9 9']}, '1 ignore zone leaves the faces in it as they are$'),
    ],
)
def test_weakening_is_said(values: dict[str, object], expected: str) -> None:
    (text,) = found(**values)
    assert re.search(expected, text)


def test_zone_tells_how_much_of_the_picture_it_takes() -> None:
    zones = ['/cam 0 0 1000 1000', '/c* 0 0 32 48']
    (text,) = found((64, 48), ignore_zones=zones)
    assert text == (
        '2 ignore zones leave the faces in them as they are; '
        'the largest takes 100 % of the picture'
    )
    (text,) = found((64, 48), ignore_zones=zones[1:])
    assert text.endswith('50 % of the picture')


def test_zones_of_other_cameras_do_not_count() -> None:
    assert found(ignore_zones=['/other 0 0 9 9']) == []
