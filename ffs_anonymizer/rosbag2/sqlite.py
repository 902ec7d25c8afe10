"""The sqlite3 storage: one .db3 file to items and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
import sqlite3
from typing import Any
from urllib.parse import quote

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.storage import Attachment, Contents, Data, Item, Message, Note, Topic

SCHEMA_VERSION = 4
PAGE_BYTES = 1 << 14

# As rosbag2 lays it out since Iron; the index follows when all rows are there.
_TABLES = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(
    id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE topics(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
    serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL,
    type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(
    id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
    encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
    data BLOB NOT NULL);
"""
_TOPIC_COLUMNS = (
    'id',
    'name',
    'type',
    'serialization_format',
    'offered_qos_profiles',
    'type_description_hash',
)


class SqliteReader:
    """
    Read a sqlite3 file, of any of rosbag2's layouts.

    :param path: of the file, which is opened in a way that leaves it and its folder untouched.
    :param known: topics of the bag's other files, by key; those of this file join them.
    :raises BagError: it cannot be opened, or its recording was not ended properly.
    """

    def __init__(self, path: Path, known: dict[tuple[object, ...], Topic]) -> None:
        self._path = path
        self._known = known
        for suffix in ('-wal', '-journal'):
            journal = path.with_name(path.name + suffix)
            if journal.exists() and journal.stat().st_size > 0:
                raise BagError(
                    f'{path} was not closed properly: {journal.name} holds messages beside it; '
                    f'make a copy of the bag and run `sqlite3 {path.name} "PRAGMA '
                    'wal_checkpoint(TRUNCATE)"` there'
                )
        self._read_bytes = 0
        with translated(self._path):
            self._size = max(path.stat().st_size, 1)
            self._database = opened(path)

    def contents(self) -> Contents:
        """Return what the file says of itself."""
        contents = Contents()
        with translated(self._path):
            contents.topics = list(self._topics().values())
            if self._columns('metadata'):
                rows = self._rows('SELECT metadata FROM metadata ORDER BY id DESC LIMIT 1')
                contents.bag_yaml = rows[0][0] if rows else ''
            if self._columns('schema'):
                rows = self._rows('SELECT ros_distro FROM schema')
                contents.ros_distro = rows[0][0] if rows else ''
        return contents

    def items(self, start_ns: int | None, end_ns: int | None) -> Iterator[Item]:
        """Yield everything in the order of the file."""
        with translated(self._path):
            topics = self._topics()
            yield from topics.values()
            limits = {'timestamp >= ?': start_ns, 'timestamp <= ?': end_ns}
            used = {text: value for text, value in limits.items() if value is not None}
            where = f' WHERE {" AND ".join(used)}' if used else ''
            query = f'SELECT topic_id, timestamp, data FROM messages{where} ORDER BY id'
            with closing(self._database.execute(query, tuple(used.values()))) as cursor:
                for number, stamp_ns, data in cursor:
                    if (
                        number not in topics
                        or not isinstance(stamp_ns, int)
                        or stamp_ns < 0
                        or not isinstance(data, bytes)
                    ):
                        raise BagError(
                            f'{self._path} is damaged: a message of the topic number {number} '
                            f'at {stamp_ns!r} with {type(data).__name__} as its data'
                        )
                    self._read_bytes += len(data)
                    yield Message(topics[number], stamp_ns, stamp_ns, 0, data)

    def progress(self) -> float:
        """Return the share of the file that has been read, 0 to 1."""
        return min(self._read_bytes / self._size, 1.0)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _topics(self) -> dict[int, Topic]:
        present = self._columns('topics')
        stored = {'id', 'topic_id', 'timestamp', 'data'}.difference(self._columns('messages'))
        if not present or stored:
            raise BagError(f'{self._path}: got no tables of rosbag2, expected a recorded bag')
        definitions: dict[str, tuple[str, str, str]] = {}
        if self._columns('message_definitions'):
            for name, encoding, text, type_hash in self._rows(
                'SELECT topic_type, encoding, encoded_message_definition, type_description_hash '
                'FROM message_definitions ORDER BY id'
            ):
                definitions[name] = (encoding, text, type_hash)
        # Older layouts have fewer columns.
        columns = [name if name in present else "''" for name in _TOPIC_COLUMNS]
        topics = {}
        for number, name, type_name, serialization, qos, type_hash in self._rows(
            f'SELECT {", ".join(columns)} FROM topics ORDER BY id'
        ):
            encoding, text, definition_hash = definitions.get(type_name, ('', '', ''))
            texts = (name, type_name, serialization, qos, type_hash, encoding, text)
            if not all(isinstance(word, str) for word in (*texts, definition_hash)):
                raise BagError(f'{self._path} is damaged: the topic number {number} is no text')
            topics[number] = Topic(
                name,
                type_name,
                serialization,
                qos,
                type_hash,
                text.encode(),
                encoding,
                definition_hash,
            ).among(self._known)
        return topics

    def _columns(self, table: str) -> list[str]:
        """Return the stored columns of a table; a view, which can hold anything, has none."""
        kinds = self._rows('SELECT type FROM sqlite_master WHERE name = ? COLLATE NOCASE', table)
        if kinds != [('table',)]:
            return []
        return [row[1] for row in self._rows(f'PRAGMA table_info({table})')]

    def _rows(self, query: str, *values: str) -> list[Any]:
        with closing(self._database.execute(query, values)) as cursor:
            return cursor.fetchall()


