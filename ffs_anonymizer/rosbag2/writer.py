"""A new bag: storage files, splits, compression and metadata.yaml."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any

from ffs_anonymizer.rosbag2 import metadata
from ffs_anonymizer.rosbag2.mcap import McapWriter
from ffs_anonymizer.rosbag2.metadata import BagMetadata, FileSpan
from ffs_anonymizer.rosbag2.reader import decompressed
from ffs_anonymizer.rosbag2.sqlite import SqliteWriter
from ffs_anonymizer.rosbag2.storage import Attachment, Data, Message, Note, StorageWriter, Topic
import zstandard

# As rosbag2 compresses.
ZSTD_LEVEL = 1
# The disk begins to take in what is written while more is, instead of all of it at the end.
_SYNC_BYTES = 32 << 20
# Reads a file while it is written; what it returns is called when the file is whole.
Follow = Callable[[Path], Callable[[], None]]
SUFFIXES = {'mcap': '.mcap', 'sqlite3': '.db3'}


@dataclass(frozen=True)
class Format:
    """
    Hold how a bag is laid out.

    :param storage: mcap or sqlite3.
    :param compression_mode: none, file or message.
    :param chunk_compression: of mcap chunks: zstd, lz4 or empty.
    :param max_bytes: begin a new file beyond this size; 0: never.
    :param max_duration_ns: begin a new file beyond this time; 0: never.
    """

    storage: str
    compression_mode: str = 'none'
    chunk_compression: str = ''
    max_bytes: int = 0
    max_duration_ns: int = 0


class BagWriter:
    """
    Write a bag.

    :param folder: an existing, empty folder.
    :param name: of the bag, which its files are named after.
    :param source: of the bag that this one is made from.
    :param follow: is told of each file that grows at its end alone.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        layout: Format,
        source: BagMetadata,
        *,
        follow: Follow | None = None,
    ) -> None:
        grows = layout.storage == 'mcap' and layout.compression_mode != 'file'
        self._follow = follow if grows else None
        self._tell_whole: Callable[[], None] | None = None
        self._folder = folder
        self._name = name
        self._layout = layout
        self._source = source
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self._counts: dict[Topic, int] = {}
        self._spans: list[FileSpan] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='sync')
        self._syncing: Future[None] | None = None
        self._synced_bytes = 0
        self._storage = self._begin()

    def add_topic(self, topic: Topic) -> None:
        """Make a topic known, before its messages."""
        self._counts[topic] = 0
        self._storage.add_topic(topic)

    def add_message(self, message: Message, data: Data, *, is_compressed: bool) -> None:
        """
        Append a message.

        :param data: in place of the message's own.
        :param is_compressed: whether the data is compressed already.
        """
        compresses = self._layout.compression_mode == 'message'
        if is_compressed and not compresses:
            data = decompressed(data)
        elif compresses and not is_compressed:
            data = self._compressor.compress(data)
        if self._is_full(message.log_ns):
            self._complete()
            self._storage = self._begin()
        self._storage.add_message(message, data)
        self._counts[message.topic] += 1
        self._spans[-1].include(message.log_ns)
        self._synced_bytes += len(data)
        if self._synced_bytes >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._synced_bytes = 0
            self._syncing = self._thread.submit(_sync, self._folder / self._spans[-1].name)

    def add_attachment(self, attachment: Attachment) -> None:
        """Append an attachment (mcap only)."""
        self._storage.add_attachment(attachment)

    def add_note(self, note: Note) -> None:
        """Append a metadata record (mcap only)."""
        self._storage.add_note(note)

    def finish(self) -> None:
        """Complete the bag."""
        self._thread.shutdown(cancel_futures=True)
        self._complete()
        text = metadata.dump({metadata.ROOT: self._section()})
        (self._folder / metadata.FILE_NAME).write_text(text, encoding='utf-8')

    def abort(self) -> None:
        """Close what is open; the files are of no use."""
        self._thread.shutdown(cancel_futures=True)
        self._storage.abort()

    def _is_full(self, log_ns: int) -> bool:
        span, layout = self._spans[-1], self._layout
        if not span.message_count:
            return False
        too_large = 0 < layout.max_bytes <= self._storage.size_bytes
        return too_large or 0 < layout.max_duration_ns <= log_ns - span.first_ns

    def _begin(self) -> StorageWriter:
        name = f'{self._name}_{len(self._spans)}{SUFFIXES[self._layout.storage]}'
        self._spans.append(FileSpan(name))
        path = self._folder / name
        storage: StorageWriter = (
            McapWriter(path, self._layout.chunk_compression)
            if self._layout.storage == 'mcap'
            else SqliteWriter(path)
        )
        if self._follow is not None:
            self._tell_whole = self._follow(path)
        for topic in self._counts:
            storage.add_topic(topic)
        return storage

    def _complete(self) -> None:
        section = self._section()
        self._storage.finish(
            metadata.dump(section), section['version'], section.get('ros_distro', '')
        )
        if self._tell_whole is not None:
            self._tell_whole()
        if self._layout.compression_mode == 'file':
            plain = self._folder / self._spans[-1].name
            with (
                plain.open('rb') as source,
                plain.with_name(plain.name + '.zstd').open('xb') as out,
            ):
                self._compressor.copy_stream(source, out, size=plain.stat().st_size)
            plain.unlink()

    def _section(self) -> dict[str, Any]:
        suffix = '.zstd' if self._layout.compression_mode == 'file' else ''
        topics = list(self._counts.items())
        return metadata.build(
            self._source,
            version=metadata.fitting_version(self._source, list(self._counts)),
            storage=self._layout.storage,
            topics=topics,
            files=self._spans,
            file_names=[span.name + suffix for span in self._spans],
            compression_mode=self._layout.compression_mode,
        )


def _sync(path: Path) -> None:
    """Have the disk take in what a file holds by now; the errors come up at its end."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
