"""The mcap storage: one .mcap file to items and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import io
from pathlib import Path
import struct
import zlib

from ffs_anonymizer import __version__
from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.mcap_file import (
    COMPRESSIONS,
    McapFileWriter,
    MESSAGE,
    parsed,
    parsed_chunk,
    RECORD,
    records,
)
from ffs_anonymizer.rosbag2.storage import (
    Attachment,
    Contents,
    Data,
    Item,
    Message,
    MOST_MESSAGE_BYTES,
    MOST_TIME_NS,
    Note,
    Topic,
)
import lz4.frame
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Attachment as AttachmentRecord
from mcap.records import Channel, Chunk, Metadata, Schema
from mcap.stream_reader import CRCValidationError, StreamReader
import zstandard

BAG_NOTE = 'rosbag2'
BAG_YAML = 'serialized_metadata'
QOS = 'offered_qos_profiles'
TYPE_HASH = 'topic_type_hash'

# Of a chunk, beside the largest message.
_MORE_CHUNK_BYTES = 64 << 20
# The last records: the footer with the magic behind it, and the one before the summary.
_END = struct.Struct('<BQQQI8s')
_DATA_END = struct.Struct('<BQI')


class McapReader:
    """
    Read an mcap file.

    :param known: topics of the bag's other files, by key; those of this file join them.
    :param most_message_bytes: of a message; a chunk may hold some more.
    :raises BagError: it cannot be opened, or it is damaged or cut off.
    """

    def __init__(
        self, path: Path, known: dict[tuple[object, ...], Topic], most_message_bytes: int
    ) -> None:
        self._path = path
        self._known = known
        self._most_chunk_bytes = most_message_bytes + _MORE_CHUNK_BYTES
        try:
            self._file = path.open('rb')
        except OSError as error:
            raise BagError(f'cannot read {path}: {error.strerror}') from error
        self._size = path.stat().st_size
        self._read_bytes = 0
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._topics: dict[int, Topic] = {}

    def contents(self) -> Contents:
        """Return what the file says of itself, from its summary where that is complete."""
        contents = Contents()
        with translated(self._path):
            summary = SeekingReader(self._file, record_size_limit=self._size).get_summary()
            statistics = None if summary is None else summary.statistics
            if summary is not None and statistics is not None:
                contents.message_count = statistics.message_count
                if len(summary.channels) == statistics.channel_count:
                    self._schemas.update(summary.schemas)
                    if {c.schema_id for c in summary.channels.values()} - {0, *self._schemas}:
                        self._find_channels({*summary.channels})
                    for channel in summary.channels.values():
                        contents.topics.append(self._topic_of(channel))
                if summary.chunk_indexes:
                    contents.compression = summary.chunk_indexes[0].compression
                for entry in summary.metadata_indexes:
                    if entry.name == BAG_NOTE:
                        self._file.seek(entry.offset)
                        record = next(StreamReader(self._file, skip_magic=True).records)
                        if not isinstance(record, Metadata):
                            raise McapError('the index of the metadata points elsewhere')
                        contents.bag_yaml = record.metadata.get(BAG_YAML, contents.bag_yaml)
                        contents.ros_distro = record.metadata.get('ROS_DISTRO', '')
            if summary is None or statistics is None or not contents.topics:
                self._scan(contents)
            else:
                for number, count in statistics.channel_message_counts.items():
                    name = self._channels[number].topic
                    contents.counts[name] = contents.counts.get(name, 0) + count
        return contents

    def items(self, start_ns: int | None, end_ns: int | None) -> Iterator[Item]:
        """Yield everything in the order of the file."""
        with translated(self._path):
            yield from self._topics.values()
            for item in self._raw_items(start_ns, end_ns):
                if not isinstance(item, Message) or _within(item.log_ns, start_ns, end_ns):
                    yield item

    def progress(self) -> float:
        """Return the share of the file that has been read, 0 to 1."""
        return min(self._read_bytes / self._size, 1.0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find_channels(self, numbers: set[int]) -> None:
        """Read the file until these channels are known, and so their schemas."""
        for _ in self._raw_items(None, None):
            if numbers <= self._channels.keys():
                return

    def _scan(self, contents: Contents) -> None:
        """Learn from the whole file what its summary does not say."""
        contents.message_count = 0
        contents.counts.clear()
        for item in self._raw_items(None, None):
            if isinstance(item, Message):
                name = item.topic.name
                contents.counts[name] = contents.counts.get(name, 0) + 1
                contents.message_count += 1
        contents.topics = list(self._topics.values())

    def _has_checksum(self) -> bool:
        """Return whether there is one of all data, besides those of the chunks."""
        self._file.seek(-_END.size, io.SEEK_END)
        _, _, summary_start, _, _, _ = _END.unpack(self._file.read(_END.size))
        if summary_start < _DATA_END.size:
            return True
        self._file.seek(summary_start - _DATA_END.size)
        opcode, length, checksum = _DATA_END.unpack(self._file.read(_DATA_END.size))
        return (opcode, length, checksum) != (Opcode.DATA_END, 4, 0)

    def _raw_items(self, start_ns: int | None, end_ns: int | None) -> Iterator[Item]:
        checked = self._has_checksum()
        self._file.seek(0)
        self._read_bytes = 0
        for opcode, content in records(self._file, most_bytes=self._size, checked=checked):
            # Asked for with each message, so the system is not.
            self._read_bytes += RECORD.size + len(content)
            if opcode == Opcode.CHUNK:
                chunk = parsed_chunk(content)
                outside = (start_ns is not None and chunk.message_end_time < start_ns) or (
                    end_ns is not None and chunk.message_start_time > end_ns
                )
                if not outside:
                    yield from self._chunk_items(unpacked(chunk, self._most_chunk_bytes))
            elif opcode in (Opcode.MESSAGE, Opcode.SCHEMA, Opcode.CHANNEL):
                yield from self._record_items(opcode, content)
            elif opcode == Opcode.ATTACHMENT:
                attachment = parsed(AttachmentRecord.read, content)
                yield Attachment(
                    attachment.name,
                    attachment.media_type,
                    attachment.log_time,
                    attachment.create_time,
                    attachment.data,
                )
            elif opcode == Opcode.METADATA:
                note = parsed(Metadata.read, content)
                if note.name != BAG_NOTE:
                    yield Note(note.name, note.metadata)

    def _chunk_items(self, data: Data) -> Iterator[Item]:
        start, size = 0, len(data)
        view = memoryview(data)
        while start < size:
            opcode, length = RECORD.unpack_from(data, start)
            body = start + RECORD.size
            start = body + length
            if start > size:
                raise McapError(f'a record of {length} bytes reaches beyond its chunk')
            if opcode == Opcode.MESSAGE:
                yield self._message(view[body:start])
            else:
                yield from self._record_items(opcode, view[body:start])

    def _record_items(self, opcode: int, content: memoryview) -> Iterator[Item]:
        if opcode == Opcode.MESSAGE:
            yield self._message(content)
        elif opcode == Opcode.SCHEMA:
            self._new_schema(parsed(Schema.read, content))
        elif opcode == Opcode.CHANNEL:
            yield from self._new_topic(parsed(Channel.read, content))

    def _message(self, content: memoryview) -> Message:
        if len(content) < MESSAGE.size:
            raise McapError(f'a message record of {len(content)} bytes')
        channel_id, sequence, log_ns, publish_ns = MESSAGE.unpack_from(content, 0)
        return Message(
            self._topic(channel_id),
            _checked_time(log_ns),
            publish_ns,
            sequence,
            content[MESSAGE.size :],
        )

    def _new_schema(self, schema: Schema) -> None:
        if self._schemas.setdefault(schema.id, schema) != schema:
            raise McapError(f'two schemas have the number {schema.id}')

    def _new_topic(self, channel: Channel) -> Iterator[Topic]:
        if self._channels.get(channel.id) != channel:
            if channel.id in self._channels:
                raise McapError(f'two channels have the number {channel.id}')
            yield self._topic_of(channel)

    def _topic_of(self, channel: Channel) -> Topic:
        schema = self._schemas.get(channel.schema_id)
        if schema is None and channel.schema_id != 0:
            raise McapError(f'no schema has the number {channel.schema_id}')
        topic = Topic(
            channel.topic,
            '' if schema is None else schema.name,
            channel.message_encoding,
            channel.metadata.get(QOS, ''),
            channel.metadata.get(TYPE_HASH, ''),
            b'' if schema is None else schema.data,
            '' if schema is None else schema.encoding,
            channel_metadata=dict(channel.metadata),
        ).among(self._known)
        self._channels[channel.id] = channel
        self._topics[channel.id] = topic
        return topic

    def _topic(self, channel_id: int) -> Topic:
        try:
            return self._topics[channel_id]
        except KeyError:
            raise McapError(f'a message of the unknown channel {channel_id}') from None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """
    Turn what the libraries raise on a damaged file into the one error of bags.

    :raises BagError: in place of theirs.
    """
    try:
        yield
    except (
        McapError,
        CRCValidationError,
        zstandard.ZstdError,
        RuntimeError,
        ValueError,
        KeyError,
        OSError,
        EOFError,
        struct.error,
        StopIteration,
        OverflowError,
        MemoryError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise BagError(
            f'{path} is damaged or cut off: {reason}; what can be saved, `mcap recover` saves'
        ) from error


def _within(log_ns: int, start_ns: int | None, end_ns: int | None) -> bool:
    return (start_ns is None or log_ns >= start_ns) and (end_ns is None or log_ns <= end_ns)


def message_at(chunk: Data, offset: int) -> bytes:
    """
    Return the data of the message that begins at an offset of an unpacked chunk.

    :raises McapError: none does.
    """
    body = offset + RECORD.size
    if body > len(chunk):
        raise McapError(f'no record begins at {offset} of {len(chunk)} bytes')
    opcode, length = RECORD.unpack_from(chunk, offset)
    if opcode != Opcode.MESSAGE or not MESSAGE.size <= length <= len(chunk) - body:
        raise McapError(f'no message begins at {offset} of {len(chunk)} bytes')
    return bytes(chunk[body + MESSAGE.size : body + length])


def _checked_time(log_ns: int) -> int:
    if log_ns > MOST_TIME_NS:
        raise McapError(f'a message recorded at {log_ns} ns, expected less than 2^63')
    return log_ns


def unpacked(chunk: Chunk, most_bytes: int = MOST_MESSAGE_BYTES + _MORE_CHUNK_BYTES) -> Data:
    """
    Return what a chunk holds.

    :param most_bytes: that it may amount to.
    :raises McapError: it is damaged, too large, or of a compression that is not known here.
    """
    size = chunk.uncompressed_size
    if chunk.compression not in COMPRESSIONS:
        raise McapError(f'a chunk compressed with {chunk.compression!r}, expected zstd or lz4')
    if size > most_bytes:
        raise McapError(
            f'a chunk of {size >> 20} MB, expected at most {most_bytes >> 20}: '
            'limits.max_message_mb and a little more'
        )
    data: Data = chunk.data
    if chunk.compression == 'zstd':
        # Its own head must not ask for more than the record does.
        if zstandard.get_frame_parameters(data).content_size not in (
            size,
            zstandard.CONTENTSIZE_UNKNOWN,
        ):
            raise McapError(f'a chunk that is not of {size} bytes, as it says')
        data = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    elif chunk.compression == 'lz4':
        data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    if len(data) != size:
        raise McapError(f'a chunk of {len(data)} bytes, expected {size}')
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise McapError('a chunk whose checksum is wrong')
    return data


class McapWriter:
    """
    Write an mcap file.

    :param path: of the file, which must not exist.
    :param compression: of the chunks: zstd, lz4 or empty.
    """

    def __init__(self, path: Path, compression: str) -> None:
        self._file = McapFileWriter(
            path, library=f'ffs_anonymizer {__version__}', compression=compression
        )
        self._schema_ids: dict[tuple[str, str, bytes], int] = {}
        self._channel_ids: dict[Topic, int] = {}
        self._written_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Return roughly how large the file is by now."""
        return self._written_bytes

    def add_topic(self, topic: Topic) -> None:
        """Make a topic known, before its messages."""
        schema_id = 0
        if topic.type_name:
            key = (topic.type_name, topic.definition_encoding, topic.definition)
            if key not in self._schema_ids:
                self._schema_ids[key] = self._file.add_schema(*key)
            schema_id = self._schema_ids[key]
        metadata = topic.channel_metadata
        if metadata is None:
            metadata = {QOS: topic.qos, TYPE_HASH: topic.type_hash}
        self._channel_ids[topic] = self._file.add_channel(
            topic.name, topic.serialization_format, schema_id, dict(metadata)
        )

    def add_message(self, message: Message, data: Data) -> None:
        """Append a message."""
        self._file.add_message(
            self._channel_ids[message.topic],
            message.log_ns,
            message.publish_ns,
            message.sequence,
            data,
        )
        self._written_bytes += len(data)

    def add_attachment(self, attachment: Attachment) -> None:
        """Append an attachment."""
        self._file.add_attachment(
            attachment.create_ns,
            attachment.log_ns,
            attachment.name,
            attachment.media_type,
            attachment.data,
        )

    def add_note(self, note: Note) -> None:
        """Append a metadata record."""
        self._file.add_metadata(note.name, dict(note.entries))

    def finish(self, bag_yaml: str, version: int, ros_distro: str) -> None:
        """Complete and close the file."""
        entries = {BAG_YAML: bag_yaml}
        if ros_distro and version < 8:
            entries['ROS_DISTRO'] = ros_distro
        self._file.add_metadata(BAG_NOTE, entries)
        self._file.finish()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.abort()
