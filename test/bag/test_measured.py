"""Clouds and depth images in bags."""

import json

import cv2
from ffs_anonymizer.clouds import rvl
from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.rosbag2 import cdr
import numpy as np
import pytest
from support.bags import image_of, raw_cdr, read_bag, run, T0
from support.clouds import camera_info, cloud_message, points_from, transform, XYZ_RGB
from support.sensor_bags import (
    CLOUD,
    cloud_cdr,
    COMPRESSED,
    compressed_depth_cdr,
    depth_cdr,
    IMAGE,
    info_cdr,
    sensor_bag,
    tf_cdr,
    TYPES_OF,
)

MS = 10**6
# Where the portrait's face is, for certain.
FACE = (slice(40, 80), slice(75, 115))
# The head lies in such a region whole, not the face alone.
WHOLE_HEAD = ('--set', 'face.region_scale=1.45')
LINKS = (
    *WHOLE_HEAD,
    '--set',
    'depth.cameras=["/depth/* /cam/image"]',
    '--set',
    'cloud.cameras=["/lidar /cam/image"]',
)


def scene(face_bgr):
    """Return the depth of a wall at 2 m with a head at 1 m before it."""
    depth = np.full(face_bgr.shape[:2], 2.0)
    depth[30:100, 65:125] = 1.0
    return depth


def flat_cloud(face_bgr, *, fields=XYZ_RGB):
    """Return the scene as one row of points, in the frame of a lidar that stands aside."""
    points = points_from(scene(face_bgr), 200).reshape(1, -1, 3) - [0.1, 0, 0]
    return cloud_message(points, face_bgr.reshape(1, -1, 3), fields=fields)


def rows(face_bgr, *, lag_ms=0):
    height, width = face_bgr.shape[:2]
    info = camera_info((width, height), focal=200)
    organized = cloud_message(points_from(scene(face_bgr), 200), face_bgr)
    later = T0 + lag_ms * MS
    return [
        ('/tf_static', T0 - 9, tf_cdr(transform('camera', 'lidar', (0.1, 0, 0)))),
        ('/cam/camera_info', T0 - 8, info_cdr(info, T0 - 8)),
        # Before the picture that says where faces are.
        ('/depth/image', T0 + 1, depth_cdr(scene(face_bgr), later)),
        ('/lidar', T0 + 2, cloud_cdr(flat_cloud(face_bgr), later, 'lidar')),
        ('/points', T0 + 3, cloud_cdr(organized, T0)),
        ('/cam/image', T0 + 4, raw_cdr(face_bgr, stamp_ns=T0)),
    ]


def by_topic(records):
    return {record.topic: record.data for record in records}


def depths(data):
    message = image_of(type('R', (), {'data': data}))
    return message.data.view('<u2').reshape(message.height, message.width) / 1000


@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_the_face_is_gone_from_image_depth_and_clouds(tmp_path, face_bgr, mode, capsys):
    before = rows(face_bgr)
    source = sensor_bag(tmp_path / 'in', before, TYPES_OF, mode=mode)

    assert run(source, tmp_path / 'out', *LINKS) == 0

    result = read_bag(tmp_path / 'out').records
    assert [(r.topic, r.log_ns) for r in result] == [row[:2] for row in before]
    after, original = by_topic(result), {topic: data for topic, _, data in before}
    for topic in ('/tf_static', '/cam/camera_info'):
        assert after[topic] == original[topic]
    assert depths(after['/depth/image'])[FACE].min() > 1.8
    assert (depths(after['/depth/image'])[:, :20] == 2).all()
    organized = cdr.parse_point_cloud(after['/points'])
    assert Cloud(organized).positions()[0][FACE][..., 2].min() > 1.8
    assert (Cloud(organized).colours()[FACE] == 0).all()
    lidar = Cloud(cdr.parse_point_cloud(after['/lidar']))
    shape = face_bgr.shape[:2]
    assert lidar.positions()[0][0, :, 2].reshape(shape)[FACE].min() > 1.8
    new = lidar.colours().reshape(*shape, 3)
    assert new[FACE].std() < 0.7 * face_bgr[FACE].std()
    assert (new[:, :20] == face_bgr[:, :20]).all()
    said = capsys.readouterr().out
    assert "hide what its camera's picture hides" in said
    assert 'anonymize the cloud' in said


@pytest.mark.parametrize('code', ['png', 'rvl'])
def test_compressed_depth(tmp_path, face_bgr, code):
    topic = '/depth/image/compressedDepth'
    before = [row for row in rows(face_bgr) if row[0] == '/cam/image']
    before.append((topic, T0 + 5, compressed_depth_cdr(scene(face_bgr), T0, code)))
    source = sensor_bag(tmp_path / 'in', before, {'/cam/image': IMAGE, topic: COMPRESSED})

    assert run(source, tmp_path / 'out', *LINKS) == 0

    message = cdr.parse_compressed_image(by_topic(read_bag(tmp_path / 'out').records)[topic])
    assert message.format == f'16UC1; compressedDepth {code}'
    if code == 'png':
        png = np.frombuffer(message.data, np.uint8)[12:]
        samples = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    else:
        height, width = face_bgr.shape[:2]
        samples = rvl.decode(bytes(message.data)[20:], width * height).reshape(height, width)
    assert samples[FACE].min() > 1800


