"""Clouds and depth images of a live node; a zone stands for a face."""

from __future__ import annotations

from pathlib import Path
import time
from typing import Any

from ffs_anonymizer.cli.program import main
from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.clouds.scene import Link
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.camera import Camera
from ffs_anonymizer.node.measured import Measured, WAIT_S
from ffs_anonymizer.node.topics import plan
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.settings.parameter_file import to_yaml
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from support.bags import read_bag, T0
from support.clouds import camera_info, cloud_message, points_from
from support.live import BLIND, buffer, image, Live, pixels
from support.sensor_bags import sensor_bag

INSIDE = (slice(8, 24), slice(8, 24))


def depth_m() -> Any:
    depth = np.full((40, 48), 2.0)
    depth[INSIDE] = 1.0
    return depth


def cloud(*, organized: bool = True, stamp: int = 1) -> Any:
    points, colours = points_from(depth_m(), 50), pixels(48, 40, 3)
    if not organized:
        points, colours = points.reshape(1, -1, 3), colours.reshape(1, -1, 3)
    made = cloud_message(points, colours)
    message = PointCloud2(
        height=made.height,
        width=made.width,
        fields=[PointField(**vars(field)) for field in made.fields],
        point_step=made.point_step,
        row_step=made.row_step,
        data=buffer(made.data),
        is_dense=True,
    )
    message.header.frame_id = 'camera_optical'
    message.header.stamp.sec = stamp
    message.header.stamp.nanosec = 123456789
    return message


def depth_image(stamp: int = 1) -> Any:
    data = (depth_m() * 1000).astype('<u2').tobytes()
    message = Image(height=40, width=48, encoding='16UC1', step=96, data=buffer(data))
    message.header.stamp.sec = stamp
    message.header.stamp.nanosec = 123456789
    return message


def info() -> Any:
    made = camera_info((48, 40), focal=50)
    message = CameraInfo(height=40, width=48, distortion_model='plumb_bob', k=made.k, p=made.p)
    message.header.frame_id = 'camera_optical'
    return message


def test_an_organized_cloud_loses_colours_and_shape(live: Live) -> None:
    node = live.blind(cloud_topics=['/points'])
    publisher = live.publisher(PointCloud2, '/points')
    outputs = live.received(PointCloud2, '/anonymized/points')
    live.matched(publisher)
    sent = cloud()

    message = live.pass_one(publisher, sent, outputs)

    assert (message.header, message.fields) == (sent.header, sent.fields)
    assert not message.is_dense
    after = Cloud(message)
    assert (after.colours()[INSIDE] == 0).all()
    assert (after.positions()[0][INSIDE][..., 2] > 1.9).all()
    before = np.frombuffer(sent.data, np.uint8).reshape(40, 48, 32)
    changed = (np.frombuffer(message.data, np.uint8).reshape(40, 48, 32) != before).any(-1)
    changed[INSIDE] = False
    assert not changed.any()
    account = node.accounts()['/points']
    assert (account.received, account.published, account.regions) == (1, 1, 1)
    assert account.latency_p50_ms > 0


def test_depth_waits_for_its_picture(live: Live) -> None:
    node = live.blind('/cam/image', **{'depth.cameras': ['/depth/image /cam/image']})
    pictures, depths = live.publisher(Image, '/cam/image'), live.publisher(Image, '/depth/image')
    outputs = live.received(Image, '/anonymized/depth/image')
    # Nobody subscribes to the picture, which is needed all the same.
    live.matched(pictures, depths)

    depths.publish(depth_image())
    live.spin(0.3)
    assert outputs == []
    assert node.accounts()['/depth/image'].waiting == 1
    pictures.publish(image())
    live.until('the depth image comes out', lambda: outputs)

    after = np.frombuffer(outputs[0].data, '<u2').reshape(40, 48)
    assert (after == 2000).all()
    assert outputs[0].encoding == '16UC1'


def test_a_cloud_in_no_rows_by_its_camera(live: Live) -> None:
    live.blind('/cam/image', cloud_topics=['/lidar'], **{'cloud.cameras': ['/lidar /cam/image']})
    pictures, clouds = live.publisher(Image, '/cam/image'), live.publisher(PointCloud2, '/lidar')
    infos = live.publisher(CameraInfo, '/cam/camera_info')
    outputs = live.received(PointCloud2, '/anonymized/lidar')
    live.matched(pictures, clouds, infos)

    infos.publish(info())
    pictures.publish(image())
    live.spin(0.2)
    message = live.pass_one(clouds, cloud(organized=False), outputs)

    z = Cloud(message).positions()[0][0, :, 2].reshape(40, 48)
    assert (z[INSIDE] > 1.8).all()
    assert (z[:, 30:] == 2).all()


