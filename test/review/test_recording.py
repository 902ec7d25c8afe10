"""What audit and review look at in bags and videos, frame by frame and any one."""

import cv2
from ffs_anonymizer.review.recording import open_recording
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.bags import jpeg, raw_cdr, Record, Spec, T0, write_bag
from support.clouds import cloud_message, points_from
from support.sensor_bags import CLOUD, cloud_cdr, depth_cdr, IMAGE, sensor_bag
from support.video_bags import video_bag, video_cdr
from support.video_packets import moving, stream


def images(recording):
    return [frame.decode().image_bgr for frame in recording.frames()]


@pytest.mark.parametrize('mode', ['', 'MESSAGE'])
def test_packets_of_a_video_are_pictures_in_order_and_singly(tmp_path, mode):
    pictures = moving(12)
    recording = open_recording(video_bag(tmp_path / 'in', stream(pictures), mode=mode), Settings())
    seen = images(recording)
    for image, picture in zip(seen, pictures, strict=True):
        assert np.abs(image.astype(int) - picture).mean() < 4
    for number in (7, 8, 3, 11, 0):
        assert (recording.frame('/front', number).decode().image_bgr == seen[number]).all()
    assert recording.unseen == {}


def test_packets_without_a_picture_are_passed_over_and_told(tmp_path):
    """The first of a recording that began between two keyframes, and those behind a lost one."""
    packets = stream(moving(16))
    del packets[11]
    recording = open_recording(video_bag(tmp_path / 'in', packets[2:]), Settings())
    frames = list(recording.frames())
    kept_ns = [frame.log_ns for frame in frames]
    assert recording.unseen == {'/front': f'{13 - len(frames)} packets without a picture'}
    assert [frame.number for frame in frames] == [*range(len(frames))]
    recording.take({'/front': kept_ns})
    assert recording.streams == {'/front': kept_ns}
    for frame in frames:
        single = recording.frame('/front', frame.number)
        assert single.log_ns == frame.log_ns
        assert (single.decode().image_bgr == frame.decode().image_bgr).all()


def test_a_video_is_turned_as_its_camera_hangs(tmp_path, film):
    film(tmp_path / 'clip.mkv', moving(4))
    upright = open_recording(tmp_path / 'clip.mkv', Settings())
    turned = open_recording(
        tmp_path / 'clip.mkv', Settings().updated({'rotation': ['clip.mkv 180']})
    )
    for before, after in zip(images(upright), images(turned), strict=True):
        assert (after == np.rot90(before, 2)).all()
    single = turned.frame('clip.mkv', 2).decode().image_bgr
    assert (single == images(turned)[2]).all()
    folder = open_recording(tmp_path, Settings().updated({'rotation': ['clip.mkv 180']}))
    assert (images(folder)[1] == images(turned)[1]).all()


def test_organized_clouds_are_looked_at_and_the_rest_is_named(tmp_path, face_bgr):
    depth = np.full(face_bgr.shape[:2], 2.0)
    points = points_from(depth, 200)
    flat = cloud_message(points.reshape(1, -1, 3), face_bgr.reshape(1, -1, 3))
    colourless = (('x', 0, 7), ('y', 4, 7), ('z', 8, 7))
    grey = cloud_message(points, face_bgr, fields=colourless)
    rows = [
        ('/points', T0, cloud_cdr(cloud_message(points, face_bgr), T0)),
        ('/points', T0 + 1, cloud_cdr(grey, T0 + 1)),
        ('/lidar', T0 + 2, cloud_cdr(flat, T0 + 2)),
        ('/depth', T0 + 3, depth_cdr(depth, T0 + 3)),
        ('/image', T0 + 4, raw_cdr(face_bgr, stamp_ns=T0)),
    ]
    types = {'/points': CLOUD, '/lidar': CLOUD, '/depth': IMAGE, '/image': IMAGE}
    recording = open_recording(sensor_bag(tmp_path / 'in', rows, types), Settings())
    frames = list(recording.frames())
    assert [(frame.stream, frame.number) for frame in frames] == [('/points', 0), ('/image', 0)]
    assert all((frame.decode().image_bgr == face_bgr).all() for frame in frames)
    assert recording.unseen == {
        '/points': '1 clouds without colours',
        '/lidar': '1 clouds whose points lie in no rows and columns, without a camera in '
        'cloud.cameras',
        '/depth': '1 depth images without a camera in depth.cameras',
    }
    recording.take({'/points': [T0]})
    assert recording.streams['/points'] == [T0]


def test_images_of_foxglove_are_looked_at(tmp_path, face_bgr):
    """Whose compressed images have their format behind the data."""
    whole = video_cdr(jpeg(face_bgr), 0)
    data = whole[: -len(b'\x05\0\0\0h264\0')] + b'\x05\0\0\0jpeg\0'
    bag = write_bag(
        tmp_path / 'in',
        [Record('/cam', T0 + i, T0, i, data) for i in range(2)],
        specs=[Spec('/cam', cdr.FOXGLOVE_COMPRESSED_IMAGE)],
    )
    expected = cv2.imdecode(np.frombuffer(jpeg(face_bgr), 'u1'), 1)
    for image in images(open_recording(bag, Settings())):
        assert (image == expected).all()
