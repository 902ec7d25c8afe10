import itertools

from ffs_anonymizer.regions.detections import Detections, FACE, PLATE, Regions
from ffs_anonymizer.regions.tracker import advance, backfill, regions, Tracks
from ffs_anonymizer.settings.runtime import TrackerSettings
import numpy as np
import pytest

SETTINGS = TrackerSettings()
MS = 1_000_000
ONES = np.ones(3)
SIZE_WH = (200, 100)


def detections(*boxes, classes=None):
    found = Detections.of(boxes, np.full(len(boxes), 0.9), FACE)
    if classes is not None:
        found = Detections.of(found.xyxy_px, found.scores, classes)
    return found


def run(frames, settings=SETTINGS, scales=ONES):
    """Return the regions of each (stamp in ms, detections)."""
    tracks, results = Tracks.empty(), []
    for stamp_ms, found in frames:
        tracks = advance(tracks, found, stamp_ms * MS, settings)
        results.append(regions(tracks, stamp_ms * MS, settings, scales=scales, size_wh=SIZE_WH))
    return results


def test_nothing_stays_nothing():
    assert [len(r) for r in run([(0, detections()), (33, detections())])] == [0, 0]


def test_a_detection_is_its_region_grown_by_the_scale_of_the_box_side():
    (result,) = run([(0, detections((40, 40, 60, 80)))], scales=np.array([1.5, 1, 1]))
    assert result.xyxy_px.tolist() == [[35, 30, 65, 90]]
    assert result.detected.tolist() == [True]


@pytest.mark.parametrize(
    ('box', 'expected'),
    [
        ((-20, -20, 20, 20), [0, 0, 20, 20]),
        ((180, 80, 220, 120), [180, 80, 200, 100]),
    ],
)
def test_regions_end_at_the_frame(box, expected):
    assert run([(0, detections(box))])[0].xyxy_px.tolist() == [expected]


def test_ids_are_stable_while_faces_cross_the_order_of_detection():
    a, b = (10, 10, 30, 30), (100, 10, 120, 30)
    first, second = run([(0, detections(a, b)), (33, detections(b, a))])
    assert dict(zip(first.track_ids, first.xyxy_px[:, 0], strict=True)) == dict(
        zip(second.track_ids, second.xyxy_px[:, 0], strict=True)
    )


def test_a_moving_face_keeps_its_id():
    frames = [(33 * i, detections((10 + 8 * i, 20, 40 + 8 * i, 50))) for i in range(10)]
    assert [r.track_ids.tolist() for r in run(frames)] == [[0]] * 10


def test_a_plate_does_not_continue_a_face():
    box = (10, 10, 30, 30)
    _, second = run([(0, detections(box)), (33, detections(box, classes=[PLATE]))])
    assert sorted(second.track_ids.tolist()) == [0, 1]


def test_a_gap_is_covered_for_max_gap_ms_and_no_longer():
    frames = [(0, detections((40, 40, 60, 60)))] + [(t, detections()) for t in (200, 400, 401)]
    results = run(frames, TrackerSettings(max_gap_ms=400.0, growth_per_s=1.0))
    assert [len(r) for r in results] == [1, 1, 1, 0]
    assert results[1].detected.tolist() == [False]
    assert results[1].xyxy_px.tolist() == [[38, 38, 62, 62]]
    assert results[2].xyxy_px.tolist() == [[36, 36, 64, 64]]


def test_a_gap_covers_where_the_face_was_and_where_it_goes():
    frames = [(100 * i, detections((20 + 10 * i, 40, 40 + 10 * i, 60))) for i in range(6)]
    last = run([*frames, (700, detections())], TrackerSettings(growth_per_s=0.0))[-1]
    x0, _, x1, _ = last.xyxy_px[0]
    assert x0 <= 70
    assert x1 >= 90 + 15


def test_without_gaps_covered_ids_are_stable_all_the_same():
    box = (10, 10, 30, 30)
    results = run(
        [(0, detections(box)), (33, detections()), (66, detections(box))],
        TrackerSettings(max_gap_ms=0.0),
    )
    assert [r.track_ids.tolist() for r in results] == [[0], [], [0]]


def test_time_that_runs_backwards_ends_nothing():
    results = run([(5000, detections((10, 10, 30, 30))), (0, detections())])
    assert [len(r) for r in results] == [1, 1]


