"""Test the bag tool on real bags, read back with other programs' readers."""

import contextlib
from contextlib import closing
import fcntl
import functools
from functools import partial
import hashlib
import io
import json
import os
from pathlib import Path
import pty
import re
import resource
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import cv2
from ffs_anonymizer.bag import preflight as trial
from ffs_anonymizer.bag.prefetch import read_ahead
from ffs_anonymizer.bag.selection import Action, contains_picture, is_picture, Selection
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import BagError, ImageError
from ffs_anonymizer.pipeline import BATCH_BYTES, BATCH_ITEMS
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.storage import Attachment, Message, Topic
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
import numpy as np
import pytest
from rosbags import rosbag2 as rosbags_rosbag2
from rosbags import typesys as rosbags_typesys
from support.onnx_models import (
    save_failing_generator,
    save_generator,
    save_wrongly_shaped_generator,
)
import yaml
import zstandard

ROOT = Path(__file__).parents[2]
T0 = 1_700_000_000_000_000_000
STEP = 33_000_000
IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
RELIABLE, LATCHED = (
    yaml.safe_dump(
        [
            {
                'history': 'keep_last',
                'depth': depth,
                'reliability': 'reliable',
                'durability': durability,
                'deadline': {'sec': 9223372036, 'nsec': 854775807},
                'lifespan': {'sec': 9223372036, 'nsec': 854775807},
                'liveliness': 'automatic',
                'liveliness_lease_duration': {'sec': 9223372036, 'nsec': 854775807},
                'avoid_ros_namespace_conventions': False,
            }
        ]
    )
    for depth, durability in ((10, 'volatile'), (1, 'transient_local'))
)
TYPES = rosbags_typesys.get_typestore(rosbags_typesys.Stores.ROS2_JAZZY)
SOLID = ('--method', 'face=solid')
# Enough for the portrait, and faster.
QUICK = (*SOLID, '--set', 'detector.scale=1.0', '--disable-progress-output')


class Record(NamedTuple):
    topic: str
    log_ns: int
    publish_ns: int
    sequence: int
    data: bytes


class Spec(NamedTuple):
    name: str
    type_name: str
    qos: str = RELIABLE
    definition: str = 'uint8[] data'
    type_hash: str = 'RIHS01_' + 'a' * 64
    serialization: str = 'cdr'


def raw_cdr(image_bgr, *, stamp_ns=T0, frame_id='camera', padding=0):
    """Serialize an Image with rosbags' own code."""
    height, width = image_bgr.shape[:2]
    step = width * 3 + padding
    rows = np.full((height, step), 0xAB, np.uint8)
    rows[:, : width * 3] = image_bgr.reshape(height, -1)
    return image_cdr(rows.reshape(-1), height, width, 'bgr8', step, stamp_ns, frame_id)


