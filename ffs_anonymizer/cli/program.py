"""The command `ffs_anonymizer`: one parser, each sub-command in the module that does its work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import os
from pathlib import Path
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import NoReturn, TYPE_CHECKING

from ffs_anonymizer import __version__
from ffs_anonymizer.cli.options import add_settings_options, settings_from
from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.settings.parameter_file import to_markdown, to_yaml
from ffs_anonymizer.terminal import printable, say

if TYPE_CHECKING:
    from ffs_anonymizer.cli.options import Subparsers

# Module and the name that stands in for its sub-commands where it cannot be imported.
_COMMAND_MODULES = {
    'ffs_anonymizer.bag.command': 'bag',
    'ffs_anonymizer.media.command': 'media',
    'ffs_anonymizer.fleet.command': 'fleet',
    'ffs_anonymizer.review.command': 'audit',
    'ffs_anonymizer.cli.build': 'build',
    'ffs_anonymizer.benchmark.command': 'bench',
    'ffs_anonymizer.quantization.command': 'quantize',
    'ffs_anonymizer.training.commands': 'train',
}
# As sysexits.h has it.
_BUG = 70
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_EXAMPLES = """\
examples:
  ffs_anonymizer bag -i drive_01 -o drive_01_anonymized
  ffs_anonymizer media -i photos -o photos_anonymized --method face=blur
  ffs_anonymizer params > anonymizer.param.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.

    It is 0 where all was done, 1 where not all could be, 2 for wrong usage, 70 for a bug of ours.

    :param argv: the words after the program's name; None takes those of the process.
    """
    args = make_parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            # One that the caller ignores (nohup) stays ignored.
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _terminate)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except SettingsError as error:
        return _told(error, 2)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except AnonymizerError as error:
        return _told(error, 1)
    except OSError as error:
        named = error.filename is not None and error.strerror
        return _told(f'{error.filename}: {error.strerror}' if named else error, 1)
    except ImportError as error:
        return _told(f'{error}; install what is missing', 1)
    except KeyboardInterrupt:
        print('interrupted: what was not finished has no final name', file=sys.stderr)
        return 130
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return _told(
            f'a bug: please report {type(error).__name__}: {error} '
            f'({Path(place.filename).name}, line {place.lineno}, ffs_anonymizer {__version__})',
            _BUG,
        )
    return code


def _told(error: object, code: int) -> int:
    """Print an error on one line; return the exit code."""
    say(f'error: {printable(str(error))}', file=sys.stderr)
    return code


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    """End the way that an error does: with everything tidied up."""
    print('terminated: what was not finished has no final name', file=sys.stderr)
    raise SystemExit(128 + number)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands that can be imported here."""
    parser = argparse.ArgumentParser(
        prog='ffs_anonymizer',
        description='Replace faces and licence plates in recordings, images and videos. '
        'What cannot be anonymized is never written.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    subparsers = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name, command in _COMMAND_MODULES.items():
        _add_commands(subparsers, name, command)
    _add_params(subparsers)
    return parser


def _add_commands(subparsers: Subparsers, name: str, command: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        _add_unavailable(subparsers, command, error)
        return
    add = getattr(module, 'add_parsers', None) or module.add_parser
    add(subparsers)


def _add_unavailable(subparsers: Subparsers, command: str, reason: ImportError) -> None:
    def run(args: argparse.Namespace) -> int:
        raise AnonymizerError(f'{command} is not available here: {reason}; install what it needs')

    # No prefix character: whatever options follow, the reason is what the user gets to read.
    parser = subparsers.add_parser(
        command, prefix_chars='\0', add_help=False, help=f'(not available here: {reason})'
    )
    parser.add_argument('words', nargs='*')
    parser.set_defaults(run=run)


def _add_params(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        'params',
        help='print all settings as a YAML file',
        description='Print all settings with their meaning, as a YAML file that the node, `bag` '
        'and `media` take.',
        epilog='example:\n  ffs_anonymizer params --method face=solid > anonymizer.param.yaml',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--markdown', action='store_true', help='print the table of docs/parameters.md instead'
    )
    add_settings_options(parser)
    parser.set_defaults(run=_run_params)


def _run_params(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    print(to_markdown() if args.markdown else to_yaml(settings), end='')
    return 0
