"""Where engines lie between build and use: private files, each checked against what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import hashlib
import json
import os
from pathlib import Path
import stat
from typing import Any, BinaryIO

from ffs_anonymizer.errors import ModelError

BUILD = 'run `ffs_anonymizer build`'
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class MissingError(ModelError):
    """There is no such file in the cache; nothing is wrong with it otherwise."""


def default_folder() -> Path:
    """Return the user's own cache folder."""
    root = os.environ.get('XDG_CACHE_HOME') or str(Path.home() / '.cache')
    return Path(root) / 'ffs_anonymizer' / 'engines'


def name_of(facts: Mapping[str, str], suffix: str) -> str:
    """
    Return the file name of what was made from these facts.

    :param facts: the source's hash first; files of one source share the beginning of their names.
    :param suffix: with its dot.
    """
    source, *others = facts.values()
    return f'{source[:16]}-{_sha256(json.dumps(others).encode())[:16]}{suffix}'


class EngineCache:
    """
    Hold files that are executed, so that nobody else can have written them.

    The folder and each file must belong to this process's user, be no links, and be writable by
    nobody else. Beside each file lies a JSON with its SHA-256 and the facts that it was made from.

    :param folder: made (0700) by the first `save`; None takes the user's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def load(self, name: str, expected: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """
        Read a file, once, and check these very bytes.

        :param name: of the file.
        :param expected: the facts that must be as they were when the file was made.
        :returns: the content and all of its facts.
        :raises MissingError: there is no such file.
        :raises ModelError: it is not private, was changed, or was made for something else.
        """
        path = self.folder / name
        with self._opened() as folder:
            facts = _facts(_read(folder, f'{name}.json', path), path)
            data = _read(folder, name, path)
        for key, want in expected.items():
            if facts.get(key) != want:
                raise ModelError(
                    f'{path}: got one that was made for {key} {facts.get(key)!r}, '
                    f'expected {want!r}; {BUILD}'
                )
        if _sha256(data) != facts['sha256']:
            raise ModelError(
                f'{path}: got sha256 {_sha256(data)}, expected {facts["sha256"]}: it was changed '
                f'or cut off; {BUILD} with --force-engine-update'
            )
        return data, facts

    def save(self, name: str, data: bytes, facts: Mapping[str, Any]) -> Path:
        """
        Write a file and its facts (0600), each under its name only when complete.

        :returns: where it lies.
        :raises ModelError: the folder is not private, or the disk refuses.
        """
        path = self.folder / name
        text = json.dumps({'sha256': _sha256(data), **facts}, indent=2) + '\n'
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened() as folder:
                _write(folder, name, data)
                _write(folder, f'{name}.json', text.encode())
        except OSError as error:
            raise ModelError(f'{path}: cannot be written: {error}') from error
        return path

    def facts_of_all(self, beginning: str) -> list[dict[str, Any]]:
        """
        Return the facts of every file whose name begins so; for messages, not for use.

        :param beginning: of the names.
        """
        try:
            names = sorted(os.listdir(self.folder))
        except OSError:
            return []
        found = []
        with self._opened() as folder:
            for name in names:
                if name.startswith(beginning) and name.endswith('.json'):
                    path = self.folder / name
                    found.append(_facts(_read(folder, name, path), path))
        return found

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Yield the folder, so that all that follows happens in the very one that was checked."""
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise MissingError(f'{self.folder}: got no such folder; {BUILD}') from error
        except OSError as error:
            raise ModelError(
                f'{self.folder}: got something else than a folder ({error.strerror}), expected '
                f'a private one and no link; remove it and {BUILD}'
            ) from error
        try:
            _check_private(os.fstat(folder), self.folder)
            yield folder
        finally:
            os.close(folder)


def _check_private(status: os.stat_result, path: Path) -> None:
    if status.st_uid != os.geteuid():
        raise ModelError(
            f'{path}: got a file of user {status.st_uid}, expected one of user {os.geteuid()}; '
            f'remove it and {BUILD} as the user who runs this'
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise ModelError(
            f'{path}: got mode {stat.S_IMODE(status.st_mode):04o}, which lets others write what '
            f'would be executed here; remove it and {BUILD}'
        )


def _read(folder: int, name: str, path: Path) -> bytes:
    try:
        file: BinaryIO = os.fdopen(
            os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), 'rb'
        )
    except FileNotFoundError as error:
        raise MissingError(f'{path}: got no such file; {BUILD}') from error
    except OSError as error:
        raise ModelError(
            f'{path}: got {name} that cannot be read, or is a link ({error.strerror}), expected '
            f'a file of our own; remove it and {BUILD}'
        ) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ModelError(
                f'{path}: got {name} that is no plain file with one name; remove it and {BUILD}'
            )
        _check_private(status, path)
        return file.read()


def _write(folder: int, name: str, data: bytes) -> None:
    partial = f'.{name}.{os.getpid()}.partial'
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o600, dir_fd=folder), 'wb') as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(partial, dir_fd=folder)
            raise


def _facts(text: bytes, path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ModelError(
            f'{path}: got a JSON beside it that cannot be read ({error}); {BUILD}'
        ) from error
    if not isinstance(facts, dict) or not isinstance(facts.get('sha256'), str):
        raise ModelError(f'{path}: got a JSON beside it without the sha256; {BUILD}')
    return facts


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
