"""A recorded bag, whatever its storage, splits and compression, as one sequence of items."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2 import metadata
from ffs_anonymizer.rosbag2.mcap import McapReader
from ffs_anonymizer.rosbag2.metadata import BagMetadata
from ffs_anonymizer.rosbag2.sqlite import SqliteReader
from ffs_anonymizer.rosbag2.storage import (
    Data,
    Item,
    Message,
    MOST_MESSAGE_BYTES,
    StorageReader,
    Topic,
)
import zstandard

ROS1 = 'ROS 1'
STORAGE_BY_SUFFIX = {'.mcap': 'mcap', '.db3': 'sqlite3', '.bag': ROS1}
_MISFITS = ('Src size is incorrect', 'did not decompress full frame')
# What a kilobyte of zstd can amount to fits in memory, whatever it says of itself.
_PIECE_BYTES = 1 << 10
_BLOCK_BYTES = 1 << 22
# Recordings that compress better than this are made to fill disks.
_MOST_RATIO, _LEAST_LIMIT_BYTES = 1000, 1 << 30


@dataclass(frozen=True)
class TopicSummary:
    """
    Hold what is known of a topic before the bag is read.

    :param topic: None where its storage file is still compressed.
    :param message_count: None where only reading the bag would tell.
    """

    name: str
    type_name: str
    topic: Topic | None
    message_count: int | None


class BagReader:
    """
    Read a bag folder or a single storage file; the input is never written to.

    :param path: a folder with metadata.yaml, a .mcap or a .db3 file, or a ROS 1 .bag file.
    :param most_message_bytes: of a message, decompressed.
    :raises BagError: the bag is missing, incomplete, damaged or of a kind that is not known here.
    """

    def __init__(self, path: Path, *, most_message_bytes: int = MOST_MESSAGE_BYTES) -> None:
        self.path = path
        self._most_message_bytes = most_message_bytes
        if not path.exists():
            raise BagError(
                f'got no bag at {path}, expected a bag folder, a .mcap, .db3 or .bag file'
            )
        self.chunk_compression = ''
        self._topics: dict[tuple[object, ...], Topic] = {}
        self._read_bytes = 0
        if path.is_dir():
            self.metadata = metadata.load(path)
            self._files = [path / name for name in self.metadata.files]
        else:
            self.metadata = BagMetadata(storage=_storage_of(path))
            self._files = [path]
        if self.metadata.storage not in (*metadata.STORAGES, *([] if path.is_dir() else [ROS1])):
            raise BagError(
                f'{path}: got storage {self.metadata.storage!r}, '
                f'expected {" or ".join(metadata.STORAGES)}'
            )
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            raise BagError(
                f'{path}: {len(missing)} of its {len(self._files)} files are missing: '
                f'{", ".join(missing)}; put them back, or `ros2 bag reindex {path}`'
            )
        # Of each file, for the share of the whole that has been read.
        self._sizes = [file.stat().st_size for file in self._files]
        if self.metadata.compression_mode != 'file':
            self._look_inside()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the storage files, in order."""
        return tuple(self._files)

    @property
    def size_bytes(self) -> int:
        """Return the size of all storage files."""
        return sum(self._sizes)

    @property
    def read_bytes(self) -> int:
        """Return roughly how much of the size has been read."""
        return self._read_bytes

    @property
    def messages_compressed(self) -> bool:
        """Return whether the data of messages has to be decompressed."""
        return self.metadata.compression_mode == 'message'

    def topics(self) -> list[TopicSummary]:
        """Return what is known of the topics by now, the empty ones included."""
        counts = {(t.name, t.type_name): t.message_count for t in self.metadata.topics}
        known = [
            TopicSummary(t.name, t.type_name, t, counts.get((t.name, t.type_name)))
            for t in self._topics.values()
        ]
        seen = {(summary.name, summary.type_name) for summary in known}
        listed = [
            TopicSummary(entry.name, entry.type_name, None, entry.message_count)
            for entry in self.metadata.topics
            if (entry.name, entry.type_name) not in seen
        ]
        return known + listed

    def items(
        self,
        start_ns: int | None = None,
        end_ns: int | None = None,
        *,
        scratch: Path | None = None,
    ) -> Generator[Item, None, None]:
        """
        Yield everything in the order of the files; topics of several files are merged.

        :param start_ns: leave out messages recorded before.
        :param end_ns: leave out messages recorded after.
        :param scratch: folder for the files of a file-compressed bag while they are read.
        :raises BagError: the bag is damaged.
        """
        done_bytes = 0
        self._read_bytes = 0
        announced: set[Topic] = set()
        for file, size in zip(self._files, self._sizes, strict=True):
            reader = self._open(file, scratch)
            try:
                reader.contents()
                for item in reader.items(start_ns, end_ns):
                    if isinstance(item, Topic):
                        if item in announced:
                            continue
                        announced.add(item)
                    else:
                        if isinstance(item, Message):
                            self._check_size(item)
                        self._read_bytes = done_bytes + int(size * reader.progress())
                    yield item
            finally:
                reader.close()
            done_bytes += size
            self._read_bytes = done_bytes

    def _check_size(self, message: Message) -> None:
        size = len(message.data)
        if self.messages_compressed:
            size = max(size, _said_size(message.data) or 0)
        if size > self._most_message_bytes:
            raise BagError(
                f'{message.topic.name}: got a message of {size >> 20} MB at {message.log_ns} ns, '
                f'expected at most {self._most_message_bytes >> 20} (limits.max_message_mb)'
            )

    def _look_inside(self) -> None:
        counts: dict[tuple[str, str], int] = {}
        for file in self._files:
            reader = self._storage_reader(file)
            try:
                contents = reader.contents()
            finally:
                reader.close()
            self.chunk_compression = self.chunk_compression or contents.compression
            if not self.metadata.ros_distro:
                self.metadata = replace(self.metadata, ros_distro=contents.ros_distro)
            for topic in contents.topics:
                key = (topic.name, topic.type_name)
                counts[key] = contents.counts.get(topic.name, 0)
            if not self.metadata.version:
                self._learn_from(contents.bag_yaml, file)
                if contents.message_count is not None and not self.metadata.topics:
                    entries = tuple(
                        metadata.TopicEntry(name, type_name, count, {})
                        for (name, type_name), count in counts.items()
                    )
                    self.metadata = replace(
                        self.metadata, topics=entries, message_count=contents.message_count
                    )

    def _learn_from(self, bag_yaml: str, file: Path) -> None:
        """Take over what a single file says of the bag that it is, or was a part of."""
        inside = BagMetadata()
        if bag_yaml:
            inside = metadata.parse_text(bag_yaml, str(file))
        self.metadata = replace(
            self.metadata,
            version=inside.version,
            custom_data=inside.custom_data,
            ros_distro=inside.ros_distro or self.metadata.ros_distro,
            # The file is here and no longer compressed as a whole; its messages may be.
            compression_mode='message' if inside.compression_mode == 'message' else 'none',
        )

    def _open(self, file: Path, scratch: Path | None) -> StorageReader:
        if self.metadata.compression_mode != 'file':
            return self._storage_reader(file)
        if scratch is None:
            raise ValueError('a file-compressed bag needs a scratch folder')
        plain = scratch / file.name.removesuffix('.zstd')
        try:
            _unpack(file, plain)
            return self._storage_reader(plain)
        finally:
            # Both readers hold the file open; nothing of it stays behind, not even when killed.
            plain.unlink(missing_ok=True)

    def _storage_reader(self, path: Path) -> StorageReader:
        if self.metadata.storage == 'mcap':
            return McapReader(path, self._topics, self._most_message_bytes)
        if self.metadata.storage == ROS1:
            from ffs_anonymizer.rosbag2.ros1 import Ros1Reader

            return Ros1Reader(path, self._topics, self._most_message_bytes)
        return SqliteReader(path, self._topics)


