"""What each network costs: parameters and multiply-accumulates a face, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import functools
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
import time

from ffs_anonymizer.backend.onnx_file import read
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import ARCHITECTURES, make_generator
from ffs_anonymizer.training.generator.onnx_file import probe, write_onnx
import torch
from torch import nn

SHIPPED = ('ffs-128', 'ffs-128-lean', 'ffs-128-small')
BASELINE = 'deep-privacy2-fdf128'


@dataclass(frozen=True)
class Cost:
    """
    Say what a network costs.

    :param name: of the network.
    :param size_px: side of the crop that it was counted at.
    :param parameters: how many it has.
    :param macs: multiply-accumulates of the convolutions and matrix products for one face.
    """

    name: str
    size_px: int
    parameters: int
    macs: int


def measure(network: nn.Module, size_px: int) -> tuple[int, int]:
    """
    Return the parameters of a network, and its multiply-accumulates for one face.

    :param network: takes condition and mask.
    :param size_px: S.
    """
    with torch.no_grad():
        macs = 0

        def count(module: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal macs
            if isinstance(module, nn.Conv2d):
                macs += output[0].numel() * module.weight[0].numel()
            elif isinstance(module, nn.Linear):
                macs += output[0].numel() * module.in_features

        hooks = [
            module.register_forward_hook(count)
            for module in network.modules()
            if isinstance(module, (nn.Conv2d, nn.Linear))
        ]
        was_training = network.training
        try:
            network.eval()(torch.zeros(1, 3, size_px, size_px), torch.ones(1, 1, size_px, size_px))
        finally:
            for hook in hooks:
                hook.remove()
            network.train(was_training)
        return sum(p.numel() for p in network.parameters()), macs


def costs() -> list[Cost]:
    """Return what each network of the table costs, the baseline last."""
    makers: dict[str, Callable[[], nn.Module]] = {
        name: lambda name=name: make_generator(name)  # type: ignore[misc]
        for name in ARCHITECTURES
    }
    makers[BASELINE] = DeepPrivacyGenerator
    sizes = {name: 64 if '-64' in name else 128 for name in makers}
    return [
        Cost(name, sizes[name], *measure(make(), sizes[name])) for name, make in makers.items()
    ]


def to_markdown(rows: list[Cost]) -> str:
    """
    Return the table in Markdown.

    :param rows: what costs() returned.
    """
    lines = ['| network | crop | parameters | GMAC a face |', '|---|---:|---:|---:|']
    lines += [
        f'| {row.name} | {row.size_px} px | {row.parameters / 1e6:.2f} M | {row.macs / 1e9:.3f} |'
        for row in rows
    ]
    return '\n'.join(lines) + '\n'


@dataclass(frozen=True)
class Speed:
    """
    Say how fast a network is.

    :param name: of the network.
    :param runtime: what ran it.
    :param batch: faces at once.
    :param faces_s: faces a second, the median of the rounds.
    """

    name: str
    runtime: str
    batch: int
    faces_s: float


def speeds(threads: int = 0, *, batch: int = 4, rounds: int = 5) -> list[Speed]:
    """
    Measure networks on the CPU in turn: ours folded in ONNX Runtime, the baseline in torch.

    :param threads: of each runtime; 0 as torch chooses.
    :param batch: faces at once.
    :param rounds: each network runs once in each round, so that a busy machine slows all alike.
    """
    if threads:
        torch.set_num_threads(threads)
    condition, mask = probe(128, batch)
    feeds = {'condition': condition.numpy(), 'mask': mask.numpy()}
    runs: dict[str, tuple[str, Callable[[], object]]] = {}
    with TemporaryDirectory() as folder:
        for name in SHIPPED:
            path = Path(folder) / f'{name}.onnx'
            write_onnx(fold(make_generator(name)), path, 128)
            session = open_session(read(path), threads=torch.get_num_threads())
            ours = functools.partial(session.run, None, feeds)
            runs[name] = ('ONNX Runtime', ours)
    baseline = DeepPrivacyGenerator().eval()
    runs[BASELINE] = ('torch', lambda: baseline(condition, mask))
    took: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for i in range(rounds + 1):
            for name, (_, run) in runs.items():
                started = time.perf_counter()
                run()
                if i:
                    took[name].append(time.perf_counter() - started)
    return [
        Speed(name, runs[name][0], batch, batch / median(seconds))
        for name, seconds in took.items()
    ]


def speeds_to_markdown(rows: list[Speed]) -> str:
    """
    Return the speeds in Markdown, each beside the baseline's.

    :param rows: what speeds() returned, the baseline last.
    """
    lines = [
        '| network | runtime | batch | faces/s | times the baseline |',
        '|---|---|---:|---:|---:|',
    ]
    lines += [
        f'| {row.name} | {row.runtime} | {row.batch} | {row.faces_s:.1f} | '
        f'{row.faces_s / rows[-1].faces_s:.1f} |'
        for row in rows
    ]
    return '\n'.join(lines) + '\n'
