"""
Drive several cameras through the live node for long, with all that happens in a vehicle.

Frames with a face at a steady rate; every minute a corrupt frame, a change of size, a camera that
stops and starts again, and, where asked for, a node that does. Exits with 1 if a frame is
unaccounted for, an output is no picture of its camera, a camera starves or memory grows.

    python benchmarks/soak.py --cameras 4 --size 1280x720 --rate 10 --minutes 30
"""

from __future__ import annotations

import argparse
import array
from collections.abc import Callable
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
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

PICTURES = 20
# Of what the node holds after the first minute; what is kept for speed comes and goes.
MOST_GROWTH = 0.10
# The camera that gets least, over the one that gets most of its frames through.
LEAST_SHARE = 0.6


@dataclass
class Camera:
    """Hold one camera and what became of its frames, over all lives of the node."""

    topic: str
    messages: list[Any]
    small: Any
    publisher: Any = None
    sent: int = 0
    came: int = 0
    strange: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)

    def settle(self) -> None:
        """Add up what the node counted in the life that ends."""
        for what in ('in', 'out', 'dropped', 'failed', 'lost before arrival'):
            self.counts[what] = self.counts.get(what, 0) + int(
                self.latest.get(f'frames {what}', 0)
            )
        # Of the last life; the node keeps the last half thousand frames.
        self.latency_ms = {
            which: float(self.latest.get(f'latency {which} ms', 'nan')) for which in ('p50', 'p95')
        }
        self.latest = {}


