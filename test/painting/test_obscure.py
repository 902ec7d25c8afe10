from functools import partial
import itertools
from pathlib import Path

import cv2
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.painting.obscure import blur, cell_edges, cell_means, mosaic, solid
from ffs_anonymizer.regions.detections import Detections, PLATE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
import pytest
from support.recipes import opened

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
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


@pytest.mark.parametrize(
    'method', [partial(blur, veiled=False), partial(blur, veiled=True), mosaic]
)
def test_a_near_face_keeps_no_more_than_a_far_one(method):
    far = rng.integers(0, 256, (20, 20, 3), np.uint8)
    near = cv2.resize(far, (400, 400), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(cell_means(far, 5)[0], cell_means(near, 5)[0])
    shrunk = cv2.resize(method(near, 5), (20, 20), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - method(far, 5)).mean() < 6


def test_blur_depends_on_its_cells_means_alone():
    image = rng.integers(0, 256, (60, 60, 3), np.uint8)
    for veiled in (False, True):
        once, again = (blur(one, 6, veiled=veiled) for one in (image, mosaic(image, 6)))
        assert np.array_equal(once, again)
        assert not np.array_equal(once, blur(image, 7, veiled=veiled))


@pytest.mark.parametrize('size_wh', [(1, 1), (1, 9), (300, 2)])
def test_blur_of_slivers(size_wh):
    image = np.full((size_wh[1], size_wh[0], 3), 77, np.uint8)
    assert np.array_equal(blur(image, 6, veiled=False), image)
    out = blur(image, 6, veiled=True)
    assert out.shape == image.shape
    assert np.ptp(out) == 0


def test_solid():
    out = solid(np.zeros((2, 3, 3), np.uint8), (1, 2, 3))
    assert out.shape == (2, 3, 3)
    assert (out == (1, 2, 3)).all()


def test_a_veiled_blur_has_no_colour_and_little_of_the_light():
    """A soft spot of the colour of skin on shoulders is a face to detectors."""
    image = np.full((60, 40, 3), (120, 150, 210), np.uint8)
    image[20:40] = 20
    out = blur(image, 3, veiled=True).astype(int)
    assert (out == out[..., :1]).all()
    assert np.ptp(out) < 0.25 * np.ptp(image.mean(axis=2))
    dark = blur(np.zeros((60, 40, 3), np.uint8), 3, veiled=True).mean()
    assert out.mean() - dark < 0.5 * image.mean()


def test_a_plate_is_blurred_in_its_colours():
    """No detector takes it for a face, and lettering that was taken for one stays unobtrusive."""
    image = np.full((40, 90, 3), (200, 120, 40), np.uint8)
    where = np.array([[10, 10, 80, 30]], np.float32)
    with opened(Settings()) as recipe:
        frame = ArrayFrame(image.copy())
        recipe.anonymize(frame, Stream(), detections=Detections.of(where, np.ones(1), PLATE))
    assert np.array_equal(frame.image_bgr, image)


@pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not here')
@pytest.mark.parametrize('model', ['', 'yunet_n_dynamic.onnx'])
def test_no_detector_finds_a_face_in_blur(model):
    changes = {'detector.plate_model_path': 'none'}
    looks = {**changes, 'face.threshold': 0.4}
    if model:
        looks['detector.model_path'] = str(SHARED / 'models' / model)
    image = cv2.imread(str(SHARED / 'groups' / 'regjeringen.jpg'))
    image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    with opened(Settings().updated(changes)) as recipe:
        hidden = recipe.anonymize_array(image)
        before = len(recipe.detect(ArrayFrame(image)))
    with opened(Settings().updated(looks)) as look:
        assert len(look.detect(ArrayFrame(hidden))) == 0
    assert before >= 19
