"""Test what outlives a kill: kept lines, damage, strangers' folders, names at the end."""

from collections.abc import Iterator
import contextlib
from contextlib import contextmanager
import json
import os
from pathlib import Path
import subprocess
import sys

from ffs_anonymizer.errors import OutputError
from ffs_anonymizer.jobs.journal import Journal, journal_of
from ffs_anonymizer.jobs.output import partial_of, refuse
import pytest

JOB, OTHER = 'a' * 64, 'b' * 64


class Killed(BaseException):
    """Ends a block as a signal does, but for what only a real one leaves."""


@contextmanager
def killed(path: Path) -> Iterator[Journal]:
    """Yield a journal whose run is killed at the end of the block, if not before."""
    with contextlib.suppress(Killed), journal_of(path, JOB) as journal:
        yield journal
        raise Killed


def unfinished(path: Path, **kept: bytes) -> Path:
    """Leave a run behind that had kept something; return its journal's file."""
    with killed(path) as journal:
        for name, data in kept.items():
            journal.keep(name, data)
    return partial_of(path) / 'journal'


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'out'
    unfinished(path, a=b'1', b=bytes(1000), empty=b'')
    unfinished(path, c=b'3', a=b'new')
    with journal_of(path, JOB) as journal:
        assert journal.names == {'a', 'b', 'c', 'empty'}
        assert [journal.kept(name) for name in 'abcd'] == [b'new', bytes(1000), b'3', None]
        assert journal.kept('empty') == b''
    assert list(path.parent.iterdir()) == []


def test_a_run_that_kept_nothing_leaves_nothing(tmp_path: Path) -> None:
    with killed(tmp_path / 'out'):
        pass
    assert list(tmp_path.iterdir()) == []


def test_damaged_lines_are_as_if_not_there(tmp_path: Path) -> None:
    file = unfinished(tmp_path / 'out', a=b'aaaa', b=b'bbbb', c=b'cccc')
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = json.loads(lines[1])
    damaged['data'] = json.loads(lines[2])['data']
    lines[1] = json.dumps(damaged).encode() + b'\n'
    lines[2] = b'\xff' * (len(lines[2]) - 1) + b'\n'
    file.write_bytes(b''.join(lines) + lines[3][:-20])
    with killed(tmp_path / 'out') as journal:
        assert [journal.kept(name) for name in 'abc'] == [None, None, b'cccc']
        journal.keep('b', b'again')
    with journal_of(tmp_path / 'out', JOB) as journal:
        assert [journal.kept(name) for name in 'abc'] == [None, b'again', b'cccc']


@pytest.mark.parametrize('size', [0, 1, 40])
def test_killed_before_its_head_was_there(tmp_path: Path, size: int) -> None:
    file = unfinished(tmp_path / 'out', a=b'1')
    file.write_bytes(file.read_bytes()[:size])
    with journal_of(tmp_path / 'out', JOB) as journal:
        assert journal.names == set()
    assert list(tmp_path.iterdir()) == []


def test_another_job_takes_nothing_up(tmp_path: Path) -> None:
    file = unfinished(tmp_path / 'out', a=b'1')
    before = file.read_bytes()
    with (
        pytest.raises(OutputError, match='other settings, another input or another version'),
        journal_of(tmp_path / 'out', OTHER),
    ):
        pass
    assert file.read_bytes() == before


def test_killed_before_its_file_was_there(tmp_path: Path, monkeypatch) -> None:
    def killed(self: Path, **_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, 'touch', killed)
        with pytest.raises(Killed), journal_of(tmp_path / 'out', JOB):
            pass
    assert list(tmp_path.iterdir()) == [partial_of(tmp_path / 'out')]
    unfinished(tmp_path / 'out', a=b'1')
    with journal_of(tmp_path / 'out', JOB) as journal:
        assert journal.names == {'a'}
    assert list(tmp_path.iterdir()) == []
    # A link is nobody's that was killed.
    (tmp_path / 'folder').mkdir()
    partial_of(tmp_path / 'out').symlink_to(tmp_path / 'folder')
    with pytest.raises(OutputError, match='is there'), journal_of(tmp_path / 'out', JOB):
        pass


@pytest.mark.parametrize('content', [b'', b'mine', b'mine\n', b'{"format": "mine"}\n'])
def test_what_is_no_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    folder = partial_of(tmp_path / 'out')
    folder.mkdir()
    file = folder / ('journal' if content else 'my file')
    file.write_bytes(content)
    with (
        pytest.raises(OutputError, match='is there: another run is writing it, or one was killed'),
        journal_of(tmp_path / 'out', JOB),
    ):
        pass
    assert file.read_bytes() == content


