"""What quantizing costs: layer by layer, and with the worst layers left in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ffs_anonymizer.quantization.explicit import to_explicit
from ffs_anonymizer.quantization.graph import convs
from ffs_anonymizer.quantization.metric import Candidate, Quality
from ffs_anonymizer.quantization.ranges import Ranges
import onnx

Build = Callable[[onnx.ModelProto, Ranges, Iterable[str]], onnx.ModelProto]
Progress = Callable[[Sequence[str], str], Iterable[str]]


@dataclass(frozen=True)
class LayerLoss:
    """
    Say what one convolution costs.

    :param loss: of the metric, when this convolution alone is quantized.
    :param low: of its input on the calibration data.
    :param high: of its input on the calibration data.
    """

    name: str
    loss: float
    low: float
    high: float
    weights: int


def in_silence(names: Sequence[str], what: str) -> Iterable[str]:
    """Return the names: progress that shows nothing."""
    return names


def rank(
    model: onnx.ModelProto,
    ranges: Ranges,
    quality: Quality,
    float_score: float,
    build: Build = to_explicit,
    progress: Progress = in_silence,
) -> list[LayerLoss]:
    """
    Quantize each convolution alone and return them, the one that costs most first.

    :param model: from prepare().
    :param ranges: from measure_ranges().
    :param float_score: of the model as it is.
    :param build: makes the file that is scored.
    """
    nodes = {node.name: node for node in convs(model)}
    sizes = {tensor.name: _count(tensor) for tensor in model.graph.initializer}
    layers = []
    for name in progress(list(nodes), 'each alone'):
        others = [other for other in nodes if other != name]
        score = quality.score(Candidate(build(model, ranges, others)))
        node = nodes[name]
        low, high = ranges[node.input[0]]
        layers.append(LayerLoss(name, float_score - score, low, high, sizes[node.input[1]]))
    return sorted(layers, key=lambda layer: -layer.loss)


def curve(
    model: onnx.ModelProto,
    ranges: Ranges,
    quality: Quality,
    order: Sequence[str],
    build: Build,
    progress: Progress = in_silence,
) -> list[float]:
    """
    Return the score with the first N of an order kept in float, for N = 0 to all.

    :param order: names of all convolutions, the worst first.
    :param build: makes the file that is scored.
    """
    steps = [str(n) for n in range(len(order) + 1)]
    return [
        quality.score(Candidate(build(model, ranges, order[: int(n)])))
        for n in progress(steps, f'the worst in float ({build.__name__})')
    ]


def choose(scores: Sequence[float], float_score: float, keep: float) -> int:
    """
    Return the smallest N whose score is at least `keep` times that of the float network.

    :param scores: for N = 0, 1, 2, ...; the last has nothing quantized.
    """
    enough = [n for n, score in enumerate(scores) if score >= keep * float_score]
    return enough[0] if enough else len(scores) - 1


def _count(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= int(size)
    return count
