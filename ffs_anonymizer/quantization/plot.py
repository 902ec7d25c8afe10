"""Both plots of a quantization in one picture, and the faces to look at in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.quantization.sensitivity import LayerLoss
import numpy as np
from numpy.typing import NDArray

_KEPT, _QUANTIZED, _LIMIT = '#d1495b', '#00798c', '#555555'


def refuse_without_library() -> None:
    """
    Look for what draws before minutes of measuring, not after.

    :raises ModelError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ModelError(
            'no plot: got no matplotlib; install it with `pip install matplotlib`, or give '
            '--no-plot'
        ) from error


def draw(
    path: Path,
    *,
    title: str,
    metric: str,
    layers: Sequence[LayerLoss],
    curves: Mapping[str, Sequence[float]],
    chosen: Mapping[str, int],
    float_score: float,
    keep: float,
) -> None:
    """
    Draw the loss of each layer alone, and the score over the number of layers kept in float.

    :param curves: by file, the score for N = 0, 1, 2, ...
    :param chosen: by file, N.
    """
    from matplotlib.figure import Figure

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


def draw_faces(
    path: Path, crops: Crops, paintings: Mapping[str, NDArray[np.float32]], most: int = 8
) -> None:
    """
    Draw crops below each other: what the networks saw, and what each of them made of it.

    :param crops: what was painted.
    :param paintings: by file, (N, 3, S, S) in [-1, 1].
    :param most: how many crops.
    """
    hole = crops.mask[:most] == 0
    columns = {'seen': crops.condition[:most]}
    for name, painted in paintings.items():
        columns[name] = np.where(hole, painted[:most], crops.condition[:most])
    strips = []
    for name, pictures in columns.items():
        levels = np.rint((np.clip(pictures, -1, 1) + 1) * 127.5).astype(np.uint8)
        bgr = levels.transpose(0, 2, 3, 1)[..., ::-1]
        title = np.full((18, bgr.shape[2], 3), 255, np.uint8)
        cv2.putText(title, name, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1)
        strips.append(np.concatenate([title, *bgr]))
    save_tiles(path, np.concatenate(strips, 1)[None], columns=1)
