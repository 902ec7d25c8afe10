"""The privacy record beside an output: what it was made of, by what, how, and what was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
import hashlib
import json
import os
from pathlib import Path
import threading
from typing import Any, NamedTuple

from ffs_anonymizer import __version__
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError, MediaError
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.output import BESIDE, Outputs, PARTIAL, record_of, replaced_file
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.settings.runtime import Settings

FORMAT = 'ffs_anonymizer privacy record'
VERSION = 1
_BLOCK_BYTES = 1 << 20
# A file that is followed is looked at again.
_FOLLOWED_EVERY_S = 0.01
# What others go by in a record, in a file that it lists, and in its audit.
_OF_RECORD = {'ended': str, 'settings': dict, 'source': dict, 'streams': dict}
_OF_FILE = {'name': str, 'size_bytes': int, 'sha256': str}
_OF_AUDIT = {'ended': str, 'frames': int, 'missed_frames': int, 'findings': int}
# What a record says of files.
Described = Mapping[str, Any]


def write_record(
    job: FileJob,
    output: Path,
    report: Report,
    started: datetime,
    *,
    outputs: Outputs = BESIDE,
    only: Sequence[Path] | None = None,
    source: Future[Described] | None = None,
    about: Future[Described] | None = None,
) -> None:
    """
    Write the record of a job that is done beside its output, or tell why not in its report.

    :param output: the file or folder that was made; nothing is recorded where there is none.
    :param report: what became of it.
    :param started: when the job began.
    :param outputs: that it was made in.
    :param only: files of the source, where it is not all of them.
    :param source: what is told of the source, where it is being found out already.
    :param about: the same of the output.
    """
    made = outputs.made(output)
    if not made.exists():
        return
    try:
        of_output = described(made) if about is None else about.result()
        unread: list[Path] = []
        of_source = (
            described(job.source, only=only, unread=unread) if source is None else source.result()
        )
        report.undone += [
            f'{path}: cannot be read, so the privacy record does not list it' for path in unread
        ]
        files = {'source': of_source, 'output': {**of_output, 'name': output.name}}
        _write(outputs, record_of(output), job, files, report, started)
    except AnonymizerError as error:
        report.undone.append(f'there is no privacy record: {error}')


def _write(
    outputs: Outputs,
    path: Path,
    job: FileJob,
    files: Described,
    report: Report,
    started: datetime,
) -> None:
    record = {
        **summary_of(job.settings, report),
        'started': started.astimezone(timezone.utc).isoformat(timespec='seconds'),
        'ended': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        **files,
        'options': job.options,
        'audit': None,
    }
    if job.skips_existing and path.exists():
        # An earlier run wrote one for the outputs that are there by now.
        _replace(path, record)
    else:
        with outputs.file(path) as partial:
            partial.write_bytes(_text(record))


def summary_of(settings: Settings, report: Report) -> dict[str, Any]:
    """Return what a record says of a job, its files and times apart."""
    return {
        'format': FORMAT,
        'version': VERSION,
        'tool': {'name': 'ffs_anonymizer', 'version': __version__},
        'settings': {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in settings.flat().items()
        },
        'settings_sha256': settings.sha256,
        'models': dict(report.models),
        'streams': {
            name: {
                'action': tally.action,
                'items': tally.items,
                'failed': tally.failed,
                'regions': dict(tally.regions),
                'methods': dict(tally.methods),
            }
            for name, tally in report.streams.items()
        },
        'warnings': dict(report.warnings),
        'undone': list(report.undone),
    }


class Describing:
    """
    Have files described in threads, while other work is done, within a `with` block.

    Where the block ends before they are, they are given up.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        # One thread each for a source, for an output, and for what an output waits for.
        self._pool = ThreadPoolExecutor(3, thread_name_prefix='hash')
        self._followed: dict[Path, Future[_Hash]] = {}

    def __enter__(self) -> Describing:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is not done."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def describe(self, path: Path) -> Future[Described]:
        """Return what will be told of a file or a folder."""
        return self._pool.submit(
            described, path, stopped=self._stopped, followed={**self._followed}
        )

    def follow(self, path: Path) -> Callable[[], None]:
        """
        Read a file while it is written, so that its hash is there soon after its end.

        :param path: to which more is appended, and which changes nowhere else; one at a time.
        :returns: what is to be called when it is whole.
        """
        whole = threading.Event()
        self._followed[path] = self._pool.submit(_hash, path, stopped=self._stopped, whole=whole)
        return whole.set


