"""What every training does alike: device, rates, averaged weights, stop and go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import signal
from typing import Any

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.training.checkpoint import Checkpoint
from ffs_anonymizer.training.settings import from_mapping, RunSettings
import torch
from torch import nn

NOT_RESUMED = (
    'out',
    'device',
    'threads',
    'workers',
    'steps',
    'minutes',
    'data',
    'save_every',
    'grid_every',
    'log_every',
)


def choose_device(name: str) -> torch.device:
    """
    Return the device to train on.

    :param name: auto, cpu or cuda.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if name not in ('cpu', 'cuda'):
        raise SettingsError(f'device: got {name!r}, expected auto, cpu or cuda')
    if name == 'cuda' and not torch.cuda.is_available():
        raise SettingsError('device: got cuda, but torch finds none here; expected auto or cpu')
    return torch.device(name)


def refuse_other_settings(settings: RunSettings, resumed: Checkpoint, path: Path) -> None:
    """
    Refuse to go on with a run under settings that it was not started with.

    :param settings: those of now.
    :param path: where the checkpoint is.
    """
    then = from_mapping(resumed['settings'], type(settings)).as_dict()
    now = settings.as_dict()
    changed = [name for name in now if name not in NOT_RESUMED and now[name] != then[name]]
    if changed:
        told = ', '.join(f'{name}: got {now[name]}, was {then[name]}' for name in changed)
        raise SettingsError(
            f'{path}: the run was started with other settings ({told}); give those, or start a '
            f'new run in another folder with init_from={path}'
        )


def progress_at(step: int, seconds: float, settings: RunSettings) -> float:
    """
    Return the share of a run that is over, by steps or by time, 1 = all of it.

    :param step: from 0.
    :param seconds: trained so far, by all sessions of the run.
    """
    by_time = seconds / (60.0 * settings.minutes) if settings.minutes else 0.0
    return min(max(step / settings.steps, by_time), 1.0)


def rate_at(step: int, progress: float, settings: RunSettings) -> float:
    """
    Return the factor of the learning rates at a step: a rise, a plateau, a fall to 0.

    :param step: from 0.
    :param progress: what progress_at() says.
    """
    rise = min(1.0, (step + 1) / max(settings.warm_steps, 1))
    falls = max(1.0 - settings.decay_from, 1.0 / settings.steps)
    return rise * min(1.0, (1.0 - progress) / falls)


def follow(
    average: nn.Module,
    network: nn.Module,
    keep: float,
    step: int,
    *,
    average_buffers: bool = False,
) -> None:
    """
    Move the averaged weights towards the current ones.

    :param average: changed in place.
    :param network: the current weights.
    :param keep: share of the old average that stays, less in the first steps.
    :param step: from 0.
    :param average_buffers: average the statistics of the norms, too; else they are copied.
    """
    with torch.no_grad():
        keep = min(keep, (1 + step) / (10 + step))
        ours = [p.detach() for p in average.parameters()]
        theirs = [p.detach() for p in network.parameters()]
        torch._foreach_lerp_(ours, theirs, 1.0 - keep)
        pairs = list(zip(average.buffers(), network.buffers(), strict=True))
        followed = [p for p in pairs if average_buffers and p[0].is_floating_point()]
        copied = [p for p in pairs if not (average_buffers and p[0].is_floating_point())]
        if followed:
            torch._foreach_lerp_(*map(list, zip(*followed, strict=True)), 1.0 - keep)
        if copied:
            torch._foreach_copy_(*map(list, zip(*copied, strict=True)))


@contextmanager
def interruptible() -> Iterator[Any]:
    """Yield a function that tells whether a signal asked to stop; the step is finished first."""
    asked: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {kind: signal.signal(kind, lambda n, _: asked.append(n)) for kind in kinds}
    except ValueError:
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
