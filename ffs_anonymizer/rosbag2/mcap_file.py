"""An mcap file as records: read in order without looking into indexes, written without copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
import io
from pathlib import Path
import struct
from typing import BinaryIO, TypeVar
import zlib

from ffs_anonymizer.rosbag2.storage import Data
import lz4.frame
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import EndOfFile, InvalidMagic, McapError, RecordLengthLimitExceeded
from mcap.opcode import Opcode
from mcap.records import (
    Attachment,
    AttachmentIndex,
    Channel,
    Chunk,
    ChunkIndex,
    Footer,
    Header,
    McapRecord,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)
import zstandard

MAGIC = b'\x89MCAP0\r\n'
COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    '': bytes,
    'zstd': zstandard.compress,
    'lz4': lz4.frame.compress,
}
RECORD = struct.Struct('<BQ')
MESSAGE = struct.Struct('<HIQQ')
_MESSAGE_HEAD = struct.Struct('<BQHIQQ')
_CHUNK_HEAD = struct.Struct('<QQQI')
_LENGTH4, _LENGTH8 = struct.Struct('<I'), struct.Struct('<Q')
_INDEX_HEAD = struct.Struct('<BQHI')
# Parts that are smaller are written together.
_TOGETHER_BYTES = 1 << 18
_FOOTER = struct.Struct('<BQQQ')

_Record = TypeVar('_Record', bound=McapRecord)


def records(file: BinaryIO, *, most_bytes: int, checked: bool) -> Iterator[tuple[int, memoryview]]:
    """
    Yield opcode and content of the records of a file, from the first to the footer.

    :param file: at its beginning.
    :param most_bytes: of a record.
    :param checked: whether the checksum of all data is computed, and compared with the file's.
    :raises McapError: there is no such record, or the file ends before its end.
    """
    crc = 0
    if file.read(len(MAGIC)) != MAGIC:
        raise InvalidMagic(b'')
    if checked:
        crc = zlib.crc32(MAGIC)
    while True:
        head = file.read(RECORD.size)
        if len(head) < RECORD.size:
            raise EndOfFile
        opcode, length = RECORD.unpack(head)
        if length > most_bytes:
            raise RecordLengthLimitExceeded(opcode, length, most_bytes)
        content = file.read(length)
        if len(content) < length:
            raise EndOfFile
        if opcode == Opcode.DATA_END:
            (expected,) = _LENGTH4.unpack(content[:4])
            if checked and expected not in (0, crc):
                raise McapError(f'got a checksum of all data of {crc:#x}, expected {expected:#x}')
            checked = False
        elif checked:
            crc = zlib.crc32(content, zlib.crc32(head, crc))
        yield opcode, memoryview(content)
        if opcode == Opcode.FOOTER:
            if file.read(len(MAGIC)) != MAGIC:
                raise InvalidMagic(b'')
            return


def parsed(kind: Callable[[ReadDataStream], _Record], content: Data) -> _Record:
    """Return a record by the library's own reading of it."""
    return kind(ReadDataStream(io.BytesIO(content)))


def parsed_chunk(content: memoryview) -> Chunk:
    """Return a chunk whose data is a view into the record."""
    start_ns, end_ns, size, crc = _CHUNK_HEAD.unpack_from(content, 0)
    at = _CHUNK_HEAD.size
    (length,) = _LENGTH4.unpack_from(content, at)
    at += _LENGTH4.size
    compression = str(content[at : at + length], 'utf-8')
    at += length
    (length,) = _LENGTH8.unpack_from(content, at)
    data = content[at + _LENGTH8.size :][:length]
    if len(data) < length:
        raise EndOfFile
    return Chunk(
        compression=compression,
        data=data,  # type: ignore[arg-type]  # whatever is bytes-like
        message_start_time=start_ns,
        message_end_time=end_ns,
        uncompressed_crc=crc,
        uncompressed_size=size,
    )


