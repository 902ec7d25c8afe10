from ffs_anonymizer.backend import TensorSpec
from ffs_anonymizer.models.manifest import is_generator
from ffs_anonymizer.painting.crops import Crops, mean_points
from ffs_anonymizer.painting.inputs import (
    feeds_of,
    in_crops,
    latent_seeds,
    latents_of,
    points_of,
    usual_points,
)
from ffs_anonymizer.regions.detections import Regions
import numpy as np
import pytest

TWO = (TensorSpec('condition', (-1, 3, 64, 64)), TensorSpec('mask', (-1, 1, 64, 64)))
FOUR = (*TWO, TensorSpec('latent', (-1, 8)), TensorSpec('points', (-1, 5, 2)))


def crops(count):
    return Crops(
        np.zeros((count, 3, 64, 64), np.float32),
        np.ones((count, 1, 64, 64), np.float32),
        np.zeros((count, 3), np.int32),
    )


@pytest.mark.parametrize('count', [0, 1, 3])
def test_every_input_of_a_generator_gets_a_value(count):
    assert list(feeds_of(TWO, crops(count))) == ['condition', 'mask']
    feeds = feeds_of(FOUR, crops(count))
    assert feeds['latent'].shape == (count, 8)
    assert feeds['points'].shape == (count, 5, 2)
    assert all(value.dtype == np.float32 for value in feeds.values())
    assert np.array_equal(feeds['latent'], feeds_of(FOUR, crops(count))['latent'])


def test_what_is_given_is_taken():
    latents, points = np.ones((2, 8), np.float32), np.full((2, 5, 2), 7, np.float32)
    feeds = feeds_of(FOUR, crops(2), latents=latents, points_px=points)
    assert np.array_equal(feeds['latent'], latents)
    assert np.array_equal(feeds['points'], points)


def test_the_same_seed_stream_and_track_give_the_same_latent():
    tracks = np.arange(200)
    seeds = latent_seeds(1, 'front', tracks)
    assert seeds.dtype == np.uint64
    assert np.array_equal(seeds[:2], latent_seeds(1, 'front', tracks[:2]))
    others = (latent_seeds(2, 'front', tracks), latent_seeds(1, 'rear', tracks))
    assert len(set(np.concatenate([seeds, *others]).tolist())) == 600
    latents = latents_of(seeds, 64)
    assert latents.shape == (200, 64)
    assert np.array_equal(latents[7], latents_of(seeds[7:8], 64)[0])
    assert abs(latents.mean()) < 0.05
    assert latents.std() == pytest.approx(1, abs=0.05)
    assert latents_of(np.empty(0, np.uint64), 64).shape == (0, 64)


def test_own_points_pass_only_where_pose_is_allowed_and_the_frame_has_some():
    boxes = np.array([[0, 0, 100, 100], [100, 0, 200, 100]], np.float32)
    own = np.full((2, 5, 2), np.nan, np.float32)
    own[0] = 40
    rows = [boxes, np.zeros(2, np.int8), *[np.ones(2, np.float32)] * 2, np.arange(2)]
    regions = Regions(*rows, np.ones(2, np.bool_), own, boxes)
    mean = points_of(regions, pose=False)
    assert np.array_equal(mean, mean_points(boxes))
    allowed = points_of(regions, pose=True)
    assert (allowed[0] == 40).all()
    assert np.array_equal(allowed[1], mean[1])
    squares = np.array([[10, 20, 64], [90, 0, 128]], np.int32)
    placed = in_crops(allowed, squares, 32)
    assert placed[0, 0].tolist() == [15, 10]
    assert placed[1] == pytest.approx((mean[1] - [90, 0]) / 4)


def test_mean_points_follow_the_box_and_nothing_else():
    boxes = np.array([[0, 0, 100, 100], [10, 20, 60, 120]], np.float32)
    first, second = mean_points(boxes)
    assert second == pytest.approx(first * [0.5, 1.0] + [10, 20], abs=1e-4)
    assert first[0, 0] < first[2, 0] < first[1, 0]
    assert first[0, 1] < first[2, 1] < first[3, 1]
    assert mean_points(np.empty((0, 4), np.float32)).shape == (0, 5, 2)
    assert usual_points(1, 128)[0].mean(0) == pytest.approx([64, 68], abs=4)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (('condition', 'mask'), True),
        (('condition', 'mask', 'latent', 'points'), True),
        (('condition', 'mask', 'latent'), True),
        (('condition',), False),
        (('condition', 'mask', 'pose'), False),
        (('input',), False),
        ((), False),
    ],
)
def test_generators_are_told_by_their_inputs(names, expected):
    assert is_generator(names) == expected
