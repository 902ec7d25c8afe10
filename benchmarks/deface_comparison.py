"""
Compare our speed with that of the program deface, on one 1080p video, both blurring.

Both see each frame at its full size. The runs alternate; what counts is the time from start to
exit, loading included, as a user waits for it; medians are shown. The processor time beside it is
what a machine that does other things as well would show.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
import os
from pathlib import Path
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import av
import cv2
import numpy as np
from numpy.typing import NDArray

SIZE_WH = (1920, 1080)
RATE_HZ = 30
# How many times as fast as deface ours were meant to become.
BARS = {'ours, CenterFace': 2.5, 'ours, YuNet': 8.0}


def main() -> None:
    """
    Run the comparison.

    :raises RuntimeError: a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--deface', type=Path, required=True, help='the program to compare with')
    parser.add_argument('--video', type=Path, help='mp4; default: a portrait, panned and zoomed')
    parser.add_argument(
        '--detector',
        action='append',
        default=[],
        metavar='NAME=FILE',
        help='an ONNX face detector to run as well; may be repeated',
    )
    parser.add_argument('--frames', type=int, default=60, help='of the portrait')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    ours = [sys.executable, '-m', 'ffs_anonymizer', 'media', '--method', 'blur']
    commands = {
        'deface, CenterFace': [str(args.deface), '--replacewith', 'blur'],
        'ours, CenterFace': ours,
        'ours, CenterFace, no plates': [*ours, '--set', 'detector.plate_model_path=none'],
    }
    for text in args.detector:
        name, _, file = text.partition('=')
        commands[f'ours, {name}'] = [*ours, '--detector-model', str(Path(file).resolve())]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = (args.video or write_portrait(folder / 'portrait.mp4', args.frames)).resolve()
        frames = count_frames(video)
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in commands}
        for i in range(args.rounds):
            for way, command in commands.items():
                # Ours writes a record beside its output, and nothing over one that is there.
                output = folder / f'{i} {way}.mp4'
                seconds[way].append(measure(way, command, video, output))
                if count_frames(output) != frames:
                    raise RuntimeError(f'{way}: {count_frames(output)} of {frames} frames written')
                output.unlink()
    print(f'{video.name}: {frames} frames, {args.rounds} rounds')
    print(f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}')
    medians = {way: medians_of(values) for way, values in seconds.items()}
    report(frames, medians)


def medians_of(values: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the median of the first and that of the second numbers."""
    spent, processor = zip(*values, strict=True)
    return statistics.median(spent), statistics.median(processor)


def report(frames: int, seconds: dict[str, tuple[float, float]]) -> None:
    """Print the table."""
    reference = seconds['deface, CenterFace']
    print('| | seconds | frames/s | ratio | bar | processor seconds | ratio |')
    print('|---|---|---|---|---|---|---|')
    for way, (spent, processor) in seconds.items():
        bar = f'{BARS[way]:g}' if way in BARS else ''
        print(
            f'| {way} | {spent:.1f} | {frames / spent:.2f} | {reference[0] / spent:.2f} '
            f'| {bar} | {processor:.1f} | {reference[1] / processor:.2f} |'
        )


def measure(way: str, command: list[str], video: Path, output: Path) -> tuple[float, float]:
    """Return the seconds that a run takes, and the processor's."""
    source = ['-i', str(video)] if way.startswith('ours') else [str(video)]
    words = [*command, *source, '-o', str(output)]
    before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - start_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f'{way} ended with exit code {done.returncode}: {done.stderr}')
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f'{way}: {spent:.1f} s, of the processor {processor:.1f} s', file=sys.stderr)
    return spent, processor


def count_frames(video: Path) -> int:
    """Return the number of frames of a video."""
    with av.open(str(video)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def write_portrait(path: Path, frames: int) -> Path:
    """Write a video of scikit-image's astronaut, panned and zoomed."""
    from skimage import data

    photo = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=RATE_HZ, options={'crf': '18'})
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt = 'yuv420p'
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(view(photo, i / frames), 'bgr24')
            frame.pts, frame.time_base = i, Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def view(photo_bgr: NDArray[np.uint8], progress: float) -> NDArray[np.uint8]:
    """Return what a camera sees that zooms into a photo, mirrored where it ends."""
    width, height = SIZE_WH
    scale = 1.5 + 2.0 * progress
    turn = np.array([[scale, 0, width / 2 - 225 * scale], [0, scale, height / 2 - 150 * scale]])
    mode = cv2.BORDER_REFLECT
    return np.asarray(cv2.warpAffine(photo_bgr, turn, SIZE_WH, borderMode=mode), np.uint8)


if __name__ == '__main__':
    main()
