from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.fleet.agenda import Looked
from ffs_anonymizer.fleet.board import Board
from ffs_anonymizer.fleet.plan import FleetPlan, FleetTask
from ffs_anonymizer.fleet.worker import Done
from ffs_anonymizer.jobs.fleet import Begun, Ended, Lost, Waiting
from ffs_anonymizer.jobs.report import Report, Tally
import pytest

NAMES = ['a', '<b>&"', 'c/d', 'e', 'f', 'g', 'h']


def board() -> Board:
    tasks = tuple(
        FleetTask(n, name, BagJob(source=Path('in'), target=Path('out') / name), Path('staging'))
        for n, name in enumerate(NAMES)
    )
    plan = FleetPlan(tasks, '', ('notes.md',), (('photo.heic', 'got .heic, convert it'),))
    return Board(plan, 'raw -> clean')


def report(**options: object) -> Report:
    tally = Tally('anonymize', 5, Counter(face=2), Counter(solid=2), 1)
    return Report(streams={'/cam': tally, '/map': Tally('copy', 7)}, written=1, **options)


def filled() -> Board:
    made = board()
    for number in range(6):
        made.take(Begun(number, f'host:{number}'))
    warned = report(warnings=Counter({'no budget': 3}), seconds=2.0)
    made.take(Ended(0, 'host:0', Done(warned, notes=('copied',))))
    made.take(Ended(1, 'host:1', Done(Report(), error='<script>alert(1)</script>')))
    made.take(Lost(2, 'host:2', 'The node died'))
    found = {'findings': 2, 'frames': 5}
    made.take(Ended(3, 'host:3', Done(report(undone=['a frame is black']), audit=found)))
    made.take(Ended(4, 'host:4', Done(report(undone=['a frame is black']))))
    made.take(Ended(5, 'host:5', None, 'its workers died, 3 of them'))
    made.take(Waiting(2))
    return made


def test_states() -> None:
    made = filled()
    states = [row.state for row in made.rows]
    expected = ['done', 'failed', 'waiting', 'uncovered', 'incomplete', 'failed', 'waiting']
    assert states == [*expected, 'failed']
    assert made.line().startswith(
        '6 of 8 (1 done, 3 failed, 2 waiting, 1 uncovered, 1 incomplete), 15 images, '
    )
    assert made.told() == [
        'a: warning: 3 frames: no budget',
        'a: note: copied',
        '<b>&": error: <script>alert(1)</script>',
        'c/d: worker lost: The node died',
        'e: not done: a frame is black',
        'f: not done: a frame is black',
        'g: error: its workers died, 3 of them',
        'photo.heic: error: got .heic, convert it',
    ]
    rows = [line.split() for line in made.table(('done', 'uncovered'))]
    assert rows[1:] == [
        *(['a', 'done', '5', '2', 'face', '1', '2.0', 'host:0'],),
        ['e', 'uncovered', '5', '2', 'face', '1', '0.0', 'host:3'],
    ]


def test_one_that_is_shared_says_how_far_it_is() -> None:
    made = board()
    for number, worker in ((0, 'host:0'), (0, 'host:1'), (1, 'host:2')):
        made.take(Begun(number, worker))
    made.take(Looked(0, 'host:0', 16, 64))
    row = made.rows[0]
    assert (row.progress, row.workers) == ('running, looked at 16 of 64', 'host:0')
    made.take(Begun(0, 'host:0'))
    assert row.workers == '2 workers'
    assert '<td>running, looked at 16 of 64</td>' in made.page()
    assert '16 more looked at' in made.line()
    # One of them dies, the other is still at it; then nobody is.
    made.take(Lost(0, 'host:1', 'The node died'))
    assert row.state == 'running'
    made.take(Looked(0, 'host:0', 64, 64))
    assert row.progress == 'waiting, looked at 64 of 64'
    made.take(Begun(0, 'host:0'))
    assert row.spent_s <= row.seconds
    made.take(Ended(0, 'host:0', Done(report(seconds=2.0))))
    assert row.progress == 'done'
    assert row.seconds == pytest.approx(row.spent_s + 2)
    assert 'more looked at' not in made.line()
    # What comes late, after one that failed, changes nothing.
    made.take(Ended(1, 'host:2', Done(Report(), error='torn')))
    made.take(Looked(1, 'host:2', 16, 64))
    assert made.rows[1].progress == 'failed'


def test_the_worst_is_the_exit_code() -> None:
    assert filled().exit_code == 3
    made = board()
    made.rows.pop()
    for number in range(len(NAMES)):
        assert made.exit_code == 1
        made.take(Ended(number, 'x', Done(report(), kept=bool(number % 2))))
    assert made.exit_code == 0
    assert made.counts == {'done': 4, 'kept': 3}


class _Page(HTMLParser):
    """Count what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or '' for name, value in attrs if name in ('href', 'src')]


def test_the_page_needs_nothing_else_and_believes_no_name() -> None:
    made = filled()
    page = _Page()
    page.feed(made.page())
    assert page.tags['script'] == page.tags['link'] == page.tags['img'] == page.tags['b'] == 0
    assert page.tags['tr'] == 1 + len(made.rows)
    assert page.links == [*('a.privacy.json', 'e.privacy.json', 'e.audit.html', 'f.privacy.json')]
    assert '&lt;script&gt;' in made.page()


@pytest.mark.parametrize(('ended', 'reloads'), [('', True), ('all done', False)])
def test_it_reloads_until_it_is_over(ended, reloads) -> None:
    made = board()
    made.ended = ended
    assert ('http-equiv="refresh"' in made.page()) is reloads
    assert (ended or 'at work') in made.page()
