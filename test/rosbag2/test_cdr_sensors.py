from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.rosbag2 import cdr
import numpy as np
import pytest
from support.bags import TYPES
from support.clouds import camera_info, cloud_message, points_from, transform
from support.sensor_bags import CLOUD, cloud_cdr, info_cdr, tf_cdr

STAMP = 5_000_000_007


def cloud(frame='camera'):
    msg = cloud_message(points_from(np.ones((3, 5))), np.full((3, 5, 3), 7, np.uint8))
    return msg, cloud_cdr(msg, STAMP, frame)


@pytest.mark.parametrize('frame', ['', 'a', 'ab', 'abc', 'abcd'])
def test_clouds(frame):
    msg, payload = cloud(frame)
    read = cdr.parse_point_cloud(payload)
    assert (read.stamp_ns, read.header.frame_id) == (STAMP, frame)
    for name in ('height', 'width', 'is_bigendian', 'point_step', 'row_step', 'data'):
        assert getattr(read, name) == getattr(msg, name)
    assert [vars(f) for f in read.fields] == [vars(f) for f in msg.fields]


def test_changed_clouds_say_that_points_may_be_missing():
    msg, payload = cloud()
    changed = cdr.parse_point_cloud(payload).with_data(msg.data[::-1])
    again = TYPES.deserialize_cdr(changed, CLOUD)
    assert bytes(again.data) == msg.data[::-1]
    assert not again.is_dense
    assert TYPES.deserialize_cdr(payload, CLOUD).is_dense
    with pytest.raises(ImageError, match='got 3 bytes of points, expected 480'):
        cdr.parse_point_cloud(payload).with_data(b'abc')


def test_damaged_clouds():
    _, payload = cloud()
    for end in range(4, len(payload)):
        with pytest.raises(ImageError, match='got a message|got .* bytes, expected'):
            cdr.parse_point_cloud(payload[:end])
    with pytest.raises(ImageError, match='expected none'):
        cdr.parse_point_cloud(payload + b'more')
    many = bytearray(payload)
    count_at = payload.index(b'\4\0\0\0', 24)
    many[count_at : count_at + 4] = b'\xff' * 4
    with pytest.raises(ImageError, match='4294967295 fields, expected 1024'):
        cdr.parse_point_cloud(bytes(many))


@pytest.mark.parametrize('d', [(), (0.1, 0.2, 0.3, 0.4, 0.5)])
def test_camera_info(d):
    info = camera_info(d=d, frame='optical')
    read = cdr.parse_camera_info(info_cdr(info, STAMP))
    assert (read.header.stamp_ns, read.header.frame_id) == (STAMP, 'optical')
    for name in ('height', 'width', 'distortion_model', 'binning_x', 'binning_y'):
        assert getattr(read, name) == getattr(info, name)
    for name in 'dkrp':
        assert list(getattr(read, name)) == getattr(info, name)
    assert vars(read.roi) == vars(info.roi)
    with pytest.raises(ImageError, match='expected'):
        cdr.parse_camera_info(info_cdr(info, STAMP)[:-1])


def test_transforms():
    one = transform('map', 'base', (1, 2, 3), (0.5, 0.5, -0.5, 0.5), STAMP)
    two = transform('base', 'camera', (4, 5, 6))
    read = cdr.parse_transforms(tf_cdr(one, two)).transforms
    assert [t.child_frame_id for t in read] == ['base', 'camera']
    assert read[0].header.stamp_ns == STAMP
    assert read[0].header.frame_id == 'map'
    assert list(vars(read[0].transform.translation).values()) == [1, 2, 3]
    assert list(vars(read[0].transform.rotation).values()) == [0.5, 0.5, -0.5, 0.5]
    assert read[1].transform.translation.z == 6
    assert cdr.parse_transforms(tf_cdr()).transforms == ()
    with pytest.raises(ImageError, match='expected'):
        cdr.parse_transforms(tf_cdr(one)[:-4])
