"""Test ROS 1 bags, written by rosbags, as input."""

import bz2
from pathlib import Path
import random
import struct

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.bag import conversion
from ffs_anonymizer.bag.chunks import plan_chunks, run_chunk
from ffs_anonymizer.bag.estimate import estimate
from ffs_anonymizer.bag.plan import BagJob, BagPlan
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import BagError
from ffs_anonymizer.jobs import chunks as jobs
from ffs_anonymizer.jobs.chunks import DetectedBefore
from ffs_anonymizer.review.recording import BagRecording
from ffs_anonymizer.rosbag2.access import BagAccess
from ffs_anonymizer.rosbag2.reader import BagReader
from ffs_anonymizer.rosbag2.storage import Message, Topic
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.rosbag2 import Reader
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from support.bags import leftovers, QUICK, T0

OLD = get_typestore(Stores.ROS1_NOETIC)
NEW = get_typestore(Stores.ROS2_JAZZY)
OLD.register(get_types_from_msg('Header header\ntime when\nfloat32[] reach\n', 'own/msg/Reach'))
OLD.register(get_types_from_msg('Header header\nsensor_msgs/Image seen\n', 'own/msg/Seen'))
T = OLD.types
STEP = 100_000_000
WORDS = (*QUICK, '--set', 'detector.plate_model_path=none')


def stamp(ns: int):
    return T['builtin_interfaces/msg/Time'](ns // 10**9, ns % 10**9)


def header(number: int):
    return T['std_msgs/msg/Header'](number, stamp(T0 + number), 'camera')


def image(image_bgr, number: int = 0):
    height, width = image_bgr.shape[:2]
    data = np.ascontiguousarray(image_bgr).reshape(-1)
    return T['sensor_msgs/msg/Image'](header(number), height, width, 'bgr8', 0, width * 3, data)


def reach(number: int):
    values = np.arange(number, dtype=np.float32)
    return T['own/msg/Reach'](header(number), stamp(T0 + 5), values)


def write(path: Path, rows, *, compression=None, latching=None) -> Path:
    """Write rows (topic, type, log_ns, message)."""
    writer = Writer(path)
    if compression:
        writer.set_compression(compression)
    with writer:
        connections = {}
        for topic, type_name, log_ns, message in rows:
            key = topic, type_name
            if key not in connections:
                latched = 1 if topic == latching else None
                connections[key] = writer.add_connection(
                    topic, type_name, typestore=OLD, latching=latched
                )
            writer.write(connections[key], log_ns, OLD.serialize_ros1(message, type_name))
    return path


def drive(face_bgr, count: int = 3):
    rows = []
    for i in range(count):
        now = T0 + i * STEP
        rows += [
            ('/cam/image', 'sensor_msgs/msg/Image', now, image(np.roll(face_bgr, i, 1), i)),
            ('/reach', 'own/msg/Reach', now + 7, reach(i)),
        ]
    text = T['std_msgs/msg/String']('hello')
    return [*rows, ('/said', 'std_msgs/msg/String', T0 + count * STEP, text)]


@pytest.mark.parametrize('compression', [None, Writer.CompressionFormat.BZ2])
@pytest.mark.parametrize('storage', ['', 'sqlite3'])
def test_the_new_bag_is_one_of_ros_2(tmp_path, face_bgr, compression, storage, capsys):
    before = drive(face_bgr)
    source = write(tmp_path / 'in.bag', before, compression=compression, latching='/said')
    chosen = ['-s', storage] if storage else []
    words = ['bag', '-i', str(source), '-o', str(tmp_path / 'out'), *WORDS, *chosen]
    assert main(words) == 0

    with Reader(tmp_path / 'out') as reader:
        found = [(c.topic, c.msgtype, at, bytes(data)) for c, at, data in reader.messages()]
        qos = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        definitions = {c.topic: c.msgdef.data for c in reader.connections}
    assert [row[:3] for row in found] == [row[:3] for row in before]
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(definitions['/reach'], 'own/msg/Reach'))
    for (topic, type_name, _, data), (_, _, _, old) in zip(found, before, strict=True):
        new = store.deserialize_cdr(data, type_name)
        if topic != '/said':
            assert (new.header.stamp.sec, new.header.stamp.nanosec, new.header.frame_id) == (
                old.header.stamp.sec,
                old.header.stamp.nanosec,
                'camera',
            )
        if topic == '/reach':
            np.testing.assert_array_equal(new.reach, old.reach)
            assert (new.when.sec, new.when.nanosec) == (old.when.sec, old.when.nanosec)
        if topic == '/said':
            assert new.data == 'hello'
        if topic == '/cam/image':
            assert (new.height, new.width, new.encoding) == (144, 192, 'bgr8')
            changed = (new.data != old.data).reshape(144, 192, 3).any(axis=2)
            assert 0.02 < changed.mean() < 0.6
    assert qos['/said'][0].durability.name == 'TRANSIENT_LOCAL'
    assert qos['/reach'] == []
    said = capsys.readouterr().out
    assert '(ROS 1) -> ' in said
    assert leftovers(tmp_path) == ['in.bag', 'out', 'out.privacy.json']


