from ffs_anonymizer.painting.crops import Crops, cut, cut_square, enclosing_squares
import numpy as np
import pytest

NONE = np.empty((0, 4), np.int32)


def rects(*boxes):
    return np.array(boxes, np.int32).reshape(-1, 4)


@pytest.mark.parametrize(
    ('rect', 'scale', 'expected'),
    [
        ((10, 10, 20, 20), 1.0, (10, 10, 10)),
        ((10, 10, 20, 20), 2.0, (5, 5, 20)),
        ((10, 10, 20, 30), 1.5, (0, 5, 30)),
        ((0, 0, 1, 1), 1.7, (-1, -1, 2)),
    ],
)
def test_enclosing_squares(rect, scale, expected):
    assert enclosing_squares(rects(rect), scale).tolist() == [list(expected)]


def test_enclosing_squares_of_nothing():
    assert enclosing_squares(NONE, 1.7).shape == (0, 3)


def test_cut_square_fills_what_leaves_the_image():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    out = cut_square(image, np.array([-1, 1, 3], np.int32), outside=99)
    assert out.tolist() == [[99, 4, 5], [99, 8, 9], [99, 99, 99]]
    assert cut_square(image, np.array([50, 50, 2], np.int32)).tolist() == [[0, 0], [0, 0]]


def test_no_faces_make_empty_crops():
    crops = cut(np.zeros((9, 9, 3), np.uint8), NONE, holes_xyxy_px=NONE, size_px=8, crop_scale=2)
    assert len(crops) == 0
    assert crops.condition.shape == (0, 3, 8, 8)


@pytest.mark.parametrize('size_px', [8, 16, 23, 64])
def test_hole_is_zero_and_values_are_normalized(size_px):
    image = np.full((64, 64, 3), (255, 0, 51), np.uint8)
    rect = rects((24, 24, 40, 40))
    crops = cut(image, rect, holes_xyxy_px=NONE, size_px=size_px, crop_scale=2.0)
    mask = crops.mask[0, 0]
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert mask[0, 0] == 1.0
    assert mask[size_px // 2, size_px // 2] == 0.0
    assert (crops.condition[0][:, mask == 0] == 0.0).all()
    red, green, blue = crops.condition[0][:, mask == 1]
    assert np.allclose(red, 51 / 127.5 - 1)
    assert (green == -1.0).all()
    assert (blue == 1.0).all()


def test_outside_of_the_image_is_black_and_kept():
    image = np.full((20, 20, 3), 200, np.uint8)
    crops = cut(image, rects((0, 0, 10, 10)), holes_xyxy_px=NONE, size_px=20, crop_scale=2.0)
    assert (crops.condition[0, :, 0, 0] == -1.0).all()
    assert crops.mask[0, 0, 0, 0] == 1.0


@pytest.mark.parametrize('size_px', [16, 40, 100])
@pytest.mark.parametrize(
    'boxes',
    [
        [(20, 20, 40, 50)],
        [(20, 20, 40, 50), (35, 30, 60, 55)],
        [(0, 0, 15, 15), (70, 0, 80, 20), (0, 60, 9, 80), (61, 67, 80, 80)],
    ],
)
def test_nothing_inside_any_hole_reaches_any_crop(boxes, size_px):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (80, 80, 3), np.uint8)
    noisy = image.copy()
    for x0, y0, x1, y1 in boxes:
        noisy[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
    assert (noisy != image).any()
    kwargs = {'holes_xyxy_px': rects(*boxes), 'size_px': size_px, 'crop_scale': 1.7}
    a, b = (cut(i, rects(boxes[0]), **kwargs) for i in (image, noisy))
    assert np.array_equal(a.condition, b.condition)
    assert np.array_equal(a.mask, b.mask)


def test_crops_checks_its_shapes():
    with pytest.raises(ValueError, match='got shapes'):
        Crops(
            np.zeros((1, 3, 8, 8), np.float32),
            np.zeros((1, 1, 8, 9), np.float32),
            np.zeros((1, 3), np.int32),
        )
