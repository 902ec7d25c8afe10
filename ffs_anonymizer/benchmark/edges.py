"""What the edges add: the node beside the bare recipe, the bag tool beside a plain copy."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.benchmark.stages import make_frame, make_message
from ffs_anonymizer.benchmark.timing import interleaved, median_ms
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np

_ROOT = Path(__file__).resolve().parents[2]
_LIVE = _ROOT / 'benchmarks' / 'live.py'
_MESSAGE_BYTES = 1 << 20
_NODE_TIMEOUT_S = 180
_RECIPE_FRAMES = 10


def measure_node(size_wh: tuple[int, int], seconds: float) -> dict[str, object]:
    """
    Run camera frames through the node in a process of its own, the bare recipe before and after.

    :param size_wh: of the frames.
    :param seconds: for how long.
    :raises AnonymizerError: it cannot be run here.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise AnonymizerError('rclpy is not installed')
    if not _LIVE.is_file():
        raise AnonymizerError(f'{_LIVE.name} of the source folder benchmarks/ is not here')
    size = f'{size_wh[0]}x{size_wh[1]}'
    environment = {**os.environ, 'PYTHONPATH': f'{_ROOT}:{os.environ.get("PYTHONPATH", "")}'}
    before = _recipe_s(size_wh)
    rate_hz = max(0.5, min(10.0, 500.0 / median_ms(before)))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / 'live.json'
        words = ['--size', size, '--rate', f'{rate_hz:.2f}', '--seconds', f'{seconds:g}']
        try:
            done = subprocess.run(
                [sys.executable, str(_LIVE), *words, '--json', str(result)],
                capture_output=True,
                text=True,
                timeout=_NODE_TIMEOUT_S,
                check=False,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise AnonymizerError(f'the node took over {_NODE_TIMEOUT_S} s') from error
        if not result.is_file():
            lines = done.stderr.split('\n')
            reason = next((line for line in reversed(lines) if line.strip()), 'it said nothing')
            raise AnonymizerError(f'the node did not run: {reason}')
        numbers = json.loads(result.read_text(encoding='utf-8'))
    recipe_ms = median_ms([*before, *_recipe_s(size_wh)])
    node_ms = float(numbers['latency in the node p50 ms'])
    return {
        'size': size,
        'rate_hz': round(rate_hz, 2),
        'recipe_ms': round(recipe_ms, 2),
        'node_ms': node_ms,
        'publisher_to_subscriber_ms': float(numbers['latency here to here p50 ms']),
        'overhead': round(node_ms / recipe_ms - 1, 4),
    }


def _recipe_s(size_wh: tuple[int, int]) -> list[float]:
    """Return the seconds that the recipe takes for some frames, with the node's own defaults."""
    networks = Networks(Settings())
    recipe, streams = Recipe(networks, Settings()), [Stream(('camera',))]
    message = make_message(make_frame(size_wh, None), 'bgr8')
    stamps_ns = iter(range(0, 1 << 62, 100_000_000))

    def run() -> None:
        frame = decode(message)
        _, streams[0] = recipe.anonymize(frame, streams[0], stamp_ns=next(stamps_ns))

    seconds = interleaved({'recipe': run}, rounds=_RECIPE_FRAMES, budget_s=60.0)['recipe']
    networks.close()
    return seconds


def measure_bag(megabytes: int, *, rounds: int) -> dict[str, object]:
    """
    Copy a bag without images by the bag tool, which verifies it too, and as plain files.

    :param megabytes: of its messages.
    :raises AnonymizerError: it cannot be run here.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import get_typestore, Stores
    except ImportError as error:
        raise AnonymizerError(f'{error.name} is not installed') from error
    from ffs_anonymizer.bag.conversion import run
    from ffs_anonymizer.bag.plan import BagJob

    store = get_typestore(Stores.ROS2_JAZZY)
    name = 'std_msgs/msg/UInt8MultiArray'
    layout = store.types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
    data = np.random.default_rng(0).integers(0, 256, _MESSAGE_BYTES, np.uint8)
    content = store.serialize_cdr(store.types[name](layout=layout, data=data), name)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / 'bag'
        with Writer(source, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connection = writer.add_connection('/points', name, typestore=store)
            for i in range(megabytes):
                writer.write(connection, i * 10_000_000, content)
        targets = {'bag': Path(folder) / 'by_bag', 'copy': Path(folder) / 'by_copy'}

        def by_bag() -> None:
            # With what the tool writes beside the bag.
            shutil.rmtree(targets['bag'], ignore_errors=True)
            targets['bag'].mkdir()
            run(BagJob(source=source, target=targets['bag'] / 'bag'))

        def by_copy() -> None:
            shutil.rmtree(targets['copy'], ignore_errors=True)
            shutil.copytree(source, targets['copy'])
            # The bag tool has its files on the disk when it says that they are.
            for path in targets['copy'].iterdir():
                with path.open('rb') as file:
                    os.fsync(file.fileno())

        runs = {'bag': by_bag, 'copy': by_copy}
        seconds = interleaved(runs, rounds=rounds, budget_s=30.0)
    bag_ms, copy_ms = median_ms(seconds['bag']), median_ms(seconds['copy'])
    return {
        'megabytes': megabytes,
        'bag_ms': round(bag_ms, 1),
        'copy_ms': round(copy_ms, 1),
        'times_a_copy': round(bag_ms / copy_ms, 2),
    }
