from dataclasses import replace
from pathlib import Path

from ffs_anonymizer.datasets.pictures import IGNORED, load_pictures
from ffs_anonymizer.datasets.scenes import MIN_PLATE_PX, paste, Scenes
import numpy as np
import pytest


@pytest.fixture
def scenes(streets: Path) -> Scenes:
    pictures = load_pictures(streets)
    return Scenes(pictures, pictures.split()[0], 128, 0.5)


def test_the_same_seed_draws_the_same_scene(scenes: Scenes) -> None:
    for seed in range(8):
        ours, again = (scenes.draw(np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(ours.image_bgr, again.image_bgr)
        np.testing.assert_array_equal(ours.plates_xyxy_px, again.plates_xyxy_px)


def test_boxes_lie_inside_and_on_what_is_brighter_than_its_surroundings(scenes: Scenes) -> None:
    brighter = []
    for seed in range(40):
        scene = scenes.draw(np.random.default_rng(seed))
        assert scene.image_bgr.shape == (128, 128, 3)
        assert (scene.plates_xyxy_px >= 0).all()
        assert (scene.plates_xyxy_px <= 128).all()
        sizes = scene.plates_xyxy_px[:, 2:] - scene.plates_xyxy_px[:, :2]
        assert (sizes[:, 1] >= MIN_PLATE_PX).all()
        for box in scene.plates_xyxy_px:
            x0, y0, x1, y1 = (round(float(v)) for v in box)
            brighter.append(scene.image_bgr[y0:y1, x0:x1].max() > np.median(scene.image_bgr))
    assert len(brighter) > 30
    assert np.mean(brighter) > 0.95


def test_what_is_to_be_ignored_is_never_asked_for(streets: Path) -> None:
    pictures = load_pictures(streets)
    numbers = pictures.split()[0]
    undecided = replace(pictures, classes=np.full_like(pictures.classes, IGNORED))
    scenes = Scenes(undecided, numbers, 128, 0.5)
    drawn = [scenes.draw(np.random.default_rng(seed)) for seed in range(20)]
    assert not any(len(scene.plates_xyxy_px) for scene in drawn)
    assert sum(len(scene.ignored_xyxy_px) for scene in drawn) > 5


def test_a_pasted_plate_lies_in_the_box_that_is_told() -> None:
    ground = np.full((100, 160, 3), 120, np.uint8)[:, :100].copy()
    drawn = np.full((30, 90, 4), 255, np.uint8)
    for seed in range(20):
        image = ground.copy()
        chance = np.random.default_rng(seed)
        box = paste(image, drawn, np.array([50.0, 50.0]), np.array([45.0, 15.0]), chance, glow=1.8)
        assert box is not None
        rows, columns = np.nonzero((image != ground).any(2))
        changed = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(changed, box, atol=3.5)


def test_a_plate_mostly_outside_is_not_asked_for() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    drawn = np.full((30, 90, 4), 255, np.uint8)
    size, chance = np.array([30.0, 10.0]), np.random.default_rng(0)
    assert paste(image, drawn, np.array([66.0, 30.0]), size, chance, glow=1.0) is None
