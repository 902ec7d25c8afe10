"""Which files of a folder are worked on, and where their outputs go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
import fnmatch
from pathlib import Path
import re

from ffs_anonymizer.errors import MediaError, SettingsError
from ffs_anonymizer.frames.containers import sniff
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.output import record_of

VIDEO_SUFFIXES = ('.mp4', '.m4v', '.mov', '.mkv', '.avi', '.webm')
JPEG_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif')
TIFF_SUFFIXES = ('.tif', '.tiff')
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, '.png', '.webp', '.bmp', *TIFF_SUFFIXES)
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_HEAD_BYTES = 512
# As printf has it.
_NUMBER = re.compile(r'%(?:0(\d+))?d')
# Whoever has such files in a folder takes them for done, unless told otherwise.
_UNSUPPORTED = re.compile(
    r'\.(apng|avif|gif|hei[cf]s?|j2k|jp2|jxl|p[bgnp]m|tga'
    r'|arw|cr[23]|dng|nef|orf|raf|raw|rw2'
    r'|3g[2p]|26[45]|asf|f4v|flv|h26[45]|hevc|m2ts|m2v|mjpe?g|mp(e|e?g)|mts|mxf|og[mv]|ts|vob|wmv'
    r'|y4m|yuv)',
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class MediaJob(FileJob):
    """
    Say what is to be made of an image, a video or a folder of both.

    :param into_folder: whether the output is a folder even if there is none yet.
    :param boxes: folder with own boxes for images, in place of the detector.
    :param keeps_audio: whether the sound of videos is copied.
    :param crf: constant rate factor of written videos.
    :param previews: whether a picture of before and after is written beside each output.
    :param framerate: pictures a second, where numbered ones are those of a film; 0: each stands
        for itself.
    :param pattern: of the names of the pictures of a folder that are worked on, as img_%04d.png
        or *.png; empty: all, those of its folders included.
    """

    into_folder: bool = False
    boxes: Path | None = None
    keeps_audio: bool = False
    crf: int = 18
    previews: bool = False
    framerate: float = 0.0
    pattern: str = ''


@dataclass(frozen=True)
class MediaFile:
    """
    Hold one file and where its output goes.

    :param name: its path below the input folder, with slashes.
    :param kind: the one of SUFFIXES that it is worked on as, by its name or its first bytes.
    :param film: what it is a picture of; empty: it stands for itself.
    :param stamp_ns: its time in the film.
    """

    source: Path
    target: Path
    name: str
    kind: str
    film: str = ''
    stamp_ns: int | None = None

    @property
    def is_video(self) -> bool:
        """Return whether the file is a video."""
        return self.kind in VIDEO_SUFFIXES

    @property
    def zone_names(self) -> tuple[str, ...]:
        """Return what zones may call it: an image goes by its folder, too."""
        if self.is_video:
            return (self.name,)
        return (Path(self.name).parent.as_posix(), self.name)

    @property
    def preview(self) -> Path:
        """Return where the picture of before and after goes."""
        return self.target.with_name(self.target.name + '.preview.jpg')


@dataclass(frozen=True)
class MediaPlan:
    """
    Say what is to be done with all files.

    :param files: to work on; those whose output exists are left out where the job says so.
    :param all_files: these included.
    :param left_out: names of files that are neither images nor videos.
    :param broken: name and reason of what cannot be read at all, or is of a kind not supported.
    """

    files: tuple[MediaFile, ...]
    all_files: tuple[MediaFile, ...]
    left_out: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, job: MediaJob) -> MediaPlan:
        """
        Look at the files of a job.

        :raises MediaError: there is nothing to work on, or the output has no place.
        """
        if job.boxes is not None and job.detections is not None:
            raise SettingsError('got --boxes and --detections, expected one of the two')
        if job.boxes is not None and not job.boxes.is_dir():
            raise MediaError(f'{job.boxes}: no such folder')
        if job.framerate and job.skips_existing:
            raise SettingsError(
                'got --skip-existing with --image-sequence, where tracks would begin anew in the '
                'middle; expected one of the two'
            )
        plan = _single(job) if job.source.is_file() else _folder(job)
        if job.framerate:
            films = tuple(_as_films(plan.files, job.framerate))
            if not any(file.film for file in films):
                raise MediaError(
                    f'{job.source}: got no two pictures whose names differ in their last number '
                    'alone, expected them for --image-sequence, as in 0001.jpg, 0002.jpg'
                )
            plan = cls(films, films, plan.left_out, plan.broken)
        if not job.skips_existing:
            return plan
        todo = tuple(file for file in plan.files if not file.target.exists())
        return cls(todo, plan.all_files, plan.left_out, plan.broken)

    @property
    def problems(self) -> list[str]:
        """Return what cannot be done, as words."""
        return [f'{name}: {reason}' for name, reason in self.broken]

    def outputs(self, job: MediaJob) -> list[Path]:
        """Return all files that the job is to make, its list of detections excepted."""
        outputs = [file.target for file in self.files]
        outputs += [file.preview for file in self.files if job.previews]
        return outputs if job.skips_existing else [*outputs, record_of(self.output(job))]

    def output(self, job: MediaJob) -> Path:
        """Return the one file that is made of one, or the folder that is made of a folder."""
        return self.all_files[0].target if job.source.is_file() else job.target


def _single(job: MediaJob) -> MediaPlan:
    source, output = job.source, job.target
    kind, reason = kind_of(source)
    if kind not in SUFFIXES:
        got = reason or f'got {_kind(source)}, expected one of {_known()}'
        raise MediaError(f'{source}: {got}')
    target = output / source.name if job.into_folder or output.is_dir() else output
    if _same_kind(target) != _same_kind(source):
        raise MediaError(
            f'{target}: got {_kind(target)}, expected {source.suffix} as the input has; '
            'the format is kept'
        )
    files = (MediaFile(source, target, source.name, kind),)
    return MediaPlan(files, files)


def _folder(job: MediaJob) -> MediaPlan:
    source, output = job.source, job.target
    if not source.is_dir():
        raise MediaError(f'{source}: no such file or folder')
    if output.is_file():
        raise MediaError(f'{output}: got a file, expected a folder, as the input is one')
    real, real_output = source.resolve(), output.resolve()
    if real in (real_output, *real_output.parents):
        raise MediaError(
            f'{output}: lies inside the input {source}, where its files would be taken for '
            'inputs; choose another folder'
        )
    files, left_out, broken = [], [], []
    fits = _fitting(job.pattern) if job.pattern else None
    for path, reason in entries(source, (real_output,)):
        if fits and (path.parent != source or not fits.fullmatch(path.name)):
            continue
        name = path.relative_to(source).as_posix()
        kind = ''
        if not reason:
            kind, reason = kind_of(path)
        if reason:
            broken.append((name, reason))
        elif kind:
            files.append(MediaFile(path, output / name, name, kind))
        else:
            left_out.append(name)
    if not files and not broken:
        named = f' of the name {job.pattern}' * bool(job.pattern)
        bag = '; a bag? `ffs_anonymizer bag`' * (source / 'metadata.yaml').is_file()
        raise MediaError(
            f'{source}: no image or video{named} in it, expected one of {_known()}{bag}'
        )
    return MediaPlan(tuple(files), tuple(files), tuple(left_out), tuple(broken))


def _fitting(pattern: str) -> re.Pattern[str]:
    """Return what fits the names that a pattern means: %d and %04d are numbers, else a glob."""
    if not is_numbered(pattern):
        return re.compile(fnmatch.translate(pattern))
    # Text and the digits of numbers take turns.
    text, *rest = _NUMBER.split(pattern)
    words = [re.escape(text)]
    for digits, text in zip(rest[::2], rest[1::2], strict=True):
        words += [rf'\d{{{int(digits or 1)},}}', re.escape(text)]
    return re.compile(''.join(words))


def is_numbered(name: str) -> bool:
    """Return whether a name has a place for a number, as img_%04d.png has."""
    return _NUMBER.search(name) is not None


def _as_films(files: Iterable[MediaFile], framerate: float) -> Iterator[MediaFile]:
    """Yield the files, pictures whose names differ in their last number alone as one film."""
    films: dict[str, list[tuple[int, MediaFile]]] = {}
    for file in files:
        numbers = [*re.finditer(r'\d+', Path(file.name).stem)]
        if file.is_video or not numbers:
            yield file
            continue
        folder, last = Path(file.name).parent, numbers[-1]
        stem = Path(file.name).stem
        name = f'{stem[: last.start()]}%d{stem[last.end() :]}{Path(file.name).suffix}'
        film = films.setdefault((folder / name).as_posix(), [])
        film.append((int(last[0]), file))
    for name, numbered in films.items():
        numbered.sort(key=lambda one: (one[0], one[1].name))
        for place, (_, file) in enumerate(numbered):
            if len(numbered) < 2:
                yield file
            else:
                yield replace(file, film=name, stamp_ns=round(place * 1e9 / framerate))


def entries(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    """
    Yield all files below a folder, and why the rest cannot be read; links never lead round.

    :param above: folders that are not entered, the output among them.
    """
    real = folder.resolve()
    if real in above:
        return
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f'cannot be read: {error.strerror}'
        return
    for entry in found:
        if entry.is_dir():
            yield from entries(entry, (*above, real))
        elif entry.is_file():
            yield entry, ''
        else:
            yield entry, 'neither a file nor a folder, or a link to nothing'


def kind_of(path: Path) -> tuple[str, str]:
    """
    Return as which of SUFFIXES a file is worked on, and why it cannot be; both empty: other.

    By its name, else by its first bytes.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return suffix, ''
    convert = f'expected one of {_known()}; convert it'
    if _UNSUPPORTED.fullmatch(suffix):
        return '', f'got {path.suffix}, {convert}'
    try:
        with path.open('rb') as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return '', f'cannot be read: {error.strerror}'
    kind = sniff(head)
    # Two letters that texts may begin with, too.
    if (kind == 'bmp' and head[6:10] != bytes(4)) or (kind == 'ts' and head[188:189] != b'G'):
        return '', ''
    if kind and f'.{kind}' not in SUFFIXES:
        return '', f'got a {kind} file by its first bytes, {convert}'
    return f'.{kind}' if kind else '', ''


def _kind(path: Path) -> str:
    return path.suffix or 'a name without extension'


def _same_kind(path: Path) -> str:
    suffix = path.suffix.lower()
    for same in (JPEG_SUFFIXES, TIFF_SUFFIXES):
        if suffix in same:
            return same[0]
    return suffix


def _known() -> str:
    return ' '.join(SUFFIXES)
