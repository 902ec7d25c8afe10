"""The command `fleet`: many recordings on many machines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
import contextlib
from contextlib import contextmanager
import fcntl
from functools import partial
import json
import os
from pathlib import Path
import shutil
import sys
import time
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.bag.command import add_format_options, add_topic_options, bag_options
from ffs_anonymizer.cli.options import (
    add_error_option,
    add_settings_options,
    settings_from,
    whole_number,
)
from ffs_anonymizer.errors import OutputError, SettingsError
from ffs_anonymizer.jobs.estimate import estimate_words
from ffs_anonymizer.media.command import add_video_options, video_options
from ffs_anonymizer.terminal import printable, say, warn

if TYPE_CHECKING:
    from ffs_anonymizer.cli.options import Subparsers
    from ffs_anonymizer.fleet.board import Board
    from ffs_anonymizer.fleet.plan import FleetPlan, FleetTask

_DESCRIPTION = """\
Anonymize many bags, images and videos side by side, on this machine or on those of a Ray cluster.

Each bag, image and video is done by one worker, but in large bags and videos all of them look,
chunk by chunk; each is whole before it has its name. A recording that fails fails alone; one whose
worker or machine dies is begun again by another. Inputs and outputs may lie elsewhere (s3://,
gs://; http:// to read).
"""
_EXAMPLES = """\
examples:
  ffs_anonymizer fleet -i drives/ -o anonymized/
  ffs_anonymizer fleet -i drives/ -o anonymized/ --resume
  ffs_anonymizer fleet -i s3://raw/october -o s3://clean/october --address auto --workers 64
"""
_FORMAT, _VERSION = 'ffs_anonymizer fleet', 1
_PAGE_EVERY_S, _REMOTE_PAGE_EVERY_S, _TABLE_EVERY_S = 2.0, 15.0, 0.5
_SHOWN = 16


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        'fleet',
        help='anonymize many recordings side by side, on one machine or many',
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '-i',
        '--input',
        required=True,
        metavar='PATH',
        help='a folder with recordings, a pattern in quotes, or a .txt file with one a line',
    )
    parser.add_argument(
        '-o', '--output', required=True, metavar='FOLDER', help='where the outputs go'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on with an output: what is there, whole and made of the same with the same '
        'options, stays',
    )
    parser.add_argument(
        '--audit',
        action='store_true',
        help='look at every output once more; its page lies beside it and MAY SHOW FACES',
    )
    add_error_option(parser, 'bag or video')
    group = parser.add_argument_group('workers')
    group.add_argument(
        '--address',
        default='local',
        metavar='ADDRESS',
        help='local: this machine alone (default); auto: the Ray cluster that this machine '
        'belongs to; or the address of one, as ray://host:10001',
    )
    group.add_argument(
        '--workers',
        type=whole_number,
        default=0,
        metavar='N',
        help='default: one for every two cores',
    )
    group.add_argument(
        '--worker-cpus',
        type=_share,
        default=0.0,
        metavar='N',
        help='cores of a worker (default: all cores divided by the workers)',
    )
    group.add_argument(
        '--worker-gpus', type=_share, default=0.0, metavar='N', help='GPUs of a worker, as 0.5'
    )
    group.add_argument(
        '--retries',
        type=whole_number,
        default=2,
        metavar='N',
        help='how often a recording is begun again whose worker died (default: %(default)s)',
    )
    add_topic_options(parser)
    add_format_options(parser)
    add_video_options(parser)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command.

    :returns: 0 all done, 1 something could not be, 3 an audit found something uncovered.
    :raises AnonymizerError: nothing could be begun.
    """
    from ffs_anonymizer.fleet.agenda import Agenda
    from ffs_anonymizer.fleet.board import Board
    from ffs_anonymizer.fleet.worker import Worker
    from ffs_anonymizer.jobs.fleet import Crew, Fleet
    from ffs_anonymizer.models import roster

    plan, output = _plan(args)
    settings = plan.tasks[0].job.settings if plan.tasks else settings_from(args)
    roster.check(settings)
    for name in plan.left_out:
        warn(f'{name}: left out, neither a bag nor an image nor a video')
    if args.dry_run:
        from ffs_anonymizer.fleet.estimate import estimate

        for task in plan.tasks:
            say(f'{task.job.source} -> {task.job.target}')
        for line in plan.problems:
            warn(line)
        say(estimate_words(lambda: estimate(plan)))
        return 1 if plan.broken else 0
    crew = Crew(args.address, args.workers, args.worker_cpus, args.worker_gpus, args.retries)
    board = Board(plan, f'{args.input} -> {args.output}')
    with _begun(plan, output, resumes=args.resume), _shown(board, output) as shown:
        if plan.tasks:
            fleet: Fleet[Any, Any] = Fleet(crew, partial(Worker, settings))
            with (
                fleet,
                Agenda(plan, fleet.workers) as agenda,
                contextlib.closing(fleet.map(agenda.backlog)) as events,
            ):
                say(f'{len(plan.tasks)} recordings, {fleet.workers} workers')
                for event in events:
                    happened = agenda.take(event)
                    board.take(happened)
                    shown.update(happened)
        board.ended = 'all done' if board.exit_code == 0 else 'not everything could be done'
    say('\n'.join(board.table()))
    for line in board.told():
        say(printable(line), file=sys.stderr)
    say(f'{board.line()}: {output / "fleet.html"}')
    return board.exit_code


def _plan(args: argparse.Namespace) -> tuple[FleetPlan, Path]:
    from ffs_anonymizer.bag.plan import BagJob
    from ffs_anonymizer.fleet.plan import FleetPlan
    from ffs_anonymizer.jobs.remote import location, READ_ONLY, RemotePath
    from ffs_anonymizer.media.files import MediaJob

    settings = settings_from(args)
    shared: dict[str, Any] = {
        'source': Path(),
        'target': Path(),
        'settings': settings,
        'on_error': args.on_error,
    }
    output = location(args.output)
    if isinstance(output, RemotePath) and output.parts[0] in READ_ONLY:
        raise SettingsError(f'-o {output}: got http, expected a folder, s3:// or gs://')
    plan = FleetPlan.of(
        args.input,
        output,
        bag=BagJob(**shared, **bag_options(args, settings)),
        media=MediaJob(**shared, **video_options(args)),
        resumes=args.resume,
        audits=args.audit,
    )
    return plan, output


@contextmanager
def _begun(plan: FleetPlan, output: Path, *, resumes: bool) -> Iterator[None]:
    """
    Hold the output against a second fleet, and tidy up at the end.

    :raises OutputError: something is there already, or it was begun with other options.
    """
    from ffs_anonymizer.fleet.plan import STAGING, STATE
    from ffs_anonymizer.jobs.remote import RemotePath

    state = json.dumps({'format': _FORMAT, 'version': _VERSION, 'options': plan.options}) + '\n'
    before = (output / STATE).read_text(encoding='utf-8') if (output / STATE).is_file() else ''
    if before and not resumes:
        raise OutputError(f'{output}: is the output of a fleet already; --resume goes on with it')
    if before not in ('', state):
        raise OutputError(
            f'{output}: was begun with other options or settings, expected the same; choose '
            'another output, or go on with those'
        )
    if not before:
        taken = [path for task in plan.tasks for path in task.outputs if path.exists()]
        if taken:
            raise OutputError(f'{taken[0]}: exists already; nothing is overwritten')
    if isinstance(output, RemotePath):
        output.joinpath(STATE).put(state.encode())
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    staging = output / STAGING
    with _locked(output):
        # Whoever wrote there is dead, or there would be a lock.
        _tidy(staging, plan.tasks if before else ())
        _replace(output / STATE, state)
        try:
            yield
        finally:
            _tidy(staging, plan.tasks)


def _tidy(staging: Path, tasks: Iterable[FleetTask]) -> None:
    """Remove all attempts; what was found in chunks of recordings without an output stays."""
    kept = {task.journals for task in tasks if not task.job.target.exists()}
    with contextlib.suppress(OSError):
        for path in staging.iterdir():
            if path.name.rpartition('_')[0] not in kept:
                shutil.rmtree(path, ignore_errors=True)
        staging.rmdir()


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    folder = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f'{output}: another fleet is writing there') from error
        yield
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    from ffs_anonymizer.jobs.remote import RemotePath

    if isinstance(path, RemotePath):
        path.put(text.encode())
        return
    partial = path.with_name(path.name + '.partial')
    partial.write_text(text, encoding='utf-8', errors='backslashreplace')
    partial.replace(path)