def image_cdr(data, height, width, encoding, step, stamp_ns=T0, frame_id='camera'):
    types = TYPES.types
    stamp = types['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    header = types['std_msgs/msg/Header'](stamp, frame_id)
    message = types[IMAGE](header, height, width, encoding, 0, step, data)
    return bytes(TYPES.serialize_cdr(message, IMAGE))


def compressed_cdr(data, *, stamp_ns=T0, text='bgr8; jpeg compressed bgr8'):
    types = TYPES.types
    stamp = types['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    header = types['std_msgs/msg/Header'](stamp, 'camera')
    message = types[COMPRESSED](header, text, np.frombuffer(data, np.uint8))
    return bytes(TYPES.serialize_cdr(message, COMPRESSED))


def image_of(record):
    return TYPES.deserialize_cdr(record.data, IMAGE)


def pixels_of(record):
    message = image_of(record)
    rows = message.data.reshape(message.height, message.step)
    return rows[:, : message.width * 3].reshape(message.height, message.width, 3)


def jpeg(image_bgr):
    return cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


SPECS = [
    Spec('/cam/image', IMAGE),
    Spec('/cam/image/compressed', COMPRESSED),
    Spec('/map', 'nav_msgs/msg/OccupancyGrid', qos=LATCHED),
    Spec('/odd', 'nobody_msgs/msg/Unheard', definition='float64 a\nNested b\n'),
    Spec('/empty', 'std_msgs/msg/String'),
]


def drive(face_bgr, count=4):
    """Return the messages of a short drive: a portrait that moves, and all else that bags hold."""
    records = [Record('/map', T0 - 5, T0 - 900, 1, os.urandom(1001))]
    for i in range(count):
        frame = np.roll(face_bgr, 2 * i, axis=1)
        now = T0 + i * STEP
        raw = raw_cdr(frame, stamp_ns=now - 4_000_000, padding=6)
        small = compressed_cdr(jpeg(frame), stamp_ns=now - 3_000_000)
        records += [
            Record('/cam/image', now, now - 2_000_000, 7 + i, raw),
            Record('/odd', now + 1, now - 77, 100 + i, os.urandom(33 + i)),
            Record('/cam/image/compressed', now + 2, now - 1_000_000, 50 + i, small),
        ]
    # Recorded later than what stands behind it: files need not be in the order of time.
    records.append(Record('/odd', T0 + count * STEP + 500, T0, 200, b''))
    records.append(Record('/odd', T0 + count * STEP, T0, 201, b'\0'))
    return records


def bag_yaml(
    specs, files, *, storage='mcap', mode='', version=9, custom=None, distro='jazzy', **changes
):
    """Return metadata.yaml as rosbag2 writes it; `files` is a list of names and records."""
    records = [record for _, some in files for record in some]
    times = [record.log_ns for record in records]

    def qos(spec):
        return yaml.safe_load(spec.qos) if version >= 9 else spec.qos

    section = {
        'version': version,
        'storage_identifier': storage,
        'duration': {'nanoseconds': max(times) - min(times)},
        'starting_time': {'nanoseconds_since_epoch': min(times)},
        'message_count': len(records),
        'topics_with_message_count': [
            {
                'topic_metadata': {
                    'name': spec.name,
                    'type': spec.type_name,
                    'serialization_format': spec.serialization,
                    'offered_qos_profiles': qos(spec),
                    'type_description_hash': spec.type_hash,
                },
                'message_count': sum(record.topic == spec.name for record in records),
            }
            for spec in specs
        ],
        'compression_format': 'zstd' if mode else '',
        'compression_mode': mode,
        'relative_file_paths': [name for name, _ in files],
        'files': [
            {
                'path': name,
                'starting_time': {'nanoseconds_since_epoch': min(r.log_ns for r in some)},
                'duration': {'nanoseconds': 0},
                'message_count': len(some),
            }
            for name, some in files
        ],
        'custom_data': custom,
        'ros_distro': distro,
    }
    return yaml.safe_dump({'rosbag2_bagfile_information': {**section, **changes}})


def write_mcap(
    path, specs, records, *, compression=CompressionType.NONE, attachments=(), notes=()
):
    with path.open('wb') as file:
        writer = Writer(file, compression=compression, chunk_size=50_000)
        writer.start(profile='ros2', library='libmcap 1.0')
        channels = {}
        for spec in specs:
            schema = writer.register_schema(spec.type_name, 'ros2msg', spec.definition.encode())
            details = {'offered_qos_profiles': spec.qos, 'topic_type_hash': spec.type_hash}
            channels[spec.name] = writer.register_channel(
                spec.name, spec.serialization, schema, {**details, 'own': 'kept'}
            )
        for record in records:
            channel = channels[record.topic]
            times = record.log_ns, record.data, record.publish_ns, record.sequence
            writer.add_message(channel, *times)
        for attachment in attachments:
            writer.add_attachment(*attachment)
        for name, entries in notes:
            writer.add_metadata(name, entries)
        writer.finish()


def write_sqlite(path, specs, records, *, layout=4):
    """Write a .db3 file in the layout of Jazzy (4), or of Foxy and Humble (2)."""
    with closing(sqlite3.connect(path)) as database:
        hash_column = ', type_description_hash TEXT NOT NULL' if layout == 4 else ''
        database.executescript(
            'CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, '
            'serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL'
            f'{hash_column});'
            'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, '
            'timestamp INTEGER NOT NULL, data BLOB NOT NULL);'
            'CREATE INDEX timestamp_idx ON messages (timestamp ASC);'
        )
        if layout == 4:
            database.executescript(
                'CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT);'
                "INSERT INTO schema VALUES (4, 'jazzy');"
                'CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER, '
                'metadata TEXT);'
                'CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT, '
                'encoding TEXT, encoded_message_definition TEXT, type_description_hash TEXT);'
            )
        numbers = {}
        for number, spec in enumerate(specs, 3):
            numbers[spec.name] = number
            row = (number, spec.name, spec.type_name, spec.serialization, spec.qos)
            if layout == 4:
                row += (spec.type_hash,)
                database.execute(
                    'INSERT INTO message_definitions VALUES (?, ?, ?, ?, ?)',
                    (number, spec.type_name, 'ros2msg', spec.definition, spec.type_hash),
                )
            database.execute(f'INSERT INTO topics VALUES ({", ".join("?" * len(row))})', row)
        database.executemany(
            'INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)',
            [(numbers[record.topic], record.log_ns, record.data) for record in records],
        )
        database.commit()


def write_bag(folder, records, *, specs=SPECS, mode='', splits=2, storage='mcap', **options):
    """Write a bag with splits; `mode` is rosbag2's compression mode."""
    folder.mkdir()
    layout = options.pop('layout', 4)
    compression = options.pop('compression', CompressionType.NONE)
    size = -(-len(records) // splits)
    files = []
    for i in range(splits):
        some = records[i * size : (i + 1) * size]
        path = folder / f'{folder.name}_{i}{".mcap" if storage == "mcap" else ".db3"}'
        stored = some
        if mode == 'MESSAGE':
            stored = [record._replace(data=zstd(record.data)) for record in some]
        if storage == 'mcap':
            write_mcap(path, specs, stored, compression=compression)
        else:
            write_sqlite(path, specs, stored, layout=layout)
        if mode == 'FILE':
            path.with_name(path.name + '.zstd').write_bytes(zstd(path.read_bytes()))
            path.unlink()
            path = path.with_name(path.name + '.zstd')
        files.append((path.name, some))
    text = bag_yaml(specs, files, storage=storage, mode=mode, **options)
    (folder / 'metadata.yaml').write_text(text)
    return folder


class Read(NamedTuple):
    records: list
    topics: dict
    raw: list


def read_bag(folder, mode=''):
    """Read a bag with mcap's and sqlite's own readers; the records have their plain data."""
    info = yaml.safe_load((folder / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    stored, topics = [], {}
    for name in info['relative_file_paths']:
        data = (folder / name).read_bytes()
        if name.endswith('.zstd'):
            size = zstandard.get_frame_parameters(data).content_size
            data = zstandard.ZstdDecompressor().decompress(data)
            assert size == len(data), 'rosbag2 wants the size in the head of the frame'
        read = _read_mcap if '.mcap' in name else _read_sqlite
        more, some = read(data)
        stored += more
        topics.update(some)
    records = stored
    if info['compression_mode'] == 'MESSAGE':
        for record in stored:
            assert zstandard.get_frame_parameters(record.data).content_size < 2**40
        plain = zstandard.ZstdDecompressor().decompress
        records = [record._replace(data=plain(record.data)) for record in stored]
    return Read(records, topics, stored)


def _read_mcap(data):
    reader = make_reader(io.BytesIO(data), validate_crcs=True)
    summary = reader.get_summary()
    topics = {}
    for channel in summary.channels.values():
        schema = summary.schemas[channel.schema_id]
        topics[channel.topic] = (
            schema.name,
            schema.encoding,
            schema.data.decode(),
            channel.message_encoding,
            channel.metadata['offered_qos_profiles'],
            channel.metadata['topic_type_hash'],
        )
    records = []
    # In the order of the file, which make_reader does not promise.
    names = {number: channel.topic for number, channel in summary.channels.items()}
    for record in StreamReader(io.BytesIO(data), validate_crcs=True).records:
        if type(record).__name__ == 'Message':
            times = record.log_time, record.publish_time, record.sequence
            records.append(Record(names[record.channel_id], *times, record.data))
    assert len(records) == summary.statistics.message_count
    return records, topics


def _read_sqlite(data):
    with tempfile.NamedTemporaryFile() as file, closing(sqlite3.connect(file.name)) as database:
        file.write(data)
        file.flush()
        topics = {}
        for name, *rest in database.execute(
            'SELECT name, type, encoding, encoded_message_definition, serialization_format, '
            'offered_qos_profiles, topics.type_description_hash FROM topics '
            'LEFT JOIN message_definitions ON topic_type = type'
        ):
            topics[name] = tuple(rest)
        rows = database.execute(
            'SELECT name, timestamp, data FROM messages JOIN topics ON topic_id = topics.id '
            'ORDER BY messages.id'
        )
        records = [Record(name, stamp, stamp, 0, data) for name, stamp, data in rows]
        assert database.execute('SELECT schema_version FROM schema').fetchall() == [(4,)]
        assert database.execute("SELECT name FROM sqlite_master WHERE type = 'index'").fetchall()
    return records, topics


def digest(path):
    """Return the names, contents and times of a file or of all files of a folder."""
    files = sorted(path.rglob('*')) if path.is_dir() else [path]
    return {
        str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in files
        if file.is_file()
    }


def run(source, target, *words):
    """Run the command in this process."""
    return main(['bag', '-i', str(source), '-o', str(target), *QUICK, *map(str, words)])


def leftovers(folder):
    """Return what lies in a folder beside its inputs."""
    return sorted(path.name for path in folder.iterdir() if path.name != 'in')


def others(records):
    return [record for record in records if not record.topic.startswith('/cam/')]


def images(records, topic='/cam/image'):
    return [record for record in records if record.topic == topic]


def stamps(records):
    return [
        (record.topic, record.log_ns, record.publish_ns, record.sequence) for record in records
    ]


# What the tool is for.


@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_all_but_the_images_is_byte_for_byte_the_same(tmp_path, face_bgr, mode):
    records = drive(face_bgr)
    source = write_bag(tmp_path / 'in', records, mode=mode, custom={'driver': 'me'})
    before = digest(source)

    assert run(source, tmp_path / 'out', '--write-detections', tmp_path / 'found.jsonl') == 0

    assert digest(source) == before
    assert leftovers(tmp_path) == ['found.jsonl', 'out']
    result = read_bag(tmp_path / 'out')
    assert stamps(result.records) == stamps(records)
    assert others(result.records) == others(records)
    for spec in SPECS:
        assert result.topics[spec.name] == (
            spec.type_name,
            'ros2msg',
            spec.definition,
            'cdr',
            spec.qos,
            spec.type_hash,
        )
    lines = [json.loads(line) for line in (tmp_path / 'found.jsonl').read_text().splitlines()]
    assert len(lines) == 8
    for record, original in zip(images(result.records), images(records), strict=True):
        (line,) = (found for found in lines if found['log_ns'] == record.log_ns)
        assert len(line['regions']) == 1
        assert_only_changed_inside(record, original, line['regions'][0]['xyxy_px'])


def assert_only_changed_inside(record, original, box):
    """Check an Image, its fields and padding included, against where a face was found."""
    assert len(record.data) == len(original.data)
    ours, theirs = image_of(record), image_of(original)
    for name in ('header', 'height', 'width', 'encoding', 'is_bigendian', 'step'):
        assert getattr(ours, name) == getattr(theirs, name)
    # Boxes are written with one decimal, so that a pixel at a border may be in or out
    low, high = np.array(box[:2]), np.array(box[2:])
    black = (pixels_of(record) == 0).all(axis=2)
    x0, y0, x1, y1 = np.append(np.floor(low + 0.05), np.ceil(high - 0.05)).astype(int)
    assert black[y0:y1, x0:x1].all()
    outside = np.ones((ours.height, ours.width), bool)
    x0, y0, x1, y1 = np.append(np.floor(low - 0.05), np.ceil(high + 0.05)).astype(int)
    outside[y0:y1, x0:x1] = False
    assert (pixels_of(record) == pixels_of(original))[outside].all()
    padding = slice(ours.width * 3, None)
    assert not ours.data.reshape(ours.height, -1)[:, padding].any()
    head = len(record.data) - ours.step * ours.height
    assert record.data[:head] == original.data[:head]


def test_metadata_is_what_rosbag2_writes(tmp_path, face_bgr):
    records = drive(face_bgr)
    source = write_bag(tmp_path / 'in', records, mode='MESSAGE', custom={'driver': 'me'})

    assert run(source, tmp_path / 'out') == 0

    ours = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    theirs = yaml.safe_load((source / 'metadata.yaml').read_text())
    ours, theirs = (data['rosbag2_bagfile_information'] for data in (ours, theirs))
    span = {
        'path': 'out_0.mcap',
        'starting_time': theirs['starting_time'],
        'duration': theirs['duration'],
        'message_count': len(records),
    }
    assert ours == {**theirs, 'relative_file_paths': ['out_0.mcap'], 'files': [span]}
    assert ours['custom_data'] == {'driver': 'me'}
    reader = make_reader((tmp_path / 'out' / 'out_0.mcap').open('rb'))
    (note,) = reader.iter_metadata()
    reader._stream.close()
    assert note.name == 'rosbag2'
    assert yaml.safe_load(note.metadata['serialized_metadata']) == ours
    settings = yaml.safe_load((tmp_path / 'out' / 'anonymizer.param.yaml').read_text())
    assert settings['/**']['ros__parameters']['face']['method'] == 'solid'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['none', 'file', 'message'])
def test_another_reader_reads_what_is_written(tmp_path, face_bgr, storage, mode):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records)

    words = ['--storage', storage, '--compression-mode', mode]
    assert run(source, tmp_path / 'out', *words) == 0

    with rosbags_rosbag2.Reader(tmp_path / 'out') as reader:
        assert reader.message_count == len(records)
        assert {c.topic: c.msgcount for c in reader.connections}['/empty'] == 0
        durability = {
            c.topic: [qos.durability.name for qos in c.ext.offered_qos_profiles]
            for c in reader.connections
        }
        assert durability['/map'] == ['TRANSIENT_LOCAL']
        assert durability['/odd'] == ['VOLATILE']
        read = sorted((c.topic, stamp, bytes(data)) for c, stamp, data in reader.messages())
    expected = sorted((record.topic, record.log_ns, record.data) for record in others(records))
    assert [row for row in read if not row[0].startswith('/cam/')] == expected
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['storage_identifier'] == storage
    assert info['compression_mode'] == ('' if mode == 'none' else mode.upper())


@pytest.mark.parametrize('layout', [2, 4])
@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_sqlite_in_both_layouts(tmp_path, face_bgr, layout, mode):
    records = drive(face_bgr, 2)
    version = 5 if layout == 2 else 9
    source = write_bag(
        tmp_path / 'in', records, storage='sqlite3', mode=mode, layout=layout, version=version
    )
    before = digest(source)

    assert run(source, tmp_path / 'out') == 0

    assert digest(source) == before
    result = read_bag(tmp_path / 'out')
    assert [r[:2] for r in result.records] == [r[:2] for r in records]
    assert [r.data for r in others(result.records)] == [r.data for r in others(records)]
    assert result.topics['/map'][4] == LATCHED
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['version'] == version
    if layout == 2:
        assert result.topics['/odd'][1] is None
        assert 'custom_data' not in info
    else:
        assert result.topics['/odd'][1:3] == ('ros2msg', SPECS[3].definition)


def test_sqlite_to_mcap_and_back(tmp_path, face_bgr, capsys):
    records = drive(face_bgr, 2)
    source = write_bag(tmp_path / 'in', records, storage='sqlite3')

    assert run(source, tmp_path / 'one', '-s', 'mcap', '-x', '.*') == 0
    assert run(tmp_path / 'one', tmp_path / 'two', '-s', 'sqlite3', '-x', '.*') == 0

    first, middle, last = (read_bag(tmp_path / name) for name in ('in', 'one', 'two'))
    assert middle.records == [r._replace(publish_ns=r.log_ns, sequence=0) for r in records]
    assert last == first
    assert middle.topics == first.topics
    assert 'sqlite3 has no place for publish times' in capsys.readouterr().err


def test_sqlite_without_definitions_to_mcap(tmp_path, face_bgr, capsys):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records, storage='sqlite3', layout=2, version=5)

    assert run(source, tmp_path / 'out', '-s', 'mcap') == 0

    assert 'the bag has no message definitions for these types' in capsys.readouterr().err
    result = read_bag(tmp_path / 'out')
    assert result.topics['/odd'] == ('nobody_msgs/msg/Unheard', '', '', 'cdr', RELIABLE, '')
    assert [r.data for r in others(result.records)] == [r.data for r in others(records)]


def test_chunks_are_compressed_as_they_were(tmp_path, face_bgr):
    records = drive(face_bgr, 1)
    for name, compression in (('zstd', CompressionType.ZSTD), ('lz4', CompressionType.LZ4)):
        source = write_bag(tmp_path / name, records, compression=compression)
        assert run(source, tmp_path / f'{name}_out') == 0
        file = tmp_path / f'{name}_out' / f'{name}_out_0.mcap'
        with file.open('rb') as stream:
            chunks = make_reader(stream).get_summary().chunk_indexes
        assert {chunk.compression for chunk in chunks} == {name}
        assert read_bag(tmp_path / f'{name}_out').records[0] == records[0]


def test_frames_without_faces_are_the_same_bytes(tmp_path, face_bgr):
    wall = np.full_like(face_bgr, 90)
    records = [
        Record('/cam/image', T0, T0, 1, raw_cdr(wall)),
        Record('/cam/image/compressed', T0, T0, 1, compressed_cdr(jpeg(wall))),
    ]
    source = write_bag(tmp_path / 'in', records, splits=1, mode='MESSAGE')

    assert run(source, tmp_path / 'out') == 0

    assert read_bag(tmp_path / 'out').raw == read_bag(source).raw


def test_a_second_picture_behind_a_jpeg_is_left_out(tmp_path, face_bgr):
    wall, small = jpeg(np.full_like(face_bgr, 90)), jpeg(face_bgr)
    record = Record('/cam/image/compressed', T0, T0, 1, compressed_cdr(wall + small))
    source = write_bag(tmp_path / 'in', [record], splits=1)

    assert run(source, tmp_path / 'out') == 0

    (result,) = read_bag(tmp_path / 'out').records
    assert result.data == compressed_cdr(wall)


def test_message_compression_leaves_unchanged_messages_as_they_are(tmp_path, face_bgr):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records, mode='MESSAGE')

    assert run(source, tmp_path / 'out') == 0

    assert others(read_bag(tmp_path / 'out').raw) == others(read_bag(source).raw)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_single_file_without_its_folder(tmp_path, face_bgr, storage):
    records = drive(face_bgr, 1)
    folder = write_bag(tmp_path / 'in', records, splits=1, storage=storage)
    (file,) = (path for path in folder.iterdir() if path.suffix != '.yaml')

    assert run(file, tmp_path / 'out') == 0

    result = read_bag(tmp_path / 'out')
    assert [r.data for r in others(result.records)] == [r.data for r in others(records)]
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    # These QoS profiles have words in them, which only the newest version can say.
    assert info['version'] == 9
    by_name = {t['topic_metadata']['name']: t for t in info['topics_with_message_count']}
    assert by_name['/map']['topic_metadata']['offered_qos_profiles'] == yaml.safe_load(LATCHED)
    assert by_name['/odd']['message_count'] == 3


def test_attachments_and_metadata_records(tmp_path, face_bgr, capsys):
    path = tmp_path / 'in.mcap'
    write_mcap(
        path,
        SPECS,
        drive(face_bgr, 1),
        attachments=[
            (1, 2, 'calibration.yaml', 'text/yaml', b'fx: 1'),
            (1, 2, 'driver.jpg', '', jpeg(face_bgr)),
            (1, 2, 'blob', 'application/octet-stream', jpeg(face_bgr)),
        ],
        notes=[('vehicle', {'plate': 'none'})],
    )

    assert run(path, tmp_path / 'out') == 1

    with (tmp_path / 'out' / 'out_0.mcap').open('rb') as stream:
        reader = make_reader(stream)
        (attachment,) = reader.iter_attachments()
        notes = {note.name: note.metadata for note in reader.iter_metadata()}
    assert (attachment.name, attachment.data) == ('calibration.yaml', b'fx: 1')
    assert (attachment.create_time, attachment.log_time) == (1, 2)
    assert notes['vehicle'] == {'plate': 'none'}
    errors = capsys.readouterr().err
    assert "attachment 'driver.jpg' () is a picture: left out" in errors
    assert "attachment 'blob' (application/octet-stream) is a picture: left out" in errors


def test_time_window_keeps_both_ends(tmp_path, face_bgr):
    records = drive(face_bgr, 4)
    source = write_bag(tmp_path / 'in', records, splits=2)
    start, end = T0 + STEP, T0 + 2 * STEP + 1

    assert run(source, tmp_path / 'out', '--start-time-ns', start, '--end-time-ns', end) == 0

    expected = [record for record in records if start <= record.log_ns <= end]
    result = read_bag(tmp_path / 'out')
    assert stamps(result.records) == stamps(expected)
    assert set(result.topics) == {spec.name for spec in SPECS}


def test_splits_by_size_and_by_duration(tmp_path, face_bgr):
    records = drive(face_bgr, 4)
    source = write_bag(tmp_path / 'in', records, splits=1)

    assert run(source, tmp_path / 'size', '--max-bag-size', 100_000) == 0
    assert run(source, tmp_path / 'time', '--max-bag-duration', 1, '-s', 'sqlite3') == 0

    info = yaml.safe_load((tmp_path / 'size' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['relative_file_paths'] == ['size_0.mcap', 'size_1.mcap', 'size_2.mcap']
    assert sum(file['message_count'] for file in info['files']) == len(records)
    assert stamps(read_bag(tmp_path / 'size').records) == stamps(records)
    assert len(list((tmp_path / 'time').glob('*.db3'))) == 1
    with rosbags_rosbag2.Reader(tmp_path / 'size') as reader:
        assert len(list(reader.messages())) == len(records)


# Which topics.


@pytest.mark.parametrize(
    'words',
    [
        ['--topics', '/cam/image'],
        ['-e', '/cam/im...'],
        ['--exclude-topics', '/cam/image/compressed'],
        ['-x', '.*/compressed'],
        ['--set', 'copy_topics=["*/compressed"]'],
    ],
)
def test_topics_that_are_not_chosen_are_copied(tmp_path, face_bgr, capsys, words):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records)

    assert run(source, tmp_path / 'out', *words) == 0

    result = read_bag(tmp_path / 'out').records
    name = '/cam/image/compressed'
    assert images(result, name) == images(records, name)
    assert images(result) != images(records)
    error = capsys.readouterr().err
    why = 'FACES' if words[0] in ('--topics', '-e') else 'PERSONS'
    (line,) = (line for line in error.splitlines() if 'COPIED AS THEY ARE' in line)
    assert f'THESE IMAGES ARE COPIED AS THEY ARE, {why} INCLUDED' in line
    assert line.endswith(f': {name}')


def test_a_topic_that_does_not_exist(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--topics', '/cam/imaeg', '/odd') == 1
    text = 'got /cam/imaeg, /odd, expected image topics of the bag: /cam/image, /cam/image/com'
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_topic_both_chosen_and_excluded(tmp_path, capsys):
    words = ['--topics', '/a', '/b', '--exclude-topics', '/b']
    assert run(tmp_path / 'in', tmp_path / 'out', *words) == 2
    assert 'got /b in --topics and in --exclude-topics' in capsys.readouterr().err
    words = ['--drop-topics', '/a', '/b', '--exclude-topics', '/b']
    assert run(tmp_path / 'in', tmp_path / 'out', *words) == 2
    assert 'got /b in --exclude-topics and in --drop-topics' in capsys.readouterr().err


ALL_NAMES = '/cam/image, /cam/image/compressed, /empty, /map, /odd'


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (
            ['-e', 'compressed'],
            "--regex: got 'compressed', expected what fits the whole name of one image topic of "
            'the bag or more, as `.*compressed` fits all names that end so: /cam/image, /cam/im',
        ),
        (['--topics', '/cam/image', '-e', '/odd'], "--regex: got '/odd', expected what"),
        (
            ['-x', 'depth'],
            "--exclude-regex: got 'depth', expected what fits the whole name of one topic of the "
            f'bag or more, as `.*compressed` fits all names that end so: {ALL_NAMES}\n',
        ),
        (
            ['--exclude-topics', '/odd', '/cam'],
            f'--exclude-topics: got /cam, expected topics of the bag: {ALL_NAMES}\n',
        ),
        (
            ['--drop-topics', '/cam/.*', '/map'],
            f'--drop-topics: got /cam/.*, expected topics of the bag: {ALL_NAMES}\n',
        ),
    ],
)
def test_names_and_expressions_that_fit_nothing(tmp_path, face_bgr, capsys, words, text):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', *words) == 1
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_copying_pictures_on_request_is_said_out_loud(tmp_path, face_bgr, capsys):
    depth = Spec('/front/compressedDepth', COMPRESSED)
    specs = [*SPECS, VIDEO, NESTED, MARKERS, depth]
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), specs=specs)

    words = ['-x', '/[^c].*', '--set', 'copy_topics=["*/nothing"]']
    assert run(source, tmp_path / 'out', '--dry-run', *words) == 0

    assert 'PERSONS INCLUDED, as you asked for: /front/ffmpeg, /seen\n' in capsys.readouterr().err


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_dropped_topics_leave_no_trace(tmp_path, face_bgr, capsys, storage, mode):
    specs = [*SPECS, VIDEO, Spec('/front/compressedDepth', COMPRESSED)]
    records = drive(face_bgr, 1)
    kept = [record for record in records if record.topic in ('/cam/image', '/map')]
    video = Record('/front/ffmpeg', T0 + 9, T0 + 9, 1, b'private')
    source = write_bag(tmp_path / 'in', [*records, video], specs=specs, storage=storage, mode=mode)
    dropped = [spec.name for spec in specs if spec.name not in ('/cam/image', '/map')]

    assert run(source, tmp_path / 'out', '--drop-topics', *dropped) == 0

    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ['/front/ffmpeg', VIDEO.type_name, '1', 'drop'] in lines
    assert ['/front/ffmpeg', 'drop', *'----'] in lines
    assert '/odd' not in printed.err
    result = read_bag(tmp_path / 'out')
    assert [r[:2] for r in result.records] == [r[:2] for r in kept]
    assert others(result.records)[0].data == records[0].data
    assert {*result.topics} == {'/cam/image', '/map'}
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    topics = info['rosbag2_bagfile_information']['topics_with_message_count']
    assert {t['topic_metadata']['name'] for t in topics} == {'/cam/image', '/map'}
    for path in (tmp_path / 'out').iterdir():
        data = path.read_bytes()
        plain = zstandard.ZstdDecompressor().decompress(data) if path.suffix == '.zstd' else data
        assert b'ffmpeg' not in plain
        assert b'Unheard' not in plain