def opened(path: Path) -> sqlite3.Connection:
    """
    Open a file for any thread, in a way that leaves it and its folder untouched.

    :raises sqlite3.Error: it cannot be opened.
    """
    address = f'file:{quote(str(path.absolute()))}?mode=ro&immutable=1'
    return sqlite3.connect(address, uri=True, check_same_thread=False)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """
    Turn what sqlite raises on a damaged file into the one error of bags.

    :raises BagError: in place of its errors.
    """
    try:
        yield
    except (
        sqlite3.Error,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        MemoryError,
    ) as error:
        raise BagError(f'{path} is damaged or no sqlite3 bag: {error}') from error


class SqliteWriter:
    """
    Write a sqlite3 file.

    :param path: of the file, which must not exist.
    """

    def __init__(self, path: Path) -> None:
        path.touch(exist_ok=False)
        self._topic_ids: dict[Topic, int] = {}
        self._defined: set[str] = set()
        self._written_bytes = 0
        with _disk_errors():
            self._database = sqlite3.connect(path, isolation_level=None)
            # A file that is not finished is thrown away: no journal, one transaction. With pages
            # of the usual size, messages of megabytes cost twice the time.
            for pragma in (
                *('journal_mode = OFF', 'synchronous = OFF', 'locking_mode = EXCLUSIVE'),
                f'page_size = {PAGE_BYTES}',
            ):
                self._database.execute(f'PRAGMA {pragma}')
            self._database.executescript(_TABLES)
            self._database.execute('BEGIN')

    @property
    def size_bytes(self) -> int:
        """Return roughly how large the file is by now."""
        return self._written_bytes

    def add_topic(self, topic: Topic) -> None:
        """Make a topic known, before its messages."""
        with _disk_errors():
            cursor = self._database.execute(
                'INSERT INTO topics(name, type, serialization_format, offered_qos_profiles, '
                'type_description_hash) VALUES (?, ?, ?, ?, ?)',
                (
                    topic.name,
                    topic.type_name,
                    topic.serialization_format,
                    topic.qos,
                    topic.type_hash,
                ),
            )
            assert cursor.lastrowid is not None
            self._topic_ids[topic] = cursor.lastrowid
            if topic.definition and topic.type_name not in self._defined:
                self._defined.add(topic.type_name)
                text = topic.definition.decode('utf-8', 'backslashreplace')
                self._database.execute(
                    'INSERT INTO message_definitions(topic_type, encoding, '
                    'encoded_message_definition, type_description_hash) VALUES (?, ?, ?, ?)',
                    (
                        topic.type_name,
                        topic.definition_encoding,
                        text,
                        topic.definition_hash or topic.type_hash,
                    ),
                )

    def add_message(self, message: Message, data: Data) -> None:
        """Append a message."""
        with _disk_errors():
            self._database.execute(
                'INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)',
                (self._topic_ids[message.topic], message.log_ns, data),
            )
        self._written_bytes += len(data)

    def add_attachment(self, attachment: Attachment) -> None:
        """Refuse: a sqlite3 bag has no place for it."""
        raise BagError(f'a sqlite3 bag has no place for the attachment {attachment.name!r}')

    def add_note(self, note: Note) -> None:
        """Refuse: a sqlite3 bag has no place for it."""
        raise BagError(f'a sqlite3 bag has no place for the metadata record {note.name!r}')

    def finish(self, bag_yaml: str, version: int, ros_distro: str) -> None:
        """Complete and close the file."""
        with _disk_errors():
            self._database.execute(
                'INSERT INTO schema VALUES (?, ?)', (SCHEMA_VERSION, ros_distro)
            )
            self._database.execute(
                'INSERT INTO metadata(metadata_version, metadata) VALUES (?, ?)',
                (version, bag_yaml),
            )
            self._database.execute('CREATE INDEX timestamp_idx ON messages (timestamp ASC)')
            self._database.execute('COMMIT')
            self._database.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._database.close()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
