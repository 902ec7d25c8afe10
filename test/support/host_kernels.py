"""The kernels of the GPU, compiled for this machine's CPU, and a painter made of them."""

from __future__ import annotations

import ctypes
from pathlib import Path
import shutil
import subprocess

from ffs_anonymizer.backend import Backend
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.painting.compiler import FOLDER
from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.job import beside, Job, pack, windows
import numpy as np

GXX = shutil.which('g++')


def compiled_for_the_host(folder: Path) -> ctypes.CDLL:
    """Undefined behaviour, an overflow above all, ends the process."""
    command = [GXX, '-std=c++14', '-O2', '-ffp-contract=off', '-Wall', '-Wextra', '-Werror']
    command += ['-fsanitize=undefined', '-fsanitize-undefined-trap-on-error', '-shared', '-fPIC']
    library = folder / 'kernels.so'
    source = str(FOLDER / 'kernels.cu')
    subprocess.run([*command, '-x', 'c++', source, '-o', str(library)], check=True)
    return ctypes.CDLL(str(library))


def _address(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def cut(kernels, image, job: Job, *, size_px: int, batch: int | None = None, first: int = 0):
    """Return condition and mask of a batch of crops."""
    numbers, _ = pack(job, image.shape[1::-1])
    n = len(job.squares_xys_px) if batch is None else batch
    condition = np.full((n, 3, size_px, size_px), np.nan, np.float32)
    mask = np.full((n, 1, size_px, size_px), np.nan, np.float32)
    arguments = (_address(image), _address(numbers), first, n, size_px)
    kernels.ffs_cut(*arguments, _address(condition), _address(mask))
    return condition, mask


def sharpen(kernels, image, faces, job: Job):
    """Return the levels of faces as they are pasted, and whether all were pictures."""
    numbers, _ = pack(job, image.shape[1::-1])
    levels, told = np.zeros(faces.shape, np.uint8), np.zeros(1, np.int32)
    arguments = (_address(faces), _address(numbers), faces.shape[-1])
    kernels.ffs_sharpen(*arguments, _address(levels), _address(told))
    return levels, not told.any()


def paste(kernels, image, faces, job: Job):
    """Return the windows, and whether all faces were pictures."""
    numbers, pixels = pack(job, image.shape[1::-1])
    levels, good = sharpen(kernels, image, faces, job)
    out = np.zeros(job.size_px * 3, np.uint8)
    arguments = (_address(image), _address(pixels), _address(levels), _address(numbers))
    kernels.ffs_paste(*arguments, faces.shape[-1], _address(out))
    return windows(job, out), good


class KernelPainter:
    """What GpuPainter does, with any back end between the kernels."""

    def __init__(self, kernels: ctypes.CDLL, model: Backend) -> None:
        self.kernels, self.model = kernels, model
        self.size_px = model.inputs[0].shape[-1]
        self.jobs: list[Job] = []

    def paint(self, images_bgr, jobs):
        return [self._patches(*one) for one in zip(images_bgr, jobs, strict=True)]

    def close(self):
        pass

    def _patches(self, image_bgr, job: Job):
        self.jobs.append(job)
        image_bgr = np.ascontiguousarray(image_bgr)
        condition, mask = cut(self.kernels, image_bgr, job, size_px=self.size_px)
        feeds = {'condition': condition, 'mask': mask}
        lengths = {spec.name: spec.shape[-1] for spec in self.model.inputs}
        every = np.ones(len(condition), np.bool_)
        given = beside(job, every, self.size_px, lengths.get('latent', 0))
        feeds.update({name: given[name] for name in given.keys() & lengths.keys()})
        faces = self.model.infer(feeds)['inpainted']
        if faces.shape != condition.shape:
            raise ModelError(f'{self.model.path}: got faces of shape {faces.shape}')
        parts, good = paste(self.kernels, image_bgr, np.ascontiguousarray(faces), job)
        if not good:
            raise ModelError('got faces with values that are not finite')
        outers = zip(parts, job.outer_xyxy_px, strict=True)
        return [Patch(part.copy(), outer, outer) for part, outer in outers]
