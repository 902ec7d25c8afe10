"""The plot of a channel search: what each network costs, and how far it is from its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.training.generator.candidates import Candidate, front
from ffs_anonymizer.training.generator.widths import to_text

_ALL, _FRONT, _CHOSEN, _LIMIT = '#a8c8cd', '#00798c', '#d1495b', '#555555'


def draw(
    path: Path,
    title: str,
    found: Sequence[Candidate],
    chosen: Candidate,
    budget_macs: int,
    teacher_macs: int,
) -> None:
    """
    Draw all networks, those that none is as cheap and nearer than, the budget and the chosen one.

    :param path: a PNG.
    :param title: of the plot.
    :param found: all that were judged.
    :param chosen: one of them.
    :param budget_macs: the most that was allowed.
    :param teacher_macs: of the teacher, whose distance is 0.
    :raises ModelError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout='constrained')
    axes = figure.subplots()
    best = front(found)
    axes.plot(*_places(found), 'o', ms=4, color=_ALL, label='judged')
    axes.plot(*_places(best), 'o-', ms=5, color=_FRONT, label='none is as cheap and nearer')
    axes.plot(*_places([chosen]), 'o', ms=13, mfc='none', color=_CHOSEN, label='chosen')
    (x,), (y,) = _places([chosen])
    axes.annotate(
        to_text(chosen.channels), (x, y), textcoords='offset points', xytext=(10, 8), fontsize=9
    )
    axes.plot([teacher_macs / 1e9], [0], '*', ms=12, color=_LIMIT, label='teacher')
    axes.axvline(budget_macs / 1e9, color=_LIMIT, lw=1, ls='--', label='budget')
    axes.set_xlabel('GMAC a face')
    axes.set_ylabel("mean difference from the teacher's painting (of 255 levels)")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=110, format='png')
    except OSError as error:
        raise ModelError(f'{path}: cannot be written: {error}') from error


def _places(found: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    return [c.macs / 1e9 for c in found], [c.distance for c in found]
