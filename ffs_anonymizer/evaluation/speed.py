"""Networks made ready for a stopwatch: the baseline, and ours with random weights."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path

from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import make_network
from ffs_anonymizer.training.generator.onnx_file import probe, write_onnx
import numpy as np
from numpy.typing import NDArray
import torch


def baseline(
    condition: NDArray[np.float32], mask: NDArray[np.float32], threads: int
) -> Callable[[], object]:
    """
    Return a call that runs DeepPrivacy2's generator once, on the CPU in FP32.

    :param condition: (N, 3, 128, 128).
    :param mask: (N, 1, 128, 128).
    :param threads: 0 means one a core.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = DeepPrivacyGenerator().eval()
    inputs = torch.from_numpy(condition), torch.from_numpy(mask)

    def run() -> object:
        with torch.inference_mode():
            return network(*inputs)

    return run


def write_random(name: str, path: Path) -> int:
    """
    Write a generator with random weights as FP32 ONNX and return the side of its input.

    :param name: a key of ARCHITECTURES.
    """
    torch.manual_seed(0)
    network = make_network(name).generator
    size_px = 128
    with torch.no_grad():
        network.train()(*probe(size_px).values())
    write_onnx(fold(network.eval()), path, probe(size_px, 2), 'inpainted')
    return size_px
