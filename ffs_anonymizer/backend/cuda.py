"""The GPU through pycuda: its primary context, memory that both sides see, and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import ctypes
from dataclasses import dataclass
import importlib
from typing import Any

from ffs_anonymizer.errors import ModelError
import numpy as np
from numpy.typing import NDArray

_LIBCUDA = 'libcuda.so.1'
_CAPTURE_MODE_THREAD_LOCAL = 1


def missing_gpu() -> str:
    """Return why no GPU can be used; empty where one can. Nothing is started by asking."""
    try:
        library = ctypes.CDLL(_LIBCUDA)
    except OSError:
        return 'no NVIDIA driver'
    count = ctypes.c_int(0)
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 'the NVIDIA driver finds no GPU'
    return '' if count.value else 'the NVIDIA driver finds no GPU'


def import_pycuda() -> Any:
    """
    Return pycuda's driver module.

    :raises ModelError: there is none.
    """
    try:
        return importlib.import_module('pycuda.driver')
    except ImportError as error:
        raise ModelError(
            f'cannot import pycuda: {error}; install it with `pip install pycuda`, which needs '
            'the CUDA toolkit'
        ) from error


class Gpu:
    """
    Hold the first GPU, its primary context and one stream.

    TensorRT and torch use the primary context too. It is made current only inside `current`, so
    any thread may call, one at a time.

    :param name: as the driver tells it.
    :param compute_capability: for example 8.7.
    :param integrated: whether the CPU's memory is its own, as on Jetson.
    :param graphs: whether repeated work is recorded; off, every call goes one by one.
    :raises ModelError: there is no GPU, or no pycuda.
    """

    def __init__(self) -> None:
        reason = missing_gpu()
        if reason:
            raise ModelError(f'device tensorrt: got {reason}, expected an NVIDIA GPU')
        cuda = self.cuda = import_pycuda()
        try:
            cuda.init()
            device = cuda.Device(0)
            self.name: str = device.name()
            self.compute_capability = '.'.join(map(str, device.compute_capability()))
            self.integrated = bool(device.get_attribute(cuda.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()
        except cuda.Error as error:
            raise ModelError(f'device tensorrt: the GPU does not start: {error}') from error
        with self.current():
            self.stream = cuda.Stream()
        self._library = ctypes.CDLL(_LIBCUDA)
        self.graphs = True

    @contextmanager
    def current(self) -> Iterator[None]:
        """
        Let this thread use the GPU, and turn what fails on it into the one error of models.

        :raises ModelError: out of memory, or the context is lost: then all later calls fail too.
        """
        cuda = self.cuda
        try:
            self._context.push()
            try:
                yield
            finally:
                cuda.Context.pop()
        except cuda.MemoryError as error:
            raise ModelError(
                f'{self.name}: out of GPU memory ({error}); build with a smaller --batch or --size'
            ) from error
        except cuda.Error as error:
            raise ModelError(
                f'{self.name}: CUDA failed: {error}; there is no image until the GPU works again, '
                'restart the process'
            ) from error

    def capture(self, work: Callable[[], None]) -> Graph:
        """
        Record what some calls put on the stream, to be launched as one.

        :param work: has run before, so that nothing is set up for the first time within it.
        :raises ModelError: something in it cannot be recorded.
        """
        stream = ctypes.c_void_p(self.stream.handle)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call('cuStreamBeginCapture_v2', stream, ctypes.c_int(_CAPTURE_MODE_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            self._library.cuStreamEndCapture(stream, ctypes.byref(graph))
            raise
        self._call('cuStreamEndCapture', stream, ctypes.byref(graph))
        try:
            self._call(
                'cuGraphInstantiateWithFlags', ctypes.byref(executable), graph, ctypes.c_uint64(0)
            )
        finally:
            self._library.cuGraphDestroy(graph)
        return Graph(self, executable)

    def close(self) -> None:
        """Let go of the context; all that lives in it must have been given back."""
        with self.current():
            del self.stream
        # Left to its destructor, pycuda takes a primary context for one of its own and complains.
        self._context.push()
        self._context.detach()

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise ModelError(f'{self.name}: {name} failed with CUDA error {status}')


@dataclass(frozen=True)
class OnGpu:
    """
    Say how a network runs within the GPU's own memory.

    :param runs: by batch size, what puts one run on the stream, told the address of every input
        and output.
    :param output_shapes: by batch size, of each output.
    """

    gpu: Gpu
    runs: Mapping[int, Callable[[Mapping[str, int]], None]]
    output_shapes: Mapping[int, Mapping[str, tuple[int, ...]]]


class Graph:
    """
    Hold recorded work on fixed addresses.

    :param executable: CUgraphExec.
    """

    def __init__(self, gpu: Gpu, executable: ctypes.c_void_p) -> None:
        self._gpu = gpu
        self._executable = executable

    def launch(self) -> None:
        """
        Put all of it on the stream.

        :raises ModelError: CUDA refuses.
        """
        stream = ctypes.c_void_p(self._gpu.stream.handle)
        self._gpu._call('cuGraphLaunch', self._executable, stream)

    def close(self) -> None:
        """Give it back."""
        self._gpu._library.cuGraphExecDestroy(self._executable)


class Recorded:
    """
    Put the same work on the stream again and again: the first time plainly, then as one graph.

    What TensorRT sets up in a first run cannot be recorded, and some engines not at all; those
    stay plain.

    :param work: always on the same addresses.
    :param why_plain: why it cannot be recorded; empty where it can.
    """

    def __init__(self, gpu: Gpu, work: Callable[[], None]) -> None:
        self._gpu = gpu
        self._work = work
        self._graph: Graph | None = None
        self.why_plain = ''

    def run(self) -> None:
        """
        Put it on the stream.

        :raises ModelError: CUDA or TensorRT refuses.
        """
        if self._graph is not None and self._gpu.graphs:
            self._graph.launch()
            return
        self._work()
        if self._graph is None and self._gpu.graphs and not self.why_plain:
            self._gpu.stream.synchronize()
            try:
                self._graph = self._gpu.capture(self._work)
            except (ModelError, self._gpu.cuda.Error) as error:
                self.why_plain = str(error)

    def close(self) -> None:
        """Give the graph back."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None


