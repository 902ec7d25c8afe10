"""How a fleet is getting on: one state for each recording, as a table and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
import html
from importlib.resources import files
import time
from urllib.parse import quote

from ffs_anonymizer import __version__
from ffs_anonymizer.bag.plan import table
from ffs_anonymizer.bag.selection import Action
from ffs_anonymizer.fleet.agenda import Happened, Looked
from ffs_anonymizer.fleet.plan import AUDIT, FleetPlan
from ffs_anonymizer.fleet.worker import Done
from ffs_anonymizer.jobs.fleet import Begun, Lost, Waiting
from ffs_anonymizer.jobs.output import RECORD
from ffs_anonymizer.jobs.report import counted, Report
from ffs_anonymizer.terminal import printable

_RELOAD_S = 5
_PICTURES = ('', *(a.value for a in (Action.ANONYMIZE, Action.CLOUD, Action.DEPTH)))


@dataclass
class Row:
    """
    Hold the state of one recording.

    :param state: waiting, running, done, kept, incomplete, uncovered or failed.
    :param worker: who had it last.
    :param busy: who is at work at it, and since what monotonic time.
    :param spent_s: what parts took that are done.
    :param looked: images that were looked at, if it is shared.
    :param shared: images that it has, if it is shared.
    :param lost: workers that died over it, and why.
    """

    name: str
    state: str = 'waiting'
    worker: str = ''
    busy: dict[str, float] = field(default_factory=dict)
    spent_s: float = 0.0
    looked: int = 0
    shared: int = 0
    lost: list[str] = field(default_factory=list)
    done: Done | None = None

    @property
    def progress(self) -> str:
        """Return its state, and how much of it was looked at if that is not all there is to do."""
        if self.done is not None or not self.shared:
            return self.state
        return f'{self.state}, looked at {self.looked} of {self.shared}'

    @property
    def workers(self) -> str:
        """Return who is at work at it, or was last."""
        return f'{len(self.busy)} workers' if len(self.busy) > 1 else self.worker

    @property
    def frames(self) -> int:
        """Return the number of images that went through, now or in an earlier run."""
        if self.done is None:
            return 0
        streams = self.done.report.streams.values()
        return sum(tally.items for tally in streams if tally.action in _PICTURES)

    @property
    def failed_frames(self) -> int:
        """Return the number of images that could not be anonymized."""
        return 0 if self.done is None else sum(t.failed for t in self.done.report.streams.values())

    @property
    def seconds(self) -> float:
        """Return how long workers took, or take by now."""
        now = time.monotonic()
        at_work_s = sum(now - since for since in self.busy.values())
        done_s = 0.0 if self.done is None else self.done.report.seconds
        return self.spent_s + at_work_s + done_s

    @property
    def words(self) -> list[str]:
        """Return errors, what was not done, warnings and notes, each with what it is."""
        lines = [f'worker lost: {reason}' for reason in self.lost]
        if self.done is None:
            return lines
        report = self.done.report
        lines += [f'error: {self.done.error}'] if self.done.error else []
        lines += [f'not done: {line}' for line in report.undone]
        lines += [f'warning: {n} frames: {text}' for text, n in report.warnings.items()]
        return [*lines, *(f'note: {note}' for note in self.done.notes)]


class Board:
    """
    Hold the states of all recordings.

    :param title: of the page.
    """

    def __init__(self, plan: FleetPlan, title: str) -> None:
        self.rows = [Row(task.name) for task in plan.tasks]
        self._plan = plan
        self._title = title
        self._begun = time.monotonic()
        self._workers = 0
        self.ended = ''
        for name, reason in plan.broken:
            self.rows.append(Row(name, 'failed', done=Done(Report(), error=reason)))

    def take(self, event: Happened) -> None:
        """Enter what happened."""
        if isinstance(event, Waiting):
            self._workers = event.workers
            return
        row, now = self.rows[event.number], time.monotonic()
        row.worker = event.worker
        if isinstance(event, Begun):
            row.busy[event.worker] = now
        else:
            seconds = now - row.busy.pop(event.worker, now)
            if isinstance(event, Lost):
                row.lost.append(event.reason)
            elif isinstance(event, Looked):
                row.spent_s += seconds
                row.looked, row.shared = event.looked, event.frames
            else:
                row.done = event.result or Done(Report(seconds=seconds), error=event.reason)
        if row.done is not None:
            row.state = _state(row.done)
        else:
            row.state = 'running' if row.busy else 'waiting'

    @property
    def exit_code(self) -> int:
        """Return the worst of all: 0 done, 1 something not, 3 something is left uncovered."""
        return max((1 if r.done is None else r.done.exit_code for r in self.rows), default=0)

    @property
    def counts(self) -> Counter[str]:
        """Return the number of recordings by state."""
        return Counter(row.state for row in self.rows)

    def line(self) -> str:
        """Return how far it is."""
        ended = sum(row.done is not None for row in self.rows)
        frames = sum(row.frames for row in self.rows)
        looked = sum(row.looked for row in self.rows if row.done is None)
        more = f', {looked} more looked at' if looked else ''
        seconds = time.monotonic() - self._begun
        return (
            f'{ended} of {len(self.rows)} ({counted(self.counts)}), {frames} images{more}, '
            f'{seconds:.0f} s, {self._workers} workers'
        )

    def table(self, states: Sequence[str] = ()) -> list[str]:
        """
        Return rows with columns.

        :param states: of the recordings that are shown; empty: all.
        """
        head = ('recording', 'state', 'images', 'replaced', 'failed', 'seconds', 'worker')
        rows = [
            (
                row.name,
                row.progress,
                str(row.frames),
                _replaced(row) or '-',
                str(row.failed_frames),
                f'{row.seconds:.1f}',
                row.workers or '-',
            )
            for row in self.rows
            if not states or row.state in states
        ]
        return table(head, rows)

    def told(self) -> list[str]:
        """Return what has to be said of recordings, a line each."""
        return [f'{row.name}: {text}' for row in self.rows for text in row.words]

    def page(self) -> str:
        """Return the page: one file that needs no other and no network."""
        is_over = bool(self.ended)
        fields = {
            'title': _text(self._title),
            'reload': '' if is_over else f'<meta http-equiv="refresh" content="{_RELOAD_S}">',
            'verdict': _text(self.ended or 'at work'),
            'verdict_class': ('bad' if self.exit_code else 'good') if is_over else 'busy',
            'line': _text(self.line()),
            'tool': _text(f'ffs_anonymizer {__version__}'),
            'rows': '\n'.join(map(self._row, self.rows)),
            'left_out': ''.join(f'<li>{_text(name)}</li>' for name in self._plan.left_out)
            or '<li>nothing</li>',
        }
        page = files(__package__).joinpath('fleet.html').read_text(encoding='utf-8')
        for name, value in fields.items():
            page = page.replace(f'@{name}@', value)
        return page

    def _row(self, row: Row) -> str:
        links = ''
        if row.done is not None and not row.done.error:
            links = _link(row.name + RECORD, 'record')
            if row.done.audit is not None:
                links += ' ' + _link(row.name + AUDIT, f'audit: {row.done.audit["findings"]} left')
        words = ''.join(f'<li>{_text(line)}</li>' for line in row.words)
        details = '' if row.done is None else _streams(row.done.report)
        return (
            f'<tr class="{row.state}"><td>{_text(row.name)}{details}</td><td>{row.progress}</td>'
            f'<td>{row.frames:,}</td><td>{_text(_replaced(row))}</td><td>{row.failed_frames}</td>'
            f'<td>{row.seconds:.1f}</td><td>{_text(row.workers)}</td><td>{links}</td>'
            f'<td><ul>{words}</ul></td></tr>'
        )


def _state(done: Done) -> str:
    if done.error:
        return 'failed'
    if done.exit_code:
        return 'incomplete' if done.exit_code == 1 else 'uncovered'
    return 'kept' if done.kept else 'done'


def _replaced(row: Row) -> str:
    return '' if row.done is None else counted(row.done.report.regions)


def _streams(report: Report) -> str:
    items = ''.join(
        f'<li>{_text(name)}: {tally.items} {_text(tally.action)}, '
        f'{_text(counted(tally.regions) or "nothing replaced")} '
        f'{_text(counted(tally.methods))}</li>'
        for name, tally in report.streams.items()
    )
    summary = f'<summary>{len(report.streams)} streams</summary>'
    return f'<details>{summary}<ul>{items}</ul></details>' if items else ''


def _text(text: str) -> str:
    return html.escape(printable(text))


def _link(path: str, words: str) -> str:
    return f'<a href="{html.escape(quote(path, errors="replace"))}">{_text(words)}</a>'
