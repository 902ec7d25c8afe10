from types import SimpleNamespace

from ffs_anonymizer.clouds.cloud import Cloud, decode_cloud, GEOMETRIES
from ffs_anonymizer.errors import ImageError
import numpy as np
import pytest
from support.clouds import (  # noqa: I101
    BYTES,
    cloud_message,
    FLOAT32,
    FLOAT64,
    points_from,
    UINT8,
    UINT16,
    UINT32,
    XYZ_RGB,
)
from support.messages import NO_RECTS, scene, with_data

RECT = (30, 20, 60, 50)
RECTS = np.array([RECT], np.int32)
INSIDE = (slice(20, 50), slice(30, 60))
LAYOUTS = {
    'pcl': {},
    'packed': {
        'fields': (
            ('x', 0, FLOAT32),
            ('y', 4, FLOAT32),
            ('z', 8, FLOAT32),
            ('rgba', 12, UINT32),
        ),
        'point_step': 16,
    },
    'odd offsets and rows': {
        'fields': (('rgb', 1, UINT32), ('z', 5, FLOAT64), ('y', 13, FLOAT64), ('x', 21, FLOAT64)),
        'point_step': 31,
        'padding': 13,
    },
    'apart': {
        'fields': (
            ('r', 12, UINT8),
            ('g', 13, UINT8),
            ('b', 14, UINT8),
            ('x', 0, FLOAT32),
            ('y', 4, FLOAT32),
            ('z', 8, FLOAT32),
        ),
        'point_step': 15,
    },
}
EVERY_LAYOUT = pytest.mark.parametrize(
    ('layout', 'bigendian'), [(name, order) for name in LAYOUTS for order in (False, True)]
)


def wall(seed=0):
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:64, :96]
    depth = 1 / (0.5 + 0.001 * u + 0.002 * v) + 0.002 * rng.standard_normal((64, 96))
    return points_from(depth, 100)


def message(points=None, colours=None, **layout):
    return cloud_message(
        wall() if points is None else points, scene() if colours is None else colours, **layout
    )


def anonymized(msg, geometry='flatten', rects=RECTS, in_place=False):
    """Paint the rectangles grey, as the recipe would."""
    frame = decode_cloud(msg, geometry, in_place=in_place)
    for x0, y0, x1, y1 in rects.tolist():
        frame.image_bgr[y0:y1, x0:x1] = 128
    return with_data(msg, bytes(frame.encode(rects)))


def points_of(msg):
    return (
        np.array(msg.data and np.frombuffer(msg.data, np.uint8))
        .reshape(msg.height, msg.row_step)[:, : msg.width * msg.point_step]
        .reshape(msg.height, msg.width, msg.point_step)
    )


@EVERY_LAYOUT
def test_colours_and_points_are_read(layout, bigendian):
    points, colours = wall(), scene()
    points[3, 4] = np.nan
    points[5, 6] = 0
    cloud = Cloud(message(points, colours, bigendian=bigendian, **LAYOUTS[layout]))
    assert cloud.is_coloured
    assert cloud.is_organized
    assert (cloud.colours() == colours).all()
    read, known = cloud.positions()
    assert np.allclose(read, points, equal_nan=True, atol=1e-6)
    assert np.argwhere(~known).tolist() == [[3, 4], [5, 6]]


@EVERY_LAYOUT
@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_every_byte_outside_the_region_is_the_same(layout, bigendian, geometry):
    msg = message(bigendian=bigendian, **LAYOUTS[layout])
    out = anonymized(msg, geometry)
    assert len(out.data) == len(msg.data)
    before, after = points_of(msg), points_of(out)
    changed = (before != after).any(-1)
    assert changed[INSIDE].all()
    changed[INSIDE] = False
    assert not changed.any()


@EVERY_LAYOUT
@pytest.mark.parametrize('geometry', ['flatten', 'drop'])
def test_no_bit_of_what_is_inside_comes_out(layout, bigendian, geometry):
    rng = np.random.default_rng(7)
    points, colours = wall(), scene()
    points[INSIDE] = rng.normal(0, 100, points[INSIDE].shape)
    points[25:30, 35:40] = np.nan
    points[40, 50] = [np.inf, -np.inf, 1e30]
    colours[INSIDE] = rng.integers(0, 256, colours[INSIDE].shape)
    style = {'bigendian': bigendian, **LAYOUTS[layout]}
    assert anonymized(message(points, colours, **style), geometry).data == (
        anonymized(message(**style), geometry).data
    )


def test_not_a_byte_of_a_point_inside_comes_out_that_is_not_written_anew():
    """Neither of padding nor of fields that nobody has heard of."""
    rng = np.random.default_rng(3)
    fields = (*XYZ_RGB, ('intensity', 20, FLOAT32), ('normal_x', 24, FLOAT32))
    one = message(fields=fields, others={'intensity': wall()[..., 2], 'normal_x': wall()[..., 0]})
    noisy = np.frombuffer(one.data, np.uint8).reshape(64, 96, 32).copy()
    noisy[INSIDE] = rng.integers(0, 256, noisy[INSIDE].shape)
    other = with_data(one, noisy.tobytes())
    for geometry in ('flatten', 'drop'):
        assert anonymized(one, geometry).data == anonymized(other, geometry).data


