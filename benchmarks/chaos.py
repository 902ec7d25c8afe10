"""
Kill the tools at random, run many frames through the recipe, damage inputs: is anything lost.

    python benchmarks/chaos.py --runs 60 --resumes 20 --frames 20000 --examples 2000

Prints a table in Markdown, for docs/reliability.md, and exits with 1 if anything was lost: an
output under its final name that is not whole, pixels of the original in what a killed run left
behind, memory that grows, or a parser that raises something else than the package's own errors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'test'))

from hypothesis import given, HealthCheck, seed, settings  # noqa: E402, I100
from hypothesis import strategies as st  # noqa: E402, I100
from support.bags import raw_cdr, read_bag, Record, SPECS, STEP, T0, write_bag  # noqa: E402, I100
from support.fuzz import damaged, PARSERS, survives  # noqa: E402, I100
from support.media import write_video  # noqa: E402, I100

SEED = 1
BAG_FRAMES = 40
CHUNKED_FRAMES = 64
# Of one output; then a run is let through.
MOST_KILLS = 4
PICTURES = 12
MOST_GROWTH_KB = 4096
# Of a face's pixels in a row: what a killed run left must not hold them.
WITNESS_BYTES = 60
WARM_FRAMES = 1000


def main() -> int:
    """Run what is wanted, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--runs', type=int, default=60, help='killed runs of bag and media')
    parser.add_argument('--resumes', type=int, default=20, help='kills, of bags and videos')
    parser.add_argument('--frames', type=int, default=20_000, help='through one recipe')
    parser.add_argument('--examples', type=int, default=2_000, help='damaged inputs a parser')
    parser.add_argument('--face', type=Path, help='a photo of a face (default: one of skimage)')
    args = parser.parse_args()
    started = time.monotonic()
    face = _face(args.face)
    with tempfile.TemporaryDirectory(prefix='ffs_chaos_') as folder:
        rows = [
            *([kill(Path(folder), face, args.runs)] if args.runs else []),
            *([resume(Path(folder), face, args.resumes)] if args.resumes else []),
            *([remember(args.frames)] if args.frames else []),
            *(fuzz(Path(folder), args.examples) if args.examples else []),
        ]
    print('| what | tried | survived | lost |\n|---|---:|---:|---:|')
    for name, tried, lost, note in rows:
        print(f'| {name} | {tried:,} | {tried - lost:,} | {lost}{f" ({note})" if note else ""} |')
    print(f'\n{time.monotonic() - started:.0f} s, seed {SEED}.')
    return 1 if any(lost for _, _, lost, _ in rows) else 0


def _face(path: Path | None) -> NDArray[np.uint8]:
    if path is not None:
        image = cv2.imread(str(path))
    else:
        from skimage import data

        image = data.astronaut()[:216, 80:368, ::-1]
    return np.ascontiguousarray(cv2.resize(image, (384, 288)))


