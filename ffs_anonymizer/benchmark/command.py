"""How fast this is, on this machine, beside what the machine could do and beside its baseline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ffs_anonymizer.settings.runtime import DEVICES

if TYPE_CHECKING:
    from ffs_anonymizer.cli.options import Subparsers

_EXAMPLES = """\
examples:
  ffs_anonymizer bench
  ffs_anonymizer bench --generator --model ffs-128.onnx --baseline deep-privacy2 --json speed.json
"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command `bench`."""
    parser = subparsers.add_parser(
        'bench',
        help='measure the speed of every stage and of the generators',
        description='Measure each stage of the recipe and the whole of it, the generators for '
        'several batches, the node and the bag tool, and what this machine could do at best. '
        'Figures are medians of runs that take turns; what cannot be measured is listed.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--generator', action='store_true', help='the generators alone, nothing else'
    )
    parser.add_argument(
        '--model',
        type=Path,
        action='append',
        default=[],
        metavar='FILE',
        help='an ONNX generator to measure beside the shipped ones; may be repeated',
    )
    parser.add_argument(
        '--only-named', action='store_true', help='measure the models of --model and no others'
    )
    parser.add_argument(
        '--baseline',
        choices=('deep-privacy2',),
        help="measure DeepPrivacy2's generator in PyTorch in the same run, and the ratios to it",
    )
    parser.add_argument(
        '--batches',
        default='1,4,8,16,32',
        metavar='N,...',
        help='faces in one call of a generator; default %(default)s',
    )
    parser.add_argument('--device', choices=DEVICES, default='auto', help='where the networks run')
    parser.add_argument(
        '--threads', type=int, default=0, metavar='N', help='CPU threads; 0: one a core'
    )
    parser.add_argument(
        '--photos',
        type=Path,
        metavar='FOLDER',
        help='photos to tile into frames; default: synthetic frames',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures there')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the generators as a PNG')
    parser.add_argument(
        '--quick', action='store_true', help='fewer sizes, faces, batches and rounds: a minute'
    )
    parser.add_argument(
        '--disable-progress-output', action='store_true', help='say nothing while measuring'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure as the options say."""
    from ffs_anonymizer.benchmark.benchmark import Benchmark

    return Benchmark(args).run()