def test_time_and_ring_stay():
    others = {
        'ring': np.arange(64 * 96).reshape(64, 96),
        't': np.arange(64 * 96).reshape(64, 96) * 0.001,
        'label': np.full((64, 96), 7),
    }
    fields = (*XYZ_RGB, ('ring', 20, UINT16), ('t', 22, FLOAT64), ('label', 30, UINT8))
    msg = message(fields=fields, others=others)
    before, after = points_of(msg)[INSIDE], points_of(anonymized(msg))[INSIDE]
    assert (before[..., 20:30] == after[..., 20:30]).all()
    assert (after[..., 30:] == 0).all()


@pytest.mark.parametrize('name', ['rgb', 'rgba'])
@pytest.mark.parametrize('bigendian', [False, True])
def test_new_colours_are_where_readers_look_for_them(name, bigendian):
    fields = (*XYZ_RGB[:3], (name, 12, UINT32))
    out = anonymized(message(fields=fields, bigendian=bigendian))
    packed = np.ndarray((64, 96), '>u4' if bigendian else '<u4', out.data, 12, (96 * 32, 32))
    assert (packed[INSIDE] == (0xFF808080 if name == 'rgba' else 0x808080)).all()


def test_keep_leaves_the_shape():
    fields = (*XYZ_RGB, ('normal_x', 20, FLOAT32), ('intensity', 24, FLOAT32))
    others = {'normal_x': wall()[..., 0], 'intensity': wall()[..., 2]}
    msg = message(fields=fields, others=others)
    before, after = points_of(msg)[INSIDE], points_of(anonymized(msg, 'keep'))[INSIDE]
    assert (before[..., :12] == after[..., :12]).all()
    assert (before[..., 20:24] == after[..., 20:24]).all()
    assert (after[..., 24:] == 0).all()


def test_dropped_points_are_nan():
    points, known = Cloud(anonymized(message(), 'drop')).positions()
    assert np.isnan(points[INSIDE]).all()
    known[INSIDE] = True
    assert known.all()


def test_flattened_points_lie_on_the_wall_with_noise_of_the_sensor():
    points = wall()
    points[INSIDE] *= 0.5
    flat, known = Cloud(anonymized(message(points))).positions()
    away = flat[INSIDE][..., 2] - wall()[INSIDE][..., 2]
    assert known.all()
    assert np.abs(away).max() < 0.03
    bends = np.diff(flat[..., 2], 2, axis=1)
    inside, outside = bends[20:50, 30:58].std(), bends[:18].std()
    assert inside == pytest.approx(outside, rel=0.3)


@pytest.mark.parametrize('hidden', [np.nan, 0.0])
def test_a_region_in_the_middle_of_nothing_is_dropped(hidden):
    points = np.full((64, 96, 3), hidden)
    points[INSIDE] = 1
    flat, _ = Cloud(anonymized(message(points))).positions()
    assert np.isnan(flat[INSIDE]).all()


def test_overlapping_regions_do_not_look_into_each_other():
    rects = np.array([[30, 20, 60, 50], [50, 40, 80, 60], [0, 0, 10, 10]], np.int32)
    rng = np.random.default_rng(1)
    points = wall()
    for x0, y0, x1, y1 in rects.tolist():
        points[y0:y1, x0:x1] = rng.normal(0, 5, (y1 - y0, x1 - x0, 3))
    one = anonymized(message(points), rects=rects).data
    assert one == anonymized(message(), rects=rects).data
    assert np.isfinite(Cloud(with_data(message(), one)).positions()[0]).all()