class _Shown:
    """
    Show a board while it changes, in the terminal and as a page.

    Where there is no terminal, each recording has its lines.
    """

    def __init__(self, board: Board, output: Path) -> None:
        from ffs_anonymizer.fleet.plan import PAGE
        from ffs_anonymizer.jobs.remote import RemotePath

        self._board, self._page = board, output / PAGE
        is_remote = isinstance(output, RemotePath)
        self._page_every = _REMOTE_PAGE_EVERY_S if is_remote else _PAGE_EVERY_S
        self._paged = self._drawn = 0.0
        self._lines = 0
        self._said = '', ''

    def update(self, event: Any) -> None:
        now = time.monotonic()
        if now - self._paged > self._page_every:
            self._paged = now
            self.write_page()
        if sys.stderr.isatty():
            if now - self._drawn > _TABLE_EVERY_S:
                self._drawn = now
                self._draw()
        elif hasattr(event, 'number'):
            row = self._board.rows[event.number]
            why = f': {row.done.error}' if row.done is not None and row.done.error else ''
            if (row.name, row.progress) != self._said:
                self._said = row.name, row.progress
                say(printable(f'{row.name}: {row.progress} ({row.workers}){why}'), file=sys.stderr)

    def write_page(self) -> None:
        _replace(self._page, self._board.page())

    def clear(self) -> None:
        if self._lines:
            sys.stderr.write(f'\033[{self._lines}A\033[J')
            self._lines = 0

    def _draw(self) -> None:
        columns, rows = shutil.get_terminal_size()
        most = max(1, min(_SHOWN, rows - 4))
        table = self._board.table(('running',))
        lines = [*table[: most + 1], self._board.line()]
        self.clear()
        for line in lines:
            say(line[: columns - 1], file=sys.stderr)
        self._lines = len(lines)


@contextmanager
def _shown(board: Board, output: Path) -> Iterator[_Shown]:
    shown = _Shown(board, output)
    shown.write_page()
    try:
        yield shown
    except BaseException as error:
        board.ended = f'ended early: {error or type(error).__name__}'
        raise
    finally:
        shown.clear()
        shown.write_page()


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 < value < 1e6 and (value < 1 or value == int(value)):
            return value
    raise argparse.ArgumentTypeError(f'got {text!r}, expected a whole number, or a share below 1')
