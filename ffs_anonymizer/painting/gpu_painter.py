"""Crop, generate and paste on the GPU: the frame goes up once, what is new comes down once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import time
from typing import Any

from ffs_anonymizer.backend.cuda import Gpu, Recorded, Shared
from ffs_anonymizer.backend.tensorrt.engine_cache import EngineCache, MissingError, name_of
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.painting.compiler import kernel_facts
from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.painting.job import beside, Job, pack, windows
import numpy as np
from numpy.typing import NDArray

_THREADS = 256
_PASTE_BLOCKS = 1024
_STATUS_BYTES = 4
_JOB_BYTES = 1 << 16
Enqueue = Callable[[Mapping[str, int]], None]


def painter_of(generator: Generator) -> GpuPainter | None:
    """
    Return the way through the GPU of a generator.

    None where it does not run on one, and where `build` found no compiler for the kernels, which
    the network's description says then.

    :raises ModelError: the kernels are not to be trusted, or the faces have another shape.
    """
    model, size_px = generator.model, generator.size_px
    place = model.on_gpu()
    if place is None or len(model.outputs) != 1:
        return None
    facts = kernel_facts(place.gpu.compute_capability)
    try:
        cubin, _ = EngineCache().load(name_of(facts, '.cubin'), facts)
    except MissingError:
        note = 'crops on the CPU: nvcc was not there when `build` ran'
        model.device = model.device.noted(note)
        return None
    for batch, shapes in place.output_shapes.items():
        got, expected = shapes['inpainted'], (batch, 3, size_px, size_px)
        if got != expected:
            raise ModelError(f'{model.path}: got faces of shape {got}, expected {expected}')
    model.device = model.device.noted('crops and pasting too')
    with place.gpu.current():
        return GpuPainter(generator, place.gpu, cubin, place.runs)


class GpuPainter:
    """
    Paint with the kernels and one generator.

    Where one batch is enough for a frame, the kernels and the engine between them are one CUDA
    graph. Memory grows with the frames and is then kept; what grows drops the graphs, since their
    addresses are fixed.

    :param generator: whose engine runs between the kernels.
    :param cubin: kernels.cu, compiled for this GPU.
    :param variants: by batch size, what puts one run of the generator on the stream.
    """

    def __init__(
        self, generator: Generator, gpu: Gpu, cubin: bytes, variants: Mapping[int, Enqueue]
    ) -> None:
        self._generator = generator
        self._gpu = gpu
        self._variants = dict(sorted(variants.items()))
        self._size_px = generator.size_px
        self._module = gpu.cuda.module_from_buffer(cubin)
        self._cut = self._module.get_function('ffs_cut')
        self._sharpen = self._module.get_function('ffs_sharpen')
        self._paste = self._module.get_function('ffs_paste')
        self._cut.prepare('PPiiPP')
        self._sharpen.prepare('PPiPP')
        self._paste.prepare('PPPPiP')
        self._shared: dict[str, Shared] = {}
        self._reserved: dict[str, tuple[Any, int]] = {}
        self._recorded: dict[int, Recorded] = {}
        # What the generator takes beside the pictures, and the bytes of a row of it
        self._beside = {
            spec.name: 4 * int(np.prod(spec.shape[1:]))
            for spec in generator.model.inputs
            if spec.name in ('latent', 'points')
        }

    def paint(
        self, images_bgr: Sequence[NDArray[np.uint8]], jobs: Sequence[Job]
    ) -> list[list[Patch]]:
        """
        Return the patches of each frame, feathers blended in as if all were pasted in order.

        :param images_bgr: (H, W, 3) uint8 each, only read.
        :param jobs: with crops of this painter's generator alone.
        :raises ModelError: the GPU fails, or a face is no picture.
        """
        return [
            self._patches(image_bgr, job) for image_bgr, job in zip(images_bgr, jobs, strict=True)
        ]

    def _patches(self, image_bgr: NDArray[np.uint8], job: Job) -> list[Patch]:
        start_s = time.perf_counter()
        with self._generator.model.lock():
            # The next call, perhaps of another thread, writes where these lie.
            shown = [window.copy() for window in self._windows(image_bgr, job)]
        self._generator.took(len(job.squares_xys_px), start_s)
        outers = job.outer_xyxy_px
        return [Patch(pixels, outer, outer) for pixels, outer in zip(shown, outers, strict=True)]

    def _windows(self, image_bgr: NDArray[np.uint8], job: Job) -> list[NDArray[np.uint8]]:
        """Return the new content of every outer rectangle; good until the next call."""
        height, width = image_bgr.shape[:2]
        numbers, pixels = pack(job, (width, height))
        with self._gpu.current():
            self._gpu.stream.synchronize()  # a frame that failed may still be under way
            self._put('frame', image_bgr.reshape(-1))
            self._put('job', numbers.view(np.uint8), at_least=_JOB_BYTES)
            self._put('pixels', pixels)
            out_bytes = _STATUS_BYTES + job.size_px * 3
            out = self._reserve('out', out_bytes)
            batches = self._batches(len(job.squares_xys_px))
            self._put_beside(job, sum(batches))
            self._paint(batches)
            out.download(out_bytes)
            self._gpu.stream.synchronize()
            if out.host[:_STATUS_BYTES].any():
                raise ModelError(f'{self._gpu.name}: got faces with values that are not finite')
        return windows(job, out.host[_STATUS_BYTES:out_bytes])

    def close(self) -> None:
        """Give the memory back."""
        with self._gpu.current():
            self._drop_graphs()
            for shared in self._shared.values():
                shared.close()
            for memory, _ in self._reserved.values():
                memory.free()
            self._shared, self._reserved = {}, {}

    def _batches(self, n: int) -> list[int]:
        """Return the sizes of the runs that take N crops; the last may have some to spare."""
        largest = max(self._variants)
        batches = [largest] * (n // largest)
        if n % largest or not n:
            batches.append(min(batch for batch in self._variants if batch >= n % largest))
        return batches

    def _put_beside(self, job: Job, rows: int) -> None:
        """Copy up which faces are drawn and where they go; zeros for the crops to spare."""
        every = np.ones(len(job.squares_xys_px), np.bool_)
        given = beside(job, every, self._size_px, self._generator.latent_length)
        for name in self._beside:
            padded = np.zeros((rows, *given[name].shape[1:]), np.float32)
            padded[: len(every)] = given[name]
            self._put(name, padded.reshape(-1).view(np.uint8))

    def _paint(self, batches: list[int]) -> None:
        """Put everything between the copies on the stream."""
        values = self._size_px**2
        self._reserve_device('condition', max(batches) * values * 12)
        self._reserve_device('mask', max(batches) * values * 4)
        self._reserve_device('faces', sum(batches) * values * 12)
        self._reserve_device('levels', sum(batches) * values * 3)
        if len(batches) > 1:
            self._enqueue(batches)
            return
        if batches[0] not in self._recorded:
            self._recorded[batches[0]] = Recorded(self._gpu, lambda: self._enqueue(batches))
        self._recorded[batches[0]].run()

    def _enqueue(self, batches: list[int]) -> None:
        stream, size = self._gpu.stream, self._size_px
        frame, job, pixels, out = (
            self._shared[name].pointer for name in ('frame', 'job', 'pixels', 'out')
        )
        condition, mask, faces, levels = (
            int(self._reserved[name][0]) for name in ('condition', 'mask', 'faces', 'levels')
        )
        block, blocks = (_THREADS, 1, 1), -(-size * size // _THREADS)
        first = 0
        for batch in batches:
            self._cut.prepared_async_call(
                (blocks, batch), block, stream, frame, job, first, size, condition, mask
            )
            inpainted = faces + first * 3 * size * size * 4
            buffers = {'condition': condition, 'mask': mask, 'inpainted': inpainted}
            for name, row_bytes in self._beside.items():
                buffers[name] = self._shared[name].pointer + first * row_bytes
            self._variants[batch](buffers)
            first += batch
        self._gpu.cuda.memset_d32_async(out, 0, 1, stream)
        self._sharpen.prepared_async_call(
            (blocks, first), block, stream, faces, job, size, levels, out
        )
        self._paste.prepared_async_call(
            (_PASTE_BLOCKS, 1),
            block,
            stream,
            frame,
            pixels,
            levels,
            job,
            size,
            out + _STATUS_BYTES,
        )

    def _put(self, name: str, data: NDArray[np.uint8], *, at_least: int = 1) -> None:
        shared = self._reserve(name, max(data.size, at_least))
        shared.host[: data.size] = data
        shared.upload(data.size)

    def _reserve(self, name: str, size: int) -> Shared:
        shared = self._shared.get(name)
        if shared is None or len(shared.host) < size:
            self._drop_graphs()
            if shared is not None:
                del self._shared[name]
                shared.close()
            self._shared[name] = shared = Shared(self._gpu, _rounded_up(size))
        return shared

    def _reserve_device(self, name: str, size: int) -> None:
        memory, capacity = self._reserved.get(name, (None, 0))
        if capacity < size:
            self._drop_graphs()
            if memory is not None:
                del self._reserved[name]
                memory.free()
            self._reserved[name] = self._gpu.cuda.mem_alloc(size), size

    def _drop_graphs(self) -> None:
        for recorded in self._recorded.values():
            recorded.close()
        self._recorded = {}


def _rounded_up(size: int) -> int:
    """Return the next power of two, so that growing ends soon."""
    return 1 << (size - 1).bit_length()