def test_a_bag_of_which_all_is_dropped(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--drop-topics', *ALL_NAMES.split(', ')) == 1
    text = 'has no messages in the given time but those of dropped topics'
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('value', ['0.5', '-1', 'ten'])
def test_sizes_and_durations_that_are_none(tmp_path, capsys, value):
    with pytest.raises(SystemExit, match='2'):
        run(tmp_path / 'in', tmp_path / 'out', f'--max-bag-duration={value}')
    text = f"--max-bag-duration: got '{value}', expected a whole number, 0 or more"
    assert text in capsys.readouterr().err


def test_a_regular_expression_that_is_none(tmp_path, capsys):
    assert run(tmp_path / 'in', tmp_path / 'out', '-e', '(') == 2
    assert "--regex: got '(', expected a regular expression" in capsys.readouterr().err


VIDEO = Spec('/front/ffmpeg', 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket')
NESTED = Spec(
    '/seen',
    'my_msgs/msg/Seen',
    definition=(
        'std_msgs/Header header\nShot shot\n'
        f'{"=" * 80}\nMSG: my_msgs/Shot\nuint8 number\nsensor_msgs/Image[] pictures\n'
        f'{"=" * 80}\nMSG: sensor_msgs/Image\nuint8[] data\n'
    ),
)
MARKERS = Spec(
    '/markers',
    'visualization_msgs/msg/MarkerArray',
    definition=(
        'Marker[] markers\n'
        f'{"=" * 80}\nMSG: visualization_msgs/Marker\nsensor_msgs/CompressedImage texture\n'
        f'{"=" * 80}\nMSG: sensor_msgs/CompressedImage\nuint8[] data\n'
    ),
)


@pytest.mark.parametrize('mode', ['', 'FILE'])
def test_pictures_in_other_types_are_refused(tmp_path, face_bgr, capsys, mode):
    specs = [*SPECS, VIDEO, NESTED, MARKERS]
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), specs=specs, mode=mode)

    assert run(source, tmp_path / 'out') == 1

    error = capsys.readouterr().err
    assert '/front/ffmpeg (ffmpeg_image_transport_msgs/msg/FFMPEGPacket)' in error
    assert ('/seen (my_msgs/msg/Seen)' in error) == (not mode)
    assert '; leave them out with --drop-topics, or, if they show no persons, copy them' in error
    assert '/markers' not in error
    assert leftovers(tmp_path) == []
    # The definition in a compressed file is seen only when it is opened.
    assert run(source, tmp_path / 'out', '--exclude-topics', '/front/ffmpeg') == 1
    assert '/seen (my_msgs/msg/Seen)' in capsys.readouterr().err
    assert leftovers(tmp_path) == []
    assert run(source, tmp_path / 'out', '--exclude-topics', '/front/ffmpeg', '/seen') == 0


