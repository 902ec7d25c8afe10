"""
Measure what the detectors take of one frame, beside CenterFace in the same run.

Net and decode, with scaling and all looks, as the recipe has it. The detectors take turns, frame
by frame; told are medians of wall and of processor time, and the ratio to the first one's
processor time. The wall time counts on an idle machine alone.

    python benchmarks/detectors.py --photos photos --threads 2
    python benchmarks/detectors.py --detector face=yunet.onnx --detector plate=own-int8-cpu.onnx
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import statistics
import time

from checks import street
import cv2
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.models.manifest import DEFAULT_PLATES, shipped
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.regions.detections import CLASSES
from ffs_anonymizer.regions.detector import Network
import numpy as np
from numpy.typing import NDArray

PHOTOS = 8
WARM = 2


def main() -> None:
    """Print a table."""
    args = _parser().parse_args()
    width, height = (int(part) for part in args.size.split('x'))
    frames = _frames(args.photos, (width, height))
    named = [('face', default_detector())]
    plates = shipped(DEFAULT_PLATES)
    named += [] if plates is None else [('plate', plates)]
    for text in args.detector:
        kind, _, path = text.partition('=')
        if kind not in CLASSES or not path:
            raise SystemExit(f'--detector: got {text!r}, expected face=FILE or plate=FILE')
        named.append((kind, Path(path)))
    try:
        networks = [
            Network(open_model(path, device='cpu', threads=args.threads), CLASSES.index(kind))
            for kind, path in named
        ]
    except AnonymizerError as error:
        raise SystemExit(str(error)) from error
    taken: list[list[tuple[float, float]]] = [[] for _ in networks]
    for number in range(args.rounds + WARM):
        frame = frames[number % len(frames)]
        for network, times in zip(networks, taken, strict=True):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            network.detect(frame, threshold=0.2, nms_iou=0.3, scale=args.scale)
            if number >= WARM:
                times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    load = os.getloadavg()[0]
    print(
        f'{args.size}, scale {args.scale:g}, {args.threads or "all"} threads, medians of '
        f'{args.rounds} by turns, load {load:.1f}'
    )
    print('| detector | wall ms | processor ms | over the first |')
    print('|---|---:|---:|---:|')
    first = statistics.median(cpu_s for _, cpu_s in taken[0])
    for (_, path), times in zip(named, taken, strict=True):
        wall_s, cpu_s = (statistics.median(column) for column in zip(*times, strict=True))
        print(f'| {path.name} | {wall_s * 1e3:.1f} | {cpu_s * 1e3:.1f} | {cpu_s / first:.2f} |')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('--size', default='1280x720', help='WIDTHxHEIGHT (default %(default)s)')
    parser.add_argument('--scale', type=float, default=1.0, help='(default %(default)s)')
    parser.add_argument('--threads', type=int, default=0, help='of each network; 0: one a core')
    parser.add_argument('--rounds', type=int, default=25, help='(default %(default)s)')
    parser.add_argument('--photos', type=Path, help='a folder; without: a synthetic street')
    parser.add_argument(
        '--detector', action='append', default=[], metavar='CLASS=FILE', help='one more'
    )
    return parser


def _frames(folder: Path | None, size_wh: tuple[int, int]) -> list[NDArray[np.uint8]]:
    if folder is None:
        return [street(size_wh)]
    frames = []
    for path in sorted(folder.iterdir()):
        image = cv2.imread(str(path))
        if image is not None:
            frames.append(np.asarray(cv2.resize(image, size_wh), np.uint8))
        if len(frames) == PHOTOS:
            break
    if not frames:
        raise SystemExit(f'{folder}: got no picture that OpenCV reads')
    return frames


if __name__ == '__main__':
    main()
