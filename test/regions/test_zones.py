from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.regions.detections import Detections, FACE, ZONE
from ffs_anonymizer.regions.zones import resolve, Zone
import pytest


@pytest.mark.parametrize(
    'text', ['', '* 1 2 3', '* 1 2 3 4 5', '1 2 3 4', '* 3 2 1 4', '* a b c d', '* 0 0 nan 4']
)
def test_a_zone_that_cannot_be_read_is_refused(text):
    with pytest.raises(SettingsError, match='zone: got .*expected `<topic or glob> x0 y0 x1 y1`'):
        Zone.parse(text)


def test_zones_are_resolved_by_any_name_of_the_stream():
    masks = ('/front 0 0 10 10', 'folder/* 5 5 20 20', '/rear 0 0 1 1')
    zones = resolve(masks, ('folder 0 0 4 4',), ('folder/a.jpg', 'folder'))
    assert zones.masked_xyxy_px.tolist() == [[5, 5, 20, 20]]
    assert zones.ignored_xyxy_px.tolist() == [[0, 0, 4, 4]]
    nothing = resolve(masks, (), ('/other',))
    assert nothing.masked_xyxy_px.shape == nothing.ignored_xyxy_px.shape == (0, 4)
    assert len(nothing.masks((64, 48))) == 0


def test_masks_end_at_the_frame_and_have_no_tracks():
    regions = resolve(('* 50 40 90 90', '* 70 0 80 10'), (), ('/a',)).masks((64, 48))
    assert regions.xyxy_px.tolist() == [[50, 40, 64, 48]]
    assert (regions.classes.tolist(), regions.track_ids.tolist()) == ([ZONE], [-1])


def test_detections_are_left_alone_by_their_centres():
    zones = resolve((), ('* 0 0 10 10',), ('/a',))
    found = Detections.of([(0, 0, 19, 19), (0, 0, 20, 20), (2, 2, 4, 4)], [1, 1, 1], FACE)
    assert zones.left_over(found).xyxy_px.tolist() == [[0, 0, 20, 20]]
    assert len(zones.left_over(Detections.empty())) == 0
