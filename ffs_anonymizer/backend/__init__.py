"""The seam between the stages and the libraries that run a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
import importlib
from pathlib import Path
import threading
from typing import TYPE_CHECKING

from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.cores import features
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import Manifest
from ffs_anonymizer.models.model_file import ModelFile, read_model
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ffs_anonymizer.backend.cuda import OnGpu

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TensorSpec:
    """
    Describe an input or an output of a network.

    :param shape: one number an axis, -1 where any size goes.
    """

    name: str
    shape: tuple[int, ...]

    def check(self, tensor: NDArray[np.float32], *, of: str) -> None:
        """
        Compare a tensor with the description.

        :raises ModelError: dtype, number of axes or a fixed size differs.
        """
        fits = tensor.ndim == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != np.float32:
            raise ModelError(
                f'{of}: {self.name!r} got {tensor.dtype} {tensor.shape}, '
                f'expected float32 {self.shape}'
            )


class Backend(ABC):
    """
    Run one network on one device.

    A child fills in the attributes and `infer_impl`; the checks stand here, once for all of them.

    :param name: the library, as `--device` and the diagnostics show it.
    :param device: where it computes and why that one was taken.
    :param sha256: of the file's content as it was loaded.
    :param manifest: of the file; None where there is none.
    :param concurrent: whether several threads may run it at once.
    """

    name: str
    concurrent: bool = False
    device: Device
    path: Path
    sha256: str = ''
    manifest: Manifest | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    _lock: AbstractContextManager[object]

    def __new__(cls, *_: object, **__: object) -> Backend:
        """Make the lock here, where no child can forget it."""
        backend = super().__new__(cls)
        backend._lock = threading.RLock()
        return backend

    def infer(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """
        Run the network once; threads take turns where the library wants it.

        :param feeds: a float32 array for every input, by name.
        :returns: a float32 array for every output, by name.
        :raises ModelError: inputs or outputs do not fit their description, or the library failed.
        """
        if set(feeds) != {spec.name for spec in self.inputs}:
            raise ModelError(
                f'{self.path}: got the inputs {sorted(feeds)}, '
                f'expected {sorted(spec.name for spec in self.inputs)}'
            )
        for spec in self.inputs:
            spec.check(feeds[spec.name], of=str(self.path))
        with self.lock():
            results = self.infer_impl(feeds)
        for spec in self.outputs:
            spec.check(results[spec.name], of=str(self.path))
        return results

    @abstractmethod
    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the network; the feeds are checked already."""

    def on_gpu(self) -> OnGpu | None:
        """Return how to run it within the GPU's own memory, where it does run there."""
        return None

    def lock(self) -> AbstractContextManager[object]:
        """Return what a thread holds while it uses the network's memory; the same for all."""
        return nullcontext() if self.concurrent else self._lock

    def close(self) -> None:  # noqa: B027
        """Give back the device's memory; the object is of no use afterwards."""


# What each word of the setting `device` means: the module that imports the library.
BACKENDS = {
    'cpu': 'ffs_anonymizer.backend.ort',
    'cuda': 'ffs_anonymizer.backend.ort',
    'tensorrt': 'ffs_anonymizer.backend.tensorrt.runner',
    'openvino': 'ffs_anonymizer.backend.openvino',
}


_VNNI = ('avx512_vnni', 'avx_vnni')


def multiplies_bytes(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """
    Tell whether the processor has x86's products of 8-bit numbers that add up in 32 bits (VNNI).

    Without them sums of two products saturate at 16 bits, so that a quantized network computes
    something else. Arm was not measured, and counts as unable.
    """
    return not features(cpuinfo).isdisjoint(_VNNI)


def gains_by_bytes(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """
    Tell whether a network of integers with the channels last is the faster one here.

    On x86 it is with AVX2 alone, too, exactly computed (medians of 12 by turns, one thread, 1 and
    4 faces: 9.0 and 8.2 ms a face, in FP32 15.6 and 15.0). Arm was not measured: counts as not.
    """
    return not features(cpuinfo).isdisjoint({'avx2', *_VNNI})


def open_model(
    path: Path, *, device: str = 'auto', threads: int = 0, concurrency: int = 1
) -> Backend:
    """
    Load an ONNX network into a back end.

    :param path: the ONNX file; it is read once, here.
    :param device: `auto` takes TensorRT where an engine for this file lies ready, then CUDA, then
        the CPU, and says so; any other word takes that or raises.
    :param threads: CPU threads; 0 means one a core.
    :param concurrency: threads that will run it at once; they count among the CPU threads.
    :raises ModelError: the file, the library or the device is missing, the file is damaged, or its
        manifest is of another file.
    """
    file = read_model(path)
    backend = _opened(file, device, threads, concurrency)
    backend.sha256, backend.manifest = file.sha256, file.manifest
    return backend


def _opened(file: ModelFile, device: str, threads: int, concurrency: int) -> Backend:
    reason = ''
    if device == 'auto':
        engine = importlib.import_module(BACKENDS['tensorrt']).load_if_built(file)
        if isinstance(engine, Backend):
            return engine
        reason = f'not tensorrt: {engine}'
    elif device not in BACKENDS:
        raise ModelError(f'device {device!r} is not built into this version; got {file.path}')
    module = importlib.import_module(BACKENDS['cuda' if reason else device])
    backend: Backend = module.load(file, device=device, threads=threads, concurrency=concurrency)
    if reason:
        backend.device = backend.device.noted(reason)
    return backend
