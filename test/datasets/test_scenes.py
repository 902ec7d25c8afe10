from dataclasses import replace
from pathlib import Path

from ffs_anonymizer.datasets.pictures import IGNORED, load_pictures
from ffs_anonymizer.datasets.scenes import MIN_OBJECT_PX, paste, Scenes
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
        np.testing.assert_array_equal(ours.objects, again.objects)


def test_boxes_lie_inside_and_on_what_is_brighter_than_its_surroundings(scenes: Scenes) -> None:
    brighter = []
    for seed in range(40):
        scene = scenes.draw(np.random.default_rng(seed))
        assert scene.image_bgr.shape == (128, 128, 3)
        assert (scene.objects[:, 4] == 0).all()
        plates = scene.objects[:, :4]
        assert (plates >= 0).all()
        assert (plates <= 128).all()
        sizes = plates[:, 2:] - plates[:, :2]
        assert (sizes[:, 1] >= MIN_OBJECT_PX).all()
        for box in plates:
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
    assert not any(len(scene.objects) for scene in drawn)
    ignored = np.concatenate([scene.ignored for scene in drawn])
    assert len(ignored) > 5
    assert (ignored[:, 4] == IGNORED).all()


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


def scenes_of(packed: Path, *classes: str, heads_share: float = 1.0) -> Scenes:
    pictures = load_pictures(packed)
    return Scenes(pictures, pictures.split()[0], 128, 0.5, classes, heads_share)


def test_heads_are_put_in_and_told_by_their_class(streets_with_heads: Path) -> None:
    scenes = scenes_of(streets_with_heads, 'plate', 'face')
    drawn = [scenes.draw(np.random.default_rng(seed)) for seed in range(40)]
    classes = np.concatenate([scene.objects[:, 4] for scene in drawn])
    assert (classes == 1).sum() > 60
    assert (classes == 0).sum() > 20
    for scene in drawn:
        faces = scene.objects[scene.objects[:, 4] == 1, :4]
        assert (faces >= 0).all()
        assert (faces <= 128).all()
        assert (faces[:, 3] - faces[:, 1] >= MIN_OBJECT_PX).all()


def test_classes_are_numbered_as_they_are_asked_for(streets_with_heads: Path) -> None:
    both = scenes_of(streets_with_heads, 'plate', 'face')
    turned = scenes_of(streets_with_heads, 'face', 'plate')
    plates = scenes_of(streets_with_heads, 'plate')
    for seed in range(20):
        chances = [np.random.default_rng(seed) for _ in range(3)]
        ours, other, alone = (
            scenes.draw(chance)
            for scenes, chance in zip((both, turned, plates), chances, strict=True)
        )
        np.testing.assert_array_equal(ours.image_bgr, other.image_bgr)
        for k in (0, 1):
            kept, same = (s.objects[s.objects[:, 4] == n] for s, n in ((ours, k), (other, 1 - k)))
            np.testing.assert_array_equal(kept[:, :4], same[:, :4])
        # Heads are put in as before, but are none of its business.
        np.testing.assert_array_equal(ours.image_bgr, alone.image_bgr)
        np.testing.assert_array_equal(ours.objects[ours.objects[:, 4] == 0], alone.objects)


def test_what_a_photo_was_not_looked_through_for_is_not_asked(streets_with_heads: Path) -> None:
    pictures = load_pictures(streets_with_heads)
    for is_known in (True, False):
        numbers = np.flatnonzero(pictures.labelled[:, 0] == is_known)
        numbers = numbers[pictures.kinds[numbers] == 0]
        scenes = Scenes(pictures, numbers, 128, 0.0, ('plate', 'face'), 0.0)
        scene = scenes.draw(np.random.default_rng(0))
        faces = scene.ignored[scene.ignored[:, 4] == 1]
        area = np.prod(faces[:, 2:4] - faces[:, :2], axis=1).sum()
        assert area == (0 if is_known else 128 * 128)
