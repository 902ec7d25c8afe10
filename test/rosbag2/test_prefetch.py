"""Test the thread that reads ahead."""

import threading

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.prefetch import BATCH_BYTES, BATCH_ITEMS, read_ahead
from ffs_anonymizer.rosbag2.storage import Message, Topic
import pytest


@pytest.mark.parametrize(
    ('count', 'size_bytes'),
    [(0, 0), (1, 1), (2 * BATCH_ITEMS, 1), (3 * BATCH_ITEMS + 1, 1), (5, BATCH_BYTES // 2)],
)
def test_reading_ahead_keeps_the_order(count, size_bytes):
    topic = Topic('/t', 'std_msgs/msg/String')
    messages = [Message(topic, i, i, i, bytes(size_bytes)) for i in range(count)]
    assert list(read_ahead(item for item in (topic, *messages))) == [topic, *messages]


def test_reading_ahead_raises_what_the_bag_raises():
    def damaged():
        yield from (Topic(str(i), '') for i in range(BATCH_ITEMS))
        raise BagError('cut off')

    items = read_ahead(damaged())
    assert [next(items).name for _ in range(BATCH_ITEMS)] == [str(i) for i in range(BATCH_ITEMS)]
    with pytest.raises(BagError, match='cut off'):
        next(items)


def test_reading_ahead_ends_with_its_reader():
    threads, closed = {*threading.enumerate()}, []

    def endless():
        try:
            while True:
                yield Topic('/t', '')
        finally:
            closed.append(True)

    items = read_ahead(endless())
    next(items)
    items.close()
    assert closed == [True]
    assert {*threading.enumerate()} == threads
