"""
Run camera frames through the live node over DDS and account for each of them.

The node is a process of its own; this one is the camera and the subscriber. Exits with 1 if a
frame is unaccounted for or a header differs.

    python benchmarks/live.py --video clip.mkv --size 640x480 --rate 30 --seconds 60
"""

from __future__ import annotations

import argparse
import array
from collections.abc import Iterator
import json
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import cv2
from ffs_anonymizer.node import middleware
import numpy as np
from numpy.typing import NDArray

PICTURES = 120


def main() -> int:
    """Run the benchmark and return the exit code."""
    args = _parser().parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    middleware.use_large_frames()
    width, height = (int(part) for part in args.size.split('x'))
    pictures = list(_pictures(args.video, (width, height)))
    assignments = [
        f'image_topics:=["{_topic(args)}"]',
        *(p.replace('=', ':=', 1) for p in args.set),
    ]
    node = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys; from ffs_anonymizer.node.program import main; sys.exit(main())',
            '--ros-args',
            *(word for assignment in assignments for word in ('-p', assignment)),
        ]
    )
    try:
        result = _run(args, pictures, node.pid)
    finally:
        node.send_signal(signal.SIGINT)
        code = node.wait(timeout=30)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result['node exit code'] = code
    result['node CPU s'] = round(usage.ru_utime + usage.ru_stime, 1)
    result['node CPU ms a frame'] = round(
        (usage.ru_utime + usage.ru_stime) * 1e3 / max(result['frames out'], 1), 1
    )
    result['node peak MiB'] = usage.ru_maxrss // 1024
    for name, value in result.items():
        print(f'{name:28} {value}')
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    accounted = result['frames in'] == sum(
        result[f'frames {what}'] for what in ('out', 'dropped', 'failed')
    )
    sound = (
        accounted
        and result['headers that differ'] == 0
        and result['outputs twice or unasked'] == 0
        and code == 0
    )
    print('every frame is accounted for' if sound else 'NOT every frame is accounted for')
    return 0 if sound else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--video', type=Path, help='source of the pictures; without: synthetic')
    parser.add_argument('--size', default='640x480', help='WIDTHxHEIGHT (default %(default)s)')
    parser.add_argument('--rate', type=float, default=30.0, help='Hz (default %(default)s)')
    parser.add_argument('--seconds', type=float, default=60.0, help='(default %(default)s)')
    parser.add_argument('--compressed', action='store_true', help='send JPEG')
    parser.add_argument('--best-effort', action='store_true', help='as a camera driver may send')
    parser.add_argument(
        '--set', action='append', default=[], metavar='NAME=VALUE', help='a setting of the node'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there too')
    return parser


def _topic(args: argparse.Namespace) -> str:
    return '/cam/image_raw/compressed' if args.compressed else '/cam/image_raw'


def _pictures(video: Path | None, size_wh: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    if video is None:
        y, x = np.indices(size_wh[::-1])
        for n in range(PICTURES):
            planes = [(x + (c + 1) * n + y) % 256 for c in range(3)]
            yield np.stack(planes, axis=-1).astype(np.uint8)
        return
    capture = cv2.VideoCapture(str(video))
    for _ in range(PICTURES):
        read, picture = capture.read()
        if not read:
            break
        yield np.asarray(cv2.resize(picture, size_wh), np.uint8)


def _message(args: argparse.Namespace, picture: NDArray[np.uint8]) -> Any:
    from sensor_msgs.msg import CompressedImage, Image

    data = array.array('B')
    if args.compressed:
        data.frombytes(cv2.imencode('.jpg', picture)[1].tobytes())
        message = CompressedImage(format='bgr8; jpeg compressed bgr8', data=data)
    else:
        data.frombytes(picture.tobytes())
        height, width = picture.shape[:2]
        message = Image(height=height, width=width, encoding='bgr8', step=3 * width, data=data)
    message.header.frame_id = 'camera_optical'
    return message


def _run(
    args: argparse.Namespace, pictures: list[NDArray[np.uint8]], node_pid: int
) -> dict[str, Any]:
    from diagnostic_msgs.msg import DiagnosticArray
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    messages = [_message(args, picture) for picture in pictures]
    rclpy.init()
    tester = rclpy.create_node('live_benchmark')
    executor = SingleThreadedExecutor()
    executor.add_node(tester)
    sent: dict[int, float] = {}
    latencies_ms: list[float] = []
    problems = {'differ': 0, 'unasked': 0}
    last: dict[str, str] = {}

    def on_output(message: Any) -> None:
        number = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        if number not in sent:
            problems['unasked'] += 1
            return
        latencies_ms.append((time.monotonic() - sent.pop(number)) * 1e3)
        source = messages[0]
        fields = ('height', 'width', 'encoding', 'step', 'is_bigendian', 'format')
        same = all(getattr(message, f, 0) == getattr(source, f, 0) for f in fields)
        if not same or message.header.frame_id != source.header.frame_id:
            problems['differ'] += 1

    def on_diagnostics(message: Any) -> None:
        for status in message.status:
            if status.name.endswith(_topic(args)):
                last.clear()
                last.update({item.key: item.value for item in status.values})

    def until(what: str, holds: Any, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > end_s:
                raise SystemExit(f'waited {timeout_s} s until {what}')

    reliability = ReliabilityPolicy.BEST_EFFORT if args.best_effort else ReliabilityPolicy.RELIABLE
    camera = tester.create_publisher(
        type(messages[0]), _topic(args), QoSProfile(depth=5, reliability=reliability)
    )
    tester.create_subscription(type(messages[0]), f'/anonymized{_topic(args)}', on_output, 20)
    tester.create_subscription(DiagnosticArray, '/diagnostics', on_diagnostics, 10)
    until('the node subscribes', camera.get_subscription_count, 120)
    # The node may know of us a little later than we of it; what is sent before reaches nobody.
    settled_s = time.monotonic() + 1
    until('both sides know of each other', lambda: time.monotonic() > settled_s, 5)

    total = int(args.seconds * args.rate)
    start_s = time.monotonic()
    warm_kib = 0
    for number in range(total):
        # By then every buffer has its size, and Python's cache of attribute names is full.
        if number == total // 2:
            warm_kib = _private_kib(node_pid)
        due_s = start_s + number / args.rate
        while time.monotonic() < due_s:
            executor.spin_once(timeout_sec=max(due_s - time.monotonic(), 0))
        message = messages[number % len(messages)]
        stamp_ns = 1_000_000_000 + round(number * 1e9 / args.rate)
        message.header.stamp.sec = stamp_ns // 1_000_000_000
        message.header.stamp.nanosec = stamp_ns % 1_000_000_000
        sent[stamp_ns] = time.monotonic()
        camera.publish(message)
    elapsed_s = time.monotonic() - start_s
    grown_kib = _private_kib(node_pid) - warm_kib

    def counted() -> bool:
        known = int(last.get('frames in', 0)) + int(last.get('frames lost before arrival', 0))
        return known >= total and last['frames waiting'] == '0'

    end_s = time.monotonic() + 10
    while time.monotonic() < end_s and not (
        counted() and len(latencies_ms) >= int(last['frames out'])
    ):
        executor.spin_once(timeout_sec=0.05)
    counts = {
        f'frames {what}': int(last.get(f'frames {what}', 0))
        for what in ('in', 'out', 'dropped', 'failed', 'lost before arrival')
    }
    result = {
        'source': args.video.name if args.video else 'synthetic',
        'size, rate': f'{args.size} at {args.rate:g} Hz for {elapsed_s:.1f} s',
        'sent': total,
        **counts,
        # The middleware keeps the newest few; nobody can count what it replaced before we took it.
        'replaced in the middleware': total
        - counts['frames in']
        - counts['frames lost before arrival'],
        'regions': int(last.get('regions', 0)),
        'outputs received': len(latencies_ms),
        'outputs twice or unasked': problems['unasked'],
        'headers that differ': problems['differ'],
        'node KiB more since halfway': grown_kib,
        'rate out Hz': round(counts['frames out'] / elapsed_s, 2),
        'latency here to here p50 ms': _quantile(latencies_ms, 50),
        'latency here to here p95 ms': _quantile(latencies_ms, 95),
        'latency in the node p50 ms': float(last.get('latency p50 ms', 'nan')),
        'latency in the node p95 ms': float(last.get('latency p95 ms', 'nan')),
        **{
            f'{stage} ms of the last frame': float(last[f'{stage} ms'])
            for stage in ('detect', 'track', 'paint', 'paste', 'encode')
            if f'{stage} ms' in last
        },
    }
    executor.shutdown()
    tester.destroy_node()
    rclpy.utilities.try_shutdown()
    return result


def _private_kib(pid: int) -> int:
    """Return the memory that a process has for itself; what is shared with others is left out."""
    text = Path(f'/proc/{pid}/smaps_rollup').read_text(encoding='ascii')
    return int(text.partition('Anonymous:')[2].split()[0])


def _quantile(values: list[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 1) if values else float('nan')


if __name__ == '__main__':
    sys.exit(main())
