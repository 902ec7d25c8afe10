"""ONNX Runtime, on the CPU or through CUDA."""

from __future__ import annotations

import os
from pathlib import Path

from ffs_anonymizer.backend import Backend, Tensors, TensorSpec
from ffs_anonymizer.backend.onnx_file import cleaned
from ffs_anonymizer.errors import ModelError
import numpy as np
from numpy.typing import NDArray

try:
    import onnxruntime
except ImportError as error:
    raise ModelError(
        f'cannot import {error.name}: install it with `pip install onnxruntime`'
    ) from error

_ERRORS_ONLY = 3


class OrtBackend(Backend):
    """Run a network in ONNX Runtime."""

    name = 'onnxruntime'
    concurrent = True

    def __init__(self, path: Path, *, device: str, threads: int, callers: int) -> None:
        self.path = path
        provider, self.device = _choose_provider(device)
        options = onnxruntime.SessionOptions()
        cores = threads or len(os.sched_getaffinity(0))
        # Each caller works itself; the session's own threads help all of them.
        options.intra_op_num_threads = max(1, cores - callers + 1)
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin while they wait take the cores from decoding and encoding.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            self._session = onnxruntime.InferenceSession(
                cleaned(path), options, providers=[provider]
            )
        except ModelError:
            raise
        except Exception as error:  # the library's exceptions share no base of their own
            raise ModelError(f'{path}: ONNX Runtime cannot load it: {error}') from error
        if provider not in self._session.get_providers():
            raise ModelError(f'{path}: {provider} was asked for but does not start here')
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

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


def load(path: Path, *, device: str, threads: int, callers: int) -> OrtBackend:
    """
    Open an ONNX file in ONNX Runtime.

    :raises ModelError: the file is damaged, or the device is not to be had.
    """
    return OrtBackend(path, device=device, threads=threads, callers=callers)


def _choose_provider(device: str) -> tuple[str, str]:
    cuda = 'CUDAExecutionProvider'
    available = cuda in onnxruntime.get_available_providers()
    if device == 'cuda' and not available:
        raise ModelError(
            f'device cuda: got ONNX Runtime {onnxruntime.__version__} without CUDA, '
            'expected the package onnxruntime-gpu'
        )
    if available and device in ('auto', 'cuda'):
        return cuda, 'cuda (asked for)' if device == 'cuda' else 'cuda (found)'
    return 'CPUExecutionProvider', 'cpu (asked for)' if device == 'cpu' else 'cpu (no GPU found)'


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(value.name, shape)
