from types import SimpleNamespace

import cv2
from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.clouds.projection import (
    CameraModel,
    CameraView,
    cover,
    grown,
    left_in,
    Transforms,
)
from ffs_anonymizer.errors import ImageError
import numpy as np
import pytest
from support.clouds import camera_info, cloud_message, FLOAT32, transform, UINT16, XYZ_RGB
from support.messages import with_data

SIZE_WH = (640, 480)
REGION = np.array([[250.0, 150.0, 390.0, 330.0]])
S = 10**9
# From x forward, y left, z up to x right, y down, z forward.
OPTICAL = (-0.5, 0.5, -0.5, 0.5)
TO_CAMERA = np.linalg.inv(
    np.array([[0, 0, 1, 0.1], [-1, 0, 0, -0.05], [0, -1, 0, 0.2], [0, 0, 0, 1.0]])
)
LENSES = {
    'pinhole': camera_info(),
    'plumb_bob': camera_info(d=(-0.25, 0.08, 0.001, -0.002, 0.0)),
    'rational_polynomial': camera_info(
        model='rational_polynomial', d=(0.1, -0.2, 0.001, 0.001, 0.05, 0.02, -0.1, 0.02)
    ),
    'equidistant': camera_info(model='equidistant', d=(0.02, -0.01, 0.003, 0.0)),
}
EVERY_LENS = pytest.mark.parametrize('info', LENSES.values(), ids=LENSES)


def camera(info=LENSES['pinhole'], **changes):
    return CameraModel.of(SimpleNamespace(**{**vars(info), **changes}), is_rectified=False)


def seen_at(model, points, size_wh=SIZE_WH):
    pixels, depth = model.project(np.array(points, float), np.eye(4), size_wh)
    return pixels, depth, np.isfinite(pixels).all(1)


@EVERY_LENS
def test_the_same_as_opencv(info):
    points = np.random.default_rng(0).uniform((-0.5, -0.4, 1), (0.5, 0.4, 1), (200, 3))
    model, zero = camera(info), np.zeros(3)
    if model.is_fisheye:
        expected = cv2.fisheye.distortPoints(points[None, :, :2], model.matrix, model.distortion)
    else:
        expected, _ = cv2.projectPoints(points, zero, zero, model.matrix, model.distortion)
    assert seen_at(model, points)[0] == pytest.approx(expected.reshape(-1, 2) + 0.5)


@EVERY_LENS
def test_place_is_the_inverse_of_project(info):
    rng = np.random.default_rng(0)
    pixels, depth = rng.uniform(5, 475, (50, 2)), rng.uniform(0.3, 20, 50)
    points = camera(info).place(pixels, depth, TO_CAMERA, SIZE_WH)
    again, away = camera(info).project(points, TO_CAMERA, SIZE_WH)
    assert np.abs(again - pixels).max() < 0.05
    assert np.allclose(away, depth)


@EVERY_LENS
def test_the_middle_and_what_is_not_seen(info):
    points = np.array(
        [[0, 0, 1], [0, 0, -1], [0, 0, 0], [9, 0, 1], [0, -9, 1], [np.nan] * 3, [0, 0, 1e-9]],
        float,
    )
    pixels, depth, seen = seen_at(camera(info), points)
    assert seen.tolist() == [True] + [False] * 6
    assert pixels[0] == pytest.approx([320, 240])
    assert depth[0] == 1


def test_far_outside_no_lens_folds_points_back_into_the_picture():
    """This polynomial has its greatest value within what lies in front of the camera."""
    x = np.linspace(1.5, 30, 200)
    points = np.stack([x, np.zeros_like(x), np.ones_like(x)], axis=1)
    assert not seen_at(camera(LENSES['plumb_bob']), points)[2].any()


def test_a_picture_of_another_size_than_the_calibration():
    point = np.array([[0.1, 0.05, 1.0]])
    full, half = (seen_at(camera(), point, size)[0][0] for size in (SIZE_WH, (320, 240)))
    assert half == pytest.approx(full / 2)


def test_binning_and_region_of_interest():
    point = np.array([[0.1, 0.05, 1.0]])
    roi = SimpleNamespace(x_offset=200, y_offset=100, width=320, height=240)
    part = camera(roi=roi)
    assert part.size_wh == (320, 240)
    full = seen_at(camera(), point)[0][0]
    assert seen_at(part, point, (320, 240))[0][0] == pytest.approx(full - [200, 100])
    binned = camera(binning_x=2, binning_y=2)
    assert binned.size_wh == (320, 240)
    assert seen_at(binned, point, (320, 240))[0][0] == pytest.approx(full / 2, abs=0.3)


