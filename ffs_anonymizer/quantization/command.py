"""
Networks in 8 bits, by measurement: which layers can bear it, and the files that come of it.

A: `<name>-int8.onnx`, opset 17, FP32 with Q/DQ pairs, for TensorRT 8.5 to 10 and most runtimes.
B: `<name>-int8-fp16.onnx`, opset 19, FP16 with Q/DQ pairs, for TensorRT 10 and 11.
CPU: `<name>-int8-cpu.onnx`, integer operators of ONNX Runtime, the fastest there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffs_anonymizer.cli.options import Subparsers

_EXAMPLES = """\
examples:
  ffs_anonymizer quantize -i ffs-128.onnx -o quantized --calibration faces
  ffs_anonymizer quantize -i centerface.onnx -o quantized --task detector --calibration frames \\
    --files CPU --quick
"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command `quantize`."""
    parser = subparsers.add_parser(
        'quantize',
        help='make 8-bit files of a network, its most sensitive layers left in float',
        description='Quantize each convolution of a network alone, measure what that costs, and '
        'write 8-bit files in which the fewest of the worst convolutions stay in float that keep '
        'the quality asked for.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '-i', '--input', type=Path, required=True, metavar='FILE', help='FP32 ONNX network'
    )
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='FOLDER', help='where the files go'
    )
    parser.add_argument(
        '--task', choices=('generator', 'detector'), default='generator', help='what it does'
    )
    parser.add_argument(
        '--files',
        nargs='+',
        choices=('A', 'B', 'CPU'),
        default=['A', 'B', 'CPU'],
        help='A: FP32 with Q/DQ pairs, for TensorRT and OpenVINO; B: FP16 with Q/DQ pairs, for '
        'TensorRT 10 and later; CPU: integers, for ONNX Runtime on a CPU; default all',
    )
    parser.add_argument(
        '--calibration',
        type=Path,
        required=True,
        metavar='PATH',
        help='folder of photos, with boxes (boxes.csv, or a text file beside each photo) or '
        'without: a detector is then judged by what the FP32 network finds, and the default '
        'detector finds the faces for a generator; or faces packed by `data build`',
    )
    parser.add_argument(
        '--crops',
        type=int,
        metavar='N',
        help='crops (detector: photos) to calibrate on; default 1024 (128)',
    )
    parser.add_argument(
        '--evaluate',
        type=int,
        default=48,
        metavar='N',
        help='crops (detector: photos) to measure the quality on; default 48, none of them '
        'calibrated on where there are enough',
    )
    parser.add_argument(
        '--method',
        choices=('entropy', 'percentile', 'minmax'),
        default='percentile',
        help='how ranges are chosen; default percentile',
    )
    parser.add_argument(
        '--metric',
        choices=('ssim', 'error', 'ap'),
        help='ssim (default) or error for a generator, beside its FP32 self in the hole; ap for a '
        'detector',
    )
    parser.add_argument(
        '--keep',
        type=float,
        default=0.95,
        metavar='SHARE',
        help='share of the FP32 metric to keep; default 0.95',
    )
    parser.add_argument(
        '--keep-float',
        type=int,
        metavar='N',
        help='keep the N worst convolutions in float, whatever the metric says',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='measure no single layer, and draw no plot, where all of them in 8 bits keep enough',
    )
    parser.add_argument('--name', help='of the files; default: that of the input')
    parser.add_argument('--seed', type=int, default=0, help='of the drawing of crops')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures there too')
    plot = parser.add_mutually_exclusive_group()
    plot.add_argument(
        '--plot', type=Path, metavar='FILE', help='default: <name>-int8.png beside the files'
    )
    plot.add_argument('--no-plot', action='store_true', help='write no plot')
    parser.add_argument(
        '--disable-progress-output', action='store_true', help='show no progress bar'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='check the input, print what would be done, exit'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Quantize a network as the options say."""
    from ffs_anonymizer.quantization.quantization import Quantization

    return Quantization(args).run()
