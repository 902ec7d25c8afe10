import itertools

import cv2
from ffs_anonymizer.regions.boxes import inside
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.regions.detector import merged
from ffs_anonymizer.regions.looks import LAST_BORDER_PX, looks_at, MOST_PIXELS, OVERLAP_PX
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.recipes import Detector

SIZES_WH = [(1, 1), (640, 480), (1920, 1080), (4000, 3000), (10_000, 10_000), (40_000, 300)]


@pytest.mark.parametrize('size_wh', SIZES_WH)
@pytest.mark.parametrize('scale', [1.0, 0.5, 4.0])
def test_the_looks_of_a_level_see_all_and_share_a_border(size_wh, scale):
    looks = looks_at(size_wh, scale, 32)
    for _, same in itertools.groupby(looks, lambda look: look.level):
        level = list(same)
        columns = sorted({(look.xyxy_px[0], look.xyxy_px[2]) for look in level})
        rows = sorted({(look.xyxy_px[1], look.xyxy_px[3]) for look in level})
        assert len(level) == len(columns) * len(rows)
        for spans, length in ((columns, size_wh[0]), (rows, size_wh[1])):
            assert (spans[0][0], spans[-1][1]) == (0, length)
            shared = OVERLAP_PX / level[0].scale_wh[0]
            assert all(b[0] <= a[1] - shared + 1 for a, b in itertools.pairwise(spans))
        for look in level:
            width, height = look.canvas_wh
            assert width % 32 == height % 32 == 0
            assert look.seen_wh[0] * look.seen_wh[1] <= MOST_PIXELS * 1.01
            assert look.at_px[0] + look.seen_wh[0] <= width
            assert look.at_px[1] + look.seen_wh[1] <= height


def test_most_frames_are_seen_whole_and_once_more_small():
    first, last = looks_at((1920, 1080), 1.0, 32)
    assert (first.seen_wh, first.canvas_wh, first.level) == ((1920, 1080), (1920, 1088), 0)
    assert (last.seen_wh, last.canvas_wh, last.level) == ((160, 90), (256, 192), 1)
    assert last.at_px == (LAST_BORDER_PX, LAST_BORDER_PX)


def test_a_network_of_one_size_sees_all_once():
    (look,) = looks_at((1280, 720), 1.0, 32, fixed_wh=(640, 640))
    assert (look.seen_wh, look.canvas_wh) == ((640, 360), (640, 640))


@pytest.mark.parametrize(
    ('fine', 'coarse', 'left'),
    [
        ([], [], []),
        ([((10, 10, 20, 20), 0.5)], [], [0.5]),
        ([], [((0, 0, 100, 100), 0.4)], [0.4]),
        # Another face, a part of the same one, and the same one more precisely.
        ([((10, 10, 20, 20), 0.9)], [((50, 50, 150, 150), 0.4)], [0.9, 0.4]),
        ([((10, 10, 20, 20), 0.3)], [((0, 0, 100, 100), 0.4)], [0.4]),
        ([((10, 10, 20, 20), 0.4)], [((0, 0, 100, 100), 0.4)], [0.4]),
        ([((0, 0, 100, 100), 0.3)], [((10, 10, 100, 100), 0.4)], [0.3]),
        # A sure face within a box that is hardly one: found at low thresholds as at high ones.
        ([((10, 10, 20, 20), 0.9)], [((0, 0, 100, 100), 0.21)], [0.9, 0.21]),
    ],
)
def test_looks_are_merged(fine, coarse, left):
    some, others = (
        Detections.of([box for box, _ in found], [score for _, score in found], FACE)
        for found in (fine, coarse)
    )
    assert merged(some, others).scores.tolist() == pytest.approx(left)


@pytest.fixture(scope='module')
def detector():
    detector = Detector(Settings())
    yield detector
    detector.close()


@pytest.mark.parametrize('height_px', [120, 500, 1100])
def test_an_enlarged_face_is_found_whole(detector, face_bgr, height_px):
    box = detector.detect(face_bgr).xyxy_px[0]
    scale = height_px / (box[3] - box[1])
    image = cv2.resize(face_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    found = detector.detect(image)
    assert inside(box[None] * scale, found.xyxy_px).max() > 0.85


def test_a_face_larger_than_the_picture_is_covered(detector, face_bgr):
    x0, y0, x1, y1 = detector.detect(face_bgr).xyxy_px[0].astype(int)
    cut = face_bgr[y0 + (y1 - y0) // 8 : y1 - (y1 - y0) // 8, x0:x1]
    image = cv2.resize(cut, (720, 960), interpolation=cv2.INTER_CUBIC)
    found = detector.detect(image)
    assert inside(np.array([[0, 0, 720, 960]], np.float32), found.xyxy_px).max() > 0.85
