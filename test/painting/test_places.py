import dataclasses

from ffs_anonymizer.painting.places import PLAY, steady
from ffs_anonymizer.regions.detections import Detections, FACE, Regions
from ffs_anonymizer.regions.tracker import advance, regions, Tracks
from ffs_anonymizer.settings.runtime import TrackerSettings
import numpy as np

SIZE_WH = (400, 300)
SCALES = np.array([1.2, 1.2, 1.0])
BOX = np.array([100, 80, 172, 180], np.float64)


def found(*boxes: object) -> Regions:
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    ones = np.ones(len(rows))
    tracks = advance(Tracks.empty(), Detections.of(rows, ones, FACE), 0, TrackerSettings())
    return regions(tracks, 0, TrackerSettings(), scales=SCALES, size_wh=SIZE_WH)


def every(now, before):
    return steady(now, before, SIZE_WH, drawn=np.ones(len(now), np.bool_))


def test_what_is_new_stays_as_it_is():
    now = found(BOX, BOX + 190)
    result, places = every(now, {})
    assert result.xyxy_px.tolist() == now.xyxy_px.tolist()
    assert result.ungrown_xyxy_px.tolist() == now.ungrown_xyxy_px.tolist()
    assert sorted(places) == [0, 1]
    nobody, none = every(found(), places)
    assert (len(nobody), none) == (0, {})


def test_a_box_that_trembles_is_drawn_where_it_was():
    rng = np.random.default_rng(0)
    result, places = every(found(BOX), {})
    seen = set()
    for i in range(60):
        result, places = every(found(BOX + rng.uniform(-1, 1, 4)), places)
        if i >= 30:
            seen.add((*result.xyxy_px[0].tolist(), *result.ungrown_xyxy_px[0].tolist()))
    assert len(seen) < 6


def test_points_that_tremble_stay_and_follow_what_moves():
    rng = np.random.default_rng(2)
    points = np.array([[120, 120], [150, 120], [136, 140], [122, 155], [148, 155]], np.float32)
    now = dataclasses.replace(found(BOX), points_px=points[None])
    result, places = every(now, {})
    assert np.array_equal(result.points_px, now.points_px)
    play = 100 * PLAY
    for _ in range(20):
        moved = now.points_px + rng.uniform(-1, 1, (1, 5, 2)).astype(np.float32)
        result, places = every(dataclasses.replace(now, points_px=moved), places)
        assert np.array_equal(result.points_px, now.points_px)
    aside = np.array([1, 0], np.float32)
    turned = dataclasses.replace(now, points_px=now.points_px + 10 * aside)
    result, places = every(turned, places)
    assert np.allclose(result.points_px, now.points_px + (10 - play) * aside)
    unknown, places = every(found(BOX), places)
    assert np.isnan(unknown.points_px).all()
    result, _ = every(now, places)
    assert np.array_equal(result.points_px, now.points_px)


def test_covering_never_shrinks_and_hardly_grows():
    rng = np.random.default_rng(1)
    box, places = BOX.copy(), {}
    for step in rng.normal(0, 4, (300, 4)):
        box = np.clip(box + step, [0, 0, 210, 160], [190, 140, 400, 300])
        now = found(box)
        result, places = every(now, places)
        play = float((box[2:] - box[:2]).max()) * PLAY + 1e-3
        more = (now.xyxy_px - result.xyxy_px)[0] * [1, 1, -1, -1]
        assert more.min() >= 0
        assert more.max() <= play
        assert np.abs(result.ungrown_xyxy_px - now.ungrown_xyxy_px).max() <= play
        assert result.xyxy_px.min() >= 0
        assert (result.xyxy_px[:, 2:] <= SIZE_WH).all()


def test_zones_have_no_past():
    zone = Regions.of_zones(np.array([[0, 0, 50, 50]], np.float32))
    _, places = every(zone, {})
    assert places == {}
    moved = dataclasses.replace(zone, xyxy_px=zone.xyxy_px + 1)
    result, _ = every(moved, {-1: np.zeros((9, 2), np.float32)})
    assert result.xyxy_px.tolist() == [[1, 1, 51, 51]]


def test_what_is_not_drawn_is_covered_where_it_is():
    _, places = every(found(BOX), {})
    now = found(BOX + 1)
    result, after = steady(now, places, SIZE_WH, drawn=np.zeros(1, np.bool_))
    assert result.xyxy_px.tolist() == now.xyxy_px.tolist()
    assert after == {}
