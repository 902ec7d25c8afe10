"""ONNX Runtime, on the CPU or through CUDA."""

from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.backend import Backend, multiplies_bytes, Tensors, TensorSpec
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.backend.onnx_file import (
    cleaned,
    drop_weight_signs,
    has_integers,
    has_signed_activations,
)
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.model_file import ModelFile
import numpy as np
from numpy.typing import NDArray

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise ModelError(
        f'cannot import {error.name}: install it with `pip install onnx onnxruntime`'
    ) from error

CPU = 'CPUExecutionProvider'
_CUDA = 'CUDAExecutionProvider'
_ERRORS_ONLY = 3


class OrtBackend(Backend):
    """Run a network in ONNX Runtime."""

    name = 'onnxruntime'
    concurrent = True

    def __init__(self, file: ModelFile, *, device: str, threads: int, concurrency: int) -> None:
        path = self.path = file.path
        provider, self.device = _choose_provider(device)
        model = cleaned(file)
        if has_integers(model) and not multiplies_bytes():
            self.device = self.device.noted('8 bits in wider products: the processor has no VNNI')
        most = threads or cores()
        try:
            # Each thread that calls works itself; the session's own threads help all of them.
            threads = max(1, most - concurrency + 1)
            self._session = open_session(model, threads=threads, provider=provider)
        except ModelError as error:
            raise ModelError(f'{path}: {error}') from error
        if provider not in self._session.get_providers():
            raise ModelError(f'{path}: {provider} was asked for but does not start here')
        self.inputs, self.outputs = specs_of(self._session)

    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the session."""
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # the library's exceptions share no base of their own
            raise ModelError(f'{self.path}: ONNX Runtime failed: {error}') from error

    def close(self) -> None:
        """End the session."""
        del self._session


def load(file: ModelFile, *, device: str, threads: int, concurrency: int) -> OrtBackend:
    """
    Open an ONNX file in ONNX Runtime.

    :raises ModelError: the file is damaged, or the device is not to be had.
    """
    return OrtBackend(file, device=device, threads=threads, concurrency=concurrency)


def _choose_provider(device: str) -> tuple[str, Device]:
    available = _CUDA in onnxruntime.get_available_providers()
    if device == 'cuda' and not available:
        raise ModelError(
            f'device cuda: got ONNX Runtime {onnxruntime.__version__} without CUDA, '
            'expected the package onnxruntime-gpu'
        )
    if available and device in ('auto', 'cuda'):
        note = 'asked for' if device == 'cuda' else 'found'
        return _CUDA, Device('cuda', notes=(note,))
    return CPU, Device('cpu', notes=('asked for' if device == 'cpu' else 'no GPU found',))


def open_session(
    model: onnx.ModelProto,
    *,
    threads: int = 0,
    provider: str = CPU,
    optimized: bool = True,
    folded_into: Path | None = None,
) -> onnxruntime.InferenceSession:
    """
    Open a session of ONNX Runtime that multiplies 8-bit numbers exactly on every processor.

    Without VNNI the kernels for activations without and weights with sign add two products in 16
    bits, where they saturate. ONNX Runtime's option changes the weights of most operators; those
    with the channels last it forgets, and over activations with sign it must stay off.

    :param model: not changed.
    :param threads: 0 means one a core.
    :param optimized: False runs the nodes one by one as they stand.
    :param folded_into: write the network there, its constants folded and nothing else changed.
    :raises ModelError: ONNX Runtime refuses the network.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait take the cores from decoding and encoding.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    levels = onnxruntime.GraphOptimizationLevel
    if not optimized:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    if folded_into is not None:
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded_into)
    if has_integers(model) and not multiplies_bytes() and not has_signed_activations(model):
        exact = onnx.ModelProto()
        exact.CopyFrom(model)
        drop_weight_signs(exact)
        model = exact
        options.add_session_config_entry('session.x64quantprecision', '1')
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[provider]
        )
    except Exception as error:  # the library's exceptions share no base of their own
        raise ModelError(f'ONNX Runtime cannot load it: {error}') from error


def specs_of(
    session: onnxruntime.InferenceSession,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return what a session takes and what it returns."""
    return tuple(map(_spec, session.get_inputs())), tuple(map(_spec, session.get_outputs()))


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(value.name, shape)
