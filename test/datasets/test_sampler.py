from pathlib import Path

import cv2
from ffs_anonymizer.datasets.faces import load_packed, PackedFaces
from ffs_anonymizer.datasets.sampler import Batch, Sampler
from ffs_anonymizer.painting.crops import cut, mean_points
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
import torch

BOX = np.array([[46, 30, 114, 126]], np.float32)
TRAITS = np.array([[1.0, 0.5, np.nan]], np.float32)
POINTS = np.array([[62, 68], [100, 64], [80, 84], [64, 104], [96, 108]], np.float32)


def one_face(photo_bgr: NDArray[np.uint8]) -> PackedFaces:
    side = len(photo_bgr)
    inside = np.array([[0, 0, side, side]], np.int32)
    return PackedFaces(photo_bgr[None], BOX, inside, POINTS[None], TRAITS, ('ann',))


def sampler_of(faces: PackedFaces, size_px: int = 32) -> Sampler:
    return Sampler(
        faces,
        np.arange(len(faces)),
        size_px=size_px,
        region_scale=1.2,
        crop_scale=1.3,
        device=torch.device('cpu'),
    )


@pytest.fixture(scope='module')
def drawn(packed: Path) -> Batch:
    return sampler_of(load_packed(packed)).draw(64, seed=3, step=0)


def test_same_seed_and_step_give_the_same_batch(packed: Path) -> None:
    sampler = sampler_of(load_packed(packed))
    once, again = (sampler.draw(4, seed=3, step=7) for _ in range(2))
    other = sampler.draw(4, seed=3, step=8)
    assert once.image.shape == (4, 3, 32, 32)
    assert torch.equal(once.condition, again.condition)
    assert torch.equal(once.image, again.image)
    assert not torch.equal(once.image, other.image)


def test_condition_is_the_image_where_it_is_kept_and_nothing_in_the_hole(drawn: Batch) -> None:
    assert set(drawn.mask.unique().tolist()) == {0.0, 1.0}
    noise = drawn.condition - drawn.image * drawn.mask
    assert (noise * (1 - drawn.mask)).abs().max() == 0
    spread = noise.std((1, 2, 3))
    assert spread.min() < 1e-6
    assert 0.005 < spread.max() < 0.08
    hole = 1 - drawn.mask.mean((1, 2, 3))
    assert hole.min() > 0.2
    assert hole.max() < 0.95


def test_photos_as_they_are_agree_with_the_crops_of_the_runtime() -> None:
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (160, 160, 3), np.uint8), (0, 0), 3)
    photo = cv2.convertScaleAbs(photo, alpha=3.0, beta=-250)
    batch = sampler_of(one_face(np.asarray(photo, np.uint8)), 64).plain(np.arange(1))
    half = (BOX[0, 2:] - BOX[0, :2]) * 0.6
    centre = (BOX[0, 2:] + BOX[0, :2]) / 2
    rect = np.concatenate([np.floor(centre - half), np.ceil(centre + half)]).astype(np.int32)
    wanted = cut(
        np.asarray(photo, np.uint8),
        rect[None],
        holes_xyxy_px=rect[None],
        size_px=64,
        crop_scale=1.3,
    )
    assert np.array_equal(batch.mask.numpy(), wanted.mask)
    assert np.abs(batch.condition.numpy() - wanted.condition).mean() < 0.02
    scale = 64 / wanted.squares_xys_px[0, 2]
    corner = wanted.squares_xys_px[0, :2]
    assert batch.points_px[0].numpy() == pytest.approx((POINTS - corner) * scale, abs=1e-3)
    usual = (mean_points(BOX)[0] - corner) * scale
    assert batch.mean_points_px[0].numpy() == pytest.approx(usual, abs=0.3)


def test_points_move_and_mirror_with_the_photo() -> None:
    photo: NDArray[np.uint8] = np.zeros((160, 160, 3), np.uint8)
    for x, y in POINTS:
        cv2.circle(photo, (int(x), int(y)), 5, (255, 255, 255), -1)
    batch = sampler_of(one_face(photo), 128).draw(32, seed=0, step=0)
    right_eye_higher = set()
    for image, points in zip(batch.image, batch.points_px, strict=True):
        at = points.round().long()
        lit = image.mean(0)
        inside = ((at >= 0) & (at < 128)).all(1)
        assert lit[at[inside, 1], at[inside, 0]].max() > lit.mean() + 0.2
        assert at[0, 0] < at[1, 0]
        right_eye_higher.add(bool(at[0, 1] < at[1, 1]))
    assert right_eye_higher == {False, True}


def test_people_are_drawn_alike_however_many_photos_there_are_of_them() -> None:
    names = (*['often'] * 90, *(f'once {i}' for i in range(10)))
    photos: NDArray[np.uint8] = np.zeros((100, 40, 40, 3), np.uint8)
    photos[:90] = 255
    faces = PackedFaces(
        photos,
        np.tile(np.array([10, 10, 30, 30], np.float32), (100, 1)),
        np.tile(np.array([0, 0, 40, 40], np.int32), (100, 1)),
        np.full((100, 5, 2), np.nan, np.float32),
        np.full((100, 3), np.nan, np.float32),
        names,
    )
    batch = sampler_of(faces).draw(400, seed=0, step=0)
    bright = (batch.image[:, 0, 16, 16] > -0.5).float().mean()
    assert 0.04 < bright < 0.25
    assert batch.points_px.isnan().all()


def test_rectangles_lie_within_what_two_detectors_differ_by(drawn: Batch) -> None:
    size = drawn.rects_xyxy_px[:, 2:] - drawn.rects_xyxy_px[:, :2]
    longer = size.amax(1) / 32 * 1.3
    assert torch.allclose(longer, torch.ones(64), atol=0.04)
    centre = (drawn.rects_xyxy_px[:, 2:] + drawn.rects_xyxy_px[:, :2]) / 2
    assert (centre - 16).abs().max() < 1.0


def test_the_default_region_is_that_of_the_runtime_or_narrower() -> None:
    from ffs_anonymizer.training.settings import TrainSettings

    assert TrainSettings().region_scale <= Settings().face.region_scale
