from pathlib import Path

import cv2
from ffs_anonymizer.datasets.faces import (
    batches,
    cut_sample,
    draw_batch,
    draw_rect,
    draw_sample,
    end_frame,
    is_held_out,
    load_packed,
    mirrored,
    PackedFaces,
    surround,
)
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest

DRAW = {'seed': 3, 'batch': 4, 'size_px': 32, 'crop_scale': 1.4}


def test_same_seed_and_step_give_the_same_batch(packed: Path) -> None:
    faces = load_packed(packed)
    numbers = np.arange(len(faces))
    once, again = (draw_batch(faces, numbers, step=7, **DRAW) for _ in range(2))
    other = draw_batch(faces, numbers, step=8, **DRAW)
    assert once.image.shape == (4, 3, 32, 32)
    assert np.array_equal(once.condition, again.condition)
    assert np.array_equal(once.image, again.image)
    assert not np.array_equal(once.image, other.image)


def test_batches_come_in_order_from_the_thread(packed: Path) -> None:
    faces = load_packed(packed)
    numbers = np.arange(len(faces))
    drawn = list(batches(faces, numbers, steps=range(5, 8), **DRAW))
    for step, batch in zip(range(5, 8), drawn, strict=True):
        alone = draw_batch(faces, numbers, step=step, **DRAW)
        assert np.array_equal(batch.mask, alone.mask)


def test_condition_is_the_image_where_it_is_kept_and_nothing_in_the_hole(packed: Path) -> None:
    faces = load_packed(packed)
    batch = draw_batch(faces, np.arange(len(faces)), step=0, **{**DRAW, 'batch': 16})
    assert set(np.unique(batch.mask)) == {0.0, 1.0}
    noise = batch.condition - batch.image * batch.mask
    assert np.abs(noise * (1 - batch.mask)).max() < 1e-6
    spread = noise.std((1, 2, 3))
    assert spread.min() < 1e-6
    assert 0.005 < spread.max() < 0.08
    hole = 1 - batch.mask.mean((1, 2, 3))
    assert hole.min() > 0.2
    assert hole.max() < 0.9
    centre = batch.mask[:, 0, 14:18, 14:18]
    assert centre.max() == 0


def test_other_regions_are_holes_too() -> None:
    photo: NDArray[np.uint8] = np.full((100, 100, 3), 200, np.uint8)
    rect = np.array([30, 30, 70, 70], np.int32)
    other = np.array([[20, 20, 31, 50]], np.int32)
    points = np.array([[50, 50], [30, 30], [70, 50], [40, 60], [22, 78]])
    batch = cut_sample(photo, rect, other, points, 56, 1.4)
    assert batch.mask[0, 0, 5, 8] == 0
    assert batch.mask[0, 0, 5, 25] == 1
    assert batch.image[0, 0, 5, 8] == pytest.approx(200 / 127.5 - 1)
    assert batch.points_px[0].tolist() == [[28, 28], [8, 8], [48, 28], [18, 38], [0, 56]]


def test_points_move_and_mirror_with_the_photo() -> None:
    photo: NDArray[np.uint8] = np.zeros((160, 160, 3), np.uint8)
    points = np.array([[62, 68], [100, 64], [80, 84], [64, 104], [96, 108]], np.float32)
    for x, y in points:
        cv2.circle(photo, (int(x), int(y)), 4, (255, 255, 255), -1)
    faces = PackedFaces(
        photo[None],
        np.array([[46, 30, 114, 126]], np.float32),
        np.array([[0, 0, 160, 160]], np.int32),
        points[None],
        ('ann',),
    )
    right_eye_higher = set()
    for seed in range(16):
        batch = draw_sample(faces, 0, np.random.default_rng(seed), 128, 1.4)
        at = np.rint(batch.points_px[0]).astype(int)
        lit = batch.image[0].mean(0)
        inside = (at >= 0).all(1) & (at < 128).all(1)
        assert inside.sum() >= 4
        assert lit[at[inside, 1], at[inside, 0]].min() > lit.mean() + 0.2
        assert at[0, 0] < at[1, 0]
        right_eye_higher.add(bool(at[0, 1] < at[1, 1]))
    assert right_eye_higher == {False, True}


