"""Both plots of a quantization in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.quantize.sensitivity import Layer

_KEPT, _QUANTIZED, _LIMIT = '#d1495b', '#00798c', '#555555'


def draw(
    path: Path,
    *,
    title: str,
    metric: str,
    layers: Sequence[Layer],
    curves: Mapping[str, Sequence[float]],
    chosen: Mapping[str, int],
    float_score: float,
    keep: float,
) -> None:
    """
    Draw the loss of each layer alone, and the score over the number of layers kept in float.

    :param path: of the PNG.
    :param curves: by file, the score for N = 0, 1, 2, ...
    :param chosen: by file, N.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModelError(
            'no plot: got no matplotlib; install it with `pip install matplotlib`, or give '
            '--no-plot'
        ) from error
    figure = Figure(figsize=(12, 0.24 * len(layers) + 2.2), layout='constrained')
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)

    kept = max(chosen.values(), default=0)
    colours = [_KEPT if i < kept else _QUANTIZED for i in range(len(layers))]
    left.barh(range(len(layers)), [layer.loss for layer in layers], color=colours)
    left.set_yticks(range(len(layers)), [layer.name for layer in layers], fontsize=7)
    left.invert_yaxis()
    left.set_xlabel(f'loss of {metric} when only this layer is quantized')
    left.set_title('Sensitivity, layer by layer')

    for (name, scores), marker in zip(curves.items(), 'osd^', strict=False):
        (line,) = right.plot(range(len(scores)), scores, marker=marker, ms=4, label=name)
        n = chosen[name]
        right.plot([n], [scores[n]], marker='o', ms=13, mfc='none', color=line.get_color())
        right.annotate(f'N = {n}', (n, scores[n]), textcoords='offset points', xytext=(8, -14))
    right.axhline(float_score, color=_LIMIT, lw=1, label='FP32')
    right.axhline(keep * float_score, color=_LIMIT, lw=1, ls='--', label=f'{keep:.0%} of FP32')
    right.set_xlabel('worst layers kept in float (N)')
    right.set_ylabel(metric)
    right.set_title('What is left of the metric')
    right.grid(alpha=0.3)
    right.legend(loc='lower right')
    figure.savefig(path, dpi=110, format='png')
