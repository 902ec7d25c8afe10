"""Test bags that are made to stall, to fill memory or disk, or to confuse: one line says why."""

from contextlib import closing
import io
import sqlite3
import struct

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2 import mcap, reader
from ffs_anonymizer.rosbag2.reader import BagReader, decompressed
from ffs_anonymizer.rosbag2.storage import Message
import lz4.frame
from mcap.records import Chunk
from mcap.writer import CompressionType, Writer
import pytest
from support.bags import (
    bag_yaml,
    digest,
    drive,
    leftovers,
    read_bag,
    Record,
    run,
    Spec,
    SPECS,
    T0,
    write_bag,
    write_mcap,
    write_sqlite,
    zstd,
)
import zstandard

BLOB = Spec('/blob', 'nobody_msgs/msg/Unheard')
LARGE = bytes(3 << 20)


def without_size(data: bytes) -> bytes:
    """Compress in a way that does not say the size."""
    stream = zstandard.ZstdCompressor().compressobj()
    packed = stream.compress(data) + stream.flush()
    size = zstandard.get_frame_parameters(packed).content_size
    assert not data or size == zstandard.CONTENTSIZE_UNKNOWN
    return packed


def with_wrong_size(data: bytes, size: int) -> bytes:
    """Compress, and say another size."""
    packed = bytearray(zstd(data))
    # The field of four bytes that stands behind magic, descriptor and window.
    assert packed[4] & 0xE0 == 0x80
    packed[6:10] = struct.pack('<I', size)
    assert zstandard.get_frame_parameters(bytes(packed)).content_size == size
    return bytes(packed)


@pytest.mark.parametrize(
    ('packed', 'text'),
    [
        (zstd(LARGE), 'amounts to more than 1 MB'),
        (without_size(LARGE), 'amounts to more than 1 MB'),
        (with_wrong_size(LARGE, 100_000), 'a compressed message is (damaged|cut off)'),
        (with_wrong_size(LARGE, 2**32 - 1), 'amounts to more than 1 MB'),
        (zstd(b'abc')[:-1], 'a compressed message is cut off'),
        (without_size(b'abc')[:-4], 'a compressed message is cut off'),
        (b'', 'a compressed message is cut off'),
        (b'no zstd at all', 'a compressed message is damaged'),
    ],
)
def test_compressed_messages_that_amount_to_too_much(packed: bytes, text: str) -> None:
    with pytest.raises(BagError, match=text):
        decompressed(packed, 1 << 20)
    for good in (zstd(LARGE), without_size(LARGE), zstd(b''), without_size(b'')):
        assert decompressed(good, 3 << 20) in (LARGE, b'')


@pytest.mark.parametrize('mode', ['', 'MESSAGE'])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_messages_over_the_limit(tmp_path, capsys, mode, storage):
    records = [Record('/blob', T0, T0, 1, LARGE)]
    source = write_bag(
        tmp_path / 'in', records, specs=[BLOB], splits=1, mode=mode, storage=storage
    )
    assert run(source, tmp_path / 'out', '--set', 'limits.max_message_mb=2') == 1
    text = (
        f'error: /blob: got a message of 3 MB at {T0} ns, expected at most 2 '
        '(limits.max_message_mb)\n'
    )
    assert capsys.readouterr().err.endswith(text)
    assert leftovers(tmp_path) == []
    assert run(source, tmp_path / 'out', '--set', 'limits.max_message_mb=3') == 0


def chunk(data: bytes, size: int, compression: str) -> Chunk:
    return Chunk(
        compression=compression,
        data=data,
        message_end_time=0,
        message_start_time=0,
        uncompressed_crc=0,
        uncompressed_size=size,
    )


@pytest.mark.parametrize(
    ('packed', 'size', 'compression', 'text'),
    [
        (zstd(LARGE), len(LARGE), 'zstd', ''),
        (without_size(LARGE), len(LARGE), 'zstd', ''),
        (lz4.frame.compress(LARGE), len(LARGE), 'lz4', ''),
        (LARGE, len(LARGE), '', ''),
        (zstd(LARGE), 100, 'zstd', 'a chunk that is not of 100 bytes'),
        (without_size(LARGE), 100, 'zstd', 'did not decompress full frame'),
        (lz4.frame.compress(LARGE), 100, 'lz4', 'a chunk of 101 bytes, expected 100'),
        (zstd(LARGE), 2**62, 'zstd', 'MB, expected at most 4'),
        (lz4.frame.compress(LARGE), 4 << 20, 'lz4', 'a chunk of 3145728 bytes, expected 4194304'),
        (LARGE, len(LARGE), 'brotli', "compressed with 'brotli'"),
    ],
)
def test_chunks_that_amount_to_other_than_they_say(packed, size, compression, text):
    if not text:
        assert mcap.unpacked(chunk(packed, size, compression), 4 << 20) == LARGE
        return
    with pytest.raises((mcap.McapError, zstandard.ZstdError), match=text):
        mcap.unpacked(chunk(packed, size, compression), 4 << 20)