def test_a_registered_cloud_takes_the_regions_of_its_picture(live: Live) -> None:
    node = live.blind(
        '/cam/image',
        cloud_topics=['/points'],
        mask_zones=['/cam/image 8 8 24 24'],
        **{'cloud.registered': ['/points /cam/image']},
    )
    pictures, clouds = live.publisher(Image, '/cam/image'), live.publisher(PointCloud2, '/points')
    outputs = live.received(PointCloud2, '/anonymized/points')
    live.matched(pictures, clouds)

    clouds.publish(cloud())
    live.spin(0.3)
    assert outputs == []
    pictures.publish(image())
    live.until('the cloud comes out', lambda: outputs)

    after = Cloud(outputs[0])
    assert (after.colours()[INSIDE] == 0).all()
    assert (after.positions()[0][INSIDE][..., 2] > 1.9).all()
    before = np.frombuffer(cloud().data, np.uint8).reshape(40, 48, 32)
    changed = (np.frombuffer(outputs[0].data, np.uint8).reshape(40, 48, 32) != before).any(-1)
    changed[INSIDE] = False
    assert not changed.any()
    assert node.accounts()['/points'].regions == 1


@pytest.mark.parametrize(
    ('topic', 'lines', 'make'),
    [
        ('/points', {}, cloud),
        ('/points', {'cloud.registered': ['/points /cam/image']}, cloud),
        ('/points', {'cloud.cameras': ['/p* /cam/image']}, lambda: cloud(organized=False)),
        ('/depth', {'depth.cameras': ['/depth /cam/image']}, depth_image),
    ],
    ids=['searched itself', 'registered', 'by its camera', 'depth'],
)
def test_a_bag_gives_the_same_bytes(
    live: Live, tmp_path: Path, topic: str, lines: Any, make: Any
) -> None:
    message = make()
    kind = type(message)
    values: dict[str, Any] = {**BLIND, 'image_topics': ['/cam/image'], **lines}
    if topic == '/points':
        values['cloud_topics'] = [topic]
    live.start(**values)
    pictures, others = live.publisher(Image, '/cam/image'), live.publisher(kind, topic)
    infos = live.publisher(CameraInfo, '/cam/camera_info')
    outputs = live.received(kind, f'/anonymized{topic}')
    live.received(Image, '/anonymized/cam/image')
    live.matched(pictures, others)
    infos.publish(info())
    live.spin(0.2)
    pictures.publish(image())
    after = live.pass_one(others, message, outputs)

    types = {
        '/cam/image': 'sensor_msgs/msg/Image',
        '/cam/camera_info': 'sensor_msgs/msg/CameraInfo',
        topic: 'sensor_msgs/msg/' + kind.__name__,
    }
    rows = [
        ('/cam/camera_info', T0, serialize_message(info())),
        ('/cam/image', T0 + 1, serialize_message(image())),
        (topic, T0 + 2, serialize_message(message)),
    ]
    source = sensor_bag(tmp_path / 'in', rows, types)
    config = tmp_path / 'config.yaml'
    config.write_text(to_yaml(Settings().updated(values)))
    assert (
        main(['bag', '-i', str(source), '-o', str(tmp_path / 'out'), '--config', str(config)]) == 0
    )
    (record,) = (r for r in read_bag(tmp_path / 'out').records if r.topic == topic)
    from_bag = deserialize_message(record.data, kind)

    assert bytes(from_bag.data) == bytes(after.data) != bytes(message.data)
    assert from_bag == after


def test_a_picture_that_takes_long_is_waited_for() -> None:
    link = Link.parse('/depth /cam')
    picture = Camera('/cam', drop_old=True)
    depth = Camera('/depth', drop_old=False, kind='depth', links=[link])
    waits = Measured(Settings(), [picture, depth])
    depth.put(depth_image())
    picture.put(image())
    assert not waits.is_due(depth)
    time.sleep(WAIT_S + 0.1)
    assert not waits.is_due(depth)
    picture.take()
    assert not waits.is_due(depth)
    picture.count_failed('it is none')
    assert waits.is_due(depth)
    # This one came too late to be waited for.
    picture.put(image())
    assert waits.is_due(depth)


