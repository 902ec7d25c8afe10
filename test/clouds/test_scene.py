from types import SimpleNamespace

from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.clouds.scene import info_topic, Link, Scene
from ffs_anonymizer.errors import ImageError, SettingsError
from ffs_anonymizer.frames.upright import Turn
from ffs_anonymizer.regions.detections import Regions
import numpy as np
import pytest
from support.clouds import camera_info, cloud_message, header, points_from, transform
from support.messages import with_data

IMAGE, INFO = '/camera/color/image_raw', '/camera/color/camera_info'
LINKS = [Link.parse(f'/points {IMAGE}')]
S, MS = 10**9, 10**6
REGION = Regions.of_zones(np.array([[30, 20, 60, 50]], np.float32))
SIZE_WH = (96, 64)


def scene():
    known = Scene(max_gap_ms=100)
    known.add_info(INFO, camera_info(SIZE_WH, focal=100))
    static = SimpleNamespace(transforms=[transform('base', 'camera', (0, 0, 0))])
    known.add_transforms(static, is_static=True)
    known.add_regions(IMAGE, 5 * S, SIZE_WH, REGION)
    return known


def cloud():
    depth = np.full((64, 96), 2.0)
    depth[20:50, 30:60] = 1.0
    msg = cloud_message(points_from(depth, 100), np.full((64, 96, 3), 99, np.uint8))
    msg.header = header('base', 5 * S)
    return msg


def depth_image(width=96, height=64):
    samples = np.full((height, width), 2000, '<u2')
    samples[20:50, 30:60] = 1000
    return SimpleNamespace(
        width=width,
        height=height,
        encoding='16UC1',
        is_bigendian=0,
        step=2 * width,
        data=samples.tobytes(),
    )


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/points /front/image_raw', ('/points', '/front/image_raw', '/front/camera_info')),
        ('/p* /a/image/compressed', ('/p*', '/a/image/compressed', '/a/camera_info')),
        ('/points /a/image /b/info', ('/points', '/a/image', '/b/info')),
    ],
)
def test_links(text, expected):
    link = Link.parse(text)
    assert (link.topics, link.image, link.info) == expected
    assert link.fits('/points')
    assert not link.fits('/other')


@pytest.mark.parametrize('text', ['', '/points', '/a /b /c /d'])
def test_links_that_are_none(text):
    with pytest.raises(SettingsError, match='expected `<topic or glob> <image topic>'):
        Link.parse(text)


def test_info_topic():
    assert info_topic('/image') == '/camera_info'


def test_a_cloud_is_hidden():
    data, count = scene().hide_in_cloud(cloud(), LINKS, 'flatten', 5 * S)
    assert count == 1
    points, known = Cloud(with_data(cloud(), bytes(data))).positions()
    assert known.all()
    assert points[..., 2].min() > 1.9


def test_a_depth_image_is_hidden():
    data, count = scene().hide_in_depth(depth_image(), LINKS, 'flatten', 5 * S)
    assert count == 1
    assert (np.frombuffer(data, '<u2') == 2000).all()


def test_the_margin_grows_with_the_time_apart():
    def dropped(stamp_ns):
        data, _ = scene().hide_in_depth(depth_image(), LINKS, 'drop', stamp_ns)
        return int((np.frombuffer(data, '<u2') == 0).sum())

    assert dropped(5 * S) == 34 * 34
    assert dropped(5 * S + 50 * MS) == dropped(5 * S - 50 * MS) == 46 * 46


@pytest.mark.parametrize('kind', ['hide_in_cloud', 'hide_in_depth'])
def test_without_a_picture_near_in_time_there_is_no_output(kind):
    msg = cloud() if kind == 'hide_in_cloud' else depth_image()
    with pytest.raises(ImageError, match='101 ms away, expected at most 100 ms'):
        getattr(scene(), kind)(msg, LINKS, 'flatten', 5 * S + 101 * MS)
    with pytest.raises(ImageError, match='no anonymized picture of /camera/color/image_raw'):
        getattr(Scene(100), kind)(msg, LINKS, 'flatten', 5 * S)
    with pytest.raises(ImageError, match='got no camera'):
        getattr(scene(), kind)(msg, [], 'flatten', 5 * S)


