import cv2
from ffs_anonymizer.datasets.heads import crowd, cut_out, put_head
import numpy as np
from support.drawn_plates import draw_faces


def test_a_head_lies_in_the_box_that_is_told() -> None:
    head = np.zeros((48, 48, 4), np.uint8)
    cv2.ellipse(head, (24, 24), (10, 12), 0, 0, 360, (255, 255, 255, 255), -1)
    box = np.array([14, 12, 34, 36], np.float32)
    for seed in range(20):
        image = np.zeros((100, 100, 3), np.uint8)
        chance = np.random.default_rng(seed)
        put = put_head(image, head, box, 30.0, np.array([[50.0, 50.0]]), [], chance)
        assert put is not None
        rows, columns = np.nonzero(image.max(2) > 8)
        changed = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(changed, put, atol=3.5)


def test_a_head_does_not_cover_what_is_there() -> None:
    faces = draw_faces(1)
    head, box = cut_out(faces, 0), faces.boxes_xyxy_px[0]
    image = np.full((100, 100, 3), 9, np.uint8)
    taken = [np.array([40, 40, 60, 60, 0], np.float32)]
    chance = np.random.default_rng(0)
    assert put_head(image, head, box, 30.0, np.array([[50.0, 50.0]]), taken, chance) is None
    assert (image == 9).all()
    beside = np.array([[50.0, 50.0], [20.0, 20.0]])
    assert put_head(image, head, box, 10.0, beside, taken, chance) is not None


def test_a_crowd_stands_in_rows_those_behind_first() -> None:
    for seed in range(20):
        places, heights = crowd(416, 20.0, np.random.default_rng(seed))
        assert places.shape == (len(heights), 1, 2)
        assert 1 <= len(heights) <= 64
        assert abs(np.log(heights / 20.0)).max() < 0.6
        y = places[:, 0, 1]
        assert (np.diff(y) > -48).all()