@pytest.mark.parametrize('on_error', ['stop', 'black'])
@pytest.mark.parametrize(
    ('name', 'type_name', 'data'),
    [
        ('/depth', IMAGE, image_cdr(np.zeros(8, np.uint8), 2, 2, '16UC1', 4)),
        ('/depth', COMPRESSED, compressed_cdr(b'\x89PNG', text='16UC1; compressedDepth png')),
        ('/depth/compressedDepth', COMPRESSED, b''),
    ],
    ids=['raw', 'compressed', 'by name'],
)
def test_depth_is_no_picture(tmp_path, face_bgr, capsys, name, type_name, data, on_error):
    records = [*drive(face_bgr, 1), Record(name, T0, T0, 1, data)]
    source = write_bag(tmp_path / 'in', records, specs=[*SPECS, Spec(name, type_name)])

    assert run(source, tmp_path / 'out', '--on-error', on_error) == 1

    printed = capsys.readouterr()
    error = printed.err
    # With --on-error black, only the run itself looks.
    assert ('sha256:' in printed.out) == (on_error == 'black' and 'compressedDepth' not in name)
    assert f'got depth images in {name}, expected pictures; leave them out with --drop' in error
    assert leftovers(tmp_path) == []
    assert run(source, tmp_path / 'out', '--exclude-topics', name) == 0
    assert read_bag(tmp_path / 'out').records[-1] == records[-1]