def test_a_chunk_that_is_a_bomb(tmp_path, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    path = folder / 'in_0.mcap'
    records = [Record('/blob', T0, T0, 1, bytes(80 << 20))]
    write_mcap(path, [BLOB], records, compression=CompressionType.ZSTD)
    assert path.stat().st_size < 100_000
    assert run(path, tmp_path / 'out', '--set', 'limits.max_message_mb=1') == 1
    text = 'is damaged or cut off: a chunk of 80 MB, expected at most 65: limits.max_message_mb'
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_file_that_fills_the_disk(tmp_path, capsys, monkeypatch):
    records = [Record('/blob', T0, T0, 1, LARGE)]
    source = write_bag(tmp_path / 'in', records, specs=[BLOB], splits=1, mode='FILE')
    monkeypatch.setattr(reader, '_LEAST_LIMIT_BYTES', 1 << 20)
    assert run(source, tmp_path / 'out') == 1
    assert 'in_0.mcap.zstd amounts to over 1 MB: no recording' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_records_of_absurd_lengths(tmp_path, capsys):
    good = io.BytesIO()
    path = tmp_path / 'in.mcap'
    write_mcap(path, SPECS, [Record('/odd', T0, T0, 1, b'x' * 100)])
    good = path.read_bytes()
    # The lengths of the header, and of the first record behind it.
    (length,) = struct.unpack_from('<Q', good, 9)
    for at in (9, 8 + 9 + length + 1):
        for value in (2**63, 2**62, 2**40, 2**31):
            path.write_bytes(good[:at] + struct.pack('<Q', value) + good[at + 8 :])
            assert run(path, tmp_path / 'out') == 1
            error = capsys.readouterr().err.splitlines()[-1]
            assert error.startswith(f'error: {path} is damaged or cut off: ')
    assert leftovers(tmp_path) == ['in.mcap']


VIEWS = {
    'a view of endless messages': (
        'DROP TABLE messages; CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 '
        'UNION ALL SELECT id + 1 FROM n) SELECT id, 3 AS topic_id, 5 AS timestamp, '
        'zeroblob(1000000) AS data FROM n;'
    ),
    'a view of topics': 'ALTER TABLE topics RENAME TO t; CREATE VIEW topics AS SELECT * FROM t;',
    'generated data': (
        'DROP TABLE messages; CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, '
        'timestamp INTEGER, data BLOB GENERATED ALWAYS AS (zeroblob(1000000000)) VIRTUAL); '
        'INSERT INTO messages(topic_id, timestamp) VALUES (3, 5);'
    ),
}


@pytest.mark.parametrize('what', VIEWS)
def test_tables_that_are_none(tmp_path, capsys, what):
    path = tmp_path / 'in.db3'
    write_sqlite(path, [BLOB], [Record('/blob', T0, T0, 1, b'abc')])
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VIEWS[what])
    assert run(path, tmp_path / 'out') == 1
    assert 'got no tables of rosbag2' in capsys.readouterr().err


@pytest.mark.parametrize('time_ns', [-1, -(2**63)])
def test_negative_times(tmp_path, capsys, time_ns):
    path = tmp_path / 'in.db3'
    write_sqlite(path, [BLOB], [Record('/blob', time_ns, 0, 1, b'abc')])
    for storage in ('mcap', 'sqlite3'):
        assert run(path, tmp_path / 'out', '-s', storage) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f'error: {path} is damaged: a message of the topic number 3 at -')
    assert leftovers(tmp_path) == ['in.db3']


@pytest.mark.parametrize('chunks', [True, False])
@pytest.mark.parametrize('time_ns', [2**63, 2**64 - 1])
def test_times_beyond_what_ros_can_say(tmp_path, capsys, time_ns, chunks):
    path = tmp_path / 'in.mcap'
    for log_ns, publish_ns, code in ((time_ns, T0, 1), (T0, time_ns, 0), (2**63 - 1, T0, 0)):
        with path.open('wb') as file:
            writer = Writer(file, use_chunking=chunks)
            writer.start(profile='ros2')
            schema = writer.register_schema('nobody_msgs/msg/Unheard', 'ros2msg', b'uint8[] data')
            channel = writer.register_channel('/blob', 'cdr', schema)
            writer.add_message(channel, log_ns, b'abc', publish_ns)
            writer.finish()
        target = tmp_path / f'out{log_ns}{publish_ns}'
        assert run(path, target) == code
        error = capsys.readouterr().err
        assert (f'a message recorded at {time_ns} ns, expected less than 2^63' in error) == code
        if code == 0:
            (message,) = [m for m in BagReader(target).items() if isinstance(m, Message)]
            assert (message.log_ns, message.publish_ns) == (log_ns, publish_ns)


