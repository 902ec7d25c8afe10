"""From kernels.cu to what a GPU executes, by the CUDA toolkit of the machine itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
import shutil
import subprocess
import tempfile

from ffs_anonymizer.errors import ModelError

FOLDER = Path(__file__).resolve().parent
SOURCES = ('kernels.cu', 'kernels.h')


def find_nvcc() -> Path | None:
    """Return CUDA's compiler, None where there is no toolkit."""
    homes = [os.environ[name] for name in ('CUDA_HOME', 'CUDA_PATH') if name in os.environ]
    found = [shutil.which('nvcc', path=f'{home}/bin') for home in [*homes, '/usr/local/cuda']]
    path = next(
        filter(None, [*found[: len(homes)], shutil.which('nvcc'), *found[len(homes) :]]), ''
    )
    return Path(path) if path else None


def kernel_facts(compute_capability: str) -> dict[str, str]:
    """Return the facts by which the cache knows the compiled kernels."""
    return {'source_sha256': source_sha256(), 'compute_capability': compute_capability}


def source_sha256() -> str:
    """
    Return the hash of all that the kernels are made from.

    :raises ModelError: the package was installed without them.
    """
    digest = hashlib.sha256()
    try:
        for name in SOURCES:
            digest.update((FOLDER / name).read_bytes())
    except OSError as error:
        raise ModelError(f'the kernels are missing: {error}; install the package again') from error
    return digest.hexdigest()


def compile_kernels(compute_capability: str, nvcc: Path) -> bytes:
    """
    Return the kernels as a cubin.

    :param compute_capability: of the GPU, for example 8.7.
    :raises ModelError: the compiler fails; the text is its own.
    """
    arch = f'sm_{compute_capability.replace(".", "")}'
    with tempfile.TemporaryDirectory(prefix='ffs_kernels_') as folder:
        cubin = Path(folder) / 'kernels.cubin'
        # No contraction into fused multiply-adds: the host's build of the header has none either.
        command = [nvcc, '-cubin', f'-arch={arch}', '-O3', '-fmad=false', '-o', cubin]
        result = subprocess.run(
            [*map(str, command), str(FOLDER / SOURCES[0])],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise ModelError(f'{nvcc}: cannot compile the kernels for {arch}: {result.stderr}')
        return cubin.read_bytes()
