import re

import cv2
from ffs_anonymizer.painting.plate import draw_flat, draw_plate, fill, invent_number, look
import numpy as np
import pytest

RECT = np.array([100, 80, 200, 110], np.int32)
OUTER = RECT + np.array([-10, -10, 10, 10], np.int32)


def street(seed=0):
    """Return a smooth picture with a darker bumper across it."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(90, 160, (6, 10, 3)).astype(np.uint8), (320, 200))
    cv2.rectangle(image, (0, 70), (319, 120), (60, 50, 50), -1)
    return image


def drawn(image, *, seed=1, rect=RECT, outer=OUTER, holes=RECT[None]):
    return draw_plate(
        image, rect_xyxy_px=rect, outer_xyxy_px=outer, holes_xyxy_px=holes, grown=1.25, seed=seed
    )


def test_noise_inside_any_hole_changes_not_a_bit():
    other = np.array([205, 70, 240, 130], np.int32)
    holes = np.stack([RECT, other])
    before = street()
    after = before.copy()
    rng = np.random.default_rng(9)
    for x0, y0, x1, y1 in holes.tolist():
        after[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3))
    assert (before != after).any()
    np.testing.assert_array_equal(drawn(before, holes=holes), drawn(after, holes=holes))


def test_what_lies_around_is_seen():
    dark = (street() * 0.3).astype(np.uint8)
    assert drawn(dark).max() < drawn(street()).max() - 30


def test_paper_is_light_beside_a_dark_vehicle():
    levels = {}
    for level in (0, 20, 60, 120, 250):
        around = np.full((60, 120, 3), level, np.float32)
        levels[level] = look(around, np.ones((60, 120), np.float32))[0]
    assert list(levels.values()) == sorted(levels.values())
    assert levels[60] > 150
    assert levels[0] == 100
    assert levels[250] < 235


def test_paper_is_red_in_a_red_light_and_white_beside_a_red_car():
    known = np.ones((60, 120), np.float32)
    red = np.full((60, 120, 3), (60, 40, 160), np.float32)
    cast = look(red, known)[1]
    assert cast[2] > 1.5 > 0.8 > cast[0] > cast[1]
    with_chrome = red.copy()
    with_chrome[:20] = 180
    np.testing.assert_allclose(look(with_chrome, known)[1], 1, atol=1e-3)
    np.testing.assert_allclose(look(np.zeros_like(red), known)[1], 1, atol=1e-5)


def test_characters_are_no_higher_than_they_may_be():
    flat = draw_flat('IO 0123 Q', 2.0, (1.0, 1.0, 1.0), (0.1, 0.1, 0.1), has_band=False)
    rows = np.nonzero((flat[12:-12, 12:-12, 1] < 0.5).any(1))[0]
    columns = np.nonzero((flat[12:-12, 12:-12, 1] < 0.5).any(0))[0]
    # Seven characters and two half spaces.
    assert np.ptp(rows) < 2.1 * np.ptp(columns) / 7
    assert np.ptp(rows) > np.ptp(columns) / 7


def test_the_same_seed_draws_the_same_plate_and_another_another():
    np.testing.assert_array_equal(drawn(street()), drawn(street()))
    assert (drawn(street(), seed=1) != drawn(street(), seed=2)).any()


def test_outside_the_rectangle_the_patch_is_the_frame():
    image = street()
    x0, y0, x1, y1 = OUTER.tolist()
    patch, own = drawn(image), image[y0:y1, x0:x1]
    around = np.ones(patch.shape[:2], bool)
    around[10:-10, 10:-10] = False
    np.testing.assert_array_equal(patch[around], own[around])
    assert (patch[~around] != own[~around]).any()


def test_a_plate_is_light_paper_with_dark_ink_in_the_middle():
    patch = drawn(street())
    middle = patch[16:-16, 22:-22]
    assert np.percentile(middle.max(2), 90) > 140
    assert middle.min() < 80


@pytest.mark.parametrize(
    'rect',
    [(0, 0, 8, 3), (0, 0, 320, 200), (312, 190, 320, 200), (10, 10, 11, 60), (10, 10, 300, 12)],
)
def test_any_rectangle_gets_a_patch(rect):
    rect = np.array(rect, np.int32)
    patch = drawn(street(), rect=rect, outer=rect, holes=rect[None])
    assert patch.shape == (rect[3] - rect[1], rect[2] - rect[0], 3)


def test_a_frame_that_is_all_holes_shows_a_plate_on_grey():
    image = street()
    whole = np.array([[0, 0, 320, 200]], np.int32)
    np.testing.assert_array_equal(drawn(image, holes=whole), drawn(255 - image, holes=whole))


def test_numbers_are_nobody_s():
    for seed in range(200):
        number = invent_number(np.random.default_rng(seed))
        assert re.fullmatch(r'[IOQ]{2} 0\d{3} [IOQ]', number)
        assert {*'IOQ'} <= {*number}


def test_unknown_pixels_continue_the_known_ones():
    known = np.ones((40, 60), np.float32)
    known[10:30, 15:45] = 0
    left_to_right = np.linspace(0, 200, 60, dtype=np.float32)
    picture = np.repeat(np.repeat(left_to_right[None, :, None], 40, 0), 3, 2)
    filled = fill(picture * known[..., None], known)
    np.testing.assert_allclose(filled, picture, atol=35)
    np.testing.assert_array_equal(filled[known > 0], picture[known > 0])


@pytest.mark.parametrize('slope', [-0.15, 0.0, 0.1])
def test_the_tilt_of_the_lines_around_is_taken(slope):
    y, x = np.mgrid[0:80, 0:200].astype(np.float32)
    picture = np.where(y - slope * (x - 100) > 40, 200, 60).astype(np.float32)
    around = cv2.GaussianBlur(np.repeat(picture[..., None], 3, 2), (0, 0), 1)
    known = np.ones((80, 200), np.float32)
    known[25:55, 70:130] = 0
    _, cast, got, _ = look(around * known[..., None], known)
    assert got == pytest.approx(slope, abs=0.03)
    np.testing.assert_allclose(cast, 1, atol=1e-5)


@pytest.mark.parametrize(('aspect', 'rows'), [(4.5, 1), (2.2, 1), (1.4, 2)])
def test_narrow_plates_have_two_lines(aspect, rows):
    flat = draw_flat('IO 0123 Q', aspect, (1.0, 1.0, 1.0), (0.1, 0.1, 0.1), has_band=False)
    ink = (flat[12:-12, 12:-12, 1] < 0.5).any(1)
    assert np.count_nonzero(np.diff(ink.astype(int)) == 1) + int(ink[0]) == rows
    assert flat[0, 0, 3] == 0
    assert flat[48, flat.shape[1] // 2, 3] == 1
