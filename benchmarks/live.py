"""
Run camera frames through the live node over DDS and account for each of them.

The node is a process of its own; this one is the camera and the subscriber. Exits with 1 if a
frame is unaccounted for or a header differs.

    python benchmarks/live.py --video clip.mkv --size 640x480 --rate 30 --seconds 60
    python benchmarks/live.py --video face.png --rate 15 --seconds 60 --cloud registered
"""

from __future__ import annotations

import argparse
import array
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from processes import cpu_s, private_kib

PICTURES = 120
CLOUD = '/cam/points'
# What an output shares with its source, whatever the message.
FIELDS = (
    'height',
    'width',
    'encoding',
    'step',
    'is_bigendian',
    'format',
    'point_step',
    'row_step',
    'fields',
)


def main() -> int:
    """Run the benchmark and return the exit code."""
    args = _parser().parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    middleware.use_large_frames()
    width, height = (int(part) for part in args.size.split('x'))
    pictures = list(_pictures(args.video, (width, height)))
    image = '/cam/image_raw/compressed' if args.compressed else '/cam/image_raw'
    streams = [Stream(image, [_message(args, picture) for picture in pictures])]
    assignments = [f'image_topics:=["{image}"]']
    if args.cloud:
        streams.append(Stream(CLOUD, [_cloud(picture) for picture in pictures]))
        assignments.append(f'cloud_topics:=["{CLOUD}"]')
    if args.cloud == 'registered':
        assignments.append(f'cloud.registered:=["{CLOUD} {image}"]')
    assignments += [p.replace('=', ':=', 1) for p in args.set]
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
        result = _run(args, streams, node.pid)
    finally:
        node.send_signal(signal.SIGINT)
        code = node.wait(timeout=30)
    result['node exit code'] = code
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result['node peak MiB'] = usage.ru_maxrss // 1024
    for name, value in result.items():
        print(f'{name:36} {value}')
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    sound = code == 0 and all(
        stream.counts['frames in']
        == sum(stream.counts[f'frames {what}'] for what in ('out', 'dropped', 'failed'))
        and not stream.differ
        and not stream.unasked
        for stream in streams
    )
    print('every frame is accounted for' if sound else 'NOT every frame is accounted for')
    return 0 if sound else 1


