"""
Kill fleets, and measure them: is anything lost or done twice, and what does more work cost.

    python benchmarks/fleet.py --kills 20 --bags 1 10 100 --repeats 3

A Ray cluster of three nodes is started on this machine. Prints tables in Markdown, for
docs/reliability.md and docs/fleet.md, draws docs/fleet.png with --plot, and exits with 1 if a
killed fleet did not come to the same bytes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
import contextlib
from contextlib import contextmanager
import hashlib
import os
from pathlib import Path
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'test'))

from support.bags import raw_cdr, Record, SPECS, STEP, T0, write_bag  # noqa: E402, I100
from support.ray_nodes import added, started  # noqa: E402, I100

SEED = 1
OPTIONS = ['--method', 'face=solid', '--set', 'detector.plate_model_path=none']
KILLED = ('worker', 'machine', 'fleet')


def main() -> int:
    """Run all, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument(
        '--bags', type=int, nargs='*', default=[1, 10, 100], help='none: no growth'
    )
    parser.add_argument('--repeats', type=int, default=3, help='of eight bags; 0: none')
    parser.add_argument('--frames', type=int, default=30, help='of each of the eight bags')
    parser.add_argument('--plot', type=Path)
    args = parser.parse_args()
    print(f'load at the start: {os.getloadavg()}', flush=True)
    with tempfile.TemporaryDirectory(prefix='ffs_bench_') as name:
        folder = Path(name)
        cluster = started(num_cpus=0)
        nodes = [added(cluster) for _ in range(2)]
        try:
            lost = kill(folder, cluster, nodes, args.kills) if args.kills else 0
            if args.repeats:
                side_by_side(folder, cluster, args.repeats, args.frames)
            if args.bags:
                grow(folder, cluster, args.bags, args.plot)
        finally:
            cluster.shutdown()
    print(f'load at the end: {os.getloadavg()}')
    return 1 if lost else 0


def face() -> NDArray[np.uint8]:
    """Return a portrait."""
    from skimage import data

    return np.ascontiguousarray(cv2.resize(data.astronaut()[:216, 80:368, ::-1], (384, 288)))


def bags(folder: Path, count: int, frames: int, *, large: int = 0) -> Path:
    """Write bags of one portrait that moves, and one of `large` frames."""
    folder.mkdir()
    image = face()
    for number, length in enumerate([frames] * count + [large] * bool(large)):
        records = [
            Record('/cam/image', T0 + i * STEP, T0, i, raw_cdr(np.roll(image, i + number, 1)))
            for i in range(length)
        ]
        write_bag(folder / f'drive_{number:03}', records, specs=SPECS[:1], splits=1)
    return folder


def words(source: Path, output: Path, *more: str) -> list[str]:
    """Return the command of a fleet."""
    command = [sys.executable, '-m', 'ffs_anonymizer', 'fleet', '-i', str(source)]
    return [*command, '-o', str(output), *OPTIONS, *more]


def hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of all files of bags; records hold times, and are left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file() and path.parent != folder
    }


def kill(folder: Path, cluster: Any, nodes: list[Any], kills: int) -> int:
    """Kill workers, machines and fleets at random times; all must come to the same bytes."""
    chosen = random.Random(SEED)
    source = bags(folder / 'killed_in', 4, 5, large=160)
    whole = folder / 'whole'
    for bag in sorted(source.iterdir()):
        one = [sys.executable, '-m', 'ffs_anonymizer', 'bag', '-i', str(bag)]
        done = subprocess.run([*one, '-o', str(whole / bag.name), *OPTIONS], capture_output=True)
        assert done.returncode == 0, done.stderr
    expected = hashes(whole)
    tried, problems = Counter[str](), []
    for number in range(kills):
        kind = KILLED[number % len(KILLED)]
        output = folder / f'killed_{number}'
        command = words(source, output, '--address', cluster.address, '--workers', '2')
        log = folder / 'told'
        with log.open('w') as file:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        staging = output / 'fleet.partial'
        while process.poll() is None and not list(staging.glob('*')):
            time.sleep(0.01)
        time.sleep(chosen.uniform(0, 4))
        attempts = list(staging.glob('*'))
        in_chunks = any(path.name.startswith('chunks') for path in attempts)
        if kind == 'fleet':
            process.kill()
            process.wait()
            # Ray needs a moment to end the workers of one that is gone.
            again = subprocess.run([*command, '--resume'], capture_output=True, text=True)
            code, told = again.returncode, again.stderr
        else:
            if kind == 'machine':
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
            else:
                seen = sorted({*re.findall(r'running.*:(\d+)\)', log.read_text())})
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(chosen.choice(seen)), signal.SIGKILL)
            code, told = process.wait(), log.read_text()
        where = 'a recording that is shared' if in_chunks else 'at work' if attempts else 'idle'
        tried[f'{kind}, {where}'] += 1
        names = {path.name for path in output.iterdir()}
        outputs = {path.name for path in source.iterdir()}
        spare = names - outputs - {f'{n}.privacy.json' for n in outputs}
        problem = ''
        if code or hashes(output) != expected:
            problem = f'exit code {code}, {len(names & outputs)} outputs: {told[-300:]}'
        elif spare != {'fleet.html', 'fleet.json'}:
            problem = f'{sorted(spare)}'
        if problem:
            problems.append(f'{number}, {kind}: {problem}')
        print(f'kill {number}: {kind}, {problem or "the same bytes"}', flush=True)
        if kind == 'machine':
            nodes.append(added(cluster))
        shutil.rmtree(output)
    print('\n| what | tried | same bytes, nothing else | lost |\n|---|---:|---:|---:|')
    note = ', '.join(f'{n} {kind}' for kind, n in sorted(tried.items()))
    kept = kills - len(problems)
    print(f'| fleets killed at random: {note} | {kills} | {kept} | {len(problems)} |')
    print('\n'.join(problems), flush=True)
    return len(problems)


