import dataclasses
from types import SimpleNamespace

import cv2
from ffs_anonymizer.painting.methods import BLUR, GENERATE, GENERATE_SMALL
from ffs_anonymizer.painting.sharpness import needed, sharpened, STEP, strengths
from ffs_anonymizer.regions.detections import Regions
import numpy as np
import pytest

SIZE_PX = 64
SQUARE = (100, 60, 160)
HOLE = (125, 75, 235, 205)


def rows(*boxes, width=4):
    return np.array(boxes, np.int32).reshape(-1, width)


def picture(blur_px=0.0):
    """Return what is sharp, as photos are at their own size, or blurred from there."""
    rng = np.random.default_rng(0)
    sharp = cv2.GaussianBlur(rng.integers(0, 256, (280, 360, 3), np.uint8), (0, 0), 1.2)
    return cv2.GaussianBlur(sharp, (0, 0), blur_px) if blur_px else sharp


def asked(image_bgr, squares=(SQUARE,), holes=(HOLE,), size_px=SIZE_PX):
    squares = rows(*squares, width=3)
    return needed(image_bgr, squares, holes_xyxy_px=rows(*holes), size_px=size_px)


def test_what_was_sharp_asks_for_more_than_what_was_soft_already():
    sharp, soft = asked(picture())[0], asked(picture(blur_px=5.0))[0]
    assert 0.2 < sharp <= 1
    assert 0 <= soft < sharp / 2


def test_surroundings_come_nearest_to_themselves():
    """What the strength says of a crop without holes, tried out."""
    grey = cv2.cvtColor(picture(), cv2.COLOR_BGR2GRAY)[60:220, 100:260]
    small = cv2.resize(grey, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)

    def off(strength):
        larger = cv2.resize(
            sharpened(cv2.merge([small] * 3), strength), (160, 160), interpolation=cv2.INTER_CUBIC
        )
        detail = [cv2.Laplacian(each, cv2.CV_32F) for each in (larger[..., 0], grey)]
        return np.square(detail[0] - detail[1])[3:-3, 3:-3].mean()

    best = min(np.linspace(0, 1, 41), key=off)
    assert asked(picture(), holes=())[0] == pytest.approx(best, abs=0.05)


