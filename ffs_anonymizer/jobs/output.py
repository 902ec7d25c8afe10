"""New files and folders: written beside their names, which they get when they are whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
import contextlib
from contextlib import AbstractContextManager, contextmanager
import errno
import os
from pathlib import Path
import shutil
from typing import Any

from ffs_anonymizer.errors import OutputError

PARTIAL = '.partial'
RECORD = '.privacy.json'
# Lies in the partial of an output whose run goes on where it was killed.
JOURNAL = 'journal'


def partial_of(path: Path) -> Path:
    """Return where an output lies until it is whole."""
    return path.with_name(path.name + PARTIAL)


def record_of(path: Path) -> Path:
    """Return where the privacy record of an output lies."""
    return path.with_name(path.name + RECORD)


def refuse(
    outputs: Iterable[Path], *, source: Path, resumed: Collection[Path] = (), way_out: str = ''
) -> None:
    """
    Refuse to begin where something would be overwritten, or written into the input.

    :param outputs: all files and folders that are to be made.
    :param source: the input, which stays as it is; in a folder, nothing is written.
    :param resumed: of the outputs, those whose unfinished state is taken up.
    :param way_out: what else may be done where one exists.
    :raises OutputError: an output exists, is being written, is named twice, or lies in the input.
    """
    paths = [Path(path) for path in outputs]
    existing = [path for path in paths if os.path.lexists(path)]
    if existing:
        raise OutputError(
            f'{existing[0]}: exists already'
            + (f', as do {len(existing) - 1} other outputs' if len(existing) > 1 else '')
            + f'; nothing is overwritten: choose another output{way_out}'
        )
    folder = source.resolve() if source.is_dir() else None
    taken: set[Path] = set()
    for path in paths:
        # Through whatever links the name leads.
        real = path.resolve()
        if real in taken:
            raise OutputError(
                f'{path}: got two outputs of this name, expected one; rename the input, or choose '
                'another file for the detections'
            )
        taken.add(real)
        if path not in resumed and os.path.lexists(partial_of(path)):
            raise PartialError(partial_of(path))
        if folder is not None and folder in (real, *real.parents):
            raise OutputError(
                f'{path}: lies inside the input {source}, which stays as it is; choose another '
                'place for it'
            )


def refuse_no_place(path: Path, *, is_folder: bool = False) -> None:
    """
    Refuse to begin long work whose result could not be written; a file may be there already.

    :param is_folder: of what is to be written; it and the folders above are made.
    :raises OutputError: something else is there, or in the way.
    """
    if path.exists() and path.is_dir() != is_folder:
        kinds = ('file', 'folder') if is_folder else ('folder', 'file')
        raise OutputError(f'{path}: got a {kinds[0]}, expected a {kinds[1]} or nothing there')
    place = path.absolute()
    above = next(each for each in ([place] * is_folder + [*place.parents]) if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f'cannot write {path}: {above} is no folder that may be written to')


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """
    Yield the name of an empty file to write to; when the block ends well, it gets its own name.

    By then it is on the disk. Whatever goes wrong, nothing of it is left.

    :raises OutputError: the file or its partial exists, or cannot be written.
    """
    partial = partial_of(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Never through a link, and never into what somebody else is writing.
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError as error:
            raise PartialError(partial) from error
        made = os.fstat(descriptor)
        os.close(descriptor)
        try:
            yield partial
            sync(partial)
            if not _is_same(partial, made):
                raise OutputError(f'{partial}: is another file than the one that was written')
            give_name(partial, path)
        finally:
            if _is_same(partial, made):
                partial.unlink()


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """
    Yield the name of an empty file to write to, which replaces the old when the block ends well.

    :raises OutputError: somebody else is writing it, or it cannot be written.
    """
    partial = partial_of(path)
    with disk_errors(path):
        try:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError as error:
            raise PartialError(partial) from error
        try:
            yield partial
            sync(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """
    Yield an empty folder to write to; when the block ends well, it gets its own name.

    By then it is on the disk, its files excepted. Whatever goes wrong, nothing of it is left.

    :raises OutputError: the folder or its partial exists, or cannot be written.
    """
    partial = partial_of(path)
    with disk_errors(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.mkdir()
        except FileExistsError as error:
            raise PartialError(partial) from error
        try:
            yield partial
            give_folder_name(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class Outputs:
    """Say where the outputs of a job are made: each beside its name, which it gets by itself."""

    @property
    def resumed(self) -> tuple[Path, ...]:
        """Return the outputs whose unfinished state is taken up."""
        return ()

    def file(self, path: Path) -> AbstractContextManager[Path]:
        """
        Yield where to write a file; when the block ends well, it is made.

        :raises OutputError: it cannot be written.
        """
        return new_file(path)

    def folder(self, path: Path) -> AbstractContextManager[Path]:
        """
        Yield an empty folder to write to; when the block ends well, it is made.

        :raises OutputError: it cannot be written.
        """
        return new_folder(path)

    def made(self, path: Path) -> Path:
        """Return where an output lies that is made."""
        return path

    def finish(self, report: Mapping[str, Any]) -> None:
        """
        Give what was made its names, where it does not have them yet.

        :param report: of the job, for a run that has to go on there.
        :raises OutputError: a name is taken.
        """


BESIDE = Outputs()


def replace_with(made: Path, target: Path) -> None:
    """
    Give a whole file its final name, in place of an earlier one, and have that on the disk.

    :param made: of the same file system.
    :raises OutputError: it cannot be written.
    """
    with disk_errors(target):
        sync(made)
        made.replace(target)
        sync(target.parent)


def sync(path: Path) -> None:
    """Have a file or a folder on the disk, so that a final name also survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """
    Turn what the disk says into the error of outputs.

    :raises OutputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or 'full' in reason:
            raise OutputError(
                f'no space left for {path}: {reason}; nothing is left of it, the input is '
                'untouched'
            ) from error
        raise OutputError(f'cannot write {path}: {reason}') from error


class PartialError(OutputError):
    """An unfinished output is in the way."""

    def __init__(self, partial: Path) -> None:
        goes_on = os.path.lexists(partial / JOURNAL) * (
            'start it again as it was, with --workers, which goes on, or '
        )
        super().__init__(
            f'{partial} is there: another run is writing it, or one was killed; if none is '
            f'running, {goes_on}remove it and start again'
        )


def _existing(path: Path) -> OutputError:
    return OutputError(f'{path}: exists already, has come up meanwhile; nothing is overwritten')


def _is_same(path: Path, made: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(path.lstat(), made)
    return False


def give_folder_name(partial: Path, path: Path) -> None:
    """
    Give a folder its name, on the disk, its files excepted.

    :raises OutputError: something has that name.
    """
    sync(partial)
    if os.path.lexists(path):
        raise _existing(path)
    partial.rename(path)
    sync(path.parent)


def give_name(partial: Path, path: Path) -> None:
    """
    Give a file its name.

    :raises OutputError: something has that name.
    """
    try:
        # Fails where a rename would overwrite.
        os.link(partial, path)
    except FileExistsError as error:
        raise _existing(path) from error
    except OSError:
        # A file system that knows no links.
        if os.path.lexists(path):
            raise _existing(path) from None
        partial.rename(path)
    else:
        partial.unlink()
    sync(path.parent)
