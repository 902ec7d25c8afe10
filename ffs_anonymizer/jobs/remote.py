"""Files that lie elsewhere: read through fsspec where they are, written as a whole."""

from __future__ import annotations

from collections.abc import Generator, Iterator
import contextlib
from contextlib import contextmanager
import io
import os
from pathlib import Path, PosixPath
import shutil
from typing import Any

from ffs_anonymizer.errors import AnonymizerError, MediaError, OutputError

_BLOCK_BYTES = 8 << 20
# Of a file that is open: one that is read, one that follows, the ends that indexes lie in.
_BLOCKS = 4
_COMMIT = 'metadata.yaml'
_GOOGLE = ('gs', 'gcs')
# Beginnings of addresses that nothing is written to, and that have no folders.
READ_ONLY = ('http:', 'https:')


def location(text: str) -> Path:
    """
    Return the place that a text names, which may lie elsewhere.

    :param text: a path, or an address as s3://bucket/key.
    """
    scheme, found, rest = text.partition('://')
    if not found:
        return Path(os.path.abspath(text))
    if scheme == 'file':
        return Path(os.path.abspath(rest))
    return RemotePath(f'{scheme}:', *filter(None, rest.split('/')))


class RemotePath(PosixPath):
    """
    Name a file or folder that lies elsewhere; it can be read as a Path can.

    What a Path does by way of the operating system fails, as there is no such file here.
    """

    def __str__(self) -> str:
        """Return the address."""
        scheme, *rest = self.parts or ('',)
        return f'{scheme}//{"/".join(rest)}' if scheme.endswith(':') else '/'.join(self.parts)

    def __fspath__(self) -> str:
        """Return what no file of this machine is called."""
        return str(self)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether there is a file or a folder."""
        with _errors(self):
            return bool(self._system.exists(str(self)))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether there is a file."""
        with _errors(self):
            return bool(self._system.isfile(str(self)))

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether there is a folder; over http there are none."""
        if self.parts[0] in READ_ONLY:
            # Whether it lists something can only be told by reading all of it.
            return False
        with _errors(self):
            return bool(self._system.isdir(str(self)))

    def is_symlink(self) -> bool:
        """Return False."""
        return False

    def resolve(self, strict: bool = False) -> RemotePath:
        """Return the path."""
        return self

    def absolute(self) -> RemotePath:
        """Return the path."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return size and time of change of a file; 0 where they are not known."""
        with _errors(self):
            info = self._system.info(str(self))
            changed = 0.0
            with contextlib.suppress(NotImplementedError, KeyError, TypeError):
                changed = self._system.modified(str(self)).timestamp()
        seconds = int(changed)
        size = int(info.get('size') or 0)
        return os.stat_result((0o100444, 0, 0, 1, 0, 0, size, seconds, seconds, seconds))

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Yield what lies in a folder."""
        with _errors(self):
            names = self._system.ls(str(self), detail=False)
        for name in sorted({name.rstrip('/').rpartition('/')[2] for name in names} - {''}):
            yield self / name

    def rglob(self, pattern: str, **_: Any) -> Generator[RemotePath, None, None]:
        """
        Yield all files below a folder.

        :param pattern: *, as nothing else is needed.
        """
        assert pattern == '*'
        with _errors(self):
            names = self._system.find(str(self))
        own = len(self._system._strip_protocol(str(self)).strip('/').split('/'))
        for name in names:
            below = self._system._strip_protocol(name).strip('/').split('/')[own:]
            yield self.joinpath(*below)

    def matching(self) -> list[Path]:
        """
        Return what fits a pattern.

        :raises MediaError: nothing can be listed there.
        """
        with _errors(self):
            names = self._system.glob(str(self))
            return [location(self._system.unstrip_protocol(name)) for name in sorted(names)]

    def open(self, mode: str = 'r', *args: Any, **options: Any) -> Any:  # noqa: A003
        """
        Open a file for reading; blocks are fetched as they are needed, and the next one ahead.

        :raises MediaError: it cannot be opened; so does each read that cannot be done.
        """
        if mode != 'rb':
            raise OutputError(f'{self}: got mode {mode!r}, expected rb')
        with _errors(self):
            return _File(self, self._system)

    def read_bytes(self) -> bytes:
        """Return the bytes of a file."""
        with _errors(self):
            return bytes(self._system.cat_file(str(self)))

    def read_text(
        self, encoding: str | None = None, errors: str | None = None, **_: object
    ) -> str:
        """Return the text of a file."""
        return self.read_bytes().decode(encoding or 'utf-8', errors or 'strict')

    def fetch(self, folder: Path) -> Path:
        """
        Copy a file, or the files of a folder, into a folder of this machine.

        :returns: the copy, of the same name.
        :raises MediaError: it cannot be read whole.
        """
        copy = folder / self.name
        files = {copy: self}
        if self.is_dir():
            copy.mkdir()
            files = {
                copy.joinpath(*file.relative_to(self).parts): file for file in self.rglob('*')
            }
        for target, source in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open('rb') as data, target.open('xb') as out:
                shutil.copyfileobj(data, out, _BLOCK_BYTES)
            if target.stat().st_size != source.stat().st_size:
                raise MediaError(f'{source}: has changed while it was read')
        return copy

    def put(self, data: bytes) -> None:
        """
        Write a small file, in place of an earlier one.

        :raises OutputError: it cannot be written.
        """
        with _errors(self, OutputError):
            self._system.pipe_file(str(self), data)

    def upload(self, made: Path) -> None:
        """
        Put a file or a folder here; what says that it is whole comes last, as nothing is renamed.

        Of a bag that is its metadata.yaml, which is never put in place of another. Whatever goes
        wrong before, what was put is taken away, as far as the wire allows.

        :raises OutputError: it cannot be written, or is there already.
        """
        files = [made] if made.is_file() else [path for path in made.rglob('*') if path.is_file()]
        files.sort(key=lambda path: (path.name == _COMMIT, path))
        done: list[RemotePath] = []
        try:
            for file in files:
                target = self if file == made else self.joinpath(*file.relative_to(made).parts)
                if file == made or file.name == _COMMIT:
                    target._commit(file)
                    continue
                done.append(target)
                with _errors(target, OutputError):
                    target._system.put_file(str(file), str(target))
                target._check(file)
        except BaseException:
            with contextlib.suppress(AnonymizerError):
                if not (self / _COMMIT).is_file():
                    for target in done:
                        target.remove()
            raise

    def remove(self) -> None:
        """Take a file away, if it is there and can be."""
        with contextlib.suppress(AnonymizerError), _errors(self, OutputError):
            self._system.rm_file(str(self))

    def _commit(self, file: Path) -> None:
        with _errors(self, OutputError):
            try:
                # S3 itself refuses where there is one.
                self._system.put_file(str(file), str(self), mode='create')
            except FileExistsError as error:
                raise OutputError(
                    f'{self}: exists already, has come up meanwhile; nothing is overwritten'
                ) from error
        self._check(file)

    def _check(self, file: Path) -> None:
        got, expected = self.stat().st_size, file.stat().st_size
        if got != expected:
            raise OutputError(f'{self}: got {got} bytes there, expected {expected}')

    @property
    def _system(self) -> Any:
        return _system_of(self.parts[0].rstrip(':'))


class _File(io.BufferedIOBase):
    """Read a file that lies elsewhere, whatever the transport raises as one kind of error."""

    def __init__(self, path: RemotePath, system: Any) -> None:
        self._path = path
        self._file = system.open(
            str(path),
            'rb',
            block_size=_BLOCK_BYTES,
            cache_type='background',
            cache_options={'maxblocks': _BLOCKS},
        )

    def read(self, size: int | None = -1) -> bytes:
        with _errors(self._path):
            return bytes(self._file.read(-1 if size is None else size))

    def seek(self, offset: int, whence: int = 0) -> int:
        with _errors(self._path):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _system_of(scheme: str) -> Any:
    """
    Return the file system of a scheme, which finds credentials its own ways.

    :raises AnonymizerError: the library for it is not installed.
    """
    try:
        import fsspec

        # Others write there, too.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        extras = 'remote,gs' if scheme in _GOOGLE else 'remote'
        raise AnonymizerError(
            f"{scheme}://: {error}; pip install 'ffs_anonymizer[{extras}]'"
        ) from error
    except ValueError as error:
        raise AnonymizerError(f'{scheme}://: {error}') from error


@contextmanager
def _errors(path: Path, kind: type[AnonymizerError] = MediaError) -> Iterator[None]:
    """
    Turn what a transport raises into an error of the package.

    :param kind: of the error.
    :raises AnonymizerError: in place of it.
    """
    try:
        yield
    except AnonymizerError:
        raise
    except FileNotFoundError as error:
        raise kind(f'{path}: there is no such file or folder') from error
    except PermissionError as error:
        raise kind(f'{path}: access is denied: {_line(error)}') from error
    # Each transport has its own family.
    except Exception as error:
        raise kind(f'{path}: {type(error).__name__}: {_line(error)}') from error


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())
