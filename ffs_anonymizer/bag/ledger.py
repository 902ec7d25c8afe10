"""What tells whether a bag holds the messages that it should."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
import zlib

from ffs_anonymizer.rosbag2.storage import Data, Item, Message, Topic

# Publish times may be anything.
_ENTRY = Struct('<qQIQ')
_END_BYTES = 256


@dataclass
class Ledger:
    """
    Hold the number of messages of each topic, and a digest of all in their order.

    Of long data only the ends count, which tells messages apart at no cost; what lies between is
    guarded by the checksums of the storage.

    :param keeps_publish_times: whether the storage written has a place for publish times and
        sequence numbers.
    :param changed_topics: name and type of topics whose data does not count, as it is to change.
    :param counts_data: whether data counts at all; False where compression changes it.
    """

    keeps_publish_times: bool
    counts_data: bool
    changed_topics: set[tuple[str, str]] = field(default_factory=set)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    digest: int = 0
    _entered: dict[Topic, tuple[tuple[str, str], bytes, bool]] = field(default_factory=dict)

    def enter(self, item: Item) -> None:
        """Take account of an item; each topic before its messages."""
        if isinstance(item, Message):
            key, name, counts_data = self._entered[item.topic]
            self.counts[key] += 1
            publish_ns, sequence, size = item.publish_ns, item.sequence, 0
            ends: tuple[Data, ...] = ()
            if not self.keeps_publish_times:
                publish_ns, sequence = item.log_ns, 0
            if counts_data:
                size = len(item.data)
                ends = (item.data[:_END_BYTES], item.data[-_END_BYTES:])
            entry = _ENTRY.pack(item.log_ns, publish_ns, sequence, size)
            self.digest = zlib.crc32(b''.join((name, entry, *ends)), self.digest)
        elif isinstance(item, Topic):
            key = (item.name, item.type_name)
            self.counts.setdefault(key, 0)
            counts_data = self.counts_data and key not in self.changed_topics
            self._entered[item] = (key, item.name.encode(), counts_data)

    def differences(self, other: Ledger) -> list[str]:
        """Return what differs, as words; empty where the two are the same."""
        keys = sorted({*self.counts, *other.counts})
        lines = [
            f'{name}: {self.counts.get((name, kind), "no topic")} messages read, '
            f'{other.counts.get((name, kind), "no topic")} written'
            for name, kind in keys
            if self.counts.get((name, kind)) != other.counts.get((name, kind))
        ]
        if not lines and self.digest != other.digest:
            lines.append('the stamps, the order or the data of messages differ')
        return lines
