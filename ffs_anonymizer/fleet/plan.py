"""Which recordings a fleet works on, and where the output of each goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import contextlib
from dataclasses import dataclass, replace
import glob
import hashlib
import itertools
import os
from pathlib import Path

from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.errors import MediaError, OutputError
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.output import PARTIAL, record_of
from ffs_anonymizer.jobs.remote import location, RemotePath
from ffs_anonymizer.media.files import entries, kind_of, MediaJob
from ffs_anonymizer.rosbag2.metadata import FILE_NAME
from ffs_anonymizer.rosbag2.reader import STORAGE_BY_SUFFIX

LIST_SUFFIXES = ('.txt', '.list')
PAGE, STATE, STAGING = 'fleet.html', 'fleet.json', f'fleet{PARTIAL}'
AUDIT = '.audit.html'


@dataclass(frozen=True)
class FleetTask:
    """
    Say what is to be made of one recording; plain data.

    :param number: among the fleet's, from 0.
    :param name: of the output below the fleet's, with slashes.
    :param job: a BagJob or a MediaJob; source and target may lie elsewhere.
    :param staging: folder in which outputs are made that do not lie elsewhere.
    :param resumes: whether an output of an earlier run may stand.
    :param audits: whether the output is looked at once more.
    :param is_shared: whether all workers look into it, chunk by chunk, if it has many pictures.
    """

    number: int
    name: str
    job: FileJob
    staging: Path
    resumes: bool = False
    audits: bool = False
    is_shared: bool = False

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Return what is made, the audit's page among it."""
        target = self.job.target
        pages = (target.with_name(target.name + AUDIT),) if self.audits else ()
        return (target, record_of(target), *pages)

    @property
    def journals(self) -> str:
        """Return how the names begin under which what was found in its chunks is kept."""
        return f'chunks_{hashlib.sha256(os.fsencode(self.name)).hexdigest()[:16]}'


@dataclass(frozen=True)
class FleetPlan:
    """
    Say what is to be done, and what is not.

    :param options: a hash of all that is asked of the recordings, their settings among it.
    :param left_out: what is neither a bag nor an image nor a video.
    :param broken: name and reason of what cannot be read at all, or is of a kind not supported.
    """

    tasks: tuple[FleetTask, ...]
    options: str
    left_out: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        source: str,
        output: Path,
        *,
        bag: BagJob,
        media: MediaJob,
        resumes: bool = False,
        audits: bool = False,
    ) -> FleetPlan:
        """
        Look for the recordings.

        :param source: a folder, a recording, a pattern, or a file that lists such.
        :param bag: what is asked of bags; its source and target do not count.
        :param media: the same of images and videos.
        :raises MediaError: there is nothing to work on.
        :raises OutputError: two would have one output, or the output lies in the input.
        """
        found, left_out, broken = _Found(), [], []
        for place, name in _named(_places(source)):
            if place.is_dir() and not (place / FILE_NAME).is_file():
                _refuse_inside(place, output)
                more, others, unread = _below(place, name)
                found.update(more)
                left_out += others
                broken += unread
            elif place.is_dir() or place.suffix in STORAGE_BY_SUFFIX:
                found.add(name, place, is_bag=True)
            elif place.is_file():
                kind, reason = kind_of(place)
                if kind:
                    found.add(name, place, is_bag=False)
                else:
                    broken.append((name, reason or 'neither a bag nor an image nor a video'))
            else:
                raise MediaError(f'{place}: no such file or folder')
        if not found and not broken:
            raise MediaError(f'{source}: no bag, image or video in it')
        _refuse_nested(found)
        staging = output / STAGING
        tasks = tuple(
            FleetTask(
                number,
                name,
                replace(bag if is_bag else media, source=place, target=output / name),
                staging,
                resumes,
                audits,
            )
            for number, (name, (place, is_bag)) in enumerate(sorted(found.items()))
        )
        return cls(tasks, _digest(bag, media, audits=audits), tuple(left_out), tuple(broken))

    @property
    def problems(self) -> list[str]:
        """Return what cannot be done, as words."""
        return [f'{name}: {reason}' for name, reason in self.broken]


