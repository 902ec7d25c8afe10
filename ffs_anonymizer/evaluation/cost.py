"""What each network costs: parameters and multiply-accumulates a face, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import make_network
from ffs_anonymizer.training.generator.onnx_file import probe
import torch
from torch import nn

# With the sides of their crops in pixels.
LISTED = {'ffs-128': 128, 'ffs-128-small': 128, 'ffs-256': 256}
BASELINE = 'deep-privacy2-fdf128'


@dataclass(frozen=True)
class Complexity:
    """
    Say what a network costs.

    :param size_px: side of the crop that it was counted at.
    :param macs: multiply-accumulates of the convolutions and matrix products for one face.
    """

    name: str
    size_px: int
    parameters: int
    macs: int


def measure(network: nn.Module, size_px: int, inputs: int = 4) -> tuple[int, int]:
    """
    Return the parameters of a network, and its multiply-accumulates for one face.

    :param network: takes the first inputs of the contract.
    :param size_px: S.
    :param inputs: how many: condition and mask, perhaps latent and points.
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
            given = list(probe(size_px, 1).values())[:inputs]
            device = next(network.parameters()).device
            network.eval()(*(each.to(device) for each in given))
        finally:
            for hook in hooks:
                hook.remove()
            network.train(was_training)
        return sum(p.numel() for p in network.parameters()), macs


def costs() -> list[Complexity]:
    """Return what each network of the table costs, the baseline last."""
    rows = [
        Complexity(name, size_px, *measure(fold(make_network(name).generator), size_px))
        for name, size_px in LISTED.items()
    ]
    return [*rows, Complexity(BASELINE, 128, *measure(DeepPrivacyGenerator(), 128, inputs=2))]


def to_markdown(rows: list[Complexity]) -> str:
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