@dataclass
class Stream:
    """
    Hold what is sent on a topic, and what became of it.

    :param messages: sent by turns, with other stamps.
    :param sent: when (monotonic clock), by stamp, of what has not come out yet.
    :param last: what the diagnostics said last.
    """

    topic: str
    messages: list[Any]
    publisher: Any = None
    sent: dict[int, float] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    last: dict[str, str] = field(default_factory=dict)
    differ: int = 0
    unasked: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Return what became of the frames, as the node says."""
        words = ('in', 'out', 'dropped', 'failed', 'lost before arrival')
        return {f'frames {word}': int(self.last.get(f'frames {word}', 0)) for word in words}

    def publish(self, number: int, rate_hz: float) -> None:
        """Send the next message."""
        message = self.messages[number % len(self.messages)]
        stamp_ns = 1_000_000_000 + round(number * 1e9 / rate_hz)
        message.header.stamp.sec = stamp_ns // 1_000_000_000
        message.header.stamp.nanosec = stamp_ns % 1_000_000_000
        self.sent[stamp_ns] = time.monotonic()
        self.publisher.publish(message)

    def on_output(self, message: Any) -> None:
        """Compare what came out with what was sent."""
        number = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        if number not in self.sent:
            self.unasked += 1
            return
        self.latencies_ms.append((time.monotonic() - self.sent.pop(number)) * 1e3)
        source = self.messages[0]
        same = all(getattr(message, f, 0) == getattr(source, f, 0) for f in FIELDS)
        if not same or message.header.frame_id != source.header.frame_id:
            self.differ += 1

    def on_diagnostics(self, message: Any) -> None:
        """Take what the node says."""
        for status in message.status:
            if status.name.endswith(self.topic):
                self.last = {item.key: item.value for item in status.values}

    def is_done(self, total: int) -> bool:
        """Return whether all that was sent has come out, or is counted elsewhere."""
        counts = self.counts
        known = counts['frames in'] + counts['frames lost before arrival']
        waiting = self.last.get('frames waiting') != '0'
        return known >= total and not waiting and len(self.latencies_ms) >= counts['frames out']

    def result(self, total: int, elapsed_s: float) -> dict[str, Any]:
        """Return the figures."""
        counts = self.counts
        return {
            'sent': total,
            **counts,
            # The middleware keeps the newest few; nobody can count what it replaced before we
            # took it.
            'replaced in the middleware': total
            - counts['frames in']
            - counts['frames lost before arrival'],
            'regions': int(self.last.get('regions', 0)),
            'outputs received': len(self.latencies_ms),
            'outputs twice or unasked': self.unasked,
            'headers that differ': self.differ,
            'rate out Hz': round(counts['frames out'] / elapsed_s, 2),
            'latency here to here p50 ms': _quantile(self.latencies_ms, 50),
            'latency here to here p95 ms': _quantile(self.latencies_ms, 95),
            'latency in the node p50 ms': float(self.last.get('latency p50 ms', 'nan')),
            'latency in the node p95 ms': float(self.last.get('latency p95 ms', 'nan')),
            **{
                f'{stage} ms of the last frame': float(self.last[f'{stage} ms'])
                for stage in ('detect', 'track', 'choose', 'paint', 'paste', 'encode')
                if f'{stage} ms' in self.last
            },
        }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--video', type=Path, help='source of the pictures; without: synthetic')
    parser.add_argument('--size', default='640x480', help='WIDTHxHEIGHT (default %(default)s)')
    parser.add_argument('--rate', type=float, default=30.0, help='Hz (default %(default)s)')
    parser.add_argument('--seconds', type=float, default=60.0, help='(default %(default)s)')
    parser.add_argument('--compressed', action='store_true', help='send JPEG')
    parser.add_argument('--best-effort', action='store_true', help='as a camera driver may send')
    parser.add_argument(
        '--cloud',
        choices=('registered', 'searched'),
        help='send an organized coloured cloud beside each picture, registered to it or not',
    )
    parser.add_argument(
        '--set', action='append', default=[], metavar='NAME=VALUE', help='a setting of the node'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there too')
    return parser


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


def _cloud(picture: NDArray[np.uint8]) -> Any:
    """Return a cloud as depth_image_proc lays it out: a noisy wall with a hill before it."""
    from sensor_msgs.msg import PointCloud2, PointField

    height, width = picture.shape[:2]
    v, u = np.indices((height, width))
    radius2 = ((u - width / 2) / (width / 4)) ** 2 + ((v - height / 2) / (height / 3)) ** 2
    noise = 0.003 * np.random.default_rng(0).standard_normal((height, width))
    depth = 2.0 + noise - np.sqrt(np.maximum(1 - radius2, 0))
    points = np.zeros((height, width, 8), '<f4')
    points[..., 0] = (u - width / 2) / width * depth
    points[..., 1] = (v - height / 2) / width * depth
    points[..., 2] = depth
    points[..., 4].view('<u4')[:] = picture.astype('<u4') @ np.array([1, 1 << 8, 1 << 16], '<u4')
    data = array.array('B')
    data.frombytes(points.tobytes())
    offsets = {'x': 0, 'y': 4, 'z': 8, 'rgb': 16}
    message = PointCloud2(
        height=height,
        width=width,
        fields=[
            PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
            for name, offset in offsets.items()
        ],
        point_step=32,
        row_step=32 * width,
        data=data,
    )
    message.header.frame_id = 'camera_optical'
    return message


def _run(args: argparse.Namespace, streams: list[Stream], node_pid: int) -> dict[str, Any]:
    from diagnostic_msgs.msg import DiagnosticArray
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    rclpy.init()
    tester = rclpy.create_node('live_benchmark')
    executor = SingleThreadedExecutor()
    executor.add_node(tester)

    def until(what: str, holds: Any, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > end_s:
                raise SystemExit(f'waited {timeout_s} s until {what}')

    reliability = ReliabilityPolicy.BEST_EFFORT if args.best_effort else ReliabilityPolicy.RELIABLE
    for stream in streams:
        kind = type(stream.messages[0])
        profile = QoSProfile(depth=5, reliability=reliability)
        stream.publisher = tester.create_publisher(kind, stream.topic, profile)
        tester.create_subscription(kind, f'/anonymized{stream.topic}', stream.on_output, 20)
        tester.create_subscription(DiagnosticArray, '/diagnostics', stream.on_diagnostics, 10)
    until(
        'the node subscribes',
        lambda: all(stream.publisher.get_subscription_count() for stream in streams),
        120,
    )
    # The node may know of us a little later than we of it; what is sent before reaches nobody.
    settled_s = time.monotonic() + 1
    until('both sides know of each other', lambda: time.monotonic() > settled_s, 5)

    total = int(args.seconds * args.rate)
    start_s, node_cpu_s, own_cpu_s = time.monotonic(), cpu_s(node_pid), time.process_time()
    warm_kib = 0
    for number in range(total):
        # By then every buffer has its size, and Python's cache of attribute names is full.
        if number == total // 2:
            warm_kib = private_kib(node_pid)
        due_s = start_s + number / args.rate
        while time.monotonic() < due_s:
            executor.spin_once(timeout_sec=max(due_s - time.monotonic(), 0))
        for stream in streams:
            stream.publish(number, args.rate)
    elapsed_s = time.monotonic() - start_s
    grown_kib = private_kib(node_pid) - warm_kib
    node_cpu_s, own_cpu_s = cpu_s(node_pid) - node_cpu_s, time.process_time() - own_cpu_s

    end_s = time.monotonic() + 10
    while time.monotonic() < end_s and not all(stream.is_done(total) for stream in streams):
        executor.spin_once(timeout_sec=0.05)
    images, *clouds = streams
    result = {
        'source': args.video.name if args.video else 'synthetic',
        'size, rate': f'{args.size} at {args.rate:g} Hz for {elapsed_s:.1f} s',
        **images.result(total, elapsed_s),
        'node KiB more since halfway': grown_kib,
        'node CPU ms a frame': round(node_cpu_s * 1e3 / max(images.counts['frames out'], 1), 1),
        'benchmark CPU ms a frame sent': round(own_cpu_s * 1e3 / total, 1),
    }
    for cloud in clouds:
        figures = cloud.result(total, elapsed_s)
        result |= {f'cloud: {name}': value for name, value in figures.items()}
    executor.shutdown()
    tester.destroy_node()
    rclpy.utilities.try_shutdown()
    return result


def _quantile(values: list[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 1) if values else float('nan')


if __name__ == '__main__':
    sys.exit(main())