def decompressed(data: Data, most_bytes: int = MOST_MESSAGE_BYTES) -> bytes:
    """
    Return the data of a message of a message-compressed bag.

    :param most_bytes: that it may amount to.
    :raises BagError: it is damaged, or amounts to more.
    """
    too_large = f'a compressed message amounts to more than {most_bytes >> 20} MB'
    size = _said_size(data)
    try:
        if size is not None:
            if size > most_bytes:
                raise BagError(too_large)
            # What says less than it holds does not fit.
            return zstandard.ZstdDecompressor().decompress(data)
        frame = zstandard.ZstdDecompressor().decompressobj()
        plain, done = [], 0
        for at in range(0, len(data), _PIECE_BYTES):
            plain.append(frame.decompress(data[at : at + _PIECE_BYTES]))
            done += len(plain[-1])
            if done > most_bytes:
                raise BagError(too_large)
            if frame.eof:
                return b''.join(plain)
    except zstandard.ZstdError as error:
        if any(text in str(error) for text in _MISFITS):
            raise BagError('a compressed message is cut off') from error
        raise BagError(f'a compressed message is damaged: {error}') from error
    raise BagError('a compressed message is cut off')


def _said_size(data: Data) -> int | None:
    """Return what compressed data says that it amounts to; None where it does not say."""
    try:
        size = zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError as error:
        if not len(data):
            raise BagError('a compressed message is cut off') from error
        raise BagError(f'a compressed message is damaged: {error}') from error
    return None if size == zstandard.CONTENTSIZE_UNKNOWN else size


def _unpack(file: Path, plain: Path) -> None:
    """
    Decompress a storage file.

    :param plain: is made.
    :raises BagError: it is damaged, cut off, or amounts to more than recordings do.
    """
    most = max(file.stat().st_size * _MOST_RATIO, _LEAST_LIMIT_BYTES)
    done = 0
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        with file.open('rb') as source, plain.open('xb') as target:
            while block := source.read(_BLOCK_BYTES):
                for at in range(0, len(block), _PIECE_BYTES):
                    done += target.write(frame.decompress(block[at : at + _PIECE_BYTES]))
                    if done > most:
                        raise BagError(f'{file} amounts to over {most >> 20} MB: no recording')
                    if frame.eof:
                        return
    except zstandard.ZstdError as error:
        raise BagError(f'{file} is damaged: {error}') from error
    raise BagError(f'{file} is cut off: its compressed data has no end')


def _storage_of(path: Path) -> str:
    try:
        return STORAGE_BY_SUFFIX[path.suffix]
    except KeyError:
        raise BagError(
            f'{path}: got a {path.suffix or "nameless kind of"} file, '
            f'expected a bag folder or one of: {", ".join(STORAGE_BY_SUFFIX)}'
        ) from None
