"""What each network costs: parameters and multiply-accumulates a face, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
from ffs_anonymizer.training.generator.network import ARCHITECTURES, make_generator
import torch
from torch import nn

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
