"""Reading a bag in a thread of its own while what came before is written."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from ffs_anonymizer.rosbag2.storage import Attachment, Item, Message

BATCH_ITEMS = 256
BATCH_BYTES = 4 << 20


def read_ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """
    Yield the items in their order while a thread draws those that follow, one batch ahead.

    Closing the iterator ends the thread and closes the items.

    :param items: what they raise, the iterator raises instead of the batch that it came in.
    """
    batches = _batches(items)
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix='read') as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield from batch


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        if isinstance(item, (Message, Attachment)):
            size_bytes += len(item.data)
        if len(batch) >= BATCH_ITEMS or size_bytes >= BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
