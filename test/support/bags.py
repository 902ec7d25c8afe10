"""Bags as recorders write them, and readers that are not ours."""

from contextlib import closing
import hashlib
import io
import os
from pathlib import Path
import sqlite3
import sys
import tempfile
from typing import NamedTuple

import cv2
from ffs_anonymizer.cli.program import main
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
import numpy as np
from rosbags import typesys as rosbags_typesys
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
QUICK = (
    *SOLID,
    '--set',
    'detector.scale=1.0',
    '--set',
    'detector.plate_model_path=none',
    '--disable-progress-output',
)


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


ALL_NAMES = '/cam/image, /cam/image/compressed, /empty, /map, /odd'
VIDEO = Spec('/front/ffmpeg', 'h264_msgs/msg/Packet')
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


def damage(path, offset, values=b'\xff\x00\xff\x00'):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(values)] = values
    path.write_bytes(data)


def damaged_chunk(folder):
    file = folder / 'in_1.mcap'
    with file.open('rb') as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[-1]
    damage(file, chunk.chunk_start_offset + chunk.chunk_length // 2)


def long_bag(folder, face_bgr, count):
    frame = raw_cdr(cv2.resize(face_bgr, (320, 240)))
    records = [Record('/cam/image', T0 + i * STEP, T0, i, frame) for i in range(count)]
    return write_bag(folder, records, specs=SPECS[:1], splits=1)


def command(source, target, *words):
    words = ['bag', '-i', source, '-o', target, *QUICK, *words]
    return [sys.executable, '-m', 'ffs_anonymizer', *map(str, words)]