def test_a_run_in_one_pass_says_how_to_go_on(tmp_path: Path) -> None:
    unfinished(tmp_path / 'out', a=b'1')
    with pytest.raises(OutputError, match='start it again as it was, with --workers, which goes'):
        refuse([tmp_path / 'out'], source=tmp_path / 'in')
    partial_of(tmp_path / 'other').mkdir()
    with pytest.raises(OutputError, match='if none is running, remove it and start again$'):
        refuse([tmp_path / 'other'], source=tmp_path / 'in')


def test_links_lead_nowhere(tmp_path: Path) -> None:
    file = unfinished(tmp_path / 'out', a=b'1')
    real = file.rename(tmp_path / 'real')
    file.symlink_to(real)
    with pytest.raises(OutputError, match='is there'), journal_of(tmp_path / 'out', JOB):
        pass
    partial_of(tmp_path / 'out').rename(tmp_path / 'folder')
    partial_of(tmp_path / 'out').symlink_to(tmp_path / 'folder')
    with pytest.raises(OutputError, match='is there'), journal_of(tmp_path / 'out', JOB):
        pass


def test_two_runs_do_not_meet(tmp_path: Path) -> None:
    with journal_of(tmp_path / 'out', JOB) as journal:
        journal.keep('a', b'1')
        code = (
            'import sys, pathlib\n'
            'from ffs_anonymizer.jobs.journal import journal_of\n'
            f'with journal_of(pathlib.Path({str(tmp_path / "out")!r}), {JOB!r}): pass'
        )
        second = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert second.returncode
        assert 'another run is writing it; wait until it has ended' in second.stderr
        assert journal.kept('a') == b'1'
        assert partial_of(tmp_path / 'out').exists()


def test_outputs_get_their_names_whenever_it_is_killed(tmp_path: Path, monkeypatch) -> None:
    """The power is cut at each change of a name in turn; the next run goes on."""
    real = {name: getattr(os, name) for name in ('link', 'rename', 'unlink')}
    for moment in range(8):
        path = tmp_path / f'out {moment}'
        left = [moment]

        def counted(name: str, left: list[int] = left):
            def call(*args: object, **options: object) -> object:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real[name](*args, **options)

            return call

        finished = False
        with killed(path) as journal:
            with journal.folder(path) as made:
                (made / 'a').write_text('whole')
            with journal.file(path.with_name(f'{path.name}.json')) as made:
                made.write_text('told')
            journal.keep('a', b'1')
            with monkeypatch.context() as patched:
                for name in real:
                    patched.setattr(os, name, counted(name))
                journal.finish({'frames': 3})
            finished = True
        with journal_of(path, JOB) as journal:
            assert journal.is_finished
            assert journal.report == {'frames': 3}
            journal.give_names()
        assert (path / 'a').read_text() == 'whole'
        assert path.with_name(f'{path.name}.json').read_text() == 'told'
        assert not partial_of(path).exists()
        if finished:
            assert moment > 2
            return
    pytest.fail('it never came to its end')


def test_what_came_up_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / 'out'
    with killed(path) as journal:
        with journal.folder(path):
            path.mkdir()
        with pytest.raises(OutputError, match='has come up meanwhile; nothing is overwritten'):
            journal.finish({})
    assert list(path.iterdir()) == []
    path.rmdir()
    with journal_of(path, JOB) as journal:
        journal.give_names()
    assert path.is_dir()


def test_places_hold_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / 'journal'
    for _ in range(2):
        with killed(path) as journal:
            journal.keep('a', b'1')
            with journal.folder(path) as made:
                assert list(made.iterdir()) == []
                (made / 'half').touch()
            assert journal.made(path) == made
            with journal.file(tmp_path / 'elsewhere' / 'journal') as made:
                assert not made.exists()
                made.write_text('half')
    assert journal.kept('a') == b'1'


def test_what_was_begun_and_failed_gets_no_name(tmp_path: Path) -> None:
    with journal_of(tmp_path / 'out', JOB) as journal:
        with journal.file(tmp_path / 'out') as made:
            made.write_text('whole')
        with contextlib.suppress(Killed), journal.file(tmp_path / 'out.json') as made:
            made.write_text('half')
            raise Killed
        journal.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ['out']