@contextmanager
def timed(taken: list[float]) -> Iterator[None]:
    """Append how long the block took."""
    begun = time.monotonic()
    yield
    taken.append(time.monotonic() - begun)


def side_by_side(folder: Path, cluster: Any, repeats: int, frames: int) -> None:
    """Compare one process, one worker and two, on eight bags."""
    source = bags(folder / 'eight', 8, frames)
    joined = ('--address', cluster.address)
    arms = {
        'one process after the other, both cores': None,
        'a fleet of 1 worker with 1 core': (*joined, '--workers', '1', '--worker-cpus', '1'),
        'a fleet of 2 workers with 1 core each': (*joined, '--workers', '2'),
    }
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(repeats):
        for name, more in arms.items():
            output = folder / f'eight_{number}'
            with timed(taken[name]):
                if more is None:
                    for bag in sorted(source.iterdir()):
                        one = [sys.executable, '-m', 'ffs_anonymizer', 'bag', '-i', str(bag)]
                        done = [*one, '-o', str(output / bag.name), *OPTIONS]
                        subprocess.run(done, check=True, capture_output=True)
                else:
                    subprocess.run(words(source, output, *more), check=True, capture_output=True)
            shutil.rmtree(output)
            print(f'{name}: {taken[name][-1]:.1f} s, load {os.getloadavg()[0]:.1f}', flush=True)
    print(f'\n| 8 bags of {frames} frames, 384x288 | seconds, median of {repeats} | times |')
    print('|---|---:|---:|')
    first = statistics.median(next(iter(taken.values())))
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f'| {name} | {middle:.1f} | {first / middle:.2f} |', flush=True)


def grow(folder: Path, cluster: Any, counts: list[int], plot: Path | None) -> None:
    """Measure what more bags cost."""
    source = bags(folder / 'many', max(counts), 4)
    rows = []
    for count in counts:
        listed = folder / f'{count}.txt'
        listed.write_text('\n'.join(map(str, sorted(source.iterdir())[:count])))
        taken: list[float] = []
        output = folder / f'out_{count}'
        command = words(listed, output, '--address', cluster.address, '--workers', '2')
        with timed(taken):
            subprocess.run(command, check=True, capture_output=True)
        rows.append((count, taken[0]))
        print(f'{count} bags: {taken[0]:.1f} s, load {os.getloadavg()[0]:.1f}', flush=True)
    print('\n| bags of 4 frames, 2 workers | seconds | for each |\n|---:|---:|---:|')
    for count, seconds in rows:
        print(f'| {count} | {seconds:.1f} | {seconds / count:.2f} |')
    if plot is not None:
        draw(rows, plot)


def draw(rows: list[tuple[int, float]], path: Path) -> None:
    """Draw seconds over bags, with what would be linear from the first."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    counts, seconds = zip(*rows, strict=True)
    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=110)
    axes.loglog(counts, [seconds[0] * c / counts[0] for c in counts], '--', color='#9aa5b1')
    axes.loglog(counts, seconds, 'o-', color='#2f6fb3')
    axes.set_xlabel('bags of 4 frames')
    axes.set_ylabel('seconds, two workers (dashed: linear)')
    axes.grid(True, which='both', alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == '__main__':
    sys.exit(main())
