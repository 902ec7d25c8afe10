"""The values that the tensors of a network take on calibration data: low and high of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
import io

from ffs_anonymizer.backend import Tensors
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.errors import ModelError
import numpy as np
from numpy.typing import NDArray
import onnx
import onnxruntime
from onnxruntime.quantization.calibrate import HistogramCollector

METHODS = ('entropy', 'percentile', 'minmax')
PERCENTILE = 99.99
Ranges = Mapping[str, tuple[float, float]]

_BINS = 1024
_QUANTIZED_BINS = 256
_SAMPLES = 1 << 19


def measure_ranges(
    model: onnx.ModelProto, feeds: Iterable[Tensors], count: int, method: str
) -> dict[str, tuple[float, float]]:
    """
    Run a network on calibration data and choose the range of each tensor worth quantizing.

    Entropy and percentile see an even sample of each tensor's values, minmax sees all of them.

    :param model: from prepare().
    :param feeds: inputs by name, one batch after the other.
    :param count: how many batches there will be.
    :param method: entropy, percentile or minmax.
    :returns: low and high of the inputs and outputs of all convolutions, sums and Relus.
    :raises ModelError: the network fails, or its values are not finite.
    """
    if method not in METHODS:
        raise ModelError(f'method: got {method!r}, expected one of: {", ".join(METHODS)}')
    names = _worth_quantizing(model)
    session = _session_with_outputs(model, names)
    least = dict.fromkeys(names, np.inf)
    most = dict.fromkeys(names, -np.inf)
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    inputs = [name for name in names if name not in {o.name for o in session.get_outputs()}]
    for number, feed in enumerate(feeds):
        outputs = [name for name in names if name not in inputs]
        values = dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))
        values.update({name: feed[name] for name in inputs})
        for name, value in values.items():
            least[name] = min(least[name], float(value.min()))
            most[name] = max(most[name], float(value.max()))
            if method != 'minmax':
                samples[name].append(_sampled(value, max(1, _SAMPLES // count), number))
    if not all(np.isfinite([*least.values(), *most.values()])):
        raise ModelError('calibration: got values that are not finite, or no data at all')
    if method == 'minmax':
        return {name: (least[name], most[name]) for name in names}
    collector = HistogramCollector(method, False, _BINS, _QUANTIZED_BINS, PERCENTILE, 'same')
    with redirect_stdout(io.StringIO()):
        collector.collect({name: [np.concatenate(parts)] for name, parts in samples.items()})
        chosen = collector.compute_collection_result()
    return {name: (float(low), float(high)) for name, (low, high, *_) in chosen.items()}


def _worth_quantizing(model: onnx.ModelProto) -> list[str]:
    """Return the tensors whose range is needed, in the order of the graph."""
    constant = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type == 'Conv' and node.input[0] not in constant:
            found[node.input[0]] = None
        if node.op_type in ('Conv', 'Add', 'Relu'):
            found[node.output[0]] = None
    return list(found)


def _session_with_outputs(
    model: onnx.ModelProto, names: Iterable[str]
) -> onnxruntime.InferenceSession:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    present = {v.name for v in (*shown.graph.output, *shown.graph.input)}
    for name in names:
        if name not in present:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            shown.graph.output.append(value)
    return open_session(shown)


def _sampled(value: NDArray[np.float32], count: int, number: int) -> NDArray[np.float32]:
    """Return at most about `count` values, evenly spaced, from another start in each batch."""
    # An odd step does not stay in one column of a picture whose width is a power of two.
    step = max(1, value.size // count) | 1
    return np.array(value.reshape(-1)[number % step :: step], np.float32)