def test_split_keeps_each_person_on_one_side() -> None:
    names = tuple(f'person {i // 2}' for i in range(2000))
    faces = PackedFaces(
        np.zeros((2000, 1, 1, 3), np.uint8),
        np.zeros((2000, 4), np.float32),
        np.zeros((2000, 4), np.int32),
        np.zeros((2000, 5, 2), np.float32),
        names,
    )
    train, held = faces.split()
    assert 0.04 < len(held) / 2000 < 0.08
    assert not {names[i] for i in train} & {names[i] for i in held}
    assert sorted([*train, *held]) == list(range(2000))


def test_people_are_drawn_alike_however_many_photos_there_are_of_them() -> None:
    names = (*['often'] * 90, *(f'once {i}' for i in range(10)))
    photos: NDArray[np.uint8] = np.zeros((100, 40, 40, 3), np.uint8)
    photos[:90] = 255
    faces = PackedFaces(
        photos,
        np.tile(np.array([10, 10, 30, 30], np.float32), (100, 1)),
        np.tile(np.array([0, 0, 40, 40], np.int32), (100, 1)),
        np.full((100, 5, 2), np.nan, np.float32),
        names,
    )
    middles = np.concatenate(
        [
            draw_batch(faces, np.arange(100), step=step, **DRAW).image[:, 0, 16, 16]
            for step in range(100)
        ]
    )
    bright = (middles > 0).mean()
    assert 0.05 < bright < 0.2


def test_held_out_depends_on_the_name_alone() -> None:
    assert [is_held_out(name) for name in ('a', 'b', 'c')] == [
        is_held_out(name) for name in ('a', 'b', 'c')
    ]


@pytest.mark.parametrize(
    ('rect', 'expected'), [([0, 1, 10, 5], [90, 1, 100, 5]), ([90, 0, 100, 9], [0, 0, 10, 9])]
)
def test_mirrored(rect: list[int], expected: list[int]) -> None:
    assert mirrored(np.array(rect), 100).tolist() == expected


def test_surround_mirrors_or_blackens_what_lies_outside() -> None:
    photo: NDArray[np.uint8] = np.full((8, 8, 3), 9, np.uint8)
    photo[:, 6:] = 0
    inside = np.array([0, 0, 6, 8], np.int32)
    assert surround(photo, inside, black=False).min() == 9
    assert surround(photo, inside, black=True)[4:12, 10:].max() == 0


def test_what_was_not_built_is_refused(tmp_path: Path, packed: Path) -> None:
    with pytest.raises(MediaError, match='not a packed data set'):
        load_packed(tmp_path)
    (tmp_path / 'photos.npy').write_bytes((packed / 'photos.npy').read_bytes())
    index = (packed / 'index.csv').read_text().splitlines()
    (tmp_path / 'index.csv').write_text('\n'.join(index[:-1]))
    with pytest.raises(MediaError, match='expected one row for each photo'):
        load_packed(tmp_path)


@pytest.mark.parametrize('seed', range(8))
def test_a_frame_ends_where_the_rectangle_does(seed: int) -> None:
    photo: NDArray[np.uint8] = np.full((100, 100, 3), 9, np.uint8)
    rect = np.array([20, 30, 60, 90], np.int32)
    ended, rest = end_frame(photo, rect, np.random.default_rng(seed))
    (edge,) = np.flatnonzero(rest != rect)
    black = ended[:, :, 0] == 0
    lines = black.all(edge % 2).nonzero()[0]
    assert black.sum() == 100 * len(lines)
    assert lines.tolist() == (
        list(range(rest[edge])) if edge < 2 else list(range(int(rest[edge]), 100))
    )
    assert (rest[2:] - rest[:2] >= (rect[2:] - rect[:2]) // 2).all()


def test_the_rectangles_are_those_of_the_default_settings() -> None:
    """A face that is always found where it is, within what two detectors differ by."""
    rng = np.random.default_rng(0)
    box = np.array([40, 60, 140, 200], np.float32)
    rects = np.array([draw_rect(box, rng) for _ in range(2000)])
    size_wh = (rects[:, 2:] - rects[:, :2]) / np.array([100, 140])
    centre = (rects[:, :2] + rects[:, 2:]) / 2 - np.array([90, 130])
    assert np.all(size_wh.min(0) >= 1.0)
    scaled = size_wh / Settings().face.region_scale
    assert np.allclose(np.median(scaled, 0), 1.0, atol=0.02)
    assert np.all(np.percentile(scaled, 90, 0) - np.percentile(scaled, 10, 0) < 0.2)
    assert np.allclose(centre.mean(0), 0, atol=0.5)