def described(
    path: Path,
    *,
    only: Sequence[Path] | None = None,
    stopped: threading.Event | None = None,
    followed: Mapping[Path, Future[_Hash]] | None = None,
    unread: list[Path] | None = None,
) -> dict[str, Any]:
    """
    Return name, sizes and SHA-256 of a file, or of all files of a folder.

    :param only: files of the folder that count; None: all.
    :param stopped: is set when nobody wants to know any more.
    :param followed: hashes of files that were read while they were written.
    :param unread: takes those that cannot be read, and are left out; None: they are an error.
    :raises MediaError: a file cannot be read.
    """
    if not path.exists():
        raise MediaError(f'{path}: no such file or folder')
    root = path.parent if path.is_file() else path

    def look(file: Path) -> str:
        try:
            return _sha256(file, stopped=stopped, followed=followed or {})
        except OSError:
            if unread is None:
                raise
            unread.append(file)
            return ''

    try:
        files = [path] if path.is_file() else sorted(only or _files(path))
        with ThreadPoolExecutor(min(4, cores())) as pool:
            hashes = list(pool.map(look, files))
        return {
            'name': path.name,
            'files': [
                {
                    'name': os.fsencode(file.relative_to(root)).decode(
                        'utf-8', 'backslashreplace'
                    ),
                    'size_bytes': file.stat().st_size,
                    'sha256': sha256,
                }
                for file, sha256 in zip(files, hashes, strict=True)
                if sha256
            ],
        }
    except OSError as error:
        raise MediaError(f'{error.filename or path}: {error.strerror or error}') from error


def read_record(path: Path) -> dict[str, Any]:
    """
    Read a record.

    :raises MediaError: there is none, it is damaged, or of a version that is not known here.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise MediaError(
            f'{path}: {error.strerror or error}; expected the record that the tools write beside '
            'their output'
        ) from error
    except (UnicodeDecodeError, ValueError) as error:
        raise MediaError(f'{path} is damaged: {error}') from error
    if not isinstance(record, dict) or record.get('format') != FORMAT:
        raise MediaError(f'{path}: got another kind of file, expected a {FORMAT}')
    if record.get('version') != VERSION:
        raise MediaError(
            f'{path}: got version {record.get("version")!r} of the record, expected {VERSION}'
        )
    output = record.get('output')
    files = output.get('files') if isinstance(output, dict) else None
    if not isinstance(files, list) or not all(_has(file, _OF_FILE) for file in files):
        raise MediaError(f'{path} is damaged: it lists no files of the output')
    lacks = [name for name, kind in _OF_RECORD.items() if not isinstance(record.get(name), kind)]
    if record.get('audit') is not None and not _has(record['audit'], _OF_AUDIT):
        lacks.append('audit')
    if lacks:
        raise MediaError(f'{path} is damaged: got no fit {", ".join(lacks)}')
    record.setdefault('audit', None)
    return record


def _has(found: object, kinds: Mapping[str, type]) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(name), kind) for name, kind in kinds.items()
    )


def differences(record: Mapping[str, Any], output: Path) -> list[str]:
    """
    Return how an output differs from its record, nothing where it does not.

    :raises MediaError: a file cannot be read.
    """
    if not output.exists():
        return [f'{output}: is missing']
    listed = {file['name']: file for file in record['output']['files']}
    found = {file['name']: file for file in described(output)['files']}
    if output.is_file():
        # It may have been renamed.
        listed = dict(zip(found, listed.values(), strict=False))
    told = [f'{name}: is missing' for name in listed.keys() - found.keys()]
    told += [f'{name}: is not in the record' for name in found.keys() - listed.keys()]
    told += [
        f'{name}: got SHA-256 {found[name]["sha256"][:16]}... and {found[name]["size_bytes"]} '
        f'bytes, expected {file["sha256"][:16]}... and {file["size_bytes"]}'
        for name, file in listed.items()
        if name in found and found[name]['sha256'] != file['sha256']
    ]
    return sorted(told)


def add_audit(path: Path, result: Mapping[str, Any]) -> None:
    """
    Enter the result of an audit into a record, in place of an earlier one.

    :raises AnonymizerError: there is no record, or it cannot be written.
    """
    _replace(path, {**read_record(path), 'audit': dict(result)})


def _replace(path: Path, record: Mapping[str, Any]) -> None:
    with replaced_file(path) as partial:
        partial.write_bytes(_text(record))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob('*')):
        if path.is_file() and not path.name.endswith(PARTIAL):
            yield path


class _Hash(NamedTuple):
    """Hold the SHA-256 of so many bytes."""

    sha256: str
    size_bytes: int


def _sha256(
    path: Path, *, stopped: threading.Event | None, followed: Mapping[Path, Future[_Hash]]
) -> str:
    if path in followed:
        found = followed[path].result()
        # Else somebody has written to it since.
        if found.size_bytes == path.stat().st_size:
            return found.sha256
    return _hash(path, stopped=stopped).sha256


def _hash(
    path: Path, *, stopped: threading.Event | None, whole: threading.Event | None = None
) -> _Hash:
    """
    Return the hash of a file.

    :param stopped: is set when nobody wants to know any more.
    :param whole: is set when nothing more is appended to it; None: nothing is.
    """
    digest, size_bytes = hashlib.sha256(), 0
    with path.open('rb', buffering=0) as file:
        while True:
            is_whole = whole is None or whole.is_set()
            block = file.read(_BLOCK_BYTES)
            digest.update(block)
            size_bytes += len(block)
            if stopped is not None and stopped.is_set():
                raise MediaError(f'{path}: nobody wants to know any more')
            if not block and is_whole:
                return _Hash(digest.hexdigest(), size_bytes)
            if not block:
                assert whole is not None
                whole.wait(_FOLLOWED_EVERY_S)


def _text(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, indent=1, ensure_ascii=False) + '\n'
    # Names of files need not be UTF-8.
    return text.encode('utf-8', 'backslashreplace')
