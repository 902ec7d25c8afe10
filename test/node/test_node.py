from __future__ import annotations

import array
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.frames import video_codecs
from ffs_anonymizer.frames.video_packets import PacketDecoder
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node import diagnostics, service
from ffs_anonymizer.node.service import Service
from ffs_anonymizer.regions.detections_file import DetectionsReader
from ffs_anonymizer.settings.runtime import PARAMETERS, Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.live import BEST_EFFORT, BLIND, buffer, DOMAIN, image, jpeg, Live, RELIABLE
from support.onnx_models import save_hanging_generator
from support.video_packets import moving, stream

pytestmark = pytest.mark.usefixtures('isolated')
ROOT = Path(__file__).resolve().parents[2]
ZONE = (8, 8, 24, 24)


def fields(message: Any) -> tuple[Any, ...]:
    return (
        message.header,
        message.height,
        message.width,
        message.encoding,
        message.is_bigendian,
        message.step,
        len(message.data),
    )


@pytest.mark.parametrize(
    ('encoding', 'channels', 'padding'),
    [('bgr8', 3, 0), ('rgb8', 3, 5), ('bgra8', 4, 0), ('mono8', 1, 3), ('bayer_rggb8', 1, 0)],
)
def test_raw_image_keeps_its_form_and_loses_the_zone(
    live: Live, encoding: str, channels: int, padding: int
) -> None:
    live.blind('/cam/image_raw')
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    live.matched(publisher)
    source = image(encoding, channels, padding=padding)
    output = live.pass_one(publisher, source, outputs)
    assert fields(output) == fields(source)
    before = np.array(source.data, np.uint8).reshape(40, -1)
    # Nobody has looked at what lies between the rows, or in a fourth channel.
    before[:, 48 * channels :] = 0
    before[:, 3 : 48 * channels : 4] = 255 if channels == 4 else before[:, 3 : 48 * channels : 4]
    after = np.array(output.data, np.uint8).reshape(40, -1)
    inside = np.zeros_like(before, bool)
    inside[ZONE[1] : ZONE[3], ZONE[0] * channels : ZONE[2] * channels] = True
    if encoding == 'bayer_rggb8':
        # Replaced as far as a raw sample reaches into the pixels of the zone.
        inside[ZONE[1] - 2 : ZONE[3] + 2, ZONE[0] - 2 : ZONE[2] + 2] = True
    np.testing.assert_array_equal(after[~inside], before[~inside])
    colours = inside if channels < 4 else inside & (np.arange(inside.shape[1]) % 4 < 3)
    assert not after[colours].any()