def test_the_record_counts_what_was_hidden(tmp_path, face_bgr):
    source = sensor_bag(tmp_path / 'in', rows(face_bgr), TYPES_OF)

    assert run(source, tmp_path / 'out', *LINKS) == 0

    record = json.loads(record_of(tmp_path / 'out').read_text())
    streams = record['streams']
    for topic in ('/depth/image', '/lidar'):
        assert (streams[topic]['items'], streams[topic]['methods']) == (1, {'hidden': 1})
    assert streams['/points']['regions'] == {'face': 1}


REGISTERED = ('--set', 'cloud.registered=["/points /cam/image"]')


def test_a_registered_cloud_shows_the_face_of_its_picture(tmp_path, face_bgr):
    before = [row for row in rows(face_bgr) if row[0] in ('/points', '/cam/image')]
    source = sensor_bag(tmp_path / 'in', before, TYPES_OF)

    options = (*REGISTERED, *WHOLE_HEAD, '--set', 'face.method=generate')
    assert run(source, tmp_path / 'out', *options) == 0

    after = by_topic(read_bag(tmp_path / 'out').records)
    picture = image_of(type('R', (), {'data': after['/cam/image']})).data.reshape(face_bgr.shape)
    cloud = Cloud(cdr.parse_point_cloud(after['/points']))
    assert (picture[FACE] != face_bgr[FACE]).any(-1).mean() > 0.9
    assert (cloud.colours() == picture).all()
    assert cloud.positions()[0][FACE][..., 2].min() > 1.8
    streams = json.loads(record_of(tmp_path / 'out').read_text())['streams']
    assert streams['/points'] == {**streams['/cam/image'], 'action': 'anonymize the cloud'}


def test_a_registered_cloud_needs_its_picture(tmp_path, face_bgr, capsys):
    # Its own colours, in which the face would be found, do not count.
    late = rows(face_bgr, lag_ms=500)
    late = [row for row in late if row[0] in ('/points', '/cam/image')]
    organized = cloud_message(points_from(scene(face_bgr), 200), face_bgr)
    late[0] = ('/points', T0, cloud_cdr(organized, T0 + 500 * MS))
    source = sensor_bag(tmp_path / 'in', late, TYPES_OF)

    assert run(source, tmp_path / 'out', *REGISTERED) == 1
    assert '500 ms away, expected at most 100 ms' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()

    assert run(source, tmp_path / 'out', *REGISTERED, '--on-error', 'black') == 1
    after = by_topic(read_bag(tmp_path / 'out').records)
    cloud = Cloud(cdr.parse_point_cloud(after['/points']))
    assert np.isnan(cloud.positions()[0]).all()
    assert (cloud.colours() == 0).all()


def test_a_registered_cloud_of_other_proportions_is_refused(tmp_path, face_bgr, capsys):
    narrow = cloud_message(points_from(scene(face_bgr), 200)[:, :90], face_bgr[:, :90])
    before = [('/points', T0, cloud_cdr(narrow, T0)), ('/cam/image', T0 + 1, raw_cdr(face_bgr))]
    source = sensor_bag(tmp_path / 'in', before, TYPES_OF)

    assert run(source, tmp_path / 'out', *REGISTERED) == 1
    assert 'expected the same proportions' in capsys.readouterr().err


def test_a_registered_cloud_without_points_passes(tmp_path, face_bgr):
    nothing = cloud_message(np.empty((1, 0, 3)), np.empty((1, 0, 3), np.uint8))
    data = cloud_cdr(nothing, T0)
    before = [('/points', T0, data), ('/cam/image', T0 + 1, raw_cdr(face_bgr))]
    source = sensor_bag(tmp_path / 'in', before, TYPES_OF)

    assert run(source, tmp_path / 'out', *REGISTERED) == 0
    assert by_topic(read_bag(tmp_path / 'out').records)['/points'] == data


def test_what_is_hidden_again_by_a_list_is_hidden_alike(tmp_path, face_bgr):
    source = sensor_bag(tmp_path / 'in', rows(face_bgr), TYPES_OF)
    first = tmp_path / 'first.jsonl'
    assert run(source, tmp_path / 'one', *LINKS, '--write-detections', first) == 0

    again = (*LINKS, '--detections', first)
    assert run(source, tmp_path / 'two', *again) == 0
    one, two = (by_topic(read_bag(tmp_path / name).records) for name in ('one', 'two'))
    assert one == two


def test_messages_that_sound_like_clouds_are_told_of(tmp_path, face_bgr, capsys):
    plain = cloud_cdr(flat_cloud(face_bgr, fields=XYZ_RGB[:3]), T0)
    old = 'sensor_msgs/msg/PointCloud'
    both = [('/lidar', T0, plain), ('/old', T0, b'\0\1\0\0old')]
    source = sensor_bag(tmp_path / 'in', both, {'/lidar': CLOUD, '/old': old}, splits=1)

    assert run(source, tmp_path / 'out') == 0

    told = capsys.readouterr().err
    assert 'do they carry pictures? /old (sensor_msgs/msg/PointCloud)' in told
    assert '/lidar' not in told