def main() -> int:
    """Run the soak and return the exit code."""
    args = _parser().parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    middleware.use_large_frames()
    result = _Soak(args).run()
    for name, value in result.items():
        print(f'{name:34} {value}')
    print(_table({name: row for name, row in result.items() if name.startswith('/cam_')}))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 1 if result['problems'] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--cameras', type=int, default=4, help='(default %(default)s)')
    parser.add_argument('--size', default='1280x720', help='WIDTHxHEIGHT (default %(default)s)')
    parser.add_argument('--rate', type=float, default=10.0, help='Hz (default %(default)s)')
    parser.add_argument('--minutes', type=float, default=30.0, help='(default %(default)s)')
    parser.add_argument(
        '--restarts', type=int, default=0, help='of the node (default %(default)s)'
    )
    parser.add_argument('--photo', type=Path, help='with faces; without: a synthetic picture')
    parser.add_argument(
        '--set', action='append', default=[], metavar='NAME=VALUE', help='a setting of the node'
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers there too')
    return parser


class _Soak:
    """Hold a run."""

    def __init__(self, args: argparse.Namespace) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.args = args
        self.size_wh = tuple(int(part) for part in args.size.split('x'))
        rclpy.init()
        self.tester = rclpy.create_node('soak')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.tester)
        pictures = _pictures(args.photo, self.size_wh)
        messages = [_message(picture) for picture in pictures]
        small = _message(cv2.resize(pictures[0], (320, 240)))
        self.cameras = [
            Camera(f'/cam_{n}/image_raw', messages, small) for n in range(args.cameras)
        ]
        self.problems: list[str] = []
        self.memory_kib: list[int] = []
        self.exit_codes: list[int] = []
        self.cpu_s = 0.0
        self.loading_cpu_s = 0.0
        self.events = dict.fromkeys(('corrupt', 'resized', 'camera restarts', 'node restarts'), 0)

    def run(self) -> dict[str, Any]:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image

        for camera in self.cameras:
            self.tester.create_subscription(
                Image,
                f'/anonymized{camera.topic}',
                lambda message, camera=camera: self._came(camera, message),
                20,
            )
            self._start_camera(camera)
        self.tester.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        node = self._start_node()
        start_s = time.monotonic()
        ticks = int(self.args.minutes * 60 * self.args.rate)
        minute = max(1, int(60 * self.args.rate))
        restart_at = {
            ticks * (n + 1) // (self.args.restarts + 1) for n in range(self.args.restarts)
        }
        for tick in range(ticks):
            self._wait_until(start_s + tick / self.args.rate)
            if tick in restart_at:
                node = self._restart(node)
                start_s = time.monotonic() - tick / self.args.rate
            for n, camera in enumerate(self.cameras):
                self._send(camera, tick, (tick + n * 7) % minute)
            if tick % minute == minute - 1:
                self.memory_kib.append(private_kib(node.pid))
                print(f'minute {tick // minute + 1}: {self.memory_kib[-1]} KiB', flush=True)
        elapsed_s = time.monotonic() - start_s
        self._end(node)
        return self._result(elapsed_s)

    def _start_node(self) -> subprocess.Popen[bytes]:
        topics = ', '.join(f'"{camera.topic}"' for camera in self.cameras)
        settings = [f'image_topics:=[{topics}]', *(p.replace('=', ':=', 1) for p in self.args.set)]
        program = 'import sys; from ffs_anonymizer.node.program import main; sys.exit(main())'
        node = subprocess.Popen(
            [
                *(sys.executable, '-c', program, '--ros-args', '--log-level', 'fatal'),
                *(word for setting in settings for word in ('-p', setting)),
            ]
        )
        self._until(
            'the node subscribes',
            lambda: all(c.publisher.get_subscription_count() for c in self.cameras),
        )
        self._wait_until(time.monotonic() + 1)
        self.loading_cpu_s = cpu_s(node.pid)
        return node

    def _restart(self, node: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        self._end(node)
        self.events['node restarts'] += 1
        return self._start_node()

    def _end(self, node: subprocess.Popen[bytes]) -> None:
        """Let all frames be accounted for, end the node, and add up its counts."""
        self._wait_until(time.monotonic() + 2)
        self._until(
            'nothing waits',
            lambda: all(int(c.latest.get('frames waiting', 1)) == 0 for c in self.cameras),
        )
        for camera in self.cameras:
            known = {name: int(value) for name, value in camera.latest.items() if 'frames' in name}
            done = sum(known.get(f'frames {what}', 0) for what in ('out', 'dropped', 'failed'))
            if known.get('frames in', 0) != done:
                self.problems.append(f'{camera.topic}: {known}: frames are unaccounted for')
            camera.settle()
        self.cpu_s += cpu_s(node.pid) - self.loading_cpu_s
        node.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        try:
            self.exit_codes.append(node.wait(timeout=10))
        except subprocess.TimeoutExpired:
            node.kill()
            self.problems.append('the node did not end within 10 s')
        if time.monotonic() - began_s > 5:
            self.problems.append('the node took more than 5 s to end')

    def _start_camera(self, camera: Camera) -> None:
        from sensor_msgs.msg import Image

        camera.publisher = self.tester.create_publisher(Image, camera.topic, 5)

    def _send(self, camera: Camera, tick: int, phase: int) -> None:
        message = camera.messages[tick % len(camera.messages)]
        second = int(self.args.rate)
        if phase == second:
            self.events['corrupt'] += 1
            message = _message(np.zeros((2, 2, 3), np.uint8))
            message.step = 1
        elif 2 * second <= phase < 3 * second:
            self.events['resized'] += 1
            message = camera.small
        elif phase == 4 * second:
            self.events['camera restarts'] += 1
            self.tester.destroy_publisher(camera.publisher)
            self._start_camera(camera)
        stamp_ns = 1_000_000_000 + round(tick * 1e9 / self.args.rate)
        message.header.stamp.sec = stamp_ns // 1_000_000_000
        message.header.stamp.nanosec = stamp_ns % 1_000_000_000
        camera.publisher.publish(message)
        camera.sent += 1

    def _came(self, camera: Camera, message: Any) -> None:
        camera.came += 1
        sizes = {self.size_wh, (320, 240)}
        if (message.width, message.height) not in sizes or message.encoding != 'bgr8':
            camera.strange += 1

    def _diagnosed(self, message: Any) -> None:
        for status in message.status:
            for camera in self.cameras:
                if status.name.endswith(camera.topic):
                    camera.latest = {item.key: item.value for item in status.values}

    def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left_s)

    def _until(self, what: str, holds: Callable[[], bool], timeout_s: float = 120) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            self.executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > end_s:
                raise SystemExit(f'waited {timeout_s} s until {what}')

    def _result(self, elapsed_s: float) -> dict[str, Any]:
        import rclpy

        rows = {}
        for camera in self.cameras:
            if camera.strange:
                self.problems.append(f'{camera.topic}: {camera.strange} outputs are not of it')
            rows[camera.topic] = {
                'sent': camera.sent,
                **camera.counts,
                'out Hz': round(camera.counts['out'] / elapsed_s, 2),
                **{f'{which} ms': value for which, value in camera.latency_ms.items()},
            }
        outs = [camera.counts['out'] for camera in self.cameras]
        favoured = any('priorities' in text for text in self.args.set)
        if not favoured and min(outs) < LEAST_SHARE * max(outs):
            self.problems.append(f'a camera starves: {outs} frames came out')
        kib = self.memory_kib[1:] if not self.args.restarts else []
        if len(kib) > 2 and max(kib[-2:]) > (1 + MOST_GROWTH) * min(kib[:2]):
            self.problems.append(f'memory grows: {kib} KiB')
        if any(self.exit_codes):
            self.problems.append(f'exit codes {self.exit_codes}')
        done = sum(outs) + sum(camera.counts['failed'] for camera in self.cameras)
        self.executor.shutdown()
        self.tester.destroy_node()
        rclpy.utilities.try_shutdown()
        return {
            'cameras, size, rate': f'{len(self.cameras)}, {self.args.size}, {self.args.rate:g} Hz',
            'minutes': round(elapsed_s / 60, 1),
            **rows,
            **self.events,
            'private memory KiB by minute': self.memory_kib,
            'node CPU s, loading apart': round(self.cpu_s, 1),
            'node CPU ms a frame out': round(self.cpu_s * 1e3 / max(done, 1), 1),
            'problems': self.problems,
        }


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the cameras as a table in Markdown."""
    columns = ('sent', 'in', 'out', 'dropped', 'failed', 'out Hz', 'p50 ms', 'p95 ms')
    lines = [f'| camera | {" | ".join(columns)} |', '|---' * (len(columns) + 1) + '|']
    for name, row in rows.items():
        lines.append(f'| {name} | {" | ".join(str(row[column]) for column in columns)} |')
    return '\n'.join(lines)


def _pictures(photo: Path | None, size_wh: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    width, height = size_wh
    if photo is not None:
        source = cv2.resize(cv2.imread(str(photo)), (width, height))
    else:
        y, x = np.indices((height, width))
        source = np.stack([(x + 60 * c + y) % 256 for c in range(3)], axis=-1).astype(np.uint8)
    return [np.roll(source, 4 * n, axis=1) for n in range(PICTURES)]


def _message(picture: NDArray[np.uint8]) -> Any:
    from sensor_msgs.msg import Image

    data = array.array('B')
    data.frombytes(np.ascontiguousarray(picture).tobytes())
    height, width = picture.shape[:2]
    message = Image(height=height, width=width, encoding='bgr8', step=3 * width, data=data)
    message.header.frame_id = 'camera_optical'
    return message


if __name__ == '__main__':
    sys.exit(main())
