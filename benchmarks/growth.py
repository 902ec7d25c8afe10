"""
Show how the cost of a frame grows with its faces and with its pixels.

    python benchmarks/growth.py --photos photos --plot docs/performance_growth.png

JPEG frames of 1080p with 1, 8 and 32 faces, and of 0.3, 2 and 8 megapixels with 8, in turns. What
is shown is the processor's time, as other work on the machine moves it less; medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
import math
import os
from pathlib import Path
import sys
from typing import Any

from ffs_anonymizer.benchmark import stages
from ffs_anonymizer.settings.runtime import METHODS, Settings

FACES, SIZES = (1, 8, 32), ('480p', '1080p', '2160p')
FIXED_FACES, FIXED_SIZE = 8, '1080p'
# Rows by what grows in them.
Series = dict[str, list[dict[str, Any]]]
_NO_LIMITS = {'fp32_gops': math.inf, 'copy_gb_s': math.inf}


def main() -> int:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=('blur', 'generate'))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--photos', type=Path, help='folder of photos to tile frames from')
    parser.add_argument('--detector-model', default='', metavar='FILE')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw it as a PNG')
    args = parser.parse_args()
    curves = {}
    for method in args.methods:
        values = {'device': 'cpu', 'threads': args.threads, 'face.method': method}
        settings = Settings().updated({**values, 'detector.model_path': args.detector_model})
        curves[method] = measured(settings, rounds=args.rounds, photos=args.photos)
    print(to_markdown(curves), end='')
    print(f'Load average at the end: {os.getloadavg()[0]:.1f}')
    if args.plot is not None:
        draw(args.plot, curves)
    return 0


def measured(
    settings: Settings,
    *,
    rounds: int,
    photos: Path | None = None,
    faces: Sequence[int] = FACES,
    sizes: Sequence[str] = SIZES,
) -> Series:
    """Return rows for each number of faces in one size, and for each size with as many faces."""
    measure = partial(
        stages.measure,
        settings,
        encodings=['jpeg'],
        photos=photos,
        rounds=rounds,
        limits=_NO_LIMITS,
        macs=(0.0, 0.0),
        say=lambda _: None,
    )
    return {
        'face': measure(sizes=[FIXED_SIZE], faces=faces),
        'megapixel': measure(sizes=sizes, faces=[FIXED_FACES]),
    }


def amount(row: dict[str, Any], unit: str) -> float:
    """Return how many faces, or megapixels, a row has."""
    width, height = stages.SIZES[row['size']]
    return float(row['faces']) if unit == 'face' else width * height / 1e6


def to_markdown(curves: dict[str, Series]) -> str:
    """Return the table: each frame's time, and how it grows beside what grows."""
    lines = ['| method | megapixels | faces | processor ms | for each |', '|---|' + '---:|' * 4]
    for method, series in curves.items():
        for unit, rows in series.items():
            for before, row in zip([None, *rows], rows, strict=False):
                cells = [method, f'{amount(row, "megapixel"):.1f}', f'{row["faces"]}']
                cells.append(f'{row["ms"]["processor"]:.1f}')
                told = ''
                if before is not None:
                    more = row['ms']['processor'] - before['ms']['processor']
                    each = more / (amount(row, unit) - amount(before, unit))
                    told = f'{each:.1f} ms more a {unit}'
                lines.append(f'| {" | ".join(cells)} | {told} |')
    return '\n'.join([*lines, ''])


def draw(path: Path, curves: dict[str, Series]) -> None:
    """Draw both series, dotted what would be in proportion to the last."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout='constrained')
    labels = {'face': f'faces in {FIXED_SIZE}', 'megapixel': f'megapixels, {FIXED_FACES} faces'}
    for axes, (unit, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for method, series in curves.items():
            points = [(amount(row, unit), row['ms']['processor']) for row in series[unit]]
            (line,) = axes.plot(*zip(*points, strict=True), marker='o', label=method)
            last = points[-1]
            axes.plot([0, last[0]], [0, last[1]], ':', color=line.get_color(), alpha=0.5)
        axes.set_xlabel(label)
        axes.set_ylabel("processor's ms a frame")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format='png')


if __name__ == '__main__':
    sys.exit(main())
