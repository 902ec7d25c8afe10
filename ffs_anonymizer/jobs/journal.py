"""Work that outlives a kill: what is done is kept beside the output, and taken up again."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
import contextlib
from contextlib import contextmanager
import fcntl
import hashlib
import json
import os
from pathlib import Path
import shutil
import stat
from typing import Any
import zlib

from ffs_anonymizer.errors import OutputError
from ffs_anonymizer.jobs.output import (
    disk_errors,
    give_folder_name,
    give_name,
    JOURNAL,
    new_file,
    Outputs,
    partial_of,
    PartialError,
    sync,
)

FORMAT = 'ffs_anonymizer journal'
VERSION = 2
_REPORT = 'report'


class Journal(Outputs):
    """
    Keep what is done of a job in the `.partial` of its output.

    A line of the file is a thing kept, with its own checksum, on the disk before `keep` returns.
    Lines that are cut off or damaged are as if they were not there. All outputs are made in the
    folder, too, and get their names together.

    :param output: of the job.
    :param descriptor: of the file, locked.
    :param lines: what it holds.
    """

    def __init__(self, output: Path, descriptor: int, lines: list[dict[str, Any]]) -> None:
        self.partial = partial_of(output)
        self._output = output
        self._descriptor = descriptor
        self._begun = 0
        self._made: dict[Path, Path] = {}
        self._kept = {line['name']: line for line in lines if 'name' in line}
        self._moves: list[tuple[str, str]] | None = None
        for line in lines:
            self._moves = line.get('moves', self._moves)

    @property
    def names(self) -> frozenset[str]:
        """Return the names of what is kept."""
        return frozenset(self._kept)

    @property
    def is_finished(self) -> bool:
        """Return whether all outputs are there, and only their names may be missing."""
        return self._moves is not None

    def kept(self, name: str) -> bytes | None:
        """Return what was kept under a name; None where there is nothing, or it is damaged."""
        line = self._kept.get(name)
        if line is None:
            return None
        with contextlib.suppress(ValueError, TypeError, KeyError, zlib.error):
            data = zlib.decompress(base64.b64decode(line['data'], validate=True))
            if hashlib.sha256(data).hexdigest() == line['sha256']:
                return data
        return None

    def keep(self, name: str, data: bytes) -> None:
        """
        Keep something, in place of what had this name.

        :raises OutputError: the disk does not take it.
        """
        line = {
            'name': name,
            'sha256': hashlib.sha256(data).hexdigest(),
            'data': base64.b64encode(zlib.compress(data, 1)).decode('ascii'),
        }
        self._append(line)
        self._kept[name] = line

    @property
    def resumed(self) -> tuple[Path, ...]:
        """Return the output whose unfinished state is taken up."""
        return (self._output,)

    @contextmanager
    def file(self, path: Path) -> Iterator[Path]:
        """Yield where to write a file; what an earlier run left there is removed."""
        place = self._fresh(path)
        with disk_errors(path):
            yield place
            sync(place)
        self._made[path] = place

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Yield an empty folder to write to; what an earlier run left there is removed."""
        place = self._fresh(path)
        with disk_errors(path):
            place.mkdir()
            yield place
            sync(place)
        self._made[path] = place

    def made(self, path: Path) -> Path:
        """Return where an output lies that is made."""
        return self._made.get(path, path)

    def finish(self, report: Mapping[str, Any]) -> None:
        """
        Say that all outputs are there, and give them their names.

        Whatever moment a run is killed at, `give_names` of the next one goes on.

        :raises OutputError: a name is taken.
        """
        self.keep(_REPORT, json.dumps(report).encode())
        with disk_errors(self.partial):
            for place in self._made.values():
                sync(place.parent)
            sync(self.partial)
        pairs = [
            (place.relative_to(self.partial).as_posix(), str(path.absolute()))
            for path, place in self._made.items()
        ]
        self._append({'moves': pairs})
        self._moves = pairs
        self.give_names()

    @property
    def report(self) -> dict[str, Any] | None:
        """Return the report of a job that is finished; None where it is damaged."""
        data = self.kept(_REPORT)
        return None if data is None else _parsed(data)

    def give_names(self) -> None:
        """
        Give those outputs of a finished job their names that do not have them yet.

        :raises OutputError: a name is taken.
        """
        for name, path in self._moves or ():
            source, target = self.partial / name, Path(path)
            if not os.path.lexists(source):
                continue
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    give_folder_name(source, target)
                elif _is_same(source, target):
                    # Killed between the two names.
                    source.unlink()
                elif source.stat().st_dev == target.parent.stat().st_dev:
                    give_name(source, target)
                else:
                    with new_file(target) as partial:
                        shutil.copyfile(source, partial)
                    source.unlink()

    def close(self, *, stays: bool) -> None:
        """
        Leave the journal to others.

        :param stays: whether it is kept for the next run, if it holds anything; else it goes.
        """
        try:
            if not (stays and (self.names or self.is_finished)):
                shutil.rmtree(self.partial, ignore_errors=True)
        finally:
            os.close(self._descriptor)

    def _fresh(self, path: Path) -> Path:
        """Return where an output is to be made, in a folder of its own, under its own name."""
        place = self.partial / str(self._begun)
        self._begun += 1
        with disk_errors(path):
            if os.path.lexists(place):
                shutil.rmtree(place)
            place.mkdir()
        return place / path.name

    def _append(self, line: Mapping[str, Any]) -> None:
        with disk_errors(self.partial):
            data = json.dumps(line).encode() + b'\n'
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)


