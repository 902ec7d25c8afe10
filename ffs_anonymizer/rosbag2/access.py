"""Single messages of a bag by topic and number, without reading what lies between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
import functools
from pathlib import Path
from typing import TYPE_CHECKING
import weakref

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2 import sqlite
from ffs_anonymizer.rosbag2.mcap import message_at, translated, unpacked
from ffs_anonymizer.rosbag2.reader import BagReader, decompressed, ROS1
from ffs_anonymizer.rosbag2.storage import Data, MOST_MESSAGE_BYTES
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Chunk, MessageIndex
from mcap.stream_reader import StreamReader

if TYPE_CHECKING:
    from ffs_anonymizer.rosbag2.ros1 import Ros1Reader

# Neighbours lie in one chunk.
_CACHED_CHUNKS = 4


@dataclass(frozen=True)
class _Place:
    """
    Say where a message lies.

    :param key: its row; of an mcap its offset in the unpacked chunk.
    :param chunk_offset: of the chunk in the mcap.
    """

    log_ns: int
    file: Path
    key: int
    chunk_offset: int = 0


class BagAccess:
    """
    Look messages up; only indexes are read beforehand, where the storage has them.

    :param path: a bag folder, a .mcap, .db3 or ROS 1 .bag file.
    :param most_message_bytes: of a message, decompressed.
    :raises BagError: the bag is missing, damaged, or compressed file by file.
    """

    def __init__(self, path: Path, *, most_message_bytes: int = MOST_MESSAGE_BYTES) -> None:
        self._most_message_bytes = most_message_bytes
        self._reader = BagReader(path, most_message_bytes=most_message_bytes)
        if self._reader.metadata.compression_mode == 'file':
            raise BagError(
                f'{path}: got a bag whose files are compressed as a whole, expected one that can '
                'be read from anywhere; convert it: `ros2 bag convert`, or unpack it with zstd'
            )
        self.types = {summary.name: summary.type_name for summary in self._reader.topics()}
        self._places: dict[str, list[_Place]] = defaultdict(list)
        self._ros1: Ros1Reader | None = None
        for file in self._reader.files:
            with _errors_of(file):
                for topic, place in self._indexed(file):
                    self._places[topic].append(place)
        for places in self._places.values():
            places.sort(key=lambda place: place.log_ns)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the storage files, in order."""
        return self._reader.files

    def stamps_ns(self, topic: str) -> list[int]:
        """Return when each message of a topic was recorded, in order."""
        return [place.log_ns for place in self._places.get(topic, ())]

    def payload(self, topic: str, number: int) -> bytes:
        """
        Return the serialized message, decompressed.

        :param number: counted from 0 in the order of the times of recording.
        :raises BagError: there is no such message, or it is damaged.
        """
        places = self._places.get(topic, [])
        if not 0 <= number < len(places):
            raise BagError(
                f'{topic}: got message number {number}, expected 0 to {len(places) - 1}'
            )
        place = places[number]
        with _errors_of(place.file):
            data = self._fetched(place, topic)
        if not self._reader.messages_compressed:
            return data
        return decompressed(data, self._most_message_bytes)

    def _indexed(self, file: Path) -> Iterator[tuple[str, _Place]]:
        if self._reader.metadata.storage != ROS1:
            return (_mcap_places if file.suffix == '.mcap' else _sqlite_places)(file)
        from ffs_anonymizer.rosbag2.ros1 import Ros1Reader

        # Its index is read when it is opened, so it stays open.
        self._ros1 = Ros1Reader(file, {}, self._most_message_bytes)
        weakref.finalize(self, self._ros1.close)
        return (
            (topic, _Place(log_ns, file, offset, chunk_offset))
            for topic, log_ns, chunk_offset, offset in self._ros1.places()
        )

    def _fetched(self, place: _Place, topic: str) -> bytes:
        if self._ros1 is not None:
            return self._ros1.payload(place.log_ns, place.chunk_offset, place.key)
        fetch = _mcap_payload if place.file.suffix == '.mcap' else _sqlite_payload
        return fetch(place, topic)


def _mcap_places(file: Path) -> Iterator[tuple[str, _Place]]:
    with file.open('rb') as stream:
        summary = SeekingReader(stream, record_size_limit=file.stat().st_size).get_summary()
        if summary is None or summary.statistics is None or not summary.chunk_indexes:
            raise BagError(
                f'{file}: got an mcap without an index of its messages, expected a chunked and '
                'indexed one; `mcap recover` writes one'
            )
        indexed = 0
        for chunk in sorted(summary.chunk_indexes, key=lambda c: c.message_start_time):
            for channel, offset in chunk.message_index_offsets.items():
                topic = summary.channels[channel].topic
                stream.seek(offset)
                record = next(StreamReader(stream, skip_magic=True).records)
                if not isinstance(record, MessageIndex):
                    raise McapError(f'the index of {topic} points elsewhere')
                for log_ns, message_offset in sorted(record.records):
                    yield topic, _Place(log_ns, file, message_offset, chunk.chunk_start_offset)
                    indexed += 1
        if indexed != summary.statistics.message_count:
            raise BagError(
                f'{file}: got {indexed} messages in its index, expected '
                f'{summary.statistics.message_count}; `mcap recover` mends it'
            )


def _mcap_payload(place: _Place, topic: str) -> bytes:
    return message_at(_chunk(place.file, place.chunk_offset), place.key)


@functools.lru_cache(_CACHED_CHUNKS)
def _chunk(file: Path, offset: int) -> Data:
    with file.open('rb') as stream:
        stream.seek(offset)
        records = StreamReader(
            stream, skip_magic=True, emit_chunks=True, record_size_limit=file.stat().st_size
        ).records
        record = next(records)
        if not isinstance(record, Chunk):
            raise McapError('the index of the chunks points elsewhere')
        return unpacked(record)


def _sqlite_places(file: Path) -> Iterator[tuple[str, _Place]]:
    query = (
        'SELECT topics.name, messages.timestamp, messages.id FROM messages '
        'JOIN topics ON topics.id = messages.topic_id ORDER BY messages.timestamp, messages.id'
    )
    with closing(sqlite.opened(file)) as database:
        for topic, log_ns, row in database.execute(query):
            yield topic, _Place(log_ns, file, row)


def _sqlite_payload(place: _Place, topic: str) -> bytes:
    with closing(sqlite.opened(place.file)) as database:
        row = database.execute('SELECT data FROM messages WHERE id = ?', (place.key,)).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise BagError(f'{place.file} is damaged: no message of {topic} in row {place.key}')
    return row[0]


def _errors_of(file: Path) -> AbstractContextManager[None]:
    if file.suffix == '.bag':
        # It has the one error already.
        return nullcontext()
    return translated(file) if file.suffix == '.mcap' else sqlite.translated(file)
