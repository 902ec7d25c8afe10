"""Checkpoints: written beside the last one and renamed, so that one good one always survives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ffs_anonymizer.errors import ModelError
import torch

Checkpoint = dict[str, Any]
KEYS = ('settings', 'step', 'images', 'ema')


def save_checkpoint(path: Path, values: Checkpoint) -> None:
    """
    Write a checkpoint; where that fails, the one that was there stays.

    :param values: what to save.
    :raises ModelError: the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f'{path.name}.partial')
    try:
        with partial.open('wb') as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        state = 'the checkpoint before it is kept' if path.exists() else 'there is none yet'
        raise ModelError(f'{path}: cannot be written ({error}); {state}') from error


def load_checkpoint(path: Path, network: str = 'generator') -> Checkpoint:
    """
    Read a checkpoint.

    :param network: what was trained, generator or detector.
    :raises ModelError: it is missing, broken, or no checkpoint of ours.
    """
    try:
        values = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f'{path}: got no such file, expected a checkpoint') from error
    except Exception as error:
        # Never in torch's words, which advise to run whatever code a file holds.
        kind = type(error).__name__
        raise ModelError(
            f'{path}: cannot be read as a checkpoint ({kind}), expected one that `train` wrote'
        ) from error
    keys = (*KEYS, network)
    if not isinstance(values, dict) or any(key not in values for key in keys):
        raise ModelError(
            f'{path}: not a checkpoint of ffs_anonymizer of a {network}, expected '
            f'{", ".join(keys)}'
        )
    return values


def load_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor], whence: str) -> None:
    """
    Load weights that must fit exactly.

    :param module: what to load into.
    :param weights: its state dict.
    :param whence: named in the error.
    :raises ModelError: the weights are those of another network.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if own != got:
        differing = sorted(n for n in own.keys() | got.keys() if own.get(n) != got.get(n))
        raise ModelError(
            f'{whence}: weights of another network: {len(differing)} of {len(own)} differ, '
            f'the first {differing[0]}: got {got.get(differing[0])}, '
            f'expected {own.get(differing[0])}; name the network, and its channels, that it was '
            'made for'
        )
    module.load_state_dict(weights)
