from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.datasets.photos import Photo
from ffs_anonymizer.quantization.calibration import load_photos
from ffs_anonymizer.quantization.explicit import to_explicit
from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.integer import to_integer
from ffs_anonymizer.quantization.metric import (
    agreement,
    average_precision,
    Candidate,
    DetectorQuality,
    in_common,
    photo_feeds,
    structural_similarity,
)
from ffs_anonymizer.quantization.ranges import measure_ranges
from ffs_anonymizer.regions.detections import Detections, FACE
import numpy as np
import pytest

WIDER = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'detection' / 'wider416'
YUNET = WIDER.parents[1] / 'models' / 'yunet_n_dynamic.onnx'


def test_only_the_hole_counts():
    rng = np.random.default_rng(0)
    wanted = rng.uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    hole = np.zeros((32, 32), bool)
    hole[12:20, 12:20] = True
    outside = wanted.copy()
    outside[:, :4] = 1
    inside = wanted.copy()
    inside[:, 12:20, 12:20] = 0
    for measure in (structural_similarity, agreement):
        assert measure(wanted, wanted, hole) == pytest.approx(1)
        assert measure(outside, wanted, hole) == pytest.approx(1)
        assert measure(inside, wanted, hole) < 0.3
        assert measure(inside, wanted, np.zeros_like(hole)) == 1


def test_agreement_is_one_less_the_error_over_the_contrast():
    wanted = np.stack([np.full((4, 4), v, np.float32) for v in (-1, 0, 1)])
    hole = np.ones((4, 4), bool)
    contrast = float(np.sqrt(2 / 3))
    assert agreement(wanted + np.float32(0.1), wanted, hole) == pytest.approx(1 - 0.1 / contrast)
    assert agreement(wanted + 9, wanted, hole) == 0


BOX, OTHER, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ('found', 'boxes', 'ignored', 'ap'),
    [
        ([], [BOX], [], 0.0),
        ([(BOX, 0.9)], [], [], 0.0),
        ([(BOX, 0.9)], [BOX], [], 1.0),
        ([(BOX, 0.9)], [BOX, OTHER], [], 0.5),
        ([(BOX, 0.9), (BOX, 0.8)], [BOX], [], 1.0),
        ([(FAR, 0.9), (BOX, 0.8)], [BOX], [], 0.5),
        ([(FAR, 0.9), (BOX, 0.8)], [BOX], [FAR], 1.0),
        ([(BOX, 0.9), (FAR, 0.8), (OTHER, 0.7)], [BOX, OTHER], [], 0.5 + 0.5 * 2 / 3),
        ([((0, 0, 10, 5), 0.9)], [BOX], [], 1.0),
        ([((0, 0, 10, 4.9), 0.9)], [BOX], [], 0.0),
    ],
)
def test_average_precision(found, boxes, ignored, ap):
    detections = Detections.of([b for b, _ in found], [s for _, s in found], FACE)
    as_array = [np.array(b, np.float32).reshape(-1, 4) for b in (boxes, ignored)]
    photo = Photo(Path(), np.zeros((8, 8, 3), np.uint8), *as_array)
    assert average_precision([detections], [photo]) == pytest.approx(ap)


@pytest.mark.parametrize(
    ('one', 'other', 'counts'),
    [
        ([], [], (0, 0, 0)),
        ([(BOX, 0.9)], [], (0, 1, 0)),
        ([], [(BOX, 0.2), (FAR, 0.19)], (0, 0, 1)),
        ([(BOX, 0.9)], [(BOX, 0.2)], (1, 0, 0)),
        ([(BOX, 0.9)], [(BOX, 0.19)], (0, 1, 0)),
        ([(BOX, 0.19)], [(BOX, 0.9)], (0, 0, 1)),
        ([(BOX, 0.9), (OTHER, 0.8)], [(FAR, 0.9), (BOX, 0.3)], (1, 1, 1)),
        ([(BOX, 0.9)], [((0, 0, 10, 4.9), 0.9)], (0, 1, 1)),
    ],
)
def test_objects_that_two_networks_find_are_counted_at_the_threshold(one, other, counts):
    found = [
        [Detections.of([b for b, _ in boxes], [s for _, s in boxes], FACE)]
        for boxes in (one, other)
    ]
    assert in_common(*found) == dict(zip(('both', 'first', 'second'), counts, strict=True))


@pytest.mark.skipif(not WIDER.is_dir() or not YUNET.is_file(), reason=f'needs {WIDER}')
def test_a_real_detector_still_finds_faces_in_eight_bits():
    photos = load_photos(WIDER, 6)
    model = prepare(YUNET)
    feed = photo_feeds(Candidate(model), photos[:3])
    ranges = measure_ranges(model, feed, 3, 'minmax')
    quality = DetectorQuality(photos, 'boxes')
    wanted = quality.score(Candidate(model))
    assert wanted > 0.2
    for build in (to_explicit, to_integer):
        assert quality.score(Candidate(build(model, ranges, ()))) > 0.85 * wanted
