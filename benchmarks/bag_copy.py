"""
Time the copying of other topics by the bag tool against a plain file copy.

Both end with their output on the disk; the input is in the page cache for both. Run it on an idle
machine: `python benchmarks/bag_copy.py --megabytes 1000`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
from functools import partial
import io
import mmap
import os
from pathlib import Path
import shutil
import statistics
import tempfile
import time

from ffs_anonymizer.cli.program import main as anonymizer
from ffs_anonymizer.jobs.output import record_of
from mcap.writer import CompressionType, Writer

NAME = 'in_0.mcap'


def write_input(path: Path, megabytes: int, message_bytes: int) -> int:
    """Write an mcap file of a topic that is copied, and return its size."""
    with path.open('wb') as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start(profile='ros2')
        schema = writer.register_schema('sensor_msgs/msg/LaserScan', 'ros2msg', b'float32[] a')
        channel = writer.register_channel('/scan', 'cdr', schema)
        block = os.urandom(message_bytes)
        for i in range(megabytes * 1_000_000 // message_bytes):
            writer.add_message(channel, 1_700_000_000_000_000_000 + i * 1_000_000, block, 0, i)
        writer.finish()
    return path.stat().st_size


def plain_copy(source: Path, target: Path) -> None:
    """Make a copy that ends on the disk."""
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def use_tool(source: Path, target: Path, storage: str) -> None:
    """Run the bag tool, which reads back what it wrote."""
    words = ['-i', str(source), '-o', str(target), '-s', storage, '--disable-progress-output']
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = anonymizer(['bag', *words])
    if code:
        raise SystemExit(f'the bag tool ended with {code}')


def warm(size_bytes: int) -> None:
    """Let a virtual machine be given the memory for the output before the clock runs."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, 2 * size_bytes, flags=flags).close()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that pass and those that the processor works."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--megabytes', type=int, default=1000)
    parser.add_argument('--message-bytes', type=int, default=1_000_000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--folder', type=Path, help='on the disk to be measured')
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {
        'plain copy': [],
        'mcap to mcap': [],
        'mcap to sqlite3': [],
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        source = folder / NAME
        size = write_input(source, args.megabytes, args.message_bytes)
        for _ in range(args.rounds):
            copy, out = folder / 'copy', folder / 'out'
            warm(size)
            times['plain copy'].append(timed(partial(plain_copy, source, copy)))
            copy.unlink()
            for storage in ('mcap', 'sqlite3'):
                work = partial(use_tool, source, out, storage)
                warm(size)
                times[f'mcap to {storage}'].append(timed(work))
                shutil.rmtree(out)
                record_of(out).unlink()
    plain = statistics.median(wall for wall, _ in times['plain copy'])
    print(
        f'{size / 1e6:.0f} MB in messages of {args.message_bytes} bytes, median of {args.rounds}'
    )
    for name, pairs in times.items():
        wall, busy = (statistics.median(column) for column in zip(*pairs, strict=True))
        rate = size / 1e6 / wall
        print(f'{name:16} {wall:6.2f} s  {rate:5.0f} MB/s  {wall / plain:.2f}x  CPU {busy:.2f} s')


if __name__ == '__main__':
    main()