def size_of(source: Path) -> int:
    """Return the bytes of a recording on a disk; 0 where it lies elsewhere."""
    if isinstance(source, RemotePath):
        return 0
    total = 0
    with contextlib.suppress(OSError):
        for path in [source] if source.is_file() else source.iterdir():
            total += path.stat().st_size
    return total


class _Found(dict[str, 'tuple[Path, bool]']):
    """Hold place and kind of recordings by the name of their output."""

    def add(self, name: str, place: Path, *, is_bag: bool) -> None:
        if is_bag and Path(name).suffix in STORAGE_BY_SUFFIX:
            name = name[: -len(Path(name).suffix)]
        if (name in self and self[name][0] != place) or name in (PAGE, STATE, STAGING):
            other = self[name][0] if name in self else 'the page of the fleet'
            raise OutputError(
                f'{place}: would have the output {name}, as would {other}; rename one, or do '
                'them one after the other'
            )
        self[name] = place, is_bag


def _places(source: str) -> list[Path]:
    """Return what an input names, itself or by its lines or pattern."""
    place = location(source)
    if isinstance(place, RemotePath):
        return place.matching() if glob.has_magic(source) else [place]
    if place.suffix in LIST_SUFFIXES and place.is_file():
        try:
            lines = place.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MediaError(f'{place}: cannot be read as a list: {error}') from error
        words = [line.strip() for line in lines]
        listed = [word for word in words if word and not word.startswith('#')]
        return [found for word in dict.fromkeys(listed) for found in _places(word)]
    if glob.has_magic(source) and not place.exists():
        return [location(name) for name in sorted(glob.glob(source, recursive=True))]
    return [place]


def _named(places: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield places with what tells them apart; of a single folder nothing does."""
    if len(places) == 1:
        (place,) = places
        is_folder = place.is_dir() and not (place / FILE_NAME).is_file()
        yield place, '' if is_folder else place.name
        return
    above = [place.parent.parts for place in places]
    same = (len({*level}) == 1 for level in zip(*above, strict=False))
    shared = sum(1 for _ in itertools.takewhile(bool, same))
    for place in places:
        yield place, '/'.join(place.parts[shared:])


def _below(folder: Path, name: str) -> tuple[_Found, list[str], list[tuple[str, str]]]:
    """Return the recordings of a folder, what else lies there, and what cannot be read."""
    found, left_out, broken = _Found(), [], []
    files = (
        [(path, '') for path in folder.rglob('*')]
        if isinstance(folder, RemotePath)
        else list(entries(folder, ()))
    )
    bags = {path.parent for path, reason in files if path.name == FILE_NAME and not reason}

    def named(path: Path) -> str:
        return '/'.join((*name.split('/'), *path.relative_to(folder).parts)).lstrip('/')

    for bag in bags:
        found.add(named(bag), bag, is_bag=True)
    for path, reason in files:
        if not bags.isdisjoint(path.parents):
            continue
        if not reason and path.suffix in STORAGE_BY_SUFFIX:
            found.add(named(path), path, is_bag=True)
            continue
        kind = ''
        if not reason:
            kind, reason = kind_of(path)
        if reason:
            broken.append((named(path), reason))
        elif kind:
            found.add(named(path), path, is_bag=False)
        else:
            left_out.append(named(path))
    return found, left_out, broken


def _refuse_inside(folder: Path, output: Path) -> None:
    real = output.resolve()
    if folder.resolve() in (real, *real.parents):
        raise OutputError(
            f'{output}: lies inside the input {folder}, where its files would be taken for '
            'inputs; choose another folder'
        )


def _refuse_nested(names: Iterable[str]) -> None:
    known = {*names}
    for name in known:
        for above in map(str, Path(name).parents):
            if above in known:
                raise OutputError(
                    f'{name}: would lie inside of the output {above}; rename one, or do them one '
                    'after the other'
                )


def _digest(bag: BagJob, media: MediaJob, *, audits: bool) -> str:
    nowhere = Path()
    asked = [replace(job, source=nowhere, target=nowhere) for job in (bag, media)]
    return hashlib.sha256(repr((*asked, audits)).encode()).hexdigest()
