"""The generators alone: faces a second for each model, precision and batch, and the ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffs_anonymizer.backend import Backend, open_model, Tensors
from ffs_anonymizer.backend.onnx_file import free_inputs
from ffs_anonymizer.benchmark.timing import interleaved, median_ms, Run
from ffs_anonymizer.errors import AnonymizerError, ModelError
from ffs_anonymizer.models.manifest import default_generator, load_manifest
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.painting.inputs import feeds_of
import numpy as np
import onnx

RANDOM = ('ffs-128', 'ffs-128-small')
BASELINE = 'deep-privacy2'
BASELINE_MACS = 61.541e9
_CALIBRATION_BATCHES = 4


@dataclass(frozen=True)
class Entry:
    """
    Hold one model file to measure.

    :param name: of the network, with what else must be known to read its figures.
    :param precision: fp32, fp16, int8 (Q/DQ pairs) or int8-cpu (ONNX Runtime's own operators).
    """

    name: str
    precision: str
    path: Path


def shipped() -> list[Entry]:
    """Return the generators that come with the package."""
    default = default_generator()
    if default is None:
        return []
    found = []
    for path in sorted(default.parent.glob('*.onnx')):
        manifest = load_manifest(path)
        if manifest is not None and manifest.task == 'generator':
            found.append(Entry(path.stem, precision_of(path), path))
    return found


def named(path: Path) -> Entry:
    """
    Return what a user names.

    :raises ModelError: there is no such file, or it is no generator.
    """
    generator = Generator(open_model(path, device='cpu'))
    generator.generate(_crops(1, generator.size_px, 0))
    generator.close()
    return Entry(path.stem, precision_of(path), path)


def random_ones(folder: Path, names: Sequence[str]) -> list[Entry]:
    """
    Write networks of our architectures with random weights: their speed is that of trained ones.

    :param folder: where the files go.
    :raises AnonymizerError: PyTorch or onnxslim is not installed.
    """
    try:
        from ffs_anonymizer.evaluation.speed import write_random
    except ImportError as error:
        raise AnonymizerError(f'{error.name} is not installed') from error
    from ffs_anonymizer.quantization.explicit import to_explicit
    from ffs_anonymizer.quantization.graph import prepare
    from ffs_anonymizer.quantization.integer import to_integer
    from ffs_anonymizer.quantization.ranges import measure_ranges

    found = []
    for name in names:
        path = folder / f'{name}.onnx'
        try:
            size_px = write_random(name, path)
        except ImportError as error:
            raise AnonymizerError(f'{error.name} is not installed') from error
        model = prepare(path)
        reference = open_model(path, device='cpu')
        inputs = reference.inputs
        reference.close()
        feeds = [
            feeds_of(inputs, _crops(2, size_px, seed)) for seed in range(_CALIBRATION_BATCHES)
        ]
        ranges = measure_ranges(model, feeds, len(feeds), 'minmax')
        label = f'{name} (random weights)'
        found.append(Entry(label, 'fp32', path))
        for precision, build in (('int8', to_explicit), ('int8-cpu', to_integer)):
            file = folder / f'{name}-{precision}.onnx'
            onnx.save(build(model, ranges), str(file))
            found.append(Entry(label, precision, file))
    return found


def measure(
    entries: Sequence[Entry],
    batches: Sequence[int],
    *,
    device: str,
    threads: int,
    with_baseline: bool,
    rounds: int,
    budget_s: float,
    say: Callable[[str], object],
    refused: Callable[[str, str], object],
) -> list[dict[str, object]]:
    """
    Time every model for every batch, in turns.

    :param batches: faces in one call.
    :param with_baseline: DeepPrivacy2's network in PyTorch takes its turn too.
    :param say: told what is being measured.
    :param refused: told which model the device cannot run, and why.
    :returns: one object for each model and batch.
    :raises AnonymizerError: the baseline cannot run.
    """
    entries, models = _opened(entries, device, threads, refused)
    macs = _all_macs(entries, models)
    rows: list[dict[str, object]] = []
    for batch in batches:
        say(f'generators, batch {batch}')
        runs: dict[str, Run] = {}
        if with_baseline:
            runs[BASELINE] = _baseline(batch, threads)
        for i, model in enumerate(models):
            runs[str(i)] = _once(
                model.model, feeds_of(model.model.inputs, _crops(batch, model.size_px, 0))
            )
        seconds = interleaved(runs, rounds=rounds, budget_s=budget_s)
        base_ms = median_ms(seconds[BASELINE]) if with_baseline else None
        if base_ms is not None:
            name, on = 'DeepPrivacy2 FDF128', 'PyTorch, cpu'
            rows.append(_row(name, 'fp32', on, batch, base_ms, base_ms, BASELINE_MACS))
        for i, entry in enumerate(entries):
            ms = median_ms(seconds[str(i)])
            on = f'{models[i].model.name}, {models[i].model.device}'
            rows.append(_row(entry.name, entry.precision, on, batch, ms, base_ms, macs[i]))
    for model in models:
        model.close()
    return rows


def precision_of(path: Path) -> str:
    """Return what a file computes in, told by its operators and weights."""
    model = onnx.load(str(path))
    operators = {node.op_type for node in model.graph.node}
    if 'QLinearConv' in operators:
        return 'int8-cpu'
    halves = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    if 'QuantizeLinear' in operators:
        return 'int8-fp16' if halves else 'int8'
    return 'fp16' if halves else 'fp32'


def count_macs(path: Path, size_px: int) -> float:
    """
    Return the multiply-accumulates of a network for one face; 0 where unknown.

    Those of convolutions and matrix products with weights, as evaluation/cost.py counts them.

    :param size_px: side of its input.
    """
    model = onnx.load(str(path))
    free_inputs(model)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_value = 1
        for dim in list(dims)[2:] if len(dims) == 4 else ():
            dim.dim_value = size_px
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return 0.0
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    before = {node.output[0]: node.input[0] for node in model.graph.node}
    total = 0.0
    for node in model.graph.node:
        if node.op_type not in ('Conv', 'Gemm'):
            continue
        weight = node.input[1]
        while weight not in constants and weight in before:
            weight = before[weight]
        if weight not in constants or node.output[0] not in shapes:
            return 0.0
        pixels = float(np.prod(shapes[node.output[0]][2:]))
        total += pixels * float(np.prod(constants[weight]))
    return total


def _opened(
    entries: Sequence[Entry], device: str, threads: int, refused: Callable[[str, str], object]
) -> tuple[list[Entry], list[Generator]]:
    opened = [(entry, _open(entry, device, threads, refused)) for entry in entries]
    able = [(entry, model) for entry, model in opened if model is not None]
    return [entry for entry, _ in able], [model for _, model in able]


def _open(
    entry: Entry, device: str, threads: int, refused: Callable[[str, str], object]
) -> Generator | None:
    try:
        return Generator(open_model(entry.path, device=device, threads=threads))
    except ModelError as error:
        refused(f'{entry.name}, {entry.precision}, on {device}', str(error))
        return None


def _all_macs(entries: Sequence[Entry], models: Sequence[Generator]) -> list[float]:
    """Return what one face costs each model, integer files by the FP32 file of their name."""
    counted = [count_macs(e.path, m.size_px) for e, m in zip(entries, models, strict=True)]
    stems = [entry.path.stem.partition('-int8')[0] for entry in entries]
    known = {stem: macs for stem, macs in zip(stems, counted, strict=True) if macs}
    return [macs or known.get(stem, 0.0) for stem, macs in zip(stems, counted, strict=True)]


def _row(
    name: str,
    precision: str,
    device: str,
    batch: int,
    ms: float,
    base_ms: float | None,
    macs: float,
) -> dict[str, object]:
    return {
        'name': name,
        'precision': precision,
        'device': device,
        'batch': batch,
        'faces_per_s': round(batch / ms * 1e3, 2),
        'ms_per_face': round(ms / batch, 3),
        'ratio_to_baseline': None if base_ms is None else round(base_ms / ms, 2),
        'gops': round(2 * macs * batch / ms / 1e6, 1) if macs else None,
    }


def _once(model: Backend, feeds: Tensors) -> Run:
    return lambda: model.infer(feeds)


def _baseline(batch: int, threads: int) -> Run:
    try:
        from ffs_anonymizer.evaluation.speed import baseline
    except ImportError as error:
        raise ModelError(
            f'--baseline deep-privacy2: {error.name} is not installed; install it with '
            '`pip install torch`, or leave the baseline out'
        ) from error
    crops = _crops(batch, 128, 0)
    return baseline(crops.condition, crops.mask, threads)


def _crops(batch: int, size_px: int, seed: int) -> Crops:
    """Return smooth pictures with a hole in the middle."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (batch, 3, 8, 8)).astype(np.float32)
    side = -(-size_px // 8)
    image = coarse.repeat(side, 2).repeat(side, 3)[:, :, :size_px, :size_px]
    mask = np.ones((batch, 1, size_px, size_px), np.float32)
    quarter = size_px // 4
    mask[:, :, quarter:-quarter, quarter:-quarter] = 0
    return Crops(np.ascontiguousarray(image * mask), mask, np.zeros((batch, 3), np.int32))
