"""OpenVINO, on the CPU: an extra for processors that compute in bfloat16 or INT8."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffs_anonymizer.backend import Backend, Tensors, TensorSpec
from ffs_anonymizer.backend.ort import _cleaned
from ffs_anonymizer.errors import ModelError

try:
    import onnx
    import openvino
except ImportError as error:
    raise ModelError(
        f'cannot import {error.name}: install it with `pip install onnx openvino`'
    ) from error

_GENERATOR_INPUTS = {'condition', 'mask'}


class OpenVinoBackend(Backend):
    """
    Run a network in OpenVINO.

    A generator computes in bfloat16 where the processor does; a detector never does, since a face
    that it misses stays visible.
    """

    name = 'openvino'

    def __init__(self, path: Path, *, threads: int) -> None:
        self.path = path
        model_bytes = _cleaned(path)
        graph = onnx.load_model_from_string(model_bytes).graph
        _refuse_quantized_concat(graph, path)
        core = openvino.Core()
        try:
            model = core.read_model(model_bytes, b'')
            names = {port.any_name for port in model.inputs}
            able = 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
            precision = 'bf16' if able and names == _GENERATOR_INPUTS else 'f32'
            options = {
                'PERFORMANCE_HINT': 'LATENCY',
                'INFERENCE_NUM_THREADS': threads or len(os.sched_getaffinity(0)),
                'INFERENCE_PRECISION_HINT': precision,
            }
            compiled = core.compile_model(model, 'CPU', options)
        except RuntimeError as error:
            raise ModelError(f'{path}: OpenVINO cannot load it: {error}') from error
        self.device = f'cpu, {precision} (asked for)'
        self.inputs = tuple(_spec(port, port.any_name) for port in compiled.inputs)
        # Of a tensor that goes by several names OpenVINO tells any; the file knows the right one.
        self.outputs = tuple(
            _spec(port, value.name)
            for port, value in zip(compiled.outputs, graph.output, strict=True)
        )
        self._request = compiled.create_infer_request()

    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the request."""
        contiguous = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        try:
            results = self._request.infer(contiguous, share_inputs=True)
        except RuntimeError as error:
            raise ModelError(f'{self.path}: OpenVINO failed: {error}') from error
        return {spec.name: results[i] for i, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Give the memory back."""
        del self._request


def load(path: Path, *, device: str, threads: int) -> OpenVinoBackend:
    """
    Open an ONNX file in OpenVINO.

    :raises ModelError: the file is damaged, or holds what OpenVINO cannot do.
    """
    return OpenVinoBackend(path, threads=threads)


def _refuse_quantized_concat(graph: onnx.GraphProto, path: Path) -> None:
    """
    Refuse what OpenVINO (2026.4.1) computes wrongly without a word.

    A convolution over a concatenation that is quantized to int8 is off by half of its range.
    """
    joined = {node.output[0] for node in graph.node if node.op_type == 'Concat'}
    for node in graph.node:
        if node.op_type == 'QuantizeLinear' and node.input[0] in joined:
            raise ModelError(
                f'{path}: got {node.name or "QuantizeLinear"} after Concat {node.input[0]!r}, '
                'which OpenVINO computes wrongly; leave the layer after it in float, or take '
                'another device'
            )


def _spec(port: openvino.Output, name: str) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    return TensorSpec(name, shape)
