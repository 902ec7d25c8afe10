"""
Measure what all limits and checks on pictures cost, over the whole recipe.

A picture without a face comes in as a message and goes out as one, with all that is looked at
(sizes, containers, bytes behind the end, padding, alpha), and as bare pixels out of OpenCV. Both
and the recipe on those pixels take turns in one run; told are medians of processor time, and the
difference over the sum of the bare way and the recipe.

    python benchmarks/checks.py --size 1280x720 --rounds 30
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import statistics
import time
from types import SimpleNamespace
from typing import Any

import cv2
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
from numpy.typing import NDArray


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--size', default='1280x720')
    parser.add_argument('--rounds', type=int, default=30)
    args = parser.parse_args()
    width, height = (int(part) for part in args.size.split('x'))
    image = street((width, height))
    settings = Settings().updated({'threads': 1, 'device': 'cpu'})
    print('| picture | decoded bare, CPU ms | recipe | with all checks | more of the whole |')
    print('|---|---:|---:|---:|---:|')
    nothing = np.empty((0, 4), np.int32)
    with Networks(settings) as networks:
        recipe = Recipe(networks, settings)
        for name, msg, bare in cases(image):
            ways: tuple[Callable[[], Any], ...] = (
                bare,
                lambda msg=msg: decode(msg).encode(nothing),
                lambda: recipe.anonymize(ArrayFrame(image.copy()), Stream()),
            )
            times_ms: list[list[float]] = [[] for _ in ways]
            for number in range(args.rounds + 2):
                for way, taken in zip(ways, times_ms, strict=True):
                    start = time.process_time()
                    way()
                    if number >= 2:
                        taken.append((time.process_time() - start) * 1e3)
            plain, checked, all_of_it = map(statistics.median, times_ms)
            more = (checked - plain) / (plain + all_of_it)
            print(
                f'| {name} | {plain:.1f} | {all_of_it:.1f} | {checked:.1f} | {more:+.1%} |',
                flush=True,
            )


def street(size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of nobody: surfaces, edges and a sensor's noise."""
    rng = np.random.default_rng(0)
    width, height = size_wh
    coarse = rng.integers(0, 256, (9, 16, 3), np.uint8)
    image = cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    image[height // 2 :, ::40] *= 0.5
    image += rng.normal(0, 2, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def cases(image: NDArray[np.uint8]) -> list[tuple[str, Any, Callable[[], NDArray[np.uint8]]]]:
    """Return messages, and how their pixels are had without a look at anything."""
    height, width = image.shape[:2]
    raw = image.tobytes()
    found = [
        (
            'raw bgr8',
            SimpleNamespace(
                encoding='bgr8',
                width=width,
                height=height,
                step=3 * width,
                is_bigendian=0,
                data=raw,
            ),
            lambda: np.frombuffer(raw, np.uint8).reshape(height, width, 3).copy(),
        )
    ]
    options = {
        'JPEG': ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, 90]),
        'JPEG, progressive': ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        'PNG': ('.png', []),
    }
    for name, (suffix, chosen) in options.items():
        data = cv2.imencode(suffix, image, chosen)[1].tobytes()
        msg = SimpleNamespace(format=f'bgr8; {suffix[1:]} compressed bgr8', data=data)
        found.append((name, msg, lambda data=data: _pixels(data)))
    return found


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


if __name__ == '__main__':
    main()