def test_dry_run_touches_nothing(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), mode='MESSAGE')
    assert run(source, tmp_path / 'out', '--dry-run', '--topics', '/cam/image') == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ['/cam/image', IMAGE, '1', 'anonymize'] in lines
    assert ['/empty', 'std_msgs/msg/String', '0', 'copy'] in lines
    assert ['face.method:', 'solid'] in lines
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['', 'MESSAGE'])
def test_the_first_image_of_each_topic_is_looked_at_early(
    tmp_path, face_bgr, capsys, storage, mode
):
    specs = [
        *SPECS,
        *(Spec(name, IMAGE) for name in ('/raw12', '/never', '/late')),
        *(Spec(f'/{name}', COMPRESSED) for name in ('video', 'begins_without')),
    ]
    nonsense = image_cdr(np.zeros(16, np.uint8), 4, 4, 'bayer_rggb12', 4)
    records = [
        Record('/begins_without', T0 + 1, T0 + 1, 1, compressed_cdr(b'')),
        Record('/video', T0 + 2, T0 + 2, 1, compressed_cdr(b'\0\0\0\1gA', text='h264')),
        *drive(face_bgr, 1),
        Record('/raw12', T0 + 3, T0 + 3, 1, nonsense),
        Record('/late', T0 + 3 + STEP, T0, 1, nonsense),
    ]
    source = write_bag(tmp_path / 'in', records, specs=specs, storage=storage, mode=mode)
    words = ['--dry-run', '--end-time-ns', T0 + STEP]

    for some in (words, words[1:]):
        assert run(source, tmp_path / 'out', *some) == 1

        printed = capsys.readouterr()
        assert 'sha256:' not in printed.out
        error = printed.err.splitlines()[-1]
        assert error.startswith(
            f'error: these topics cannot be anonymized: /video, message recorded at {T0 + 2} ns: '
            "got data of the format 'h264' that begins with 00 00 00 01 67 41, expected a JPEG, "
            f'PNG or WebP file; /raw12, message recorded at {T0 + 3} ns: got encoding '
            "'bayer_rggb12', expected one of bgr8, rgb8"
        )
        assert error.endswith(
            '; leave them out with --drop-topics, or, if they show no persons, copy them as they '
            'are with --exclude-topics'
        )
        assert leftovers(tmp_path) == []

    assert run(source, tmp_path / 'out', *words, '--on-error', 'black') == 0
    assert run(source, tmp_path / 'out', *words, '--drop-topics', '/video', '/raw12') == 0