def test_the_second_camera_of_a_rectified_pair():
    info = camera_info(d=(-0.3, 0.1, 0.0, 0.0, 0.0))
    info.p[3] = -525.0 * 0.1
    point = np.array([[0.1, 0.0, 1.0]])
    right = CameraModel.of(info, is_rectified=True)
    pixels = seen_at(right, point)[0]
    assert pixels[0] == pytest.approx([320, 240])
    assert right.place(pixels, np.ones(1), np.eye(4), SIZE_WH) == pytest.approx(point)


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'k': [0.0] * 9}, 'calibrate'),
        ({'k': [np.nan] * 9}, 'calibrate'),
        ({'d': [0.1] * 14}, 'tilted'),
        ({'distortion_model': 'thin_fisheye', 'd': [0.1]}, "'thin_fisheye', expected one of"),
    ],
)
def test_cameras_that_say_too_little(changes, text):
    with pytest.raises(ImageError, match=text):
        camera(**changes)


def transforms():
    buffer = Transforms()
    for seconds, x in ((10, 0.0), (11, 1.0)):
        buffer.add(transform('map', 'base', (x, 0, 0), stamp_ns=seconds * S), is_static=False)
    buffer.add(transform('/base', 'lidar', (0, 0, 2)), is_static=True)
    buffer.add(transform('base', 'camera', (1, 0, 0), OPTICAL), is_static=True)
    return buffer


def test_a_chain_of_transforms():
    matrix = transforms().lookup('camera', 'lidar', 10 * S)
    # The lidar stands 2 m above and 1 m behind the camera.
    assert matrix @ [5, 0, 0, 1] == pytest.approx([0, -2, 4, 1])


@pytest.mark.parametrize(('at_s', 'x'), [(10, 0), (10.5, 0.5), (11, 1), (11.05, 1), (9.95, 0)])
def test_between_two_stamps(at_s, x):
    matrix = transforms().lookup('map', 'base', int(at_s * S))
    assert matrix[0, 3] == pytest.approx(x)


@pytest.mark.parametrize('at_s', [9, 12])
def test_far_from_every_stamp_nothing_is_known(at_s):
    with pytest.raises(ImageError, match="no transform from 'base' to 'map'"):
        transforms().lookup('map', 'base', at_s * S)
    assert transforms().lookup('camera', 'lidar', at_s * S)[2, 3] == pytest.approx(-1)


def test_rotations_go_the_short_way():
    buffer = Transforms()
    half = np.sqrt(0.5)
    buffer.add(transform('map', 'base', (0, 0, 0), (0, 0, 0, 1), 10 * S), is_static=False)
    buffer.add(transform('map', 'base', (0, 0, 0), (0, 0, -half, -half), 11 * S), is_static=False)
    turned = buffer.lookup('map', 'base', int(10.5 * S)) @ [1, 0, 0, 1]
    assert turned == pytest.approx([half, half, 0, 1])


def test_transforms_that_are_none():
    buffer = Transforms()
    for wrong in (
        transform('a', 'b', (0, 0, 0), (0, 0, 0, 0)),
        transform('a', 'b', (np.nan, 0, 0)),
    ):
        with pytest.raises(ImageError, match='no rotation'):
            buffer.add(wrong, is_static=True)
    with pytest.raises(ImageError, match="from 'b' to 'a'"):
        buffer.lookup('a', 'b', 0)
    buffer.add(transform('a', 'b', (0, 0, 0)), is_static=True)
    buffer.add(transform('b', 'a', (0, 0, 0)), is_static=True)
    with pytest.raises(ImageError, match='circle'):
        buffer.lookup('a', 'b', 0)


def test_a_clock_that_jumps_back_starts_anew():
    buffer = transforms()
    buffer.add(transform('map', 'base', (7, 0, 0), stamp_ns=-60 * S), is_static=False)
    assert buffer.lookup('map', 'base', -60 * S)[0, 3] == 7