@contextmanager
def journal_of(output: Path, job_sha256: str) -> Iterator[Journal]:
    """
    Yield the journal of an output, a new one or that of a run that did not come to its end.

    When the block ends well, or nothing was kept, it is removed; else it stays for the next run.

    :param output: is not there yet; its folder is made where it is missing.
    :param job_sha256: of all that decides about what is kept; another job never takes it up.
    :raises OutputError: the `.partial` is no journal's, of another job, or being written.
    """
    journal = open_journal(output, job_sha256)
    try:
        yield journal
    except BaseException:
        journal.close(stays=True)
        raise
    journal.close(stays=False)


def open_journal(output: Path, job_sha256: str) -> Journal:
    """
    Return the journal of an output, a new one or that of a run that did not come to its end.

    :param output: is not there yet; its folder is made where it is missing.
    :param job_sha256: of all that decides about what is kept; another job never takes it up.
    :raises OutputError: the `.partial` is no journal's, of another job, or being written.
    """
    folder = partial_of(output)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if is_empty(folder):
            # Whoever may be about to write to it after all finds no folder.
            folder.rmdir()
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            (folder / JOURNAL).touch(exist_ok=False)
            sync(folder.parent)
        descriptor = _locked(folder)
    try:
        return Journal(output, descriptor, _lines(folder, descriptor, job_sha256))
    except BaseException:
        os.close(descriptor)
        raise


def is_empty(folder: Path) -> bool:
    """Return whether a `.partial` is as a run leaves it that was killed before it wrote any."""
    with contextlib.suppress(OSError):
        return not folder.is_symlink() and not any(folder.iterdir())
    return False


def _locked(folder: Path) -> int:
    """Open the file of a journal for this process alone."""
    if folder.is_symlink() or not folder.is_dir():
        raise PartialError(folder)
    try:
        # Never through a link.
        descriptor = os.open(folder / JOURNAL, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
    except OSError as error:
        raise PartialError(folder) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PartialError(folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one that held the lock may have come to its end, and removed the file.
        if not os.path.samestat(os.fstat(descriptor), os.lstat(folder / JOURNAL)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(descriptor)
        raise OutputError(
            f'{folder}: another run is writing it; wait until it has ended'
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lines(folder: Path, descriptor: int, job_sha256: str) -> list[dict[str, Any]]:
    """Return what a journal holds behind its head, which a new one is given."""
    head = {'format': FORMAT, 'version': VERSION, 'job_sha256': job_sha256}
    begins = json.dumps(head).encode() + b'\n'
    with disk_errors(folder):
        content = (folder / JOURNAL).read_bytes()
        if begins.startswith(content):
            # A new one, or killed before all of its head was there.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, begins)
            os.fsync(descriptor)
            return []
    first, *rest = content[: content.rfind(b'\n') + 1].splitlines() or [b'']
    found = _parsed(first)
    if found.get('format') != FORMAT:
        raise PartialError(folder)
    if found != head:
        raise OutputError(
            f'{folder} holds what an unfinished run with other settings, another input or another '
            'version has done; start that one again, which goes on, or remove the folder'
        )
    with disk_errors(folder):
        # The line that was being written when a run was killed, or the disk was full.
        os.ftruncate(descriptor, content.rfind(b'\n') + 1)
    return [_parsed(line) for line in rest]


def _parsed(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return {}


def _is_same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(one.lstat(), other.lstat())
    return False
