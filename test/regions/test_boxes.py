from ffs_anonymizer.regions.boxes import clip, filled, grow, inside, iou, nms
from ffs_anonymizer.regions.detections import Detections, FACE
import numpy as np
import pytest


@pytest.mark.parametrize(
    ('boxes', 'scores', 'iou_', 'kept'),
    [
        ([], [], 0.5, []),
        ([(0, 0, 10, 10)], [0.5], 0.5, [0]),
        ([(0, 0, 10, 10), (0, 0, 10, 10)], [0.5, 0.9], 0.5, [1]),
        ([(0, 0, 10, 10), (20, 0, 30, 10)], [0.5, 0.9], 0.5, [1, 0]),
        ([(0, 0, 10, 10), (0, 0, 10, 5)], [0.9, 0.5], 0.5, [0, 1]),
        ([(0, 0, 10, 10), (0, 0, 10, 5)], [0.9, 0.5], 0.49, [0]),
    ],
)
def test_nms(boxes, scores, iou_, kept):
    found = Detections.of(boxes, scores, FACE)
    assert nms(found.xyxy_px, found.scores, iou_).tolist() == kept


def test_nms_is_the_greedy_one():
    chosen = np.random.default_rng(0)
    centre, half = chosen.uniform(0, 300, (400, 2)), chosen.uniform(5, 30, (400, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    scores = np.round(chosen.uniform(0, 1, 400), 1).astype(np.float32)
    assert (scores == 0).any()
    expected = []
    for i in np.argsort(-scores, kind='stable'):
        if not expected or iou(boxes[[i]], boxes[expected]).max() <= 0.3:
            expected.append(int(i))
    assert nms(boxes, scores, 0.3).tolist() == expected


@pytest.mark.parametrize(
    ('other', 'expected'),
    [
        ([0, 0, 10, 10], 1.0),
        ([5, 0, 15, 10], 1 / 3),
        ([10, 0, 20, 10], 0.0),
        ([0, 0, 10, 20], 0.5),
    ],
)
def test_iou(other, expected):
    box = np.array([0, 0, 10, 10], np.float32)
    assert iou(box[None], np.array([other], np.float32)) == pytest.approx(np.array([[expected]]))


def test_iou_with_nothing():
    box = np.array([0, 0, 10, 10], np.float32)
    assert iou(box[None], np.empty((0, 4), np.float32)).shape == (1, 0)


def test_inside_is_a_part_of_the_first_box():
    small, large = np.array([[0, 0, 10, 10]], np.float32), np.array([[5, 0, 105, 100]], np.float32)
    assert inside(small, large).tolist() == [[0.5]]
    assert inside(large, small).tolist() == [[0.005]]
    assert inside(small, np.empty((0, 4), np.float32)).shape == (1, 0)


def test_grow_clip_and_filled():
    boxes = np.array([[10, 20, 30, 60], [-50, 0, -40, 10]], np.float32)
    grown = grow(boxes, 2.0)
    assert grown.tolist() == [[0, 0, 40, 80], [-55, -5, -35, 15]]
    assert grow(boxes, np.array([1.0, 2.0]))[0].tolist() == [10, 20, 30, 60]
    cut = clip(grown, (35, 70))
    assert cut.tolist() == [[0, 0, 35, 70], [0, 0, 0, 15]]
    assert cut.dtype == np.float32
    assert filled(cut).tolist() == [True, False]
    assert filled(np.empty((0, 4), np.float32)).shape == (0,)
