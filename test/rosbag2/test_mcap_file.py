"""Test the writing and reading of records against the library `mcap`."""

import io
from pathlib import Path
import random

from ffs_anonymizer.rosbag2.mcap_file import McapFileWriter, parsed_chunk, records
from mcap.exceptions import EndOfFile, InvalidMagic, McapError, RecordLengthLimitExceeded
from mcap.opcode import Opcode
from mcap.records import Chunk
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
import pytest

KINDS = {'': CompressionType.NONE, 'zstd': CompressionType.ZSTD, 'lz4': CompressionType.LZ4}


def by_library(path: Path, compression: str, rows, **options) -> bytes:
    with path.open('wb') as file:
        writer = Writer(file, chunk_size=5000, compression=KINDS[compression], **options)
        writer.start('ros2', 'test 1')
        schema = writer.register_schema('a/msg/A', 'ros2msg', b'uint8[] data')
        channels = [writer.register_channel(f'/{n}', 'cdr', schema, {'own': n}) for n in 'ab']
        for number, (channel, log_ns, data) in enumerate(rows):
            writer.add_message(channels[channel], log_ns, data, log_ns - 3, number)
            if number == 7:
                writer.add_attachment(1, 2, 'notes.txt', 'text/plain', b'told')
        writer.add_metadata('rosbag2', {'a': 'b'})
        writer.finish()
    return path.read_bytes()


def by_us(path: Path, compression: str, rows) -> bytes:
    writer = McapFileWriter(path, library='test 1', compression=compression, chunk_bytes=5000)
    schema = writer.add_schema('a/msg/A', 'ros2msg', b'uint8[] data')
    channels = [writer.add_channel(f'/{n}', 'cdr', schema, {'own': n}) for n in 'ab']
    for number, (channel, log_ns, data) in enumerate(rows):
        writer.add_message(channels[channel], log_ns, log_ns - 3, number, memoryview(data))
        if number == 7:
            writer.add_attachment(1, 2, 'notes.txt', 'text/plain', b'told')
    writer.add_metadata('rosbag2', {'a': 'b'})
    writer.finish()
    return path.read_bytes()


def messages(seed: int, count: int):
    chosen = random.Random(seed)
    sizes = (0, 1, 700, 4990, 5000, 5001, 600_000)
    return [
        (chosen.randrange(2), chosen.randrange(10, 2**63), chosen.randbytes(chosen.choice(sizes)))
        for _ in range(count)
    ]


@pytest.mark.parametrize('compression', list(KINDS))
@pytest.mark.parametrize('count', [0, 1, 40])
def test_files_are_byte_for_byte_the_library_s(tmp_path, compression, count):
    rows = messages(count, count)
    expected = by_library(tmp_path / 'library.mcap', compression, rows)
    assert by_us(tmp_path / 'own.mcap', compression, rows) == expected


@pytest.mark.parametrize('checked', [False, True])
def test_records_are_those_of_the_library(tmp_path, checked):
    data = by_library(tmp_path / 'a.mcap', '', messages(1, 40), enable_data_crcs=True)
    ours = list(records(io.BytesIO(data), most_bytes=len(data), checked=checked))
    theirs = list(StreamReader(io.BytesIO(data), emit_chunks=True).records)
    assert [Opcode(opcode).name.replace('_', '').lower() for opcode, _ in ours] == [
        type(record).__name__.lower() for record in theirs
    ]
    chunks = [parsed_chunk(content) for opcode, content in ours if opcode == Opcode.CHUNK]
    assert chunks == [record for record in theirs if isinstance(record, Chunk)]


def test_a_checksum_of_all_data_is_compared(tmp_path):
    data = bytearray(by_library(tmp_path / 'a.mcap', '', messages(2, 9), enable_data_crcs=True))
    data[len(data) // 3] ^= 1
    with pytest.raises(McapError, match='got a checksum of all data of 0x.*, expected 0x'):
        list(records(io.BytesIO(data), most_bytes=len(data), checked=True))
    assert list(records(io.BytesIO(data), most_bytes=len(data), checked=False))


def test_what_is_cut_off_anywhere_is_told(tmp_path):
    data = by_library(tmp_path / 'a.mcap', '', messages(3, 1))
    for size in range(0, len(data), 7):
        with pytest.raises((EndOfFile, InvalidMagic)):
            list(records(io.BytesIO(data[:size]), most_bytes=len(data), checked=False))
    with pytest.raises(RecordLengthLimitExceeded):
        list(records(io.BytesIO(data), most_bytes=3, checked=False))


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'a').touch()
    with pytest.raises(FileExistsError):
        McapFileWriter(tmp_path / 'a', library='')