def test_looking_early_ends_early(tmp_path, face_bgr, monkeypatch):
    source = write_bag(tmp_path / 'in', drive(face_bgr), specs=[*SPECS, Spec('/never', IMAGE)])
    text = (source / 'metadata.yaml').read_text()
    damaged_chunk(source)
    assert run(source, tmp_path / 'out', '--dry-run') == 0
    # A topic that is said to have messages, and has none, is looked for to the end or the limit.
    head, tail = text.split('/never')
    before, _, after = head.rpartition('- message_count: 0')
    (source / 'metadata.yaml').write_text(f'{before}- message_count: 1{after}/never{tail}')
    assert run(source, tmp_path / 'out', '--dry-run') == 1
    monkeypatch.setattr(trial, 'MOST_BYTES', 1000)
    assert run(source, tmp_path / 'out', '--dry-run') == 0


def test_areas_that_lie_in_no_image(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    area = '/cam/front 0 0 9 9'

    words = ['--dry-run', '--set', f'mask_zones=["/cam/* 0 0 9 9", "{area}"]']
    assert run(source, tmp_path / 'out', *words) == 2
    assert capsys.readouterr().err == (
        f"error: mask_zones: got '{area}', which fits no topic that is anonymized, so that the "
        'area would stay visible; expected the name or a glob of: /cam/image, '
        '/cam/image/compressed\n'
    )
    words[-1] = 'mask_zones=["/cam/image 0 0 9 9"]'
    assert run(source, tmp_path / 'out', *words) == 0
    assert run(source, tmp_path / 'out', *words, '--exclude-topics', '/cam/image') == 2
    assert run(source, tmp_path / 'out', *words, '--drop-topics', '/cam/image') == 0
    capsys.readouterr()

    words[-1] = f'ignore_zones=["/cam/* 0 0 9 9", "{area}"]'
    assert run(source, tmp_path / 'out', *words) == 0
    assert capsys.readouterr().err == (
        f"warning: ignore_zones: '{area}' fits no topic that is anonymized, so it has no effect\n"
    )
    assert leftovers(tmp_path) == []


# What goes wrong.

CUT_JPEG = b'\xff\xd8\xff\xe0' + bytes(40)
BAD_IMAGES = {
    'truncated JPEG': (COMPRESSED, compressed_cdr(CUT_JPEG)),
    'zero size': (IMAGE, image_cdr(np.zeros(0, np.uint8), 0, 0, 'bgr8', 0)),
    'data shorter than step * height': (
        IMAGE,
        image_cdr(np.zeros(20, np.uint8), 4, 4, 'bgr8', 12),
    ),
    'unknown encoding': (IMAGE, image_cdr(np.zeros(16, np.uint8), 4, 4, 'nonsense', 4)),
    'cut off CDR': (IMAGE, image_cdr(np.zeros(48, np.uint8), 4, 4, 'bgr8', 12)[:-9]),
    'no CDR at all': (IMAGE, b'\x28\xb5\x2f\xfd' + bytes(90)),
    'nothing': (IMAGE, b''),
}


@pytest.mark.parametrize('what', BAD_IMAGES)
def test_an_image_that_cannot_be_anonymized_stops_all(tmp_path, face_bgr, capsys, what):
    type_name, data = BAD_IMAGES[what]
    name = '/cam/image' if type_name == IMAGE else '/cam/image/compressed'
    records = drive(face_bgr, 2)
    records.insert(4, Record(name, T0 + 9, T0, 1, data))
    source = write_bag(tmp_path / 'in', records)
    before = digest(source)

    assert run(source, tmp_path / 'out') == 1

    error = capsys.readouterr().err
    assert f'error: {name}, message recorded at {T0 + 9} ns: ' in error
    assert 'with --on-error black' in error
    assert leftovers(tmp_path) == []
    assert digest(source) == before


def test_black_frames_stand_for_what_cannot_be_anonymized(tmp_path, face_bgr, capsys):
    records = drive(face_bgr, 2)
    cut = jpeg(face_bgr)[:-2000]
    noise = np.random.default_rng(0).integers(0, 255, 100, np.uint8)
    records[2:2] = [
        Record('/cam/image', T0 + 5, T0, 1, image_cdr(noise, 8, 8, 'bgr8', 24)),
        Record('/cam/image/compressed', T0 + 6, T0, 1, compressed_cdr(cut)),
        Record('/cam/image', T0 + 7, T0, 1, image_cdr(noise[:0], 0, 0, 'bgr8', 0)),
    ]
    source = write_bag(tmp_path / 'in', records, splits=1)

    words = ['--on-error', 'black', '--write-detections', tmp_path / 'found']
    code = run(source, tmp_path / 'out', *words)

    printed = capsys.readouterr()
    assert code == 1
    assert printed.err.count('it is black now') == 3
    assert f'/cam/image, message recorded at {T0 + 5} ns' in printed.err
    result = read_bag(tmp_path / 'out').records
    assert stamps(result) == stamps(records)
    assert others(result) == others(records)
    by_time = {record.log_ns: record for record in result}
    small = TYPES.deserialize_cdr(by_time[T0 + 6].data, COMPRESSED)
    decoded = cv2.imdecode(small.data, cv2.IMREAD_COLOR)
    assert decoded.shape == face_bgr.shape
    assert decoded.max() == 0
    assert small.format == 'bgr8; jpeg compressed bgr8'
    black = image_of(by_time[T0 + 5])
    assert (black.height, black.width, black.encoding, black.step) == (8, 8, 'bgr8', 24)
    assert not black.data.any()
    lines = (tmp_path / 'found').read_text().splitlines()
    errors = [json.loads(line).get('error') for line in lines]
    assert sum(error is not None for error in errors) == 3


def damage(path, offset, values=b'\xff\x00\xff\x00'):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(values)] = values
    path.write_bytes(data)