def test_compressed_image_keeps_its_form_and_loses_the_zone(live: Live) -> None:
    live.blind('/cam/image_raw/compressed')
    publisher = live.publisher(CompressedImage, '/cam/image_raw/compressed')
    outputs = live.received(CompressedImage, '/anonymized/cam/image_raw/compressed')
    live.matched(publisher)
    source = jpeg()
    output = live.pass_one(publisher, source, outputs)
    assert (output.header, output.format) == (source.header, source.format)
    decoded = cv2.imdecode(np.array(output.data, np.uint8), cv2.IMREAD_COLOR)
    x0, y0, x1, y1 = ZONE
    assert decoded[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].max() < 16
    original = cv2.imdecode(np.array(source.data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded[32:].astype(int) - original[32:]).mean() < 4


def test_frame_without_regions_is_passed_on_as_the_same_bytes(live: Live) -> None:
    live.blind('/cam/compressed', mask_zones=['/other 0 0 8 8'])
    publisher = live.publisher(CompressedImage, '/cam/compressed')
    outputs = live.received(CompressedImage, '/anonymized/cam/compressed')
    live.matched(publisher)
    source = jpeg()
    assert live.pass_one(publisher, source, outputs) == source


def test_zones_that_fit_no_camera_are_told_of(
    live: Live, capfd: pytest.CaptureFixture[str]
) -> None:
    live.blind('/cam/compressed', mask_zones=['/cam/* 0 0 8 8', '/kamera/* 1 0 8 8'])
    said = capfd.readouterr().err
    assert "mask_zones: '/kamera/* 1 0 8 8' fits no camera topic of this node" in said
    assert "'/cam/* 0 0 8 8'" not in said
    assert live.set_parameter('ignore_zones', ['/nothing 0 0 8 8']) == (True, '')
    assert "ignore_zones: '/nothing 0 0 8 8' fits no camera topic" in capfd.readouterr().err


def test_face_is_replaced_and_nothing_else(live: Live) -> None:
    data = pytest.importorskip('skimage.data')
    photo = np.ascontiguousarray(data.astronaut()[:320, 60:380, ::-1])
    live.start(image_topics=['/cam/image_raw'])
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    live.matched(publisher)
    source = Image(height=320, width=320, encoding='bgr8', step=960, data=buffer(photo.tobytes()))
    output = live.pass_one(publisher, source, outputs)
    after = np.array(output.data, np.uint8).reshape(photo.shape)
    face = (slice(80, 180), slice(130, 200))
    outside = np.ones(photo.shape[:2], bool)
    outside[10:260, 80:250] = False
    np.testing.assert_array_equal(after[outside], photo[outside])
    assert np.abs(after[face].astype(int) - photo[face]).mean() > 10
    detail = [cv2.Laplacian(picture[face], cv2.CV_32F).std() for picture in (photo, after)]
    assert detail[1] < 0.2 * detail[0]


def test_several_cameras_keep_apart(live: Live) -> None:
    node = live.blind('/front/image_raw', '/rear/image_raw', '/left/image/compressed')
    kinds = {'/front/image_raw': Image, '/rear/image_raw': Image}
    kinds['/left/image/compressed'] = CompressedImage
    publishers = {topic: live.publisher(kind, topic) for topic, kind in kinds.items()}
    outputs = {topic: live.received(kind, f'/anonymized{topic}') for topic, kind in kinds.items()}
    live.matched(*publishers.values())
    for round_ in range(3):
        for index, topic in enumerate(kinds):
            stamp = 10 * index + round_
            make = jpeg if kinds[topic] is CompressedImage else image
            live.pass_one(publishers[topic], make(stamp=stamp), outputs[topic])
    for index, topic in enumerate(kinds):
        assert [m.header.stamp.sec for m in outputs[topic]] == [10 * index + r for r in range(3)]
        assert node.accounts()[topic].published == 3


def test_camera_info_is_passed_on(live: Live) -> None:
    live.blind('/cam/image_raw', '/cam/image_raw/compressed')
    publisher = live.publisher(CameraInfo, '/cam/camera_info')
    outputs = live.received(CameraInfo, '/anonymized/cam/camera_info')
    live.matched(publisher)
    source = CameraInfo(height=40, width=48, distortion_model='plumb_bob', d=[0.1, 0.2])
    source.header = image(stamp=7).header
    assert live.pass_one(publisher, source, outputs) == source
    live.spin(0.2)
    assert len(outputs) == 1


class Pairs:
    """Pair two topics by stamp as a TimeSynchronizer with a queue of 10 does."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        self.stamps: list[int] = []

    def add(self, side: int, message: Any) -> None:
        stamp = message.header.stamp.sec
        if self._waiting[1 - side].pop(stamp, None) is not None:
            self.stamps.append(stamp)
            return
        own = self._waiting[side]
        own[stamp] = message
        while len(own) > 10:
            del own[min(own)]


def test_every_image_leaves_with_its_camera_info_however_late(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = Service._deliver

    def late(self: Any, *arguments: Any) -> None:
        time.sleep(0.05)
        deliver(self, *arguments)

    monkeypatch.setattr(Service, '_deliver', late)
    node = live.blind('/cam/image_raw', drop_old=False)
    publishers = [live.publisher(Image, '/cam/image_raw')]
    publishers.append(live.publisher(CameraInfo, '/cam/camera_info'))
    images = live.received(Image, '/anonymized/cam/image_raw')
    infos = live.received(CameraInfo, '/anonymized/cam/camera_info')
    pairs = Pairs()
    for side, kind in enumerate((Image, CameraInfo)):
        topic = '/anonymized/cam/' + ('image_raw', 'camera_info')[side]
        live.tester.create_subscription(
            kind, topic, lambda message, side=side: pairs.add(side, message), RELIABLE
        )
    live.matched(*publishers)
    for stamp in range(1, 41):
        source = image(stamp=stamp)
        publishers[0].publish(source)
        publishers[1].publish(CameraInfo(header=source.header))
        live.spin(0.01)
    live.until('all came out', lambda: not node.accounts()['/cam/image_raw'].waiting)
    account = node.accounts()['/cam/image_raw']
    assert account.dropped > 0
    live.until('all have come', lambda: len(images) == account.published == len(infos))
    # It waited for longer than the queue of the one who pairs them, all but at the very first.
    assert account.latency_p95_ms > 400
    stamps = [message.header.stamp.sec for message in images]
    live.until('all are paired', lambda: pairs.stamps == stamps)


def test_copied_topic_is_passed_on_as_it_is(live: Live) -> None:
    live.start(copy_topics=['/depth/image_raw'])
    publisher = live.publisher(Image, '/depth/image_raw')
    outputs = live.received(Image, '/anonymized/depth/image_raw')
    live.matched(publisher)
    source = image('16UC1', 2)
    assert live.pass_one(publisher, source, outputs) == source


def test_depth_image_that_is_not_copied_is_refused(live: Live) -> None:
    node = live.blind('/depth/image_raw')
    publisher = live.publisher(Image, '/depth/image_raw')
    outputs = live.received(Image, '/anonymized/depth/image_raw')
    live.matched(publisher)
    publisher.publish(image('16UC1', 2))
    live.until('it is counted', lambda: node.accounts()['/depth/image_raw'].failed)
    assert 'copy_topics' in node.accounts()['/depth/image_raw'].last_error
    assert outputs == []


def test_lazy_node_works_only_for_subscribers(live: Live) -> None:
    node = live.blind('/cam/image_raw')
    publisher = live.publisher(Image, '/cam/image_raw')
    live.until(
        'the output is there', lambda: live.tester.count_publishers('/anonymized/cam/image_raw')
    )
    live.spin(0.3)
    assert publisher.get_subscription_count() == 0
    subscription = live.tester.create_subscription(
        Image, '/anonymized/cam/image_raw', lambda message: None, 5
    )
    live.matched(publisher)
    live.tester.destroy_subscription(subscription)
    live.until('the node unsubscribes', lambda: publisher.get_subscription_count() == 0)
    publisher.publish(image())
    live.spin(0.2)
    assert node.accounts()['/cam/image_raw'].received == 0


def test_node_that_is_not_lazy_works_for_nobody(live: Live) -> None:
    node = live.blind('/cam/image_raw', lazy=False)
    publisher = live.publisher(Image, '/cam/image_raw')
    live.matched(publisher)
    publisher.publish(image())
    live.until('it is published', lambda: node.accounts()['/cam/image_raw'].published)


def burst(live: Live, node: Any, frames: int) -> list[int]:
    """Publish faster than the node can work; return the stamps that came out."""
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    live.matched(publisher)
    for stamp in range(frames):
        publisher.publish(image(width=320, height=240, stamp=stamp))
        live.until(
            'it has arrived', lambda n=stamp: node.accounts()['/cam/image_raw'].received > n
        )
    live.until('nothing waits', lambda: not node.accounts()['/cam/image_raw'].waiting)
    account = node.accounts()['/cam/image_raw']
    live.until('all have come out', lambda: len(outputs) == account.published)
    assert account.received == account.published + account.dropped + account.failed == frames
    assert account.failed == 0
    return [message.header.stamp.sec for message in outputs]


def test_newest_frame_wins(live: Live) -> None:
    stamps = burst(live, live.blind('/cam/image_raw'), frames=40)
    assert stamps == sorted(stamps)
    assert stamps[-1] == 39
    assert len(stamps) < 40


def test_queue_keeps_every_frame_while_there_is_room(live: Live) -> None:
    node = live.blind('/cam/image_raw', drop_old=False)
    assert burst(live, node, frames=12) == list(range(12))


CORRUPT = {
    'no rows': {'height': 0, 'data': array.array('B')},
    'no columns': {'width': 0, 'step': 0, 'data': array.array('B')},
    'too short': {'data': array.array('B', [1] * 100)},
    'empty': {'data': array.array('B')},
    'step too small': {'step': 7},
    'unknown encoding': {'encoding': 'no_such_8'},
    'empty encoding': {'encoding': ''},
}


def test_corrupt_images_are_not_published_but_counted(live: Live) -> None:
    node = live.blind('/cam/image_raw')
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    statuses = live.statuses('/cam/image_raw')
    live.matched(publisher)
    for failed, (name, changes) in enumerate(CORRUPT.items(), start=1):
        source = image(stamp=failed)
        for field, value in changes.items():
            setattr(source, field, value)
        publisher.publish(source)
        live.until(name, lambda n=failed: node.accounts()['/cam/image_raw'].failed == n)
        assert node.accounts()['/cam/image_raw'].last_error
    output = live.pass_one(publisher, image(stamp=99), outputs)
    assert output.header.stamp.sec == 99
    assert len(outputs) == 1
    account = node.accounts()['/cam/image_raw']
    assert (account.received, account.published) == (len(CORRUPT) + 1, 1)
    live.until(
        'an error is shown', lambda: any(s.level == DiagnosticStatus.ERROR for s in statuses)
    )
    worst = next(s for s in statuses if s.level == DiagnosticStatus.ERROR)
    assert 'not published' in worst.message


@pytest.mark.parametrize(
    'data',
    [b'', b'\xff\xd8\xff', jpeg().data.tobytes()[:400], b'GIF89a' + bytes(100)],
    ids=['empty', 'start only', 'truncated', 'not a picture'],
)
def test_corrupt_compressed_images_are_not_published(live: Live, data: bytes) -> None:
    node = live.blind('/cam/compressed')
    publisher = live.publisher(CompressedImage, '/cam/compressed')
    outputs = live.received(CompressedImage, '/anonymized/cam/compressed')
    live.matched(publisher)
    publisher.publish(CompressedImage(format='jpeg', data=buffer(data)))
    live.until('it is counted', lambda: node.accounts()['/cam/compressed'].failed == 1)
    live.pass_one(publisher, jpeg(stamp=5), outputs)
    assert [message.header.stamp.sec for message in outputs] == [5]


def test_no_sample_of_a_region_is_on_any_output(live: Live) -> None:
    live.start(image_topics=['/cam/image_raw'], publish_detections=True, **BLIND)
    source = image()
    rows = np.array(source.data, np.uint8).reshape(40, 48, 3)
    secret = np.random.default_rng(5).integers(1, 256, (16, 16, 3), np.uint8)
    rows[8:24, 8:24] = secret
    source.data = buffer(rows.tobytes())
    publishers = [
        live.publisher(Image, '/cam/image_raw'),
        live.publisher(CameraInfo, '/cam/camera_info'),
    ]
    live.received(Image, '/anonymized/cam/image_raw')
    live.received(CameraInfo, '/anonymized/cam/camera_info')
    live.matched(*publishers)
    heard: dict[str, list[bytes]] = {}
    kinds = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CameraInfo': CameraInfo}
    kinds['diagnostic_msgs/msg/DiagnosticArray'] = DiagnosticArray
    for topic, names in live.tester.get_topic_names_and_types():
        if topic.startswith('/anonymized/') or topic == '/diagnostics':
            heard[topic] = live.received(kinds[names[0]], topic, raw=True)
    assert '/anonymized/cam/image_raw' in heard
    live.spin(0.2)
    publishers[1].publish(CameraInfo())
    live.pass_one(publishers[0], source, heard['/anonymized/cam/image_raw'])
    live.until('all have spoken', lambda: all(heard.values()))
    everything = b''.join(message for messages in heard.values() for message in messages)
    assert rows[30, 8:24].tobytes() in everything
    samples = secret.reshape(-1)
    assert not any(samples[i : i + 4].tobytes() in everything for i in range(len(samples) - 3))


def test_live_parameter_holds_from_the_next_frame_on(live: Live) -> None:
    node = live.blind('/cam/image_raw')
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    live.matched(publisher)
    source = image()
    assert live.pass_one(publisher, source, outputs) != source
    assert live.set_parameter('mask_zones', []) == (True, '')
    assert live.pass_one(publisher, source, outputs) == source
    assert live.set_parameter('mask_zones', ['/cam/* 0 0 4 4']) == (True, '')
    output = live.pass_one(publisher, source, outputs)
    assert np.array(output.data, np.uint8).reshape(40, -1)[:4, :12].max() == 0
    assert node.settings.mask_zones == ('/cam/* 0 0 4 4',)


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('face.threshold', 2.0, 'out of range'),
        ('face.threshold', 2, 'out of range'),
        ('face.threshold', 'high', 'expected double'),
        ('face.method', 'vanish', 'one of: generate, blur, mosaic, solid'),
        ('mask_zones', ['/cam 1 2 3'], 'expected `<topic or glob> x0 y0 x1 y1`'),
        ('obscure.solid_bgr', [0, 0], 'of 3 numbers'),
        ('image_topics', ['/other'], 'read-only'),
        ('detector.model_path', '/other.onnx', 'read-only'),
    ],
)
def test_refused_parameter_says_why_and_changes_nothing(
    live: Live, name: str, value: Any, reason: str
) -> None:
    node = live.blind('/cam/image_raw')
    before = node.settings
    successful, text = live.set_parameter(name, value)
    assert not successful
    assert reason in text
    assert node.settings == before


def test_integer_is_taken_for_a_double(live: Live) -> None:
    node = live.start(face__threshold=1, feather=0)
    assert node.settings.face.threshold == 1.0
    assert live.set_parameter('tracker.max_gap_ms', 300) == (True, '')
    assert node.settings.tracker.max_gap_ms == 300.0
    parameter = node.get_parameter('tracker.max_gap_ms')
    assert parameter.type_ == Parameter.Type.DOUBLE
    assert live.set_parameter('mask_zones', []) == (True, '')
    assert node.get_parameter('mask_zones').type_ == Parameter.Type.STRING_ARRAY


def test_model_file_that_is_gone_stops_no_change(live: Live, tmp_path: Path) -> None:
    path = tmp_path / 'detector.onnx'
    path.write_bytes(default_detector().read_bytes())
    node = live.start(**{'detector.model_path': str(path), 'face.method': 'blur'})
    path.unlink()
    assert live.set_parameter('face.threshold', 0.3) == (True, '')
    assert node.settings.face.threshold == 0.3


def test_every_setting_is_declared_with_its_meaning(live: Live) -> None:
    node = live.start()
    names = [declared.name for declared in PARAMETERS]
    request = DescribeParameters.Request(names=names)
    found = live.call(DescribeParameters, '/anonymizer/describe_parameters', request).descriptors
    for declared, descriptor in zip(PARAMETERS, found, strict=True):
        assert descriptor.name == declared.name
        assert descriptor.description.startswith(declared.meaning)
        assert descriptor.read_only is not declared.live
    by_name = {descriptor.name: descriptor for descriptor in found}
    assert by_name['image_topics'].type == ParameterType.PARAMETER_STRING_ARRAY
    assert by_name['face.threshold'].floating_point_range[0].to_value == 1.0
    assert by_name['obscure.cells'].integer_range[0].from_value == 1
    assert by_name['face.method'].additional_constraints.startswith('one of: generate')
    assert node.get_parameter('image_topics').value == []


@pytest.mark.parametrize(
    ('values', 'error', 'text'),
    [
        ({'face.treshold': 0.5}, SettingsError, r"'face.treshold': did you mean face.threshold\?"),
        ({'face.threshold': 7.0}, SettingsError, 'from 0.01 to 1'),
        ({'lazy': 'yes'}, SettingsError, 'lazy: .*expected bool'),
        ({'mask_zones': ['x']}, SettingsError, 'zone'),
        ({'image_topics': ['/a', '/a']}, SettingsError, '/a is named twice'),
        ({'image_topics': ['/a'], 'copy_topics': ['a']}, SettingsError, '/a is named twice'),
        ({'image_topics': ['/a'], 'output_prefix': ''}, SettingsError, 'is an input too'),
        ({'image_topics': ['/a', '/x/a'], 'output_prefix': '/x'}, SettingsError, 'input too'),
        ({'image_topics': ['/a b']}, SettingsError, 'not a topic name'),
        ({'output_prefix': '/a b', 'image_topics': ['/a']}, SettingsError, 'not a topic name'),
        ({'detector.model_path': '/no/such.onnx'}, ModelError, '/no/such.onnx'),
        ({'video.encoder': 'best'}, SettingsError, 'video.encoder: .*nvenc'),
        (
            {
                'image_topics': ['/compressed'],
                'qos_overrides./anonymized/compressed.publisher.reliability': 'best',
            },
            SettingsError,
            r"publisher.reliability: got 'best', expected one of: .*reliable",
        ),
    ],
)
def test_wrong_parameters_refuse_to_start(
    live: Live, values: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        live.start(**values)
    assert [name for name in live.tester.get_node_names() if name == 'anonymizer'] == []


def test_encoder_that_is_not_there_refuses_to_start(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {codec: video_codecs.Encoder(f'{codec}_none', {}) for codec in video_codecs.CODECS}
    monkeypatch.setitem(video_codecs.ENCODERS, 'nvenc', missing)
    with pytest.raises(SettingsError, match='video.encoder: nvenc .*this FFmpeg has no h264_none'):
        live.blind('/cam/image_raw', **{'video.encoder': 'nvenc'})


def test_names_of_rclpy_are_no_unknown_parameters(live: Live) -> None:
    node = live.start(use_sim_time=True, **{'qos_overrides./clock.subscription.depth': 3})
    assert node.get_parameter('use_sim_time').value is True


def test_frames_pass_while_simulated_time_stands_still(live: Live) -> None:
    live.blind('/cam/image_raw', use_sim_time=True)
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    statuses = live.statuses('/cam/image_raw')
    live.matched(publisher)
    live.pass_one(publisher, image(), outputs)
    live.until('diagnostics come', lambda: statuses)


def requested(live: Live, topic: str) -> list[ReliabilityPolicy]:
    return [
        info.qos_profile.reliability
        for info in live.tester.get_subscriptions_info_by_topic(topic)
        if info.node_name == 'anonymizer'
    ]


def test_subscription_suits_the_publishers(live: Live) -> None:
    live.blind('/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    reliable = live.publisher(Image, '/cam/image_raw')
    live.matched(reliable)
    assert requested(live, '/cam/image_raw') == [ReliabilityPolicy.RELIABLE]
    second = live.publisher(Image, '/cam/image_raw', BEST_EFFORT)
    live.matched(second, reliable)
    assert requested(live, '/cam/image_raw') == [ReliabilityPolicy.BEST_EFFORT]
    live.pass_one(second, image(stamp=3), outputs)
    live.pass_one(reliable, image(stamp=4), outputs)
    assert [message.header.stamp.sec for message in outputs] == [3, 4]


def test_qos_overrides_are_obeyed(live: Live) -> None:
    live.blind(
        '/cam/image_raw',
        **{
            'qos_overrides./cam/image_raw.subscription.reliability': 'best_effort',
            'qos_overrides./anonymized/cam/image_raw.publisher.depth': 7,
            'qos_overrides./anonymized/cam/image_raw.publisher.reliability': 'best_effort',
        },
    )
    live.tester.create_subscription(
        Image, '/anonymized/cam/image_raw', lambda message: None, BEST_EFFORT
    )
    publisher = live.publisher(Image, '/cam/image_raw')
    live.matched(publisher)
    assert requested(live, '/cam/image_raw') == [ReliabilityPolicy.BEST_EFFORT]
    (offered,) = live.tester.get_publishers_info_by_topic('/anonymized/cam/image_raw')
    assert offered.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_latched_camera_info_stays_latched(live: Live) -> None:
    live.blind('/cam/image_raw')
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    live.publisher(CameraInfo, '/cam/camera_info', latched).publish(CameraInfo(width=48))
    outputs: list[Any] = []
    live.tester.create_subscription(
        CameraInfo, '/anonymized/cam/camera_info', outputs.append, latched
    )
    live.until('it comes out', lambda: outputs)
    assert outputs[0].width == 48


def test_type_is_not_guessed(live: Live) -> None:
    node = live.blind('/cam/picture')
    live.spin(0.3)
    assert live.tester.count_publishers('/anonymized/cam/picture') == 0
    publisher = live.publisher(CompressedImage, '/cam/picture')
    outputs = live.received(CompressedImage, '/anonymized/cam/picture')
    live.matched(publisher)
    live.pass_one(publisher, jpeg(), outputs)
    assert node.accounts()['/cam/picture'].published == 1


def test_type_on_the_graph_counts_more_than_the_name(live: Live) -> None:
    live.blind('/cam/compressed')
    publisher = live.publisher(Image, '/cam/compressed')

    def types() -> list[str]:
        found = live.tester.get_publishers_info_by_topic('/anonymized/cam/compressed')
        return [info.topic_type for info in found]

    live.until('the output is an Image', lambda: types() == ['sensor_msgs/msg/Image'])
    outputs = live.received(Image, '/anonymized/cam/compressed')
    live.matched(publisher)
    live.pass_one(publisher, image(), outputs)


def test_topic_that_is_no_image_is_reported(live: Live) -> None:
    live.start(image_topics=['/chatter'])
    statuses = live.statuses('/chatter')
    live.publisher(String, '/chatter')
    live.until('it is reported', lambda: any(s.level == DiagnosticStatus.ERROR for s in statuses))
    assert statuses[-1].message.startswith(
        '/chatter: got std_msgs/msg/String, expected sensor_msgs/msg/Image or '
        'sensor_msgs/msg/CompressedImage or '
    )
    assert live.tester.count_publishers('/anonymized/chatter') == 0


def test_diagnostics_account_for_every_frame(live: Live) -> None:
    live.blind('/cam/image_raw')
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    statuses = live.statuses('/cam/image_raw')
    backend = live.statuses('back end')
    live.matched(publisher)
    for stamp in range(1, 4):
        live.pass_one(publisher, image(stamp=stamp), outputs)
    publisher.publish(image('no_such_8'))
    live.until('it is counted', lambda: statuses and _value(statuses[-1], 'frames failed') == '1')
    live.until('the back end is described', lambda: backend)
    status = statuses[-1]
    assert [_value(status, f'frames {what}') for what in ('in', 'out', 'dropped', 'failed')] == [
        '4',
        '3',
        '0',
        '1',
    ]
    # As diagnostic_updater has it: the node, a colon, the thing; a hardware id; keys once.
    assert status.name == 'anonymizer: /cam/image_raw'
    assert status.hardware_id == '/anonymizer'
    assert status.level in (b'\0', b'\1', b'\2')
    keys = [item.key for item in status.values]
    assert len(keys) == len(set(keys))
    assert '' not in keys
    assert _value(status, 'regions') == '3'
    assert float(_value(status, 'latency p95 ms')) >= float(_value(status, 'latency p50 ms')) > 0
    assert float(_value(status, 'detect ms')) > 0
    assert _value(status, 'output') == '/anonymized/cam/image_raw'
    assert backend[-1].level == DiagnosticStatus.OK
    assert 'sha256:' in _value(backend[-1], 'face detector')
    assert 'onnxruntime on cpu' in _value(backend[-1], 'face detector')


def _value(status: Any, key: str) -> str:
    return next((item.value for item in status.values if item.key == key), '')


def test_nodes_share_an_executor_and_relative_names_stay_in_their_namespace(live: Live) -> None:
    live.start('one', '/bus', image_topics=['image_raw'], **BLIND)
    live.start('two', '/car', image_topics=['image_raw'], output_prefix='/safe', **BLIND)
    pairs = [('/bus/image_raw', '/anonymized'), ('/car/image_raw', '/safe')]
    publishers = [live.publisher(Image, topic) for topic, _ in pairs]
    outputs = [live.received(Image, prefix + topic) for topic, prefix in pairs]
    live.matched(*publishers)
    for publisher, received in zip(publishers, outputs, strict=True):
        live.pass_one(publisher, image(), received)
    assert [len(received) for received in outputs] == [1, 1]


def test_nodes_of_one_process_share_their_networks(live: Live) -> None:
    settings = Settings().updated({'face.method': 'blur'})
    with Networks(settings, concurrency=2) as networks:
        opened = len(networks.describe())
        pairs = []
        for name in ('front', 'rear'):
            topic = f'/{name}/image_raw'
            node = live.start(
                name, networks=networks, image_topics=[topic], face__method='blur', **BLIND
            )
            publisher = live.publisher(Image, topic)
            pairs.append((node, publisher, live.received(Image, f'/anonymized{topic}')))
        live.matched(*(publisher for _, publisher, _ in pairs))
        for _, publisher, outputs in pairs:
            live.pass_one(publisher, image(), outputs)
        assert len(networks.describe()) == opened
        live.remove(pairs[0][0])
        # The others go on when one has gone.
        live.pass_one(pairs[1][1], image(stamp=2), pairs[1][2])
        live.remove(pairs[1][0])


COMPONENTS = re.findall(
    r"'ffs_anonymizer::(\w+) = '?\s*'?(ffs_anonymizer[\w.]+:\w+)'",
    (ROOT / 'setup.py').read_text(encoding='utf-8'),
)


@pytest.mark.parametrize(('name', 'place'), COMPONENTS)
def test_components_are_made_as_a_container_makes_them(live: Live, name: str, place: str) -> None:
    kind = EntryPoint(name, place, 'rclpy_components').load()
    assert kind.__name__ == name
    node = kind(
        'front',
        namespace='/bus',
        cli_args=['--ros-args', '-r', '/cam/image_raw:=/other/image_raw'],
        parameter_overrides=[Parameter('image_topics', value=['/cam/image_raw'])],
        context=live.context,
    )
    live.nodes.append(node)
    live.executor.add_node(node)
    assert node.get_fully_qualified_name() == '/bus/front'
    assert node.settings.image_topics == ('/cam/image_raw',)
    assert list(node.accounts()) == (['/other/image_raw'] if name == 'AnonymizerNode' else [])
    live.remove(node)


def test_both_kinds_of_node_are_components() -> None:
    assert [name for name, _ in COMPONENTS] == ['AnonymizerNode', 'AnonymizerLifecycleNode']


def test_foxglove_video_where_it_is_installed(live: Live) -> None:
    foxglove = pytest.importorskip('foxglove_msgs.msg')
    live.blind('/cam/video')
    publisher = live.publisher(foxglove.CompressedVideo, '/cam/video')
    outputs = live.received(foxglove.CompressedVideo, '/anonymized/cam/video')
    live.matched(publisher)
    decoder = PacketDecoder('h264')
    for packet in stream(moving(6), gop=3):
        message = foxglove.CompressedVideo(format='h264', frame_id='front', data=buffer(packet))
        output = live.pass_one(publisher, message, outputs)
        assert (output.format, output.frame_id) == ('h264', 'front')
        shown = decoder.decode(bytes(output.data)).samples.decode().image_bgr
        assert shown[10:22, 10:22].max() < 24


def test_statuses_name_the_node_with_its_namespace(live: Live) -> None:
    live.start('anonymizer', '/bus', image_topics=['image_raw'])
    live.start('anonymizer', '/car', image_topics=['image_raw'])
    names: set[str] = set()
    live.tester.create_subscription(
        DiagnosticArray,
        '/diagnostics',
        lambda message: names.update(status.name for status in message.status),
        10,
    )
    expected = {f'{ns}/anonymizer: /{ns}/image_raw' for ns in ('bus', 'car')}
    live.until('both have spoken', lambda: expected <= names)


def test_second_publisher_of_an_output_is_an_error(
    live: Live, capfd: pytest.CaptureFixture[str]
) -> None:
    live.start('one', image_topics=['/cam/compressed'])
    statuses = live.statuses('one: /cam/compressed')
    live.start('two', image_topics=['/cam/compressed'])
    live.until('it is told', lambda: any(s.level == DiagnosticStatus.ERROR for s in statuses))
    assert statuses[-1].message.startswith('/anonymized/cam/compressed is published by /two too')
    assert '/anonymized/cam/compressed is published by /two too' in capfd.readouterr().err


def test_misspelt_topic_is_told(
    live: Live, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, 'SILENT_S', 0.5)
    live.start(image_topics=['/cam/imgae_raw', '/cam/image_raw'])
    live.publisher(Image, '/cam/image_raw')
    said = ''

    def told() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return 'did you mean' in said

    live.until('it is told', told)
    assert '/cam/imgae_raw: no publisher since the start: did you mean /cam/image_raw?' in said
    live.spin(2 * diagnostics.PERIOD_S)
    said += capfd.readouterr().err
    assert said.count('no publisher since the start') == 1


def test_every_weakening_is_told_while_it_lasts(
    live: Live, capfd: pytest.CaptureFixture[str]
) -> None:
    live.start(image_topics=['/cam/compressed'], copy_topics=['/depth/image'])
    camera, copied = live.statuses('/cam/compressed'), live.statuses('/depth/image')
    live.until('the copy is told', lambda: copied)
    assert copied[-1].level == DiagnosticStatus.WARN
    assert 'persons and all' in copied[-1].message
    assert '/depth/image: copy_topics: it is passed on to /anonymized/depth/image' in (
        capfd.readouterr().err
    )
    assert live.set_parameter('face.threshold', 1.0) == (True, '')
    assert live.set_parameter('ignore_zones', ['/cam/* 0 0 9 9']) == (True, '')
    weak = ['face.threshold is 1: no face is ever replaced', '1 ignore zone leaves the faces']
    live.until('it is told', lambda: all(text in camera[-1].message for text in weak))
    assert camera[-1].level == DiagnosticStatus.WARN
    said = capfd.readouterr().err
    assert all(f'/cam/compressed: {text}' in said for text in weak)
    assert live.set_parameter('face.threshold', 0.2) == (True, '')
    assert live.set_parameter('ignore_zones', []) == (True, '')
    live.until('it is over', lambda: 'threshold' not in camera[-1].message)
    assert '/cam/compressed: the protection is as it should be again' in capfd.readouterr().err


def test_snapshot_is_one_pair_for_the_user_alone(live: Live, tmp_path: Path) -> None:
    folder = tmp_path / 'snapshots'
    live.blind('/cam/image_raw', snapshot_folder=str(folder))
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    statuses = live.statuses('/cam/image_raw')
    live.matched(publisher)
    live.pass_one(publisher, image(), outputs)
    assert list(folder.iterdir()) == []
    assert live.call(Trigger, '/anonymizer/snapshot', Trigger.Request()).success
    for stamp in (2, 3):
        live.pass_one(publisher, image(stamp=stamp), outputs)
    live.until('it is written', lambda: len(list(folder.iterdir())) == 2)
    after, before = sorted(folder.iterdir())
    assert before.name == 'cam_image_raw_2.123456789_before.png'
    assert [path.stat().st_mode & 0o777 for path in (folder, before, after)] == [
        0o700,
        0o600,
        0o600,
    ]
    pictures = [cv2.imread(str(path)) for path in (before, after)]
    np.testing.assert_array_equal(pictures[0], np.array(image().data).reshape(40, 48, 3))
    assert not pictures[1][8:24, 8:24].any()
    live.until('it is told', lambda: statuses and 'snapshot_folder' in statuses[-1].message)


def test_what_is_found_is_listed_where_it_is_wanted(live: Live, tmp_path: Path) -> None:
    data = pytest.importorskip('skimage.data')
    photo = np.ascontiguousarray(data.astronaut()[:320, 60:380, ::-1])
    path = tmp_path / 'found.jsonl'
    node = live.start(image_topics=['/cam/image_raw'], write_detections=str(path))
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    live.matched(publisher)
    for seconds in (7, 8):
        source = Image(
            height=320, width=320, encoding='bgr8', step=960, data=buffer(photo.tobytes())
        )
        source.header.stamp.sec = seconds
        live.pass_one(publisher, source, outputs)
    assert not path.exists()
    node.destroy_node()
    with DetectionsReader(path) as listed:
        assert listed.source == '/anonymizer'
        for seconds in (7, 8):
            found = listed.find('/cam/image_raw', stamp_ns=seconds * 1_000_000_000)
            assert found.size_wh == (320, 320)
            assert len(found.regions) == 1
    with pytest.raises(SettingsError, match='write_detections: .* exists already'):
        live.start(image_topics=['/cam/image_raw'], write_detections=str(path))


def test_snapshots_are_only_where_they_are_allowed(live: Live, tmp_path: Path) -> None:
    live.start()
    names = [name for name, _ in live.tester.get_service_names_and_types()]
    assert '/anonymizer/set_parameters' in names
    assert '/anonymizer/snapshot' not in names
    tmp_path.chmod(0o755)
    with pytest.raises(SettingsError, match='with mode 755, expected 700'):
        live.start('other', snapshot_folder=str(tmp_path))


def test_locked_parameters_stay(live: Live) -> None:
    node = live.start(lock_parameters=True)
    successful, reason = live.set_parameter('face.threshold', 0.9)
    assert not successful
    assert reason.startswith('lock_parameters is true')
    assert node.settings.face.threshold == 0.2


def test_detections_are_published_where_vision_msgs_is_installed(live: Live) -> None:
    vision = pytest.importorskip('vision_msgs.msg')
    live.blind('/cam/image_raw')
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    found = live.received(vision.Detection2DArray, '/anonymizer/detections')
    live.matched(publisher)
    source = image()
    live.pass_one(publisher, source, outputs)
    live.until('the detections come', lambda: found)
    assert found[0].header == source.header
    (detection,) = found[0].detections
    assert detection.results[0].hypothesis.class_id == 'zone'
    box = detection.bbox
    assert (box.center.position.x, box.center.position.y) == (16.0, 16.0)
    assert (box.size_x, box.size_y) == (16.0, 16.0)


# -- the process


@contextmanager
def run_node(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Yield the node as a process; it is gone afterwards, whatever a test found."""
    with subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys; from ffs_anonymizer.node.program import main; sys.exit(main())',
            *('--ros-args', *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, 'ROS_DOMAIN_ID': str(DOMAIN), **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    log = ''
    for line in process.stderr:
        log += line
        if 'ready: models are loaded' in line:
            return log
    raise AssertionError(f'the node ended early: {log}')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM] * 3)
