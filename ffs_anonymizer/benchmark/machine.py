"""What a machine is, and what it can do at best: clocks, versions, measured limits, power."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import importlib.metadata
import os
from pathlib import Path
import platform

from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.benchmark.timing import interleaved, Run
import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, TensorProto

_SIDE = 1024
_COPIED_BYTES = 128 << 20
_PACKAGES = ('numpy', 'opencv-python-headless', 'onnxruntime', 'onnx', 'torch', 'tensorrt')
_FLAGS = ('avx2', 'avx512f', 'avx512_vnni', 'avx_vnni', 'amx_int8', 'asimddp', 'i8mm')
_POWER = (
    '/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*',
    '/sys/bus/i2c/drivers/ina3221*/*/iio:device*',
)


def describe() -> dict[str, object]:
    """Return the processor, its clocks and the versions of what computes."""
    return {
        'processor': _cpu_line('model name') or platform.processor() or platform.machine(),
        'architecture': platform.machine(),
        'cores': len(os.sched_getaffinity(0)),
        'clock_mhz': _clocks_mhz(),
        'instructions': [flag for flag in _FLAGS if flag in _cpu_flags()],
        'memory_gib': round(_memory_bytes() / 2**30, 1),
        'system': f'{platform.system()} {platform.release()}',
        'load_average': round(os.getloadavg()[0], 2),
        'versions': {'python': platform.python_version(), **_versions()},
    }


def measure_limits(threads: int, *, rounds: int) -> dict[str, float]:
    """
    Measure what no stage can beat: products of matrices, and copying memory.

    :param threads: how many compute.
    :returns: fp32_gops and int8_gops (a multiply and an add are two), copy_gb_s (read and
        written bytes both count).
    """
    runs: dict[str, Run] = {
        'fp32_gops': _product(threads, quantized=False),
        'int8_gops': _product(threads, quantized=True),
        'copy_gb_s': _copy(threads),
    }
    seconds = interleaved(runs, rounds=5 * rounds, budget_s=1.0)
    amounts = {
        'fp32_gops': 2 * _SIDE**3 / 1e9,
        'int8_gops': 2 * _SIDE**3 / 1e9,
        'copy_gb_s': 2 * _COPIED_BYTES / 1e9,
    }
    return {name: round(amounts[name] / min(times), 1) for name, times in seconds.items()}


def power_w(patterns: tuple[str, ...] = _POWER) -> dict[str, float]:
    """
    Read the power rails of a Jetson; empty where there are none that can be read.

    :param patterns: of the folders that the sensor's driver makes.
    """
    rails: dict[str, float] = {}
    for pattern in patterns:
        root, _, rest = pattern.partition('*')
        parent = Path(root).parent
        if not parent.is_dir():
            continue
        for folder in sorted(parent.glob(f'{Path(root).name}*{rest}')):
            for label in sorted(folder.glob('in*_label')):
                number = label.name[2 : -len('_label')]
                volts = _number(folder / f'in{number}_input')
                amperes = _number(folder / f'curr{number}_input')
                if volts is not None and amperes is not None:
                    rails[label.read_text().strip()] = volts * amperes / 1e6
    return rails


def _product(threads: int, *, quantized: bool) -> Run:
    rng = np.random.default_rng(0)
    operator, kinds = 'MatMul', (TensorProto.FLOAT, TensorProto.FLOAT)
    left: NDArray[np.generic] = rng.normal(0, 1, (_SIDE, _SIDE)).astype(np.float32)
    right: NDArray[np.generic] = left.copy()
    out = TensorProto.FLOAT
    if quantized:
        operator, kinds, out = 'MatMulInteger', (TensorProto.UINT8, TensorProto.INT8), 6
        left = rng.integers(0, 255, (_SIDE, _SIDE)).astype(np.uint8)
        right = rng.integers(-127, 127, (_SIDE, _SIDE)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node(operator, ['left', 'right'], ['product'])],
        'product',
        [helper.make_tensor_value_info('left', kinds[0], [_SIDE, _SIDE])],
        [helper.make_tensor_value_info('product', out, [_SIDE, _SIDE])],
        [onnx.numpy_helper.from_array(right, 'right')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    session = open_session(model, threads=threads)
    return lambda: session.run(None, {'left': left})


def _copy(threads: int) -> Run:
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.zeros_like(source)
    edges = np.linspace(0, _COPIED_BYTES, threads + 1).astype(int)
    pool = ThreadPoolExecutor(threads)

    def part(i: int) -> None:
        np.copyto(target[edges[i] : edges[i + 1]], source[edges[i] : edges[i + 1]])

    return lambda: list(pool.map(part, range(threads)))


def _cpu_line(name: str) -> str:
    for line in _lines(Path('/proc/cpuinfo')):
        key, _, value = line.partition(':')
        if key.strip() == name:
            return value.strip()
    return ''


def _cpu_flags() -> set[str]:
    return set((_cpu_line('flags') or _cpu_line('Features')).split())


def _clocks_mhz() -> list[float]:
    """Return the clock of each core as the system says it; empty where it does not."""
    governed = sorted(Path('/sys/devices/system/cpu').glob('cpu*/cpufreq/scaling_cur_freq'))
    values = [value for path in governed if (value := _number(path)) is not None]
    if values:
        return [round(value / 1000) for value in values]
    lines = [line.partition(':') for line in _lines(Path('/proc/cpuinfo'))]
    return [round(float(value)) for key, _, value in lines if key.strip() == 'cpu MHz']


def _memory_bytes() -> int:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _versions() -> dict[str, str]:
    installed = {d.metadata['Name']: d.version for d in importlib.metadata.distributions()}
    return {name: installed.get(name, 'not installed') for name in _PACKAGES}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8').splitlines()
    except OSError:
        return []


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
