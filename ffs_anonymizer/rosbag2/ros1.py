"""ROS 1 bags, read by the library `rosbags`: one .bag file to items in ROS 2's serialization."""

from __future__ import annotations

import bz2
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import functools
from pathlib import Path
import struct
import threading
from typing import Any

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.storage import Contents, Item, Message, MOST_TIME_NS, Topic
import lz4.frame

try:
    from rosbags.convert.converter import is_same_wireformat, STATIC_MSGTYPE_RENAMES
    from rosbags.interfaces import Connection
    from rosbags.rosbag1 import Reader, ReaderError
    from rosbags.rosbag1.reader import IndexData
    from rosbags.serde import SerdeError
    from rosbags.typesys import get_types_from_msg, get_typestore, Stores, TypesysError
    from rosbags.typesys.store import Typestore
except ImportError as error:
    raise BagError(
        f'{error}; ROS 1 bags need rosbags: `pip install rosbags`, or ffs_anonymizer[ros1]'
    ) from error

MAGIC = b'#ROSBAG V2.0\n'
_HEADER = 'std_msgs/msg/Header'
# Of a chunk, beside the largest message.
_MORE_CHUNK_BYTES = 64 << 20
# As rosbag2 says what ROS 1 calls latched: reliable, transient local, the last one kept.
_FOREVER = '{sec: 9223372036, nsec: 854775807}'
_LATCHED = (
    '- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n'
    f'  deadline: {_FOREVER}\n  lifespan: {_FOREVER}\n  liveliness: 1\n'
    f'  liveliness_lease_duration: {_FOREVER}\n  avoid_ros_namespace_conventions: false\n'
)


@dataclass(frozen=True)
class _Source:
    """Hold what a connection's messages become, and how."""

    topic: Topic
    convert: Callable[[bytes], memoryview]