def test_signal_ends_the_process_with_zero(number: signal.Signals) -> None:
    with run_node('--params-file', 'config/anonymizer.param.yaml') as process:
        wait_ready(process)
        process.send_signal(number)
        rest = process.communicate(timeout=20)[1]
    assert process.returncode == 0, rest
    assert 'Traceback' not in rest
    assert 'terminate' not in rest


def _catches_signals(pid: int) -> bool:
    """Return whether SIGTERM is caught, which Python itself does not do."""
    status = Path(f'/proc/{pid}/status').read_text()
    return bool(int(status.partition('SigCgt:')[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('after_s', [0.0, 0.4, 0.9, 1.5])
def test_signal_while_starting_ends_the_process_with_zero(
    number: signal.Signals, after_s: float
) -> None:
    with run_node() as process:
        # Python itself needs a moment before anything can be caught.
        while not _catches_signals(process.pid):
            time.sleep(0.005)
        time.sleep(after_s)
        process.send_signal(number)
        rest = process.communicate(timeout=20)[1]
    assert process.returncode == 0, rest
    assert 'Traceback' not in rest
    assert 'terminate' not in rest


def test_signal_while_frames_flow_ends_the_process_with_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    live = Live()
    try:
        publisher = live.publisher(Image, '/cam/image_raw')
        outputs = live.received(Image, '/anonymized/cam/image_raw')
        topics = ('-p', "image_topics:=['/cam/image_raw']")
        with run_node(*topics) as process:
            wait_ready(process)
            live.matched(publisher)
            for stamp in range(20):
                publisher.publish(image(width=320, height=240, stamp=stamp))
                live.spin(0.02)
            live.until('frames flow', lambda: outputs)
            process.send_signal(signal.SIGTERM)
            publisher.publish(image(width=320, height=240))
            rest = process.communicate(timeout=20)[1]
        assert process.returncode == 0, rest
        # What became of every frame is said at the end.
        summary = re.search(
            r'/cam/image_raw: (\d+) frames in, (\d+) out, (\d+) dropped, (\d+) failed', rest
        )
        assert summary is not None, rest
        counted = [int(number) for number in summary.groups()]
        assert counted[0] == sum(counted[1:])
        assert counted[1] >= len(outputs)
    finally:
        live.close()


def test_network_that_hangs_is_told_and_stops_neither_services_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    model = save_hanging_generator(tmp_path / 'hangs.onnx')
    live = Live()
    try:
        publisher = live.publisher(Image, '/cam/image_raw')
        live.received(Image, '/anonymized/cam/image_raw')
        backend = live.statuses('back end')
        generate = ('-p', 'face.method:=generate', '-p', f'generator.model_path:={model}')
        words = ('-p', "image_topics:=['/cam/image_raw']", *generate)
        with run_node(*words) as process:
            wait_ready(process)
            live.matched(publisher)
            height, width = face_bgr.shape[:2]
            message = Image(height=height, width=width, encoding='bgr8', step=width * 3)
            message.data = buffer(face_bgr.tobytes())
            publisher.publish(message)
            live.until(
                'it is told',
                lambda: backend and backend[-1].level == DiagnosticStatus.ERROR,
                timeout_s=20,
            )
            assert backend[-1].message.endswith('a network hangs')
            asked_s = time.monotonic()
            successful, reason = live.set_parameter('face.threshold', 0.3)
            assert time.monotonic() - asked_s < 2
            assert not successful
            assert 'a network hangs' in reason
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=5)[1]
        assert process.returncode == 0, rest
        assert 'the frame in work does not end: it is left behind' in rest
        assert 'terminate' not in rest
    finally:
        live.close()


LOSSY_CAMERA = """
import array, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('camera')
publisher = node.create_publisher(Image, '/cam/image_raw', qos_profile_sensor_data)
message = Image(height=1080, width=1920, encoding='bgr8', step=5760)
message.data = array.array('B', bytes(1080 * 5760))
while rclpy.ok():
    publisher.publish(message)
    time.sleep(0.1)
rclpy.try_shutdown()
"""


def test_large_frames_that_are_lost_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    # Neither side has the profile: the camera's shared memory holds a twelfth of a frame.
    for name in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        monkeypatch.delenv(name, raising=False)
    live = Live()
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(DOMAIN)}
    camera = subprocess.Popen([sys.executable, '-c', LOSSY_CAMERA], env=environment)
    try:
        live.blind('/cam/image_raw', lazy=False)
        statuses = live.statuses('/cam/image_raw')
        live.until(
            'it is told',
            lambda: any('FASTRTPS_DEFAULT_PROFILES_FILE' in s.message for s in statuses),
            timeout_s=20,
        )
        assert statuses[-1].level == DiagnosticStatus.WARN
        assert int(_value(statuses[-1], 'frames lost before arrival')) > 0
    finally:
        camera.terminate()
        camera.wait()
        live.close()


@pytest.mark.parametrize(
    ('assignment', 'text'),
    [
        ('detector.model_path:=/no/such.onnx', '/no/such.onnx'),
        ('face.treshold:=0.5', 'did you mean face.threshold?'),
    ],
)
def test_process_that_cannot_start_exits_with_one(assignment: str, text: str) -> None:
    with run_node('-p', assignment) as process:
        rest = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert text in rest
    assert 'Traceback' not in rest


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ('anonymiser:\n  ros__parameters: {lazy: false}\n', 'expected a section for the node'),
        (None, 'cannot start: '),
    ],
    ids=['another node', 'missing'],
)
def test_parameter_file_that_is_not_for_the_node_is_refused(
    tmp_path: Path, content: str | None, text: str
) -> None:
    path = tmp_path / 'params.yaml'
    if content is not None:
        path.write_text(content)
    with run_node('--params-file', str(path)) as process:
        rest = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert text in rest
    assert 'params.yaml' in rest
    assert 'Traceback' not in rest