def damaged_chunk(folder):
    file = folder / 'in_1.mcap'
    with file.open('rb') as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[-1]
    damage(file, chunk.chunk_start_offset + chunk.chunk_length // 2)


def truncated(folder):
    file = folder / 'in_1.mcap'
    file.write_bytes(file.read_bytes()[:-1000])


def empty_file(folder):
    (folder / 'in_0.mcap').write_bytes(b'')


def missing_split(folder):
    (folder / 'in_1.mcap').unlink()


def no_metadata(folder):
    (folder / 'metadata.yaml').unlink()


def broken_yaml(folder):
    (folder / 'metadata.yaml').write_text('a: [')


def no_section(folder):
    (folder / 'metadata.yaml').write_text('a: 1')


def changed_metadata(old, new):
    def change(folder):
        path = folder / 'metadata.yaml'
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def no_database(folder):
    for path in folder.glob('*.mcap'):
        path.rename(path.with_suffix('.db3'))
    changed_metadata('mcap', 'db3')(folder)
    changed_metadata('storage_identifier: db3', 'storage_identifier: sqlite3')(folder)


BAD_BAGS = {
    'corrupt chunk': (damaged_chunk, 'in_1.mcap is damaged or cut off'),
    'truncated': (truncated, 'in_1.mcap is damaged or cut off'),
    'empty file': (empty_file, 'in_0.mcap is damaged or cut off'),
    'missing split': (missing_split, '1 of its 2 files are missing: in_1.mcap'),
    'no metadata': (no_metadata, 'has no metadata.yaml'),
    'no YAML': (broken_yaml, 'cannot read'),
    'no section': (no_section, 'got no section rosbag2_bagfile_information'),
    'unknown storage': (
        changed_metadata('storage_identifier: mcap', 'storage_identifier: leveldb'),
        "got storage 'leveldb', expected mcap or sqlite3",
    ),
    'unknown compression': (
        changed_metadata("compression_mode: ''", 'compression_mode: FILE'),
        "got compression file '', expected one of none, file, message with zstd",
    ),
    'newer than known': (changed_metadata('version: 9', 'version: 10'), 'got metadata version 10'),
    'missing key': (changed_metadata('message_count: 14', 'x: 14'), "key 'message_count' is miss"),
    'no sqlite3': (no_database, 'is damaged or no sqlite3 bag'),
}


@pytest.mark.parametrize('what', BAD_BAGS)
def test_bags_that_cannot_be_read_completely(tmp_path, face_bgr, capsys, what):
    damages, text = BAD_BAGS[what]
    records = drive(face_bgr, 4)[:14]
    source = write_bag(tmp_path / 'in', records)
    damages(source)
    before = digest(source)

    assert run(source, tmp_path / 'out') == 1

    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith('error: ')
    assert text in error
    assert leftovers(tmp_path) == []
    assert digest(source) == before


def test_a_compressed_file_that_is_cut_off(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr), mode='FILE')
    file = source / 'in_1.mcap.zstd'
    file.write_bytes(file.read_bytes()[:-100])
    assert run(source, tmp_path / 'out') == 1
    assert 'in_1.mcap.zstd is cut off: its compressed data has no end' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_damaged_compressed_message(tmp_path, face_bgr, capsys):
    records = [r._replace(data=zstd(r.data)) for r in drive(face_bgr, 1)]
    records[1] = records[1]._replace(data=records[1].data[:-9])
    folder = tmp_path / 'in'
    folder.mkdir()
    write_mcap(folder / 'in_0.mcap', SPECS, records)
    text = bag_yaml(SPECS, [('in_0.mcap', records)], mode='MESSAGE')
    (folder / 'metadata.yaml').write_text(text)
    assert run(folder, tmp_path / 'out') == 1
    assert 'a compressed message is cut off' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_sqlite_file_whose_recording_was_not_ended(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), storage='sqlite3', splits=1)
    (source / 'in_0.db3-wal').write_bytes(b'pages')
    assert run(source, tmp_path / 'out') == 1
    assert 'was not closed properly: in_0.db3-wal holds messages' in capsys.readouterr().err


def test_a_truncated_sqlite_file(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr), storage='sqlite3', splits=1)
    file = source / 'in_0.db3'
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert run(source, tmp_path / 'out') == 1
    assert 'in_0.db3 is damaged or no sqlite3 bag' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('nowhere', 'got no bag at'),
        ('file.bag', 'got a .bag file, expected a bag folder or one of: .mcap, .db3'),
    ],
)
def test_inputs_that_are_no_bags(tmp_path, capsys, name, text):
    (tmp_path / 'file.bag').write_bytes(b'#ROSBAG V2.0')
    assert run(tmp_path / name, tmp_path / 'out') == 1
    assert text in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    target = tmp_path / 'out'
    for existing in (target, tmp_path / 'out.partial', tmp_path / 'found'):
        existing.mkdir()
        assert run(source, target, '--write-detections', tmp_path / 'found') == 1
        error = capsys.readouterr().err
        assert str(existing) in error
        assert list(existing.iterdir()) == []
        existing.rmdir()
        assert leftovers(tmp_path) == []
    assert run(source, source / 'inside') == 1
    assert 'lies inside the input' in capsys.readouterr().err
    target.mkdir()
    assert run(source, target, '--skip-existing') == 0
    assert list(target.iterdir()) == []