def test_known_types_have_the_definitions_and_hashes_of_ros_2(tmp_path, face_bgr):
    camera = T['sensor_msgs/msg/CameraInfo']
    info = camera(
        header(1),
        2,
        3,
        'plumb_bob',
        np.zeros(5),
        np.zeros(9),
        np.zeros(9),
        np.zeros(12),
        0,
        0,
        T['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
    )
    rows = [*drive(face_bgr, 1), ('/info', 'sensor_msgs/msg/CameraInfo', T0 + 9, info)]
    reader = BagReader(write(tmp_path / 'in.bag', rows))
    topics = {item.name: item for item in reader.items() if isinstance(item, Topic)}
    for name in ('/cam/image', '/info', '/said'):
        kind = topics[name].type_name
        assert topics[name].type_hash == NEW.hash_rihs01(kind)
    assert b'float64[] d' in topics['/info'].definition
    payload = next(m.data for m in reader.items() if isinstance(m, Message) and m.log_ns == T0 + 9)
    assert NEW.deserialize_cdr(payload, 'sensor_msgs/msg/CameraInfo').distortion_model
    assert [topic.message_count for topic in reader.topics()] == [1, 1, 1, 1]


def test_given_times_are_kept_to(tmp_path, face_bgr):
    reader = BagReader(write(tmp_path / 'in.bag', drive(face_bgr)))
    times = [i.log_ns for i in reader.items(T0 + 7, T0 + STEP) if isinstance(i, Message)]
    assert times == [T0 + 7, T0 + STEP]
    assert reader.read_bytes == reader.size_bytes


def test_connections_that_differ_in_their_publisher_are_one_topic(tmp_path):
    text = T['std_msgs/msg/String']('a')
    data = OLD.serialize_ros1(text, 'std_msgs/msg/String')
    with Writer(tmp_path / 'in.bag') as writer:
        for number, caller in enumerate(('/one', '/two')):
            connection = writer.add_connection(
                '/said', 'std_msgs/msg/String', typestore=OLD, callerid=caller
            )
            writer.write(connection, T0 + number, data)
    reader = BagReader(tmp_path / 'in.bag')
    assert [(t.name, t.message_count) for t in reader.topics()] == [('/said', 2)]
    assert [type(item).__name__ for item in reader.items()] == ['Topic', 'Message', 'Message']


def test_pictures_in_other_types_are_refused(tmp_path, face_bgr, capsys):
    seen = T['own/msg/Seen'](header(0), image(face_bgr))
    source = write(tmp_path / 'in.bag', [('/seen', 'own/msg/Seen', T0, seen)])
    assert main(['bag', '-i', str(source), '-o', str(tmp_path / 'out'), *WORDS]) == 1
    error = capsys.readouterr().err
    assert 'can carry pictures that cannot be anonymized: /seen (own/msg/Seen)' in error
    assert leftovers(tmp_path) == ['in.bag']


def test_damaged_bags_are_read_or_refused_in_one_line(tmp_path, face_bgr):
    whole = write(tmp_path / 'in.bag', drive(face_bgr, 1)).read_bytes()
    chosen = random.Random(1)
    refused = 0
    for number in range(48):
        data = bytearray(whole)
        start = 0 if number % 2 else len(data) - 3000
        at = start + chosen.randrange(3000)
        data[at : at + 3] = chosen.randbytes(3)
        if number % 8 == 0:
            del data[chosen.randrange(len(data)) :]
        path = tmp_path / 'bad.bag'
        path.write_bytes(data)
        problem = ''
        try:
            list(BagReader(path).items())
        except BagError as error:
            refused += 1
            problem = str(error)
        assert '\n' not in problem
    assert refused > 8


@pytest.mark.parametrize('content', [b'', b'#ROSBAG V1.2\n', b'x' * 100])
def test_files_that_are_no_ros_1_bags(tmp_path, content):
    (tmp_path / 'in.bag').write_bytes(content)
    with pytest.raises(
        BagError, match=r"got a file that begins with b'.*', expected b'#ROSBAG V2"
    ):
        BagReader(tmp_path / 'in.bag')


def test_a_chunk_that_is_a_bomb_is_not_unpacked(tmp_path, face_bgr):
    compression = Writer.CompressionFormat.BZ2
    path = write(tmp_path / 'in.bag', drive(face_bgr, 1), compression=compression)
    data = path.read_bytes()
    start = data.index(b'BZh')
    (size,) = struct.unpack('<I', data[start - 4 : start])
    bomb = bz2.compress(bytes(200 << 20))
    assert len(bomb) < size
    path.write_bytes(data[:start] + bomb + data[start + len(bomb) :])
    with pytest.raises(BagError, match=r'a chunk of more than 65 MB: limits.max_message_mb'):
        list(BagReader(path, most_message_bytes=1 << 20).items())


@pytest.mark.parametrize('compression', [None, Writer.CompressionFormat.LZ4])
def test_any_message_is_found_by_its_number(tmp_path, face_bgr, compression):
    rows = drive(face_bgr)
    rows.insert(1, ('/reach', 'own/msg/Reach', T0, reach(9)))
    source = write(tmp_path / 'in.bag', rows, compression=compression)
    messages = [item for item in BagReader(source).items() if isinstance(item, Message)]
    access = BagAccess(source)
    assert access.types['/cam/image'] == 'sensor_msgs/msg/Image'
    for topic in access.types:
        expected = [message for message in messages if message.topic.name == topic]
        assert access.stamps_ns(topic) == [message.log_ns for message in expected]
        for number in reversed(range(len(expected))):
            assert access.payload(topic, number) == expected[number].data
    with pytest.raises(BagError, match='/said: got message number 1, expected 0 to 0'):
        access.payload('/said', 1)


def test_chunks_an_estimate_and_an_audit(tmp_path, face_bgr, capsys, monkeypatch):
    monkeypatch.setattr(jobs, 'LEAST_FRAMES', 2)
    source = write(tmp_path / 'in.bag', drive(face_bgr, 4))
    options = {'face.method': 'solid', 'detector.plate_model_path': 'none', 'threads': 1}
    found = tmp_path / 'found.jsonl'
    job = BagJob(
        source=source,
        target=tmp_path / 'out',
        settings=Settings().updated(options),
        write_detections=found,
    )
    assert estimate(BagPlan(job), sample_s=0.1).frames == 4
    chunks = plan_chunks(job)
    results = [run_chunk(chunk) for chunk in chunks]
    jobs.recipe_that_finds.cache_clear()
    # Of the very pictures that the one pass sees.
    known = DetectedBefore(results)
    monkeypatch.setattr(Recipe, 'detect', None)
    assert (len(chunks), len(known)) == (2, 4)
    report = conversion.run(job, detected=known)
    assert report.streams['/cam/image'].regions['face'] == 4
    monkeypatch.undo()

    page = tmp_path / 'audit.html'
    words = ['audit', '-i', str(source), '-o', str(tmp_path / 'out'), '--report', str(page)]
    assert main([*words, '--detections', str(found), '--disable-progress-output']) == 0
    assert '4 frames, 0 with something uncovered' in capsys.readouterr().out
    recording = BagRecording(source, Settings())
    assert [len(stamps) for stamps in recording.streams.values()] == [4]
    seen = recording.frame('/cam/image', 2).decode().image_bgr
    np.testing.assert_array_equal(seen, np.roll(face_bgr, 2, 1))


def test_tf_has_its_new_name(tmp_path):
    old = 'tf/msg/tfMessage'
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg('geometry_msgs/TransformStamped[] transforms', old))
    with Writer(tmp_path / 'in.bag') as writer:
        connection = writer.add_connection('/tf', old, typestore=store)
        writer.write(connection, T0, store.serialize_ros1(store.types[old]([]), old))
    reader = BagReader(tmp_path / 'in.bag')
    assert [topic.type_name for topic in reader.topics()] == ['tf2_msgs/msg/TFMessage']
    (message,) = [item for item in reader.items() if isinstance(item, Message)]
    assert message.topic.type_hash == NEW.hash_rihs01('tf2_msgs/msg/TFMessage')
