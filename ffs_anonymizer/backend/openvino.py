"""OpenVINO, on the CPU: an extra for processors that compute in bfloat16 or INT8."""

from __future__ import annotations

from ffs_anonymizer.backend import Backend, multiplies_bytes, ort, Tensors, TensorSpec
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.backend.onnx_file import cleaned, has_integers
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import is_generator
from ffs_anonymizer.models.model_file import ModelFile
import numpy as np
from numpy.typing import NDArray

try:
    import openvino
except ImportError as error:
    raise ModelError(
        f'cannot import {error.name}: install it with `pip install openvino`'
    ) from error

# Sizes for axes that are free, and the mean difference, in standard deviations of an output, that
# other rounding of a quantized network may make.
_FREE = (1, 3, 128, 128)
_LARGEST_ERROR = 0.04


class OpenVinoBackend(Backend):
    """
    Run a network in OpenVINO.

    A generator computes in bfloat16 where the processor does; a detector never does, since a face
    that it misses stays visible.
    """

    name = 'openvino'

    def __init__(self, file: ModelFile, *, threads: int) -> None:
        path = self.path = file.path
        network = cleaned(file)
        graph = network.graph
        # Like ONNX Runtime's, its 8-bit kernels saturate there: such networks run in FP32 instead.
        widened = has_integers(network) and not multiplies_bytes()
        core = openvino.Core()
        try:
            model = core.read_model(network.SerializeToString(), b'')
            names = {port.any_name for port in model.inputs}
            able = 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
            precision = 'bf16' if able and is_generator(names) else 'f32'
            options = {
                'PERFORMANCE_HINT': 'LATENCY',
                'INFERENCE_NUM_THREADS': threads or cores(),
                'INFERENCE_PRECISION_HINT': precision,
            }
            if widened:
                options['LP_TRANSFORMS_MODE'] = 'NO'
            compiled = core.compile_model(model, 'CPU', options)
        except RuntimeError as error:
            raise ModelError(f'{path}: OpenVINO cannot load it: {error}') from error
        self.device = Device('cpu', notes=(precision, 'asked for'))
        if widened:
            self.device = self.device.noted('8 bits in FP32: the processor has no VNNI')
        self.inputs = tuple(_spec(port, port.any_name) for port in compiled.inputs)
        # Of a tensor that goes by several names OpenVINO tells any; the file knows the right one.
        self.outputs = tuple(
            _spec(port, value.name)
            for port, value in zip(compiled.outputs, graph.output, strict=True)
        )
        self._request = compiled.create_infer_request()
        if any(node.op_type == 'QuantizeLinear' for node in graph.node):
            self._compare_with_reference(file, threads)

    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the request."""
        contiguous = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        try:
            results = self._request.infer(contiguous, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise ModelError(f'{self.path}: OpenVINO failed: {error}') from error
        return {spec.name: results[i] for i, spec in enumerate(self.outputs)}

    def _compare_with_reference(self, file: ModelFile, threads: int) -> None:
        """
        Run a quantized network on noise, here and in ONNX Runtime.

        OpenVINO 2026.4.1 computes some of them wrongly without a word: a convolution over a
        concatenation that is quantized to int8 is off by up to half of its range.
        """
        noise = np.random.default_rng(0)
        feeds = {}
        for spec in self.inputs:
            sizes = zip(spec.shape, _FREE, strict=False)
            shape = [size if size > 0 else free for size, free in sizes]
            feeds[spec.name] = noise.uniform(-1, 1, shape).astype(np.float32)
        reference = ort.load(file, device='cpu', threads=threads, concurrency=1)
        want, got = reference.infer(feeds), self.infer(feeds)
        reference.close()
        for name, values in want.items():
            error = float(np.abs(got[name] - values).mean() / max(float(values.std()), 1e-6))
            if not error <= _LARGEST_ERROR:
                raise ModelError(
                    f'{self.path}: got {name!r} from OpenVINO {openvino.__version__} that differs '
                    f'by {error:.1%} from ONNX Runtime, expected at most {_LARGEST_ERROR:.0%}: '
                    'leave the layers that join tensors in float, or take another device'
                )

    def close(self) -> None:
        """Give the memory back."""
        del self._request


def load(file: ModelFile, *, device: str, threads: int, concurrency: int) -> OpenVinoBackend:
    """
    Open an ONNX file in OpenVINO.

    :raises ModelError: the file is damaged, or holds what OpenVINO cannot do.
    """
    return OpenVinoBackend(file, threads=threads)


def _spec(port: openvino.Output, name: str) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    return TensorSpec(name, shape)