def test_a_smaller_detection_uncovers_nothing_at_once():
    whole, part = (40, 5, 140, 95), (60, 30, 120, 90)
    frames = [(0, detections(whole))] + [(33 * i, detections(part)) for i in range(1, 40)]
    widths = []
    for result in run(frames):
        (box,) = result.xyxy_px
        assert len(result) == 1
        widths.append(float(box[2] - box[0]))
    assert widths[1] > 95
    steps = [b / a for a, b in itertools.pairwise(widths)]
    assert min(steps) > 1 - 1.5 * 0.033
    assert widths[-1] == 60


def test_what_moves_steadily_is_covered_as_it_is_found():
    frames = [(33 * i, detections((20 + 4 * i, 10, 50 + 4 * i, 50))) for i in range(30)]
    last = run(frames)[-1]
    assert np.allclose(last.xyxy_px, [[136, 10, 166, 50]], atol=1)


def test_regions_check_their_shapes():
    with pytest.raises(ValueError, match='Regions: got shapes'):
        Regions(*(np.zeros(shape) for shape in ((1, 4), 1, 1, 1, 1, 2, (1, 5, 2), (1, 4))))


def test_backfill_covers_a_new_face_in_the_frames_before():
    box = (80, 40, 100, 60)
    frames = [(0, detections()), (100, detections()), (200, detections()), (300, detections(box))]
    results = run(frames)
    pending = [(t * MS, r) for (t, _), r in zip(frames[:3], results[:3], strict=True)]
    settings = TrackerSettings(look_ahead_ms=200.0, growth_per_s=1.0)
    filled = backfill(pending, (300 * MS, results[3]), settings, scales=ONES, size_wh=SIZE_WH)
    assert [len(r) for r in filled] == [0, 1, 1]
    assert filled[1].xyxy_px.tolist() == [[78, 38, 102, 62]]
    assert filled[2].xyxy_px.tolist() == [[79, 39, 101, 61]]
    assert filled[2].track_ids.tolist() == results[3].track_ids.tolist()
    assert filled[2].detected.tolist() == [False]


def test_backfill_leaves_known_faces_and_zero_look_ahead_alone():
    box = (80, 40, 100, 60)
    frames = [(0, detections(box)), (100, detections(box))]
    first, second = run(frames)
    for settings in (SETTINGS, TrackerSettings(look_ahead_ms=0.0)):
        (filled,) = backfill(
            [(0, first)], (100 * MS, second), settings, scales=ONES, size_wh=SIZE_WH
        )
        assert filled is first or len(filled) == 1
    (filled,) = backfill(
        [(0, Regions.empty())],
        (100 * MS, second),
        TrackerSettings(look_ahead_ms=0.0),
        scales=ONES,
        size_wh=SIZE_WH,
    )
    assert len(filled) == 0


def test_a_region_all_but_out_of_the_frame_is_none():
    """In float32 its left edge would be the frame's right one."""
    tracks = Tracks(
        np.array([[1939.99997, 500.0]]),
        np.array([[40.0, 60.0]]),
        np.zeros((1, 2)),
        np.array([[1919.99997, 470.0, 1959.99997, 530.0]]),
        np.array([0]),
        np.array([FACE], np.int8),
        np.array([0.9], np.float32),
        np.array([0.9], np.float32),
        np.full((1, 5, 2), np.nan, np.float32),
        np.array([0]),
        1,
    )
    assert len(regions(tracks, 0, SETTINGS, scales=ONES, size_wh=(1920, 1080))) == 0
    assert len(regions(tracks, 0, SETTINGS, scales=ONES, size_wh=(1921, 1080))) == 1


def test_a_region_is_its_ungrown_box_grown_predicted_or_not():
    scales = np.array([1.5, 1.25, 1])
    frames = [(0, detections((40, 40, 60, 80))), (100, detections((50, 40, 70, 80)))]
    results = run([*frames, (200, detections())], scales=scales)
    assert results[0].ungrown_xyxy_px.tolist() == [[40, 40, 60, 80]]
    assert results[2].detected.tolist() == [False]
    (before,) = backfill(
        [(0, Regions.empty())], (100 * MS, results[1]), SETTINGS, scales=scales, size_wh=SIZE_WH
    )
    for result in (*results, before):
        again = result.grown(scales, SIZE_WH)
        assert again.xyxy_px.tolist() == result.xyxy_px.tolist()
        x0, y0, x1, y1 = result.ungrown_xyxy_px[0].tolist()
        width, height = (x1 - x0) * 0.25, (y1 - y0) * 0.25
        grown = [x0 - width, max(y0 - height, 0), x1 + width, min(y1 + height, 100)]
        assert result.xyxy_px[0].tolist() == pytest.approx(grown, abs=1e-4)