@dataclass
class _OpenChunk:
    """
    Hold the records of a chunk that is not written yet.

    :param size: of all parts in bytes.
    :param places: of messages by channel, time and offset in turn.
    """

    parts: list[Data] = field(default_factory=list)
    size: int = 0
    start_ns: int = 0
    end_ns: int = 0
    places: dict[int, list[int]] = field(default_factory=dict)

    def add(self, *parts: Data) -> None:
        self.parts += parts
        self.size += sum(map(len, parts))


class McapFileWriter:
    """
    Write records as the library `mcap` does, byte for byte, without copying messages.

    The data of messages is to stay as it is until their chunk is written: with the one that makes
    it full, or with `finish`.

    :param path: of the file, which must not exist.
    :param compression: of the chunks, one of COMPRESSIONS.
    :param chunk_bytes: that make a chunk full.
    """

    def __init__(
        self, path: Path, *, library: str, compression: str = '', chunk_bytes: int = 1 << 20
    ) -> None:
        self._file = path.open('xb', buffering=0)
        self._at = 0
        self._compression = compression
        self._chunk_bytes = chunk_bytes
        self._chunk = _OpenChunk()
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunk_indexes: list[ChunkIndex] = []
        self._attachments: list[AttachmentIndex] = []
        self._notes: list[MetadataIndex] = []
        self._counts: dict[int, int] = {}
        self._start_ns = self._end_ns = 0
        self._write(MAGIC, _built(Header('ros2', library)))

    def add_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Add a schema; return its number."""
        schema = Schema(id=len(self._schemas) + 1, name=name, encoding=encoding, data=data)
        self._schemas.append(schema)
        self._add(_built(schema))
        return schema.id

    def add_channel(
        self, topic: str, encoding: str, schema_id: int, metadata: dict[str, str]
    ) -> int:
        """Add a channel; return its number."""
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding=encoding,
            schema_id=schema_id,
            metadata=metadata,
        )
        self._channels.append(channel)
        self._add(_built(channel))
        return channel.id

    def add_message(
        self, channel_id: int, log_ns: int, publish_ns: int, sequence: int, data: Data
    ) -> None:
        """Add a message of a channel."""
        chunk = self._chunk
        if not chunk.places:
            chunk.start_ns = log_ns
            if not self._counts:
                self._start_ns = log_ns
        chunk.start_ns = min(chunk.start_ns, log_ns)
        chunk.end_ns = max(chunk.end_ns, log_ns)
        chunk.places.setdefault(channel_id, []).extend((log_ns, chunk.size))
        self._start_ns = min(self._start_ns, log_ns)
        self._end_ns = max(self._end_ns, log_ns)
        self._counts[channel_id] = self._counts.get(channel_id, 0) + 1
        size = MESSAGE.size + len(data)
        self._add(
            _MESSAGE_HEAD.pack(Opcode.MESSAGE, size, channel_id, sequence, log_ns, publish_ns),
            data,
        )

    def add_attachment(
        self, create_ns: int, log_ns: int, name: str, media_type: str, data: bytes
    ) -> None:
        """Add an attachment."""
        record = _built(
            Attachment(
                create_time=create_ns, log_time=log_ns, name=name, media_type=media_type, data=data
            )
        )
        self._attachments.append(
            AttachmentIndex(
                offset=self._at,
                length=len(record),
                create_time=create_ns,
                log_time=log_ns,
                data_size=len(data),
                name=name,
                media_type=media_type,
            )
        )
        self._write(record)

    def add_metadata(self, name: str, entries: dict[str, str]) -> None:
        """Add a metadata record."""
        record = _built(Metadata(name=name, metadata=entries))
        self._notes.append(MetadataIndex(offset=self._at, length=len(record), name=name))
        self._write(record)

    def finish(self) -> None:
        """Write what is left, and the summary; close the file."""
        self._finish_chunk()
        # Without a checksum of all data: each chunk has its own.
        self._write(RECORD.pack(Opcode.DATA_END, 4) + bytes(4))
        start = self._at
        statistics = Statistics(
            attachment_count=len(self._attachments),
            channel_count=len(self._channels),
            channel_message_counts=self._counts,
            chunk_count=len(self._chunk_indexes),
            message_count=sum(self._counts.values()),
            message_end_time=self._end_ns,
            message_start_time=self._start_ns,
            metadata_count=len(self._notes),
            schema_count=len(self._schemas),
        )
        groups: list[tuple[Opcode, list[McapRecord]]] = [
            (Opcode.SCHEMA, [*self._schemas]),
            (Opcode.CHANNEL, [*self._channels]),
            (Opcode.STATISTICS, [statistics]),
            (Opcode.CHUNK_INDEX, [*self._chunk_indexes]),
            (Opcode.ATTACHMENT_INDEX, [*self._attachments]),
            (Opcode.METADATA_INDEX, [*self._notes]),
        ]
        summary, offsets = b'', b''
        for opcode, group in groups:
            records_ = b''.join(map(_built, group))
            offsets += _built(
                SummaryOffset(
                    group_opcode=opcode,
                    group_start=start + len(summary),
                    group_length=len(records_),
                )
            )
            summary += records_
        offsets_start = start + len(summary)
        summary += offsets
        head = _FOOTER.pack(Opcode.FOOTER, 8 + 8 + 4, start, offsets_start)
        footer = Footer(
            summary_start=start,
            summary_offset_start=offsets_start,
            summary_crc=zlib.crc32(head, zlib.crc32(summary)),
        )
        self._write(summary, _built(footer), MAGIC)
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _add(self, *parts: Data) -> None:
        self._chunk.add(*parts)
        if self._chunk.size > self._chunk_bytes:
            self._finish_chunk()

    def _finish_chunk(self) -> None:
        chunk = self._chunk
        if not chunk.places:
            return
        self._chunk = _OpenChunk()
        crc, stored, stored_size = 0, [*_together(chunk.parts)], chunk.size
        for part in stored:
            crc = zlib.crc32(part, crc)
        if self._compression:
            stored = [COMPRESSIONS[self._compression](b''.join(stored))]
            stored_size = len(stored[0])
        name = self._compression.encode()
        head = b''.join(
            (
                _CHUNK_HEAD.pack(chunk.start_ns, chunk.end_ns, chunk.size, crc),
                _LENGTH4.pack(len(name)),
                name,
                _LENGTH8.pack(stored_size),
            )
        )
        size = len(head) + stored_size
        index = ChunkIndex(
            message_start_time=chunk.start_ns,
            message_end_time=chunk.end_ns,
            chunk_start_offset=self._at,
            chunk_length=RECORD.size + size,
            message_index_offsets={},
            message_index_length=0,
            compression=self._compression,
            compressed_size=stored_size,
            uncompressed_size=chunk.size,
        )
        places_start = self._at + RECORD.size + size
        indexes = []
        for channel_id, places in chunk.places.items():
            index.message_index_offsets[channel_id] = places_start + index.message_index_length
            length = 8 * len(places)
            entries = struct.pack(f'<{len(places)}Q', *places)
            record = _INDEX_HEAD.pack(Opcode.MESSAGE_INDEX, length + 6, channel_id, length)
            indexes.append(record + entries)
            index.message_index_length += len(indexes[-1])
        self._chunk_indexes.append(index)
        self._write(RECORD.pack(Opcode.CHUNK, size) + head, *stored, *indexes)

    def _write(self, *parts: Data) -> None:
        for part in _together(parts):
            left = memoryview(part)
            while len(left):
                done = self._file.write(left)
                self._at += done
                left = left[done:]


def _together(parts: Iterable[Data]) -> Iterator[Data]:
    """Yield the parts, small ones as one: of each, threads would wait for one another."""
    waiting: list[Data] = []
    size = 0
    for part in parts:
        if len(part) < _TOGETHER_BYTES:
            waiting.append(part)
            size += len(part)
            if size < _TOGETHER_BYTES:
                continue
            part = b''
        if waiting:
            yield b''.join(waiting)
            waiting, size = [], 0
        if len(part):
            yield part
    if waiting:
        yield b''.join(waiting)


def _built(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]