def test_a_window_without_messages(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--start-time-ns', T0 * 2) == 1
    assert 'has no messages in the given time' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_missing_model(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--detector-model', tmp_path / 'none.onnx') == 1
    assert 'none.onnx' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ('save', 'text'),
    [
        (partial(save_generator, scale=np.nan), 'not finite'),
        (save_wrongly_shaped_generator, 'faces of shape'),
        (save_failing_generator, 'failing.onnx'),
    ],
)
def test_a_generator_that_fails(tmp_path, face_bgr, capsys, save, text):
    model = save(tmp_path / 'failing.onnx')
    source = write_bag(tmp_path / 'in', drive(face_bgr, 2))
    generate = ['--method', 'face=generate', '--generator-model', model]

    assert run(source, tmp_path / 'out', *generate) == 1

    error = capsys.readouterr().err
    assert 'error: /cam/image, message recorded at' in error
    assert text in error
    assert leftovers(tmp_path) == ['failing.onnx']

    assert run(source, tmp_path / 'out', *generate, '--on-error', 'black') == 1

    assert 'it is black now' in capsys.readouterr().err
    assert not any(pixels_of(r).any() for r in images(read_bag(tmp_path / 'out').records))


# Processes that are ended, and disks that are full.


def long_bag(folder, face_bgr, count):
    frame = raw_cdr(cv2.resize(face_bgr, (320, 240)))
    records = [Record('/cam/image', T0 + i * STEP, T0, i, frame) for i in range(count)]
    return write_bag(folder, records, specs=SPECS[:1], splits=1)


def command(source, target, *words):
    words = ['bag', '-i', source, '-o', target, *QUICK, *words]
    return [sys.executable, '-m', 'ffs_anonymizer', *map(str, words)]


@pytest.mark.parametrize(
    ('number', 'code'),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_ended_midway(tmp_path, face_bgr, number, code):
    source = long_bag(tmp_path / 'in', face_bgr, 400)
    before = digest(source)
    partial = tmp_path / 'out.partial' / 'out_0.mcap'
    words = command(source, tmp_path / 'out')
    # Under nohup, children are born deaf to SIGHUP.
    hearing = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=hearing
    ) as process:
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size > 1_000_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == code
    assert digest(source) == before
    assert not (tmp_path / 'out').exists()
    assert (tmp_path / 'out.partial').exists() == (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert 'out.partial is there: another run is writing it, or one was killed' in again.stderr


@pytest.mark.parametrize('words', [[], ['--disable-progress-output']])
def test_progress_on_a_terminal(tmp_path, face_bgr, words):
    source = long_bag(tmp_path / 'in', face_bgr, 20)
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
    off = '--disable-progress-output'
    plain = [word for word in command(source, tmp_path / 'out') if word != off]
    with subprocess.Popen(
        [*plain, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=end
    ) as process:
        os.close(end)
        shown = b''
        # The other end closes with the process, which reads as an error on Linux.
        with contextlib.suppress(OSError):
            while block := os.read(terminal, 4096):
                shown += block
    os.close(terminal)
    assert process.returncode == 0
    if words:
        assert shown == b''
    else:
        assert re.search(rb'100%\|.*B/s, frames=20, replaced=20', shown)
        assert re.search(rb'\[\d\d:\d\d<\d\d:\d\d, ', shown)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_file_that_cannot_grow(tmp_path, face_bgr, storage):
    source = long_bag(tmp_path / 'in', face_bgr, 20)
    result = subprocess.run(
        command(source, tmp_path / 'out', '-s', storage),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)),
    )
    assert result.returncode == 1
    assert 'out.partial: ' in result.stderr.splitlines()[-1]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_full_disk(tmp_path, face_bgr, capsys, storage):
    source = long_bag(tmp_path / 'in', face_bgr, 20)
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f'mounting a small disk needs root: {mounted.stderr.decode().strip()}')
    try:
        assert run(source, disk / 'out', '-s', storage) == 1
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(['umount', disk], check=True)
    assert f'no space left for {disk / "out.partial"}' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('count', 'size_bytes'),
    [(0, 0), (1, 1), (2 * BATCH_ITEMS, 1), (3 * BATCH_ITEMS + 1, 1), (5, BATCH_BYTES // 2)],
)
def test_reading_ahead_keeps_the_order(count, size_bytes):
    topic = Topic('/t', 'std_msgs/msg/String')
    messages = [Message(topic, i, i, i, bytes(size_bytes)) for i in range(count)]
    assert list(read_ahead(item for item in (topic, *messages))) == [topic, *messages]


def test_reading_ahead_raises_what_the_bag_raises():
    def damaged():
        yield from (Topic(str(i), '') for i in range(BATCH_ITEMS))
        raise BagError('cut off')

    items = read_ahead(damaged())
    assert [next(items).name for _ in range(BATCH_ITEMS)] == [str(i) for i in range(BATCH_ITEMS)]
    with pytest.raises(BagError, match='cut off'):
        next(items)


def test_reading_ahead_ends_with_its_reader():
    threads, closed = {*threading.enumerate()}, []

    def endless():
        try:
            while True:
                yield Topic('/t', '')
        finally:
            closed.append(True)

    items = read_ahead(endless())
    next(items)
    items.close()
    assert closed == [True]
    assert {*threading.enumerate()} == threads


def test_memory_does_not_grow_with_the_bag(tmp_path, face_bgr):
    peaks_mb = []
    for count in (100, 500):
        source = long_bag(tmp_path / f'in_{count}', face_bgr, count)
        script = (
            'import resource, sys; from ffs_anonymizer.cli.program import main;'
            'code = main(sys.argv[1:]);'
            'print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)'
        )
        words = command(source, tmp_path / f'out_{count}', '--set', 'detector.scale=0.1')[3:]
        result = subprocess.run(
            [sys.executable, '-c', script, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks_mb.append(int(result.stdout.split()[-1]) / 1024)
    # 400 more frames are 92 MB more of input.
    assert peaks_mb[1] - peaks_mb[0] < 30


# The parts.

CIRCLE = f'B b\n{"=" * 80}\nMSG: a_msgs/B\nC c\n{"=" * 80}\nMSG: a_msgs/C\nB b\n'


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'abc', 'abcd'])
@pytest.mark.parametrize('padding', [b'', b'\xee', b'\xee\xee\xee'])
def test_cdr_of_images_in_both_byte_orders(order, frame_id, padding):
    message = bytearray(b'\0\1\0\0' if order == '<' else b'\0\0\0\0')

    def number(letter, value):
        size = struct.calcsize(letter)
        message.extend(b'\xee' * (-(len(message) - 4) % size))
        message.extend(struct.pack(order + letter, value))

    def text(value):
        number('I', len(value) + 1)
        message.extend(value.encode() + b'\0')

    number('i', 5)
    number('I', 7)
    text(frame_id)
    head = bytes(message)
    number('I', 2)
    number('I', 3)
    text('mono8')
    number('B', 1)
    number('I', 4)
    number('I', 8)
    data = bytes(range(8))
    payload = bytes(message) + data + padding

    image = cdr.parse_image(payload)

    assert image.stamp_ns == 5_000_000_007
    assert (image.height, image.width, image.encoding) == (2, 3, 'mono8')
    assert (image.is_bigendian, image.step, bytes(image.data)) == (1, 4, data)
    assert image.with_data(data[::-1]) == payload.replace(data, data[::-1])
    shorter = cdr.parse_image(image.with_data(data[1:]))
    assert (shorter.width, bytes(shorter.data)) == (3, data[1:])
    for end in range(4, len(payload) - len(padding)):
        with pytest.raises(ImageError, match='got a message|got .* bytes, expected'):
            cdr.parse_image(payload[:end])
    with pytest.raises(ImageError, match='bytes after the image data'):
        cdr.parse_image(payload + b'more')

    message = bytearray(head)
    text('jpeg')
    start = bytes(message)
    number('I', 3)
    compressed = cdr.parse_compressed_image(bytes(message) + b'abc' + padding)
    assert (compressed.format, bytes(compressed.data)) == ('jpeg', b'abc')
    message = bytearray(start)
    number('I', 5)
    assert compressed.with_data(memoryview(b'vwxyz')) == bytes(message) + b'vwxyz'


@pytest.mark.parametrize(
    ('type_name', 'definition', 'expected'),
    [
        ('a_msgs/msg/A', '', False),
        ('a_msgs/msg/A', 'uint8[] data # not a sensor_msgs/Image', False),
        ('a_msgs/msg/A', 'sensor_msgs/Image image', True),
        ('a_msgs/msg/A', 'sensor_msgs/CompressedImage[<=3] images', True),
        ('a_msgs/msg/A', 'sensor_msgs/CameraInfo info', False),
        (NESTED.type_name, NESTED.definition, True),
        (MARKERS.type_name, MARKERS.definition, False),
        ('a_msgs/msg/A', '#include "sensor_msgs/msg/Image.idl"', True),
        ('a_msgs/msg/A', 'struct A { sensor_msgs::msg::CompressedImage it; };', True),
        ('a_msgs/msg/A', CIRCLE, False),
    ],
)
def test_pictures_are_found_in_definitions(type_name, definition, expected):
    topic = Topic('/a', type_name, definition=definition.encode())
    assert contains_picture(topic) is expected
    action = Action.REFUSE if expected else Action.COPY
    assert Selection().action(topic) is action


def test_images_of_another_serialization_are_refused():
    topic = Topic('/a', IMAGE, serialization_format='protobuf')
    assert Selection().action(topic) is Action.REFUSE
    with pytest.raises(BagError, match=r'/a \(sensor_msgs/msg/Image\); leave them out'):
        Selection().check([SimpleNamespace(name='/a', type_name=IMAGE, topic=topic)])


@pytest.mark.parametrize(
    ('name', 'media_type', 'data', 'expected'),
    [
        ('a.txt', 'text/plain', b'', False),
        ('a.txt', 'text/plain', b'BMW', True),
        ('a.JPG', '', b'', True),
        ('a', 'image/png', b'', True),
        ('a', '', b'RIFF....WEBPVP8 ', True),
        ('a', '', b'RIFF....WAVEfmt ', False),
        ('a', '', b'....ftypisom', True),
    ],
)
def test_pictures_among_attachments(name, media_type, data, expected):
    assert is_picture(Attachment(name, media_type, 0, 0, data)) is expected