def test_schemas_that_the_summary_does_not_repeat(tmp_path):
    records = drive_without_pictures()
    path = tmp_path / 'in.mcap'
    with path.open('wb') as file:
        writer = Writer(file, chunk_size=10, repeat_schemas=False)
        writer.start(profile='ros2')
        channels = {}
        for record in records:
            if record.topic not in channels:
                schema = writer.register_schema('a_msgs/msg/A', 'ros2msg', b'int8 a')
                channels[record.topic] = writer.register_channel(record.topic, 'cdr', schema)
            writer.add_message(channels[record.topic], record.log_ns, record.data, T0)
        writer.finish()
    bag = BagReader(path)
    assert [(t.name, t.type_name, t.message_count) for t in bag.topics()] == [
        ('/a', 'a_msgs/msg/A', 9),
        ('/b', 'a_msgs/msg/A', 1),
    ]
    assert run(path, tmp_path / 'out') == 0
    result = [item for item in BagReader(tmp_path / 'out').items() if isinstance(item, Message)]
    assert [bytes(item.data) for item in result] == [record.data for record in records]
    assert {item.topic.definition for item in result} == {b'int8 a'}


def drive_without_pictures() -> list[Record]:
    names = 5 * ['/a'] + ['/b'] + 4 * ['/a']
    return [Record(name, T0 + i, T0, i, bytes([i])) for i, name in enumerate(names)]


def nested(depth: int) -> str:
    return '[' * depth + ']' * depth


ALIASES = 'a: &a [x, x]\n' + ''.join(
    f'{chr(98 + i)}: &{chr(98 + i)} [{", ".join(9 * ["*" + chr(97 + i)])}]\n' for i in range(12)
)
METADATA = {
    'a date as version': ('version: 9', 'version: 2026-01-01'),
    'a date that is none': ('version: 9', 'version: 2026-99-99'),
    'infinity': ('version: 9', 'version: .inf'),
    'no number': ('version: 9', 'version: .nan'),
    'a huge integer': ('version: 9', f'version: {"9" * 5000}'),
    'a large integer': ('message_count: 14', f'message_count: {10**30}'),
    'a negative count': ('message_count: 14', 'message_count: -1'),
    'a list as count': ('message_count: 14', 'message_count: [14]'),
    'itself': ('version: 9', 'version: &a [*a]'),
    'nesting': ('custom_data: null', f'custom_data: {nested(100_000)}'),
    'aliases': ('custom_data: null', f'custom_data: null\n{ALIASES}version: *m'),
    'topics that are none': (
        'topics_with_message_count:\n',
        'topics_with_message_count: 5\n  x:\n',
    ),
    'bytes': ('storage_identifier: mcap', 'storage_identifier: !!binary aGVsbG8='),
    'a control character': ('storage_identifier: mcap', 'storage_identifier: mc\x07ap'),
}


@pytest.mark.parametrize('what', METADATA)
def test_metadata_that_is_none(tmp_path, face_bgr, capsys, what):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 4)[:14])
    path = source / 'metadata.yaml'
    old, new = METADATA[what]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    before = digest(source)
    assert run(source, tmp_path / 'out') == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert len(error) < 1000
    assert digest(source) == before
    assert leftovers(tmp_path) == []


def test_qos_that_is_no_yaml(tmp_path, capsys):
    for qos in ('- {a: [', nested(100_000), '- 2026-99-99'):
        spec = BLOB._replace(qos=qos)
        path = tmp_path / 'in.mcap'
        write_mcap(path, [spec], [Record('/blob', T0, T0, 1, b'abc')])
        assert run(path, tmp_path / 'out') == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith('error: a topic has QoS profiles that are no YAML: ')
    assert leftovers(tmp_path) == ['in.mcap']


def test_metadata_inside_a_file_that_is_none(tmp_path, capsys):
    for text in ('a: [', nested(100_000), '5', bag_yaml(SPECS, [('a', drive_without_pictures())])):
        path = tmp_path / 'in.mcap'
        write_mcap(
            path,
            [BLOB],
            [Record('/blob', T0, T0, 1, b'abc')],
            notes=[('rosbag2', {'serialized_metadata': text})],
        )
        is_good = 'rosbag2_bagfile_information' in text
        assert run(path, tmp_path / 'out') == (0 if is_good else 1)
        if not is_good:
            error = capsys.readouterr().err.splitlines()[-1]
            assert error.startswith(f'error: {path}: its rosbag2 metadata is no ')
    assert len(read_bag(tmp_path / 'out').records) == 1
