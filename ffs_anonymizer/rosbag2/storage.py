"""What a bag holds, whichever storage it lies in, and what a storage can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Union

Data = Union[bytes, memoryview]
# Of one message, decompressed, where nobody says otherwise.
MOST_MESSAGE_BYTES = 1 << 30
# The times of ROS are signed.
MOST_TIME_NS = 2**63 - 1


@dataclass(frozen=True, eq=False)
class Topic:
    """
    Describe a stream of messages; two are the same only if they are one object.

    :param qos: the offered QoS profiles, the text as it was stored.
    :param definition: the text of the message definition; empty where the storage has none.
    :param definition_encoding: ros2msg, ros2idl or empty.
    :param definition_hash: the type's hash beside its definition (sqlite3).
    :param channel_metadata: all that an mcap says beside a channel, QoS and hash included; None
        where the topic does not come from an mcap.
    """

    name: str
    type_name: str
    serialization_format: str = 'cdr'
    qos: str = ''
    type_hash: str = ''
    definition: bytes = b''
    definition_encoding: str = ''
    definition_hash: str = ''
    channel_metadata: Mapping[str, str] | None = None

    def among(self, known: dict[tuple[object, ...], Topic]) -> Topic:
        """Return the topic that is known already and the same, else this one, now known."""
        return known.setdefault(self.key, self)

    @property
    def key(self) -> tuple[object, ...]:
        """Return what tells topics of several files apart."""
        extra = None if self.channel_metadata is None else tuple(self.channel_metadata.items())
        return (
            self.name,
            self.type_name,
            self.serialization_format,
            self.qos,
            self.type_hash,
            self.definition,
            self.definition_encoding,
            extra,
        )


class Message(NamedTuple):
    """
    Hold one message as it is stored.

    :param log_ns: when it was recorded.
    :param publish_ns: when it was published; the same where the storage does not know.
    :param sequence: the publisher's count; 0 where the storage does not know.
    :param data: compressed where the bag compresses messages; may be a view into a chunk.
    """

    topic: Topic
    log_ns: int
    publish_ns: int
    sequence: int
    data: Data


@dataclass(frozen=True)
class Attachment:
    """Hold a file that lies inside an mcap."""

    name: str
    media_type: str
    log_ns: int
    create_ns: int
    data: bytes


@dataclass(frozen=True)
class Note:
    """Hold a metadata record of an mcap."""

    name: str
    entries: Mapping[str, str]


Item = Union[Topic, Message, Attachment, Note]


@dataclass
class Contents:
    """
    Hold what a storage file says of itself.

    :param topics: the empty ones included.
    :param counts: messages by topic name.
    :param message_count: None where only reading the whole file would tell.
    :param compression: of an mcap's chunks: zstd, lz4 or empty.
    :param bag_yaml: rosbag2's own metadata inside the file; empty where there is none.
    """

    topics: list[Topic] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    message_count: int | None = None
    compression: str = ''
    bag_yaml: str = ''
    ros_distro: str = ''


class StorageReader(Protocol):
    """Read one storage file; all errors are BagError."""

    def contents(self) -> Contents:
        """Return what the file says of itself."""

    def items(self, start_ns: int | None, end_ns: int | None) -> Iterator[Item]:
        """
        Yield everything in the order of the file, each topic before its messages.

        :param start_ns: leave out messages recorded before.
        :param end_ns: leave out messages recorded after.
        """

    def progress(self) -> float:
        """Return the share of the file that has been read, 0 to 1."""

    def close(self) -> None:
        """Close the file."""


class StorageWriter(Protocol):
    """Write one storage file; it raises OSError where the disk fails."""

    @property
    def size_bytes(self) -> int:
        """Return roughly how large the file is by now."""

    def add_topic(self, topic: Topic) -> None:
        """Make a topic known, before its messages."""

    def add_message(self, message: Message, data: Data) -> None:
        """
        Append a message.

        :param data: in place of the message's own.
        """

    def add_attachment(self, attachment: Attachment) -> None:
        """Append an attachment."""

    def add_note(self, note: Note) -> None:
        """Append a metadata record."""

    def finish(self, bag_yaml: str, version: int, ros_distro: str) -> None:
        """
        Complete and close the file.

        :param bag_yaml: rosbag2's own metadata.
        :param version: of that metadata.
        """

    def abort(self) -> None:
        """Close the file as it is."""