class Shared:
    """
    Hold memory that the host fills or reads, and the GPU's view of it.

    Where the GPU is integrated both are the same memory, and nothing is ever copied; elsewhere the
    host's side is pinned, and `upload` and `download` copy on the stream.

    :param host: (capacity,) uint8.
    :param pointer: the GPU's address.
    """

    def __init__(self, gpu: Gpu, capacity: int) -> None:
        self._gpu = gpu
        cuda = gpu.cuda
        flags = cuda.host_alloc_flags.DEVICEMAP if gpu.integrated else 0
        self.host: NDArray[np.uint8] = cuda.pagelocked_empty(capacity, np.uint8, mem_flags=flags)
        self.host[:] = 0
        self._base: Any = self.host.base
        self._device: Any = None
        if gpu.integrated:
            self.pointer = int(self._base.get_device_pointer())
        else:
            self._device = cuda.mem_alloc(capacity)
            self.pointer = int(self._device)

    def upload(self, size: int) -> None:
        """Let the GPU see the first bytes."""
        if self._device is not None and size:
            self._gpu.cuda.memcpy_htod_async(self.pointer, self.host[:size], self._gpu.stream)

    def download(self, size: int) -> None:
        """Let the host see the first bytes, once the stream is done."""
        if self._device is not None and size:
            self._gpu.cuda.memcpy_dtoh_async(self.host[:size], self.pointer, self._gpu.stream)

    def close(self) -> None:
        """Give it back."""
        if self._device is not None:
            self._device.free()
        self._base.free()