def test_clouds_without_colours_are_copied(tmp_path, face_bgr):
    plain = flat_cloud(face_bgr, fields=XYZ_RGB[:3])
    data = cloud_cdr(plain, T0)
    source = sensor_bag(tmp_path / 'in', [('/lidar', T0, data)], {'/lidar': CLOUD}, splits=1)

    assert run(source, tmp_path / 'out') == 0

    assert by_topic(read_bag(tmp_path / 'out').records) == {'/lidar': data}


def test_a_cloud_that_gets_colours_later_stops_the_run(tmp_path, face_bgr, capsys):
    plain = cloud_cdr(flat_cloud(face_bgr, fields=XYZ_RGB[:3]), T0)
    coloured = cloud_cdr(flat_cloud(face_bgr), T0)
    both = [('/lidar', T0, plain), ('/lidar', T0 + 1, coloured)]
    source = sensor_bag(tmp_path / 'in', both, {'/lidar': CLOUD}, splits=1)

    assert run(source, tmp_path / 'out') == 1

    assert 'can carry pictures' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_an_unorganized_coloured_cloud_without_a_camera_is_refused(tmp_path, face_bgr, capsys):
    data = cloud_cdr(flat_cloud(face_bgr), T0)
    source = sensor_bag(tmp_path / 'in', [('/lidar', T0, data)], {'/lidar': CLOUD}, splits=1)

    assert run(source, tmp_path / 'out') == 1

    assert 'list the camera' in capsys.readouterr().err
    assert run(source, tmp_path / 'out', '--exclude-topics', '/lidar') == 0
    assert 'with the shape of whoever is in them, and in their colours: /lidar' in (
        capsys.readouterr().err
    )
    assert by_topic(read_bag(tmp_path / 'out').records) == {'/lidar': data}


def test_depth_without_a_camera_is_refused_as_ever(tmp_path, face_bgr, capsys):
    source = sensor_bag(tmp_path / 'in', rows(face_bgr), TYPES_OF)

    assert run(source, tmp_path / 'out', '--drop-topics', '/lidar') == 1

    assert 'name the picture that they are registered to in the setting depth.cameras' in (
        capsys.readouterr().err
    )


def test_a_camera_that_is_not_anonymized_is_refused(tmp_path, face_bgr, capsys):
    source = sensor_bag(tmp_path / 'in', rows(face_bgr), TYPES_OF)

    assert run(source, tmp_path / 'out', *LINKS, '--exclude-topics', '/cam/image') == 2

    assert 'got /cam/image for ' in capsys.readouterr().err


def test_a_measurement_without_a_picture_near_in_time(tmp_path, face_bgr, capsys):
    source = sensor_bag(tmp_path / 'in', rows(face_bgr, lag_ms=500), TYPES_OF)

    assert run(source, tmp_path / 'out', *LINKS) == 1
    assert '500 ms away, expected at most 100 ms' in capsys.readouterr().err

    assert run(source, tmp_path / 'out', *LINKS, '--on-error', 'black') == 1
    assert 'it is blank now' in capsys.readouterr().err
    after = by_topic(read_bag(tmp_path / 'out').records)
    assert (depths(after['/depth/image']) == 0).all()
    lidar = Cloud(cdr.parse_point_cloud(after['/lidar']))
    assert np.isnan(lidar.positions()[0]).all()
    assert (lidar.colours() == 0).all()
    # The cloud that is a picture of its own needs no camera.
    assert (Cloud(cdr.parse_point_cloud(after['/points'])).colours()[:, :20]).any()


@pytest.mark.parametrize('cut', ['row', 'data'])
def test_a_cloud_whose_sizes_lie(tmp_path, face_bgr, capsys, cut):
    msg = cloud_message(points_from(scene(face_bgr), 200), face_bgr)
    if cut == 'row':
        msg.row_step += 1
    else:
        msg.data = msg.data[:-1]
    source = sensor_bag(
        tmp_path / 'in', [('/points', T0, cloud_cdr(msg, T0))], {'/points': CLOUD}, splits=1
    )

    assert run(source, tmp_path / 'out') == 1

    assert 'bytes of data, expected' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_empty_clouds_pass(tmp_path, face_bgr):
    msg = cloud_message(np.empty((1, 0, 3)), np.empty((1, 0, 3), np.uint8))
    data = cloud_cdr(msg, T0)
    full = cloud_cdr(cloud_message(points_from(scene(face_bgr), 200), face_bgr), T0)
    both = [('/points', T0, data), ('/points', T0 + 1, full)]
    source = sensor_bag(tmp_path / 'in', both, {'/points': CLOUD}, splits=1)

    assert run(source, tmp_path / 'out') == 0

    first, second = read_bag(tmp_path / 'out').records
    assert first.data == data
    assert second.data != full