def kill(folder: Path, face: NDArray[np.uint8], runs: int) -> tuple[str, int, int, str]:
    """Kill bag and media at random times; what has its final name must be whole."""
    chosen = random.Random(SEED)
    records = [
        Record('/cam/image', T0 + i * STEP, T0, i, raw_cdr(np.roll(face, i, 1)))
        for i in range(BAG_FRAMES)
    ]
    bag = write_bag(folder / 'bag', records, specs=SPECS[:1], splits=1)
    photos = folder / 'photos'
    photos.mkdir()
    for i in range(PICTURES):
        cv2.imwrite(str(photos / f'{i}.bmp'), np.roll(face, i, 1))
    # The middle of the face; the surroundings stay, and may be anywhere.
    row = np.ascontiguousarray(face[144, 170:]).tobytes()[:WITNESS_BYTES]
    lost, done, notes = 0, 0, []
    seconds = {}
    for command, source in (('bag', bag), ('media', photos)):
        begun = time.monotonic()
        assert subprocess.run(_words(command, source, folder / 'whole' / command)).returncode == 0
        seconds[command] = time.monotonic() - begun
    for number in range(runs):
        command, source = (('bag', bag), ('media', photos))[number % 2]
        output = folder / 'killed' / f'{number}'
        process = subprocess.Popen(
            _words(command, source, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(chosen.uniform(0.2, 1.0) * seconds[command])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        problem = _problem(command, output, folder / 'whole' / command, row)
        done += process.returncode == 0
        if problem:
            lost += 1
            notes.append(f'run {number}: {problem}')
        shutil.rmtree(output.parent, ignore_errors=True)
    notes.append(f'{done} ended before the signal')
    return f'bag and media killed at random, {runs // 2} each', runs, lost, '; '.join(notes)


def resume(folder: Path, face: NDArray[np.uint8], kills: int) -> tuple[str, int, int, str]:
    """Kill bags and videos at random times and go on; the bytes are those of one pass."""
    chosen = random.Random(SEED)
    small = cv2.resize(face, (192, 144))
    records = [
        Record('/cam/image', T0 + i * STEP, T0, i, raw_cdr(np.roll(small, i, 1)))
        for i in range(CHUNKED_FRAMES)
    ]
    bag = write_bag(folder / 'long', records, specs=SPECS[:1], splits=1)
    film = write_video(folder / 'long.mkv', small, times_ms=range(0, 40 * CHUNKED_FRAMES, 40))
    sources = (('bag', bag, 'out'), ('media', film, 'out.mkv'))
    seconds = {}
    for command, source, name in sources:
        whole = folder / 'in one pass' / command / name
        assert subprocess.run(_words(command, source, whole)).returncode == 0
        chunked = [*_words(command, source, folder / 'timed' / command / name), '--workers', '2']
        begun = time.monotonic()
        assert subprocess.run(chunked, stdout=subprocess.DEVNULL).returncode == 0
        seconds[command] = time.monotonic() - begun
    killed = lost = outputs = there = 0
    notes = []
    while killed < kills:
        command, source, name = sources[outputs % 2]
        outputs += 1
        output = folder / 'resumed' / name
        whole = folder / 'in one pass' / command / name
        words = [*_words(command, source, output), '--workers', '2']
        for _ in range(MOST_KILLS):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                said, _ = process.communicate(timeout=chosen.uniform(0.1, 1.0) * seconds[command])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                said, _ = process.communicate()
                killed += 1
                there += b'resuming: ' in said
                continue
            break
        else:
            run = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            process, said = run, run.stdout
        there += b'resuming: ' in said
        problem = '' if process.returncode == 0 else said.decode().splitlines()[-1]
        if not problem and _told(output) != _told(whole):
            problem = 'it is not what one pass makes'
        if not problem and [p.name for p in output.parent.iterdir() if 'partial' in p.name]:
            problem = 'its partial is left'
        if problem:
            lost += 1
            notes.append(f'output {outputs}: {problem}')
        shutil.rmtree(output.parent)
    notes.append(f'{outputs} outputs, {there} runs took chunks over')
    return (
        'bags and videos killed in chunks, and resumed',
        killed,
        lost,
        '; '.join(notes),
    )


def _told(output: Path) -> tuple[dict[str, bytes], dict[str, object]]:
    """Return all of an output that is not the time of day."""
    record = json.loads(output.with_name(f'{output.name}.privacy.json').read_text())
    del record['started'], record['ended']
    files = output.iterdir() if output.is_dir() else [output]
    return {path.name: path.read_bytes() for path in files}, record


def _words(command: str, source: Path, output: Path) -> list[str]:
    output.parent.mkdir(parents=True, exist_ok=True)
    words = [command, '-i', str(source), '-o', str(output), '--method', 'solid', '--threads', '1']
    words += ['--set', 'detector.plate_model_path=none']
    return [sys.executable, '-m', 'ffs_anonymizer', *words, '--disable-progress-output']


def _problem(command: str, output: Path, whole: Path, row: bytes) -> str:
    """Return what is wrong with what a run left behind; nothing: all is well."""
    if command == 'bag' and output.exists() and read_bag(output) != read_bag(whole):
        return 'a bag with its final name is not whole'
    if command == 'media' and output.exists():
        for path in output.glob('*.bmp'):
            if path.read_bytes() != (whole / path.name).read_bytes():
                return f'{path.name} has its final name and is not whole'
    for path in output.parent.rglob('*'):
        if path.is_file() and row in path.read_bytes():
            return f'{path.name} holds pixels of the original face'
    return ''


def remember(frames: int) -> tuple[str, int, int, str]:
    """Send frames of several streams through one recipe; its memory must not grow."""
    from ffs_anonymizer import Networks, Recipe, Settings
    from ffs_anonymizer.frames.array import ArrayFrame
    from ffs_anonymizer.regions.detections import Detections, FACE
    from ffs_anonymizer.stream import Stream

    own = Settings().updated({'face.method': 'blur', 'threads': 1})
    chosen = np.random.default_rng(SEED)
    image = chosen.integers(0, 255, (96, 128, 3), np.uint8)
    before = 0
    with Networks(own) as networks:
        recipe = Recipe(networks, own)
        streams = [Stream(), Stream(), Stream()]
        for number in range(WARM_FRAMES + frames):
            corner = chosen.integers(0, 60, 2)
            boxes = [[*corner, *(corner + 30)]] * int(chosen.integers(0, 3))
            which = number % len(streams)
            _, streams[which] = recipe.anonymize(
                ArrayFrame(image),
                streams[which],
                stamp_ns=number * 10_000_000,
                detections=Detections.of(boxes, [0.9] * len(boxes), FACE),
            )
            if number == WARM_FRAMES:
                before = _memory_kb()
    grown = _memory_kb() - before
    return 'frames through one recipe', frames, int(grown > MOST_GROWTH_KB), f'{grown} KB more'


def _memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(folder: Path, examples: int) -> list[tuple[str, int, int, str]]:
    """Give each parser damaged inputs; it must read them or refuse them as its own errors."""
    return [_fuzzed(name, whole, folder, examples) for name, (_, whole) in PARSERS.items()]


def _fuzzed(name: str, whole: bytes, folder: Path, examples: int) -> tuple[str, int, int, str]:
    tried, problem = 0, ''

    @seed(SEED)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: st.DataObject) -> None:
        nonlocal tried
        tried += 1
        survives(name, data.draw(damaged(whole)), folder)

    try:
        one()
    except Exception as error:  # whatever it is, it is what is looked for
        problem = f'{type(error).__name__}: {error}'[:200]
    return f'damaged inputs: {name}', tried, int(bool(problem)), problem


if __name__ == '__main__':
    sys.exit(main())