def test_grown():
    boxes = np.array([[100.0, 100, 200, 180], [0, 0, 10, 10]])
    assert grown(boxes, 0, SIZE_WH)[0] == pytest.approx([95, 95, 205, 185])
    assert grown(boxes, -50_000_000, SIZE_WH)[0] == pytest.approx([75, 75, 225, 205])
    assert grown(boxes, 50_000_000, SIZE_WH)[1] == pytest.approx([0, 0, 12.5, 12.5])
    assert grown(np.empty((0, 4)), 0, SIZE_WH).shape == (0, 4)


# -- clouds

VIEW = CameraView(camera(), TO_CAMERA, SIZE_WH, REGION)
FIELDS = (*XYZ_RGB, ('ring', 20, UINT16), ('intensity', 24, FLOAT32))


def to_lidar(in_camera):
    matrix = np.linalg.inv(TO_CAMERA)
    return in_camera @ matrix[:3, :3].T + matrix[:3, 3]


def scene(seed=0):
    """
    Return points in the camera's frame and their colours: a wall, a person, and what it hides.

    The last ones are in no camera's view, or were not measured.
    """
    rng = np.random.default_rng(seed)
    rays = np.concatenate(
        [rng.uniform(-0.55, 0.55, (6000, 1)), rng.uniform(-0.4, 0.4, (6000, 1))], 1
    )
    depth = 3 + 0.1 * rays[:, 0] + 0.005 * rng.standard_normal(6000)
    pixels = rays * 525 + [320, 240]
    in_region = ((pixels > REGION[0, :2] + 2) & (pixels < REGION[0, 2:] - 2)).all(1)
    head = in_region & (rng.random(6000) < 0.7)
    depth[head] = 1 + 0.05 * rng.standard_normal(head.sum())
    points = np.concatenate([rays, np.ones((6000, 1))], 1) * depth[:, None]
    points[-5:] = [[0, 0, -3], [5, 0, 1], [np.nan] * 3, [0, 0, -1], [-9, 0, 2]]
    head[-5:] = in_region[-5:] = False
    pixels[-5:] = np.nan
    colours = rng.integers(90, 110, (6000, 3)).astype(np.uint8)
    return points, colours, head, in_region


def message(points, colours, **layout):
    count = len(points)
    others = {'ring': np.arange(count)[None], 'intensity': points[None, :, 2]}
    return cloud_message(
        to_lidar(points)[None], colours[None], fields=FIELDS, others=others, **layout
    )


def covered(msg, geometry='flatten', views=(VIEW,)):
    return with_data(msg, bytes(cover(Cloud(msg), views, geometry)))


def rows(msg):
    return (
        np.frombuffer(msg.data, np.uint8)
        .reshape(msg.height, -1)[:, : msg.width * msg.point_step]
        .reshape(-1, msg.point_step)
    )


@pytest.mark.parametrize('geometry', ['keep', 'flatten', 'drop'])
@pytest.mark.parametrize('bigendian', [False, True])
def test_what_is_outside_keeps_every_byte(geometry, bigendian):
    points, colours, _, in_region = scene()
    msg = message(points, colours, bigendian=bigendian, padding=3)
    same = (rows(msg) == rows(covered(msg, geometry))).all(1)
    margin = ~in_region
    margin[-5:] = False
    on_the_edge = ~same & margin
    assert on_the_edge.sum() < 60
    assert not same[in_region].any()


@pytest.mark.parametrize('geometry', ['flatten', 'drop'])
def test_no_bit_of_what_is_inside_comes_out(geometry):
    points, colours, head, in_region = scene()
    rng = np.random.default_rng(1)
    other, tinted = points.copy(), colours.copy()
    other[head] *= rng.uniform(0.9, 1.1, (head.sum(), 1))
    tinted[in_region] = rng.integers(0, 256, (in_region.sum(), 3))
    one, two = message(points, colours), message(other, tinted)
    assert one.data != two.data
    assert covered(one, geometry).data == covered(two, geometry).data


def test_the_head_lies_on_the_wall_now():
    points, colours, head, _ = scene()
    flat, _ = Cloud(covered(message(points, colours))).positions()
    in_camera = flat[0] @ TO_CAMERA[:3, :3].T + TO_CAMERA[:3, 3]
    assert np.abs(in_camera[head, 2] - 3).max() < 0.15
    assert 0.002 < (in_camera[head, 2] - 3 - 0.1 * in_camera[head, 0] / 3).std() < 0.02
    pixels, _, seen = seen_at(camera(), in_camera[head])
    assert seen.all()
    assert (pixels >= REGION[0, :2] - 0.1).all()
    assert (pixels <= REGION[0, 2:] + 0.1).all()
    # Evenly: each half of the region has as many.
    left = (pixels[:, 0] < 320).mean()
    assert left == pytest.approx(0.5, abs=0.05)