def test_without_regions_the_bytes_are_the_source():
    msg = message()
    assert decode_cloud(msg, 'flatten').encode(NO_RECTS) == msg.data


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_a_camera_that_hangs_turned(rotation):
    msg = message()
    frame = decode_cloud(msg, 'flatten', rotation=rotation)
    expected = np.rot90(scene(), -rotation // 90)
    assert (frame.image_bgr == expected).all()
    mask = np.zeros((64, 96), bool)
    mask[INSIDE] = True
    upright = np.argwhere(np.rot90(mask, -rotation // 90))
    (y0, x0), (y1, x1) = upright.min(0), upright.max(0) + 1
    frame.image_bgr[y0:y1, x0:x1] = 128
    assert bytes(frame.encode(np.array([[x0, y0, x1, y1]], np.int32))) == anonymized(msg).data


@pytest.mark.parametrize('rects', [NO_RECTS, RECTS])
def test_row_padding_does_not_pass(rects):
    msg = message(padding=5)
    out = np.frombuffer(anonymized(msg, rects=rects).data, np.uint8).reshape(64, -1)
    assert (out[:, -5:] == 0).all()
    assert (out[:20, :-5] == np.frombuffer(msg.data, np.uint8).reshape(64, -1)[:20, :-5]).all()


def test_the_source_is_never_written_to():
    msg = message()
    msg.data = bytearray(msg.data)
    before = bytes(msg.data)
    anonymized(msg)
    assert msg.data == before


@EVERY_LAYOUT
@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('rects', [NO_RECTS, RECTS])
def test_in_place_the_same_comes_out_in_the_bytes_that_came_in(layout, bigendian, geometry, rects):
    msg = message(**LAYOUTS[layout], bigendian=bigendian)
    expected = anonymized(msg, geometry, rects).data
    assert anonymized(msg, geometry, rects, in_place=True).data == expected
    own = bytearray(msg.data)
    assert anonymized(with_data(msg, own), geometry, rects, in_place=True).data == expected == own


def changed(msg, **fields):
    return SimpleNamespace(**{**vars(msg), **fields})


def field(name, offset, datatype, count=1):
    return SimpleNamespace(name=name, offset=offset, datatype=datatype, count=count)


@pytest.mark.parametrize(
    ('wrong', 'text'),
    [
        ({'row_step': 96 * 32 - 1}, 'row_step of 3071 bytes, expected 3072'),
        ({'height': 63}, 'got 196608 bytes of data, expected 193536'),
        ({'height': 1 << 31}, 'got 196608 bytes of data'),
        ({'width': 97}, 'row_step of 3072 bytes, expected 3104'),
        ({'point_step': 0}, 'expected a size'),
        ({'point_step': 19}, "field 'rgb' ends at byte 20, outside of the point"),
        ({'data': b''}, 'got 0 bytes of data'),
        ({'fields': [field('x', 0, 9)]}, "field 'x' has the unknown type 9"),
        ({'fields': [field('x', -1, 7)]}, 'outside of the point'),
        ({'fields': [field('x', 0, 7, 1 << 31)]}, 'outside of the point'),
        ({'fields': []}, 'got fields none, expected x, y and z'),
        ({'fields': [field(n, 0, 5) for n in 'xyz']}, 'expected x, y and z of floating'),
        ({'fields': [field('x', 0, 7), field('x', 4, 7)]}, "two fields 'x'"),
        ({'fields': [field(n, 0, 7) for n in 'xyz']}, 'without colours'),
        ({'fields': [field(n, 0, 7) for n in ('x', 'y', 'z', 'r', 'g', 'b')]}, 'got colours in r'),
        ({'fields': [field('rgb', 0, 2, 3)]}, "'rgb' has 3 numbers"),
        ({'fields': [*(field(n, 0, 7) for n in 'xyz'), field('rgb', 0, 8)]}, 'has 8 bytes'),
        ({'width': 0, 'row_step': 0, 'data': b''}, '0x64 points with colours'),
        ({'height': 0, 'data': b''}, '96x0 points with colours'),
        ({'height': 1, 'width': 96 * 64, 'row_step': 196608}, 'list the camera'),
    ],
)
def test_sizes_that_lie_and_clouds_without_a_picture(wrong, text):
    with pytest.raises(ImageError, match=text):
        decode_cloud(changed(message(), **wrong), 'flatten')


def test_an_unorganized_cloud_is_read():
    msg = message()
    flat = changed(msg, height=1, width=64 * 96, row_step=64 * 96 * 32)
    cloud = Cloud(flat)
    assert not cloud.is_organized
    assert cloud.colours().shape == (1, 64 * 96, 3)


def test_what_is_touched_twice_is_as_what_is_touched_once():
    twice = np.concatenate([RECTS, RECTS])
    assert anonymized(message(), rects=twice).data == anonymized(message()).data


@EVERY_LAYOUT
def test_the_same_as_sensor_msgs_py_reads(layout, bigendian):
    point_cloud2 = pytest.importorskip(
        'sensor_msgs_py.point_cloud2', reason='sensor_msgs_py comes with a ROS installation alone'
    )
    from sensor_msgs.msg import PointCloud2, PointField

    plain = message(bigendian=bigendian, **LAYOUTS[layout])
    msg = PointCloud2(
        height=plain.height,
        width=plain.width,
        fields=[PointField(**vars(f)) for f in plain.fields],
        is_bigendian=bigendian,
        point_step=plain.point_step,
        row_step=plain.row_step,
        data=plain.data,
        is_dense=False,
    )
    if plain.row_step > plain.width * plain.point_step:
        pytest.skip('sensor_msgs_py does not know padded rows')
    ours, _ = Cloud(msg).positions()
    # It swaps the bytes of a message in place.
    read = point_cloud2.read_points(msg, field_names=['x', 'y', 'z'])
    for i, name in enumerate('xyz'):
        assert (np.asarray(read[name]).reshape(64, 96) == ours[..., i]).all()


def test_the_support_writes_every_type():
    assert [BYTES[i + 1] for i in range(8)] == [1, 1, 2, 2, 4, 4, 4, 8]
