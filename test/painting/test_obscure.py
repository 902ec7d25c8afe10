import itertools

import cv2
from ffs_anonymizer.painting.obscure import blur, cell_edges, cell_means, mosaic, solid
import numpy as np
import pytest

rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    ('size_px', 'cells', 'expected'),
    [(6, 3, [0, 2, 4, 6]), (7, 3, [0, 2, 5, 7]), (2, 6, [0, 1, 2]), (1, 6, [0, 1])],
)
def test_cell_edges(size_px, cells, expected):
    assert cell_edges(size_px, cells).tolist() == expected


@pytest.mark.parametrize('size_wh', [(40, 60), (61, 37), (6, 6), (5, 90), (1, 1), (3, 2)])
def test_mosaic_cells_are_true_means(size_wh):
    image = rng.integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
    out = mosaic(image, 6)
    _, rows, columns = cell_means(image, 6)
    assert out.shape == image.shape
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            mean = image[top:bottom, left:right].reshape(-1, 3).mean(axis=0)
            assert (np.abs(out[top:bottom, left:right] - mean) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize('method', [blur, mosaic])
def test_a_near_face_keeps_no_more_than_a_far_one(method):
    far = rng.integers(0, 256, (20, 20, 3), np.uint8)
    near = cv2.resize(far, (400, 400), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(cell_means(far, 5)[0], cell_means(near, 5)[0])
    shrunk = cv2.resize(method(near, 5), (20, 20), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - method(far, 5)).mean() < 6


def test_blur_depends_on_its_cells_means_alone():
    image = rng.integers(0, 256, (60, 60, 3), np.uint8)
    assert np.array_equal(blur(image, 6), blur(mosaic(image, 6), 6))
    assert not np.array_equal(blur(image, 6), blur(image, 7))


@pytest.mark.parametrize('size_wh', [(1, 1), (1, 9), (300, 2)])
def test_blur_of_slivers(size_wh):
    image = np.full((size_wh[1], size_wh[0], 3), 77, np.uint8)
    assert np.array_equal(blur(image, 6), image)


def test_solid():
    out = solid(np.zeros((2, 3, 3), np.uint8), (1, 2, 3))
    assert out.shape == (2, 3, 3)
    assert (out == (1, 2, 3)).all()