@pytest.mark.parametrize('drop_old', [False, True])
def test_what_is_late_is_dropped_for_what_is_ready(drop_old: bool) -> None:
    depth = Camera('/depth', drop_old=drop_old, kind='depth', links=[Link.parse('/depth /cam')])
    waits = Measured(Settings(), [Camera('/cam', drop_old=True), depth])
    for stamp in (1, 2, 3):
        depth.put(depth_image(stamp))
    assert not waits.is_due(depth)
    assert depth.account().dropped == 0

    waits.scene.add_regions('/cam', 2_123_456_789, (48, 40), Regions.empty())
    assert waits.is_due(depth)
    assert depth.account().dropped == int(drop_old)
    first = depth.take()
    assert first is not None
    assert first.message.header.stamp.sec == (2 if drop_old else 1)


def test_without_a_picture_nothing_comes_out(live: Live) -> None:
    node = live.blind('/cam/image', **{'depth.cameras': ['/depth/image /cam/image']})
    depths = live.publisher(Image, '/depth/image')
    outputs = live.received(Image, '/anonymized/depth/image')
    live.matched(depths)

    depths.publish(depth_image())
    live.until('it is given up', lambda: node.accounts()['/depth/image'].failed == 1)

    assert outputs == []
    assert 'no anonymized picture' in node.accounts()['/depth/image'].last_error


@pytest.mark.parametrize('lines', [{}, {'cloud.registered': ['/points /cam/image']}])
def test_a_cloud_without_points_comes_out_as_it_is(live: Live, lines: Any) -> None:
    node = live.blind('/cam/image', cloud_topics=['/points'], **lines)
    publisher = live.publisher(PointCloud2, '/points')
    pictures = live.publisher(Image, '/cam/image')
    outputs = live.received(PointCloud2, '/anonymized/points')
    live.received(Image, '/anonymized/cam/image')
    live.matched(publisher, pictures)
    empty = cloud()
    empty.height, empty.width, empty.row_step, empty.data = 1, 0, 0, buffer(b'')
    pictures.publish(image())

    after = live.pass_one(publisher, empty, outputs)
    assert (after.header, after.fields, after.width) == (empty.header, empty.fields, 0)
    assert not after.data
    lying = cloud()
    lying.data = buffer(b'')
    publisher.publish(lying)
    live.until('it is counted', lambda: node.accounts()['/points'].failed == 1)
    assert len(outputs) == 1


def test_a_cloud_whose_sizes_lie_does_not_come_out(live: Live) -> None:
    node = live.blind(cloud_topics=['/points'])
    publisher = live.publisher(PointCloud2, '/points')
    outputs = live.received(PointCloud2, '/anonymized/points')
    live.matched(publisher)
    wrong = cloud()
    wrong.width += 1

    publisher.publish(wrong)
    live.until('it is counted', lambda: node.accounts()['/points'].failed == 1)
    good = live.pass_one(publisher, cloud(), outputs)

    assert len(outputs) == 1
    assert good.width == 48


def test_keep_is_said_to_be_weak(live: Live) -> None:
    live.blind(cloud_topics=['/points'], **{'cloud.geometry': 'keep'})
    statuses = live.statuses('/points')
    live.until(
        'the diagnostics tell of it',
        lambda: any('cloud.geometry is keep' in status.message for status in statuses),
    )


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ({'depth.cameras': ['/depth /cam']}, 'got /cam for /depth, expected one of image_topics'),
        ({'depth.cameras': ['/d* /cam'], 'image_topics': ['/cam']}, 'cannot subscribe to'),
        (
            {'cloud_topics': ['/p'], 'cloud.cameras': ['/p /cam']},
            'got /cam for /p, expected one of image_topics: there is none',
        ),
        ({'cloud_topics': ['/a'], 'image_topics': ['/a']}, '/a is named twice'),
        ({'cloud.cameras': ['/p']}, 'expected `<topic or glob> <image topic>'),
        (
            {'cloud_topics': ['/p'], 'cloud.registered': ['/p /cam']},
            'got /cam for /p, expected one of image_topics',
        ),
    ],
)
def test_topics_that_do_not_go_together(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        plan(Settings().updated(values), resolve=str, expand=str)


def test_topics_of_sensors() -> None:
    values = {
        'image_topics': ['/cam/image'],
        'cloud_topics': ['/points', '/lidar'],
        'cloud.cameras': ['/li* /cam/image'],
        'depth.cameras': ['/depth/image /cam/image'],
    }
    topics = plan(Settings().updated(values), resolve=str, expand=str)
    points, lidar = topics.clouds
    assert (points.output, points.links) == ('/anonymized/points', ())
    assert [link.info for link in lidar.links] == ['/cam/camera_info']
    (depth,) = topics.depths
    assert (depth.name, [link.image for link in depth.links]) == ('/depth/image', ['/cam/image'])
    assert [topic.name for topic in topics.infos] == ['/cam/camera_info', '/depth/camera_info']
    assert topics.every == (*topics.images, *topics.infos, points, lidar, depth)
