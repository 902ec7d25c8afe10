"""Batch norms folded into the convolutions before them, for a network that is only used."""

from __future__ import annotations

import copy
from typing import TypeVar

from ffs_anonymizer.training.generator.network import ConvNorm
import torch
from torch import nn

_Network = TypeVar('_Network', bound=nn.Module)


def fold(network: _Network) -> _Network:
    """
    Return a copy without norms that does the same as the network, its reference.

    :param network: its norms hold the statistics to fold.
    """
    with torch.no_grad():
        folded: _Network = copy.deepcopy(network).eval().requires_grad_(False)
        for module in folded.modules():
            if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
                assert isinstance(module.conv, nn.Conv2d)
                module.conv = fold_pair(module.conv, module.norm)
                module.norm = nn.Identity()
        return folded


def fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """
    Return one convolution that does what a convolution and its norm do in evaluation mode.

    :param conv: any but a transposed one.
    :param norm: right after it.
    """
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = norm.weight.double() / torch.sqrt(var.double() + norm.eps)
    bias = torch.zeros_like(scale) if conv.bias is None else conv.bias.double()
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        (int(conv.padding[0]), int(conv.padding[1])),
        groups=conv.groups,
    ).to(conv.weight.device)
    assert folded.bias is not None
    folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    folded.bias.copy_((bias - mean.double()) * scale + norm.bias.double())
    return folded