class Ros1Reader:
    """
    Read a ROS 1 bag.

    :param path: of the file.
    :param known: topics of the bag, by key; connections that differ in their publisher alone are
        one topic.
    :param most_message_bytes: of a message; a chunk may hold some more.
    :raises BagError: it cannot be opened, is damaged, or has types that cannot be understood.
    """

    def __init__(
        self, path: Path, known: dict[tuple[object, ...], Topic], most_message_bytes: int
    ) -> None:
        self._path = path
        self._read_count = 0
        self._lock = threading.Lock()
        with _translated(path):
            with path.open('rb') as file:
                head = file.read(len(MAGIC))
            if head != MAGIC:
                raise BagError(f'{path}: got a file that begins with {head!r}, expected {MAGIC!r}')
            self._reader = Reader(path)
            self._reader.open()
        try:
            with _translated(path):
                self._limit_chunks(most_message_bytes + _MORE_CHUNK_BYTES)
                self._sources = {
                    connection.id: self._source(connection, known)
                    for connection in self._reader.connections
                }
        except BaseException:
            self._reader.close()
            raise

    def contents(self) -> Contents:
        """Return what the file says of itself."""
        contents = Contents(message_count=self._reader.message_count)
        for connection in self._reader.connections:
            topic = self._sources[connection.id].topic
            if topic not in contents.topics:
                contents.topics.append(topic)
            count = contents.counts.get(topic.name, 0)
            contents.counts[topic.name] = count + connection.msgcount
        return contents

    def items(self, start_ns: int | None, end_ns: int | None) -> Iterator[Item]:
        """Yield everything in the order of time."""
        yield from dict.fromkeys(source.topic for source in self._sources.values())
        if not self._reader.connections:
            return
        stop_ns = None if end_ns is None else end_ns + 1
        with _translated(self._path):
            for connection, log_ns, data in self._reader.messages(start=start_ns, stop=stop_ns):
                self._read_count += 1
                source = self._sources[connection.id]
                if not 0 <= log_ns <= MOST_TIME_NS:
                    raise BagError(f'{self._path} is damaged: a message recorded at {log_ns} ns')
                payload = bytes(source.convert(data))
                yield Message(source.topic, log_ns, log_ns, 0, payload)

    def places(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield where each message lies: topic, recording time, offset of the chunk and in it."""
        for connection in self._reader.connections:
            name = self._sources[connection.id].topic.name
            for entry in self._reader.indexes[connection.id]:
                yield name, entry.time, entry.chunk_pos, entry.offset

    def payload(self, log_ns: int, chunk_offset: int, offset: int) -> bytes:
        """
        Return a single message in ROS 2's serialization.

        :raises BagError: it is damaged.
        """
        reader = self._reader
        with self._lock, _translated(self._path):
            index = reader.indexes
            first = reader.connections[0]
            try:
                # All that the library reads is what an index leads to.
                reader.indexes = {first.id: [IndexData(log_ns, chunk_offset, offset)]}
                connection, _, data = next(reader.messages([first]))
            finally:
                reader.indexes = index
            return bytes(self._sources[connection.id].convert(data))

    def progress(self) -> float:
        """Return the share of the file that has been read, 0 to 1."""
        return min(self._read_count / max(self._reader.message_count, 1), 1.0)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def _limit_chunks(self, most_bytes: int) -> None:
        """Have chunks that amount to more than messages may refused, not unpacked."""
        for position, chunk in self._reader.chunks.items():
            if chunk.decompressor is bz2.decompress:
                unpack = functools.partial(_unpacked, bz2.BZ2Decompressor, most_bytes)
            elif chunk.decompressor is lz4.frame.decompress:
                unpack = functools.partial(_unpacked, lz4.frame.LZ4FrameDecompressor, most_bytes)
            else:
                continue
            self._reader.chunks[position] = chunk._replace(decompressor=unpack)

    def _source(self, connection: Connection, known: dict[tuple[object, ...], Topic]) -> _Source:
        """Return how a connection's messages are read: by the definition that they came with."""
        own = connection.msgtype
        type_name = STATIC_MSGTYPE_RENAMES.get(own, own)
        try:
            store = get_typestore(Stores.EMPTY)
            types = get_types_from_msg(connection.msgdef.data, own)
            # In ROS 2 it has no sequence number.
            types[_HEADER] = _newer().fielddefs[_HEADER]
            store.register({**_times(), **types})
            says = store
            if type_name in _newer().fielddefs and is_same_wireformat(
                store, _newer(), own, type_name
            ):
                says = _newer()
            elif type_name != own:
                type_name = own
            definition, _ = says.generate_msgdef(type_name, ros_version=2)
            type_hash = says.hash_rihs01(type_name)
        except Exception as error:  # whatever a parser makes of what is no definition
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise BagError(
                f'{self._path}: {connection.topic} ({own}) has a definition that cannot be '
                f'understood: {reason}'
            ) from error
        topic = Topic(
            connection.topic,
            type_name,
            qos=_LATCHED if getattr(connection.ext, 'latching', None) else '',
            type_hash=type_hash,
            definition=definition.encode(),
            definition_encoding='ros2msg',
        ).among(known)
        return _Source(topic, functools.partial(store.ros1_to_cdr, typename=own))


def _unpacked(kind: Callable[[], Any], most_bytes: int, data: bytes) -> bytes:
    plain: bytes = kind().decompress(data, max_length=most_bytes + 1)
    if len(plain) > most_bytes:
        raise BagError(
            f'a chunk of more than {most_bytes >> 20} MB: limits.max_message_mb and a little more'
        )
    return plain


@functools.lru_cache(1)
def _newer() -> Typestore:
    return get_typestore(Stores.ROS2_HUMBLE)


def _times() -> dict[str, Any]:
    names = ('builtin_interfaces/msg/Time', 'builtin_interfaces/msg/Duration')
    return {name: _newer().fielddefs[name] for name in names}


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """
    Turn what the library raises on a damaged file into the one error of bags.

    :raises BagError: in place of its errors.
    """
    try:
        yield
    except (
        ReaderError,
        SerdeError,
        TypesysError,
        RuntimeError,
        ValueError,
        LookupError,
        OSError,
        EOFError,
        struct.error,
        AssertionError,
        OverflowError,
        MemoryError,
        TypeError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BagError(
            f'{path} is damaged or no ROS 1 bag: {reason}; `rosbag reindex` a copy of it may help'
        ) from error