def test_the_nearest_picture_counts():
    known = scene()
    known.add_regions(IMAGE, 5 * S + 40 * MS, SIZE_WH, Regions.empty())
    known.add_regions(IMAGE, 5 * S - 40 * MS, SIZE_WH, Regions.empty())
    for at_ms, expected in ((0, 1), (19, 1), (21, 0), (-21, 0), (130, 0)):
        _, count = known.hide_in_depth(depth_image(), LINKS, 'drop', 5 * S + at_ms * MS)
        assert count == expected, at_ms


def test_regions_in_the_pixels_of_what_shows_the_same():
    half = scene().regions_at(IMAGE, 5 * S, (48, 32))
    assert half.xyxy_px.tolist() == [[15, 10, 30, 25]]
    later = scene().regions_at(IMAGE, 5 * S + 50 * MS, SIZE_WH)
    assert later.xyxy_px.tolist() == [[24, 14, 66, 56]]
    with pytest.raises(ImageError, match='48x48 pixels beside a picture of 96x64'):
        scene().regions_at(IMAGE, 5 * S, (48, 48))
    with pytest.raises(ImageError, match='no anonymized picture'):
        scene().regions_at('/other', 5 * S, SIZE_WH)


@pytest.mark.parametrize('rotation', [0, 90, 180, 270])
def test_cameras_that_hang_turned(rotation):
    turn = Turn.of(1, rotation)
    width, height = (64, 96) if turn.transpose else (96, 64)
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[20:50, 30:60] = 255
    upright = np.argwhere(turn.apply(stored)[..., 0])
    (y0, x0), (y1, x1) = upright.min(0), upright.max(0) + 1
    known = Scene(max_gap_ms=100)
    boxes = np.array([[x0, y0, x1, y1]], np.float32)
    known.add_regions(IMAGE, 5 * S, (width, height), Regions.of_zones(boxes), turn)
    data, _ = known.hide_in_depth(depth_image(), LINKS, 'flatten', 5 * S)
    assert (np.frombuffer(data, '<u2') == 2000).all()


def test_ready_once_a_later_picture_is_known():
    known = scene()
    assert known.is_ready(LINKS, 5 * S)
    assert known.is_ready(LINKS, 5 * S - 1)
    assert not known.is_ready(LINKS, 5 * S + 1)
    assert not known.is_ready([*LINKS, Link.parse('/points /other/image')], 5 * S)


def test_what_is_missing_is_named():
    bare = Scene(100)
    bare.add_regions(IMAGE, 5 * S, SIZE_WH, REGION)
    with pytest.raises(ImageError, match='no camera_info on /camera/color/camera_info'):
        bare.hide_in_cloud(cloud(), LINKS, 'flatten', 5 * S)
    bare.add_info(INFO, camera_info(SIZE_WH))
    with pytest.raises(ImageError, match="no transform from 'base' to 'camera'"):
        bare.hide_in_cloud(cloud(), LINKS, 'flatten', 5 * S)


def test_old_pictures_are_forgotten_and_a_jump_back_starts_anew():
    known = scene()
    known.add_regions(IMAGE, 30 * S, SIZE_WH, REGION)
    with pytest.raises(ImageError, match='25000 ms away'):
        known.hide_in_depth(depth_image(), LINKS, 'drop', 5 * S)
    known.add_regions(IMAGE, 5 * S, SIZE_WH, REGION)
    assert known.hide_in_depth(depth_image(), LINKS, 'drop', 5 * S)[1] == 1
    assert not known.is_ready(LINKS, 6 * S)