def test_colours_in_the_region_are_those_around_it():
    points, colours, _, in_region = scene()
    colours[in_region] = [0, 0, 255]
    new = Cloud(covered(message(points, colours))).colours()[0]
    assert np.abs(new[in_region].astype(int) - 100).max() < 8


def test_what_a_head_hides_stays_where_it_is():
    points, colours, head, in_region = scene()
    behind = in_region & ~head
    flat, _ = Cloud(covered(message(points, colours))).positions()
    moved = np.linalg.norm(flat[0] - to_lidar(points), axis=1)
    assert np.median(moved[head]) > 0.5
    assert (moved[behind] < 1e-6).mean() > 0.5


def test_colours_that_no_camera_sees_do_not_pass():
    points, colours, _, _ = scene()
    out = covered(message(points, colours))
    assert (Cloud(out).colours()[0, -5:] == 0).all()
    assert (rows(out)[-5:, 20:22] == rows(message(points, colours))[-5:, 20:22]).all()
    elsewhere = CameraView(VIEW.camera, TO_CAMERA, SIZE_WH, np.empty((0, 4)))
    assert (
        rows(covered(message(points, colours), views=(elsewhere,)))[:, :20]
        == rows(message(points, colours))[:, :20]
    ).all()


def test_a_cloud_without_colours_keeps_what_no_camera_sees():
    points, _, head, _ = scene()
    fields = (*XYZ_RGB[:3], ('intensity', 12, FLOAT32))
    msg = cloud_message(
        to_lidar(points)[None], None, fields=fields, others={'intensity': points[None, :, 2]}
    )
    out = covered(msg)
    same = (rows(msg) == rows(out)).all(1)
    assert same[[-5, -4, -2, -1]].all()
    assert not same[-3]
    assert (rows(out)[head, 12:16] == 0).all()


def test_dropped_points_are_nan():
    points, colours, head, _ = scene()
    known = Cloud(covered(message(points, colours), 'drop')).positions()[1][0]
    assert not known[head].any()
    assert known.mean() > 0.85


def test_with_too_little_around_the_points_are_dropped():
    points, colours, head, _ = scene()
    out = covered(message(points[head], colours[head]))
    assert np.isnan(Cloud(out).positions()[0]).all()
    assert (Cloud(out).colours() == 0).all()


@pytest.mark.parametrize('count', [0, 1])
def test_empty_clouds(count):
    msg = message(*(part[:count] for part in scene()[:2]))
    assert len(covered(msg).data) == len(msg.data)


@pytest.mark.parametrize(
    ('geometry', 'expected'), [('keep', (1, 0)), ('flatten', (0, 0)), ('drop', (0, 0))]
)
def test_what_is_left_of_points_and_colours(geometry, expected):
    points, colours, _, _ = scene()
    msg = message(points, colours)
    elsewhere = CameraView(VIEW.camera, TO_CAMERA, SIZE_WH, np.array([[0.0, 0, 100, 100]]))
    after = Cloud(covered(msg, geometry))
    (shape, shades), untouched = left_in(Cloud(msg), after, [VIEW, elsewhere])
    assert (shape, shades) == pytest.approx(expected, abs=0.05)
    assert untouched == (1, 1)
    assert left_in(Cloud(msg), Cloud(msg), [VIEW]) == [(1, 1)]
    nowhere = CameraView(VIEW.camera, TO_CAMERA, SIZE_WH, np.array([[9.0, 9, 9, 9]]))
    assert left_in(Cloud(msg), after, [nowhere]) == [(0, 0)]


def test_two_cameras():
    points, colours, head, _ = scene()
    other = CameraView(VIEW.camera, TO_CAMERA, SIZE_WH, np.array([[0.0, 0, 100, 100]]))
    both = Cloud(covered(message(points, colours), 'drop', (VIEW, other))).positions()[1][0]
    pixels = points[:, :2] / points[:, 2:] * 525 + [320, 240]
    in_other = (pixels[:-5] < 99).all(1)
    assert in_other.any()
    assert not both[:-5][in_other].any()
    assert not both[head].any()