def test_noise_that_no_sharpening_brings_back_has_little_say():
    """To have as much detail as before, far more sharpening would be needed."""
    rng = np.random.default_rng(1)
    noisy = np.clip(picture(blur_px=1.5) + rng.normal(0, 12, (280, 360, 1)), 0, 255)
    grey = cv2.cvtColor(noisy.astype(np.uint8), cv2.COLOR_BGR2GRAY)[60:220, 100:260]
    small = cv2.resize(grey, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    most = cv2.resize(sharpened(cv2.merge([small] * 3), 1.0), (160, 160))[..., 0]
    assert cv2.Laplacian(most, cv2.CV_32F).std() < cv2.Laplacian(grey, cv2.CV_32F).std() / 3
    assert asked(noisy.astype(np.uint8))[0] < 0.5


@pytest.mark.parametrize('level', [0, 90, 254])
def test_what_is_blank_asks_for_nothing(level):
    blank = np.full((280, 360, 3), level, np.uint8)
    blank[140:, 180:] += 1
    assert asked(blank)[0] < 0.01


def test_a_crop_that_is_not_larger_than_the_picture_is_left_alone():
    assert asked(picture(), size_px=160)[0] == 0
    assert asked(picture(), size_px=200)[0] == 0
    assert asked(picture(), size_px=159)[0] > 0


def test_where_nothing_is_kept_nothing_is_asked_for():
    assert asked(picture(), holes=[(0, 0, 360, 280)])[0] == 0
    assert asked(picture(), holes=[(-20, -20, 400, 300)])[0] == 0
    assert asked(picture(), holes=[(105, 65, 255, 215)])[0] < 0.01


def test_nothing_inside_any_hole_has_a_say():
    holes = [HOLE, (90, 100, 130, 140), (225, 55, 240, 70), (-5, 200, 120, 240)]
    squares = [SQUARE, (-60, -40, 200), (250, 150, 220)]
    noisy, rng = picture(), np.random.default_rng(2)
    for x0, y0, x1, y1 in holes:
        inside = np.s_[max(y0, 0) : y1, max(x0, 0) : x1]
        noisy[inside] = rng.integers(0, 256, noisy[inside].shape, np.uint8)
    got = asked(picture(), squares, holes)
    assert (got > 0).all()
    assert got.tobytes() == asked(noisy, squares, holes).tobytes()
    assert got.tobytes() != asked(255 - picture() // 2, squares, holes).tobytes()


@pytest.mark.parametrize('square', [(-60, -40, 200), (250, 150, 220), (-20, -60, 400)])
def test_the_frames_own_edge_is_no_detail(square):
    """A bright frame ends in black there, which would be the sharpest edge of all."""
    bright = np.full((280, 360, 3), 250, np.uint8)
    assert asked(bright, [square], holes=())[0] == 0


def test_each_crop_for_itself_and_none_is_ordinary():
    both = asked(picture(), [(0, 0, 40), SQUARE])
    assert both.dtype == np.float32
    assert both[1] == asked(picture())[0] > both[0] == 0
    assert asked(picture(), squares=()).shape == (0,)


def tracked(*track_ids):
    """Return a region for each track, all at the same place."""
    zones = Regions.of_zones(np.array([HOLE] * len(track_ids), np.float32).reshape(-1, 4))
    return dataclasses.replace(zones, track_ids=np.array(track_ids, np.int64))


def shown(image_bgr, track_ids, before, methods=None):
    regions = tracked(*track_ids)
    codes = np.array(methods or [GENERATE] * len(regions), np.int8)
    generators = [SimpleNamespace(crop_scale=1.3, size_px=size_px) for size_px in (SIZE_PX, 500)]
    rects = regions.xyxy_px.astype(np.int32)
    return strengths(image_bgr, regions, rects, codes, generators=generators, before=before)


def test_a_track_is_sharpened_as_before_and_changes_in_small_steps():
    (first,), held = shown(picture(), [7], {})
    assert held == {(0, 7): first}
    assert first > 0.2
    for i in range(1, 4):
        (now,), held = shown(picture(blur_px=5.0), [7], held)
        assert now == pytest.approx(first - i * STEP)
        assert held == {(0, 7): now}
    (back,), _ = shown(picture(), [7], {(0, 7): first - STEP / 2})
    assert back == first
    (other,), _ = shown(picture(), [7], {(1, 7): 0.0})
    assert other == first  # another generator painted it


def test_others_have_no_past_and_what_is_not_drawn_has_no_strength():
    now, held = shown(
        picture(), [3, -1, 4, 5], {(0, 7): 0.0}, [GENERATE, GENERATE, BLUR, GENERATE_SMALL]
    )
    assert now[0] == now[1] > 0.2
    assert now[2] == now[3] == 0
    assert held == {(0, 3): now[0], (1, 5): 0.0}
    nothing, held = shown(picture(), [], {(0, 7): 0.3})
    assert nothing.shape == (0,)
    assert held == {}


def face(seed=3):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def test_a_strength_adds_what_a_blur_takes_away():
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[..., None] / 256
    padded = np.pad(face().astype(float), ((2, 2), (2, 2), (0, 0)), mode='edge')
    for row, column in [(0, 0), (7, 31), (16, 16), (31, 0)]:
        own = face()[row, column]
        blurred = (padded[row : row + 5, column : column + 5] * weights).sum((0, 1))
        want = np.clip(own + 0.4 * (own - blurred), 0, 255)
        assert np.abs(sharpened(face(), 0.4)[row, column] - want).max() <= 0.5 + 1e-4


def test_no_strength_no_change_and_flat_or_grey_faces_stay_so():
    assert np.array_equal(sharpened(face(), 0.0), face())
    flat = np.full((32, 32, 3), (7, 130, 255), np.uint8)
    assert np.array_equal(sharpened(flat, 1.0), flat)
    grey = np.repeat(face()[..., :1], 3, axis=2)
    shown = sharpened(grey, 1.0)
    assert not np.array_equal(shown, grey)
    assert np.array_equal(shown, np.repeat(shown[..., :1], 3, axis=2))
