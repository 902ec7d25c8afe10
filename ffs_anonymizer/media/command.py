"""The command `media`: images and videos in, the same without faces and plates out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
from dataclasses import dataclass, field
import json
from pathlib import Path
import re
import sys
from typing import Any, TextIO, TYPE_CHECKING

import cv2
from ffs_anonymizer.backend import check_file
from ffs_anonymizer.cli.options import add_file_options, add_settings_options, settings_from
from ffs_anonymizer.errors import (
    AnonymizerError,
    ImageError,
    MediaError,
    SettingsError,
)
from ffs_anonymizer.frames import image_file as picture
from ffs_anonymizer.models.manifest import DEFAULT_GENERATOR, default_generator
from ffs_anonymizer.pipeline import anonymize_all, callers, Outcome, Task
from ffs_anonymizer.regions.detections import CLASSES, read_boxes
from ffs_anonymizer.regions.detector import default_model
from ffs_anonymizer.settings.parameter_file import to_yaml
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Anonymizer
    from ffs_anonymizer.cli.options import Subparsers
    from ffs_anonymizer.frames.message import Frame
    from ffs_anonymizer.frames.video import VideoSource
    from ffs_anonymizer.settings.runtime import Settings

VIDEO_SUFFIXES = ('.mp4', '.m4v', '.mov', '.mkv', '.avi', '.webm')
SUFFIXES = (*picture.SUFFIXES, *VIDEO_SUFFIXES)
# Whoever has such files in a folder takes them for done, unless told otherwise.
_UNSUPPORTED = re.compile(
    r'\.(apng|avif|gif|hei[cf]s?|j2k|jp2|jxl|p[bgnp]m|tga|tiff?'
    r'|arw|cr[23]|dng|nef|orf|raf|raw|rw2'
    r'|3g[2p]|26[45]|asf|f4v|flv|h26[45]|hevc|m2ts|m2v|mjpe?g|mp(e|e?g)|mts|mxf|og[mv]|ts|vob|wmv'
    r'|y4m|yuv)',
    re.IGNORECASE,
)

# Pictures of a folder are a stream whose frames lie further apart than any track lives.
_PICTURE_DISTANCE_NS = 3_600_000_000_000
_DECODED_PER_FILE_BYTE = 10
_PREVIEW_SIDE_PX = 1280
_LISTED_NAMES = 10

_DESCRIPTION = """\
Anonymize an image, a video, or all images and videos of a folder with its folders.

Pixels outside the replaced regions stay as they are, as far as the format allows: an image in
which nothing was found keeps its very pixels. Metadata (EXIF with its thumbnail and place, XMP,
comments, covers, subtitles) is never copied; orientation and colour profile are. Sound is dropped
unless --keep-audio is given: voices tell who speaks. Nothing is ever overwritten, and what
cannot be anonymized is not written but listed at the end, with exit code 1.
"""
_EXAMPLES = """\
examples:
  ffs_anonymizer media -i photo.jpg -o photo_anonymized.jpg
  ffs_anonymizer media -i drive/ -o drive_anonymized/ --method face=mosaic --mask-scale 1.6
  ffs_anonymizer media -i photos/ -o out/ --boxes photos/annotations/
"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        'media',
        help='anonymize images and videos',
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file_options(
        parser,
        source='a file or a folder',
        target='a file for a file (or a folder to put it into), a folder for a folder',
        whole='video',
    )
    parser.add_argument(
        '--boxes',
        type=Path,
        metavar='FOLDER',
        help='own boxes instead of the detector, for images: <stem>.txt with `x0 y0 x1 y1` a '
        'line, in pixels of the upright image; an empty file means no face, a missing one is an '
        'error; in folders as those of the images are',
    )
    parser.add_argument(
        '--keep-audio', action='store_true', help='copy the sound of videos, voices included'
    )
    parser.add_argument(
        '--crf',
        type=_crf,
        default=18,
        metavar='N',
        help='constant rate factor of written videos, 0 to 51: less is better and larger '
        '(default: %(default)s); images keep the quality that they have',
    )
    parser.add_argument(
        '--preview',
        action='store_true',
        help='write <output>.preview.jpg beside each output: before and after, side by side; '
        'CAUTION: it shows the original faces',
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def _crf(text: str) -> int:
    if not text.isdecimal() or int(text) > 51:
        raise argparse.ArgumentTypeError(f'got {text!r}, expected a whole number, 0 to 51')
    return int(text)


@dataclass(frozen=True)
class Job:
    """
    Say what is to be made of a file.

    :param name: its path below the input folder, with slashes; names its stream.
    """

    source: Path
    target: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Return whether the file's name is that of a video."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES

    @property
    def zone_names(self) -> tuple[str, ...]:
        """Return what zones may call it: an image goes by its folder, too."""
        if self.is_video:
            return (self.name,)
        return (Path(self.name).parent.as_posix(), self.name)

    @property
    def partial(self) -> Path:
        """Return where the output lies until it is finished."""
        return _partial(self.target)

    @property
    def preview(self) -> Path:
        """Return where the picture of before and after goes."""
        return self.target.with_name(self.target.name + '.preview.jpg')

    def forget_partial(self) -> None:
        """Delete what is unfinished, be it of an earlier run."""
        for path in (self.partial, _partial(self.preview)):
            # A file where the output's folder should be is told when that is made.
            with contextlib.suppress(NotADirectoryError):
                path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + '.partial')


@dataclass(frozen=True)
class Plan:
    """
    Say what is to be done with all files.

    :param left_out: names of files that are neither images nor videos.
    :param broken: name and reason of what cannot be read at all, or is of a kind not supported.
    """

    jobs: tuple[Job, ...]
    left_out: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()


def plan(source: Path, output: Path, *, into_folder: bool = False) -> Plan:
    """
    Return the files to work on and where their outputs go.

    :param into_folder: whether the output is a folder even if there is none yet.
    :raises MediaError: there is nothing to work on, or the output has no place.
    """
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise MediaError(f'{source}: got {_kind(source)}, expected one of {_known()}')
        target = output / source.name if into_folder or output.is_dir() else output
        if _same_kind(target) != _same_kind(source):
            raise MediaError(
                f'{target}: got {_kind(target)}, expected {source.suffix} as the input has; '
                'the format is kept'
            )
        return Plan((Job(source, target, source.name),))
    if not source.is_dir():
        raise MediaError(f'{source}: no such file or folder')
    if output.is_file():
        raise MediaError(f'{output}: got a file, expected a folder, as the input is one')
    real, real_output = source.resolve(), output.resolve()
    if real == real_output or real in real_output.parents:
        raise MediaError(
            f'{output}: lies inside the input {source}, where its files would be taken for '
            'inputs; choose another folder'
        )
    jobs, left_out, broken = [], [], []
    for path, reason in _files(source, ()):
        name = path.relative_to(source).as_posix()
        if reason:
            broken.append((name, reason))
        elif path.suffix.lower() in SUFFIXES:
            jobs.append(Job(path, output / name, name))
        elif _UNSUPPORTED.fullmatch(path.suffix):
            broken.append((name, f'got {path.suffix}, expected one of {_known()}; convert it'))
        else:
            left_out.append(name)
    if not jobs and not broken:
        raise MediaError(f'{source}: no image or video in it, expected one of {_known()}')
    return Plan(tuple(jobs), tuple(left_out), tuple(broken))


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    """Yield all files below a folder, and why the rest cannot be read; links never lead round."""
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield folder, f'cannot be read: {error.strerror}'
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files(entry, (*above, real))
        elif entry.is_file():
            yield entry, ''
        else:
            yield entry, 'neither a file nor a folder, or a link to nothing'


def _kind(path: Path) -> str:
    return path.suffix or 'a name without extension'


def _same_kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return '.jpg' if suffix in picture.JPEG_SUFFIXES else suffix


def _known() -> str:
    return ' '.join(SUFFIXES)


@dataclass
class _Report:
    """Count what was done, and list what was not."""

    written: int = 0
    frames: int = 0
    regions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    problems: list[str] = field(default_factory=list)
    detections: TextIO | None = None

    def add(self, name: str, stamp_ns: int, outcome: Outcome[Any]) -> None:
        self.frames += 1
        for class_index in outcome.regions.classes.tolist():
            self.regions[CLASSES[class_index]] += 1
        if self.detections is not None:
            self.detections.write(json.dumps(_record(name, stamp_ns, outcome)) + '\n')


def _record(name: str, stamp_ns: int, outcome: Outcome[Any]) -> dict[str, object]:
    return {
        'name': name,
        'stamp_ns': stamp_ns,
        'size_wh': list(outcome.size_wh),
        'regions': outcome.regions.records(),
    }


def run(args: argparse.Namespace) -> int:
    """
    Do what the command line says.

    :returns: 0 all done, 1 something could not be done.
    """
    settings = settings_from(args)
    todo = plan(args.input, args.output, into_folder=args.output_is_folder)
    zoned, streams = _zoned(settings, todo.jobs)
    jobs = _without_existing(todo.jobs, args)
    if args.boxes is not None and not args.boxes.is_dir():
        raise MediaError(f'{args.boxes}: no such folder')
    report = _Report(problems=[f'{name}: {reason}' for name, reason in todo.broken])
    if args.dry_run:
        _check_models(settings)
        print(to_yaml(settings), end='')
        for job in jobs:
            print(f'# {job.source} -> {job.target}')
        return _tell_problems(report)

    from ffs_anonymizer.anonymizer import Anonymizer
    from tqdm import tqdm

    anonymizer = Anonymizer(zoned, callers=callers(zoned))
    for name, value in anonymizer.describe().items():
        print(f'  {name}: {value}', flush=True)
    with (
        contextlib.closing(anonymizer),
        _detections_file(args.write_detections) as report.detections,
        tqdm(
            total=sum(_frame_count(job) for job in jobs),
            unit='frame',
            dynamic_ncols=True,
            # Without a terminal, None shows nothing.
            disable=True if args.disable_progress_output else None,
        ) as bar,
    ):
        work = _Work(anonymizer, args, report, streams, bar.update)
        work.anonymize_images([job for job in jobs if not job.is_video])
        for job in jobs:
            if job.is_video:
                work.anonymize_video(job)
    return _conclude(todo, len(jobs), report)


def _zoned(settings: Settings, jobs: Iterable[Job]) -> tuple[Settings, dict[str, str]]:
    """
    Return settings whose zones go by new names of streams, and that name for each job's name.

    An image has two names that a zone may call it by, a stream has one.

    :raises SettingsError: a zone cannot be read, or covers nothing of what is to be covered.
    """
    from ffs_anonymizer.anonymizer import Zone

    names = {job.name: job.zone_names for job in jobs}
    # No file has a NUL in its name.
    streams = {name: f'{zone_names[0]}\0,' for name, zone_names in names.items()}
    changes = {}
    zones = {'mask_zones': settings.mask_zones, 'ignore_zones': settings.ignore_zones}
    for setting, given in zones.items():
        texts = []
        for i, text in enumerate(given):
            zone = Zone.parse(text)
            fitting = [n for n in names if zone.fits_any(names[n])]
            if not fitting:
                _tell_unused_zone(setting, text, sorted({z for zs in names.values() for z in zs}))
            for name in fitting:
                streams[name] += f'{setting}{i},'
            texts.append(' '.join([f'*\0*,{setting}{i},*', *text.split()[1:]]))
        changes[setting] = texts
    return settings.updated(changes), streams


def _tell_unused_zone(setting: str, text: str, names: list[str]) -> None:
    told = (
        f'{setting}: got {text!r}, which fits no image or video of this run; expected a name or '
        f'glob of: {", ".join(names[:_LISTED_NAMES])}{", ..." * (len(names) > _LISTED_NAMES)}'
    )
    if setting == 'mask_zones':
        raise SettingsError(f'{told}; what it is to cover would stay visible')
    print(f'warning: {told}', file=sys.stderr)


def _check_models(settings: Settings) -> None:
    """
    Look whether the files of the models are there that would be loaded.

    :raises ModelError: one is not.
    """
    paths = [settings.detector.model_path or default_model(), settings.detector.plate_model_path]
    if settings.face.method == 'generate':
        paths.append(settings.generator.model_path or default_generator() or DEFAULT_GENERATOR)
        paths.append(settings.generator.small_model_path)
    for path in paths:
        if path:
            check_file(Path(path))


def _without_existing(jobs: tuple[Job, ...], args: argparse.Namespace) -> list[Job]:
    """
    Return the jobs whose output does not exist.

    :raises MediaError: something would be overwritten, or two things go to the same place.
    """
    todo = [job for job in jobs if not (args.skip_existing and job.target.exists())]
    outputs = [job.target for job in todo]
    outputs += [job.preview for job in todo if args.preview]
    if args.write_detections is not None:
        outputs.append(args.write_detections)
        if not args.write_detections.parent.is_dir():
            raise MediaError(
                f'{args.write_detections}: got no folder {args.write_detections.parent}, expected '
                'one for the detections; create it, or choose another'
            )
    existing = [path for path in outputs if path.exists()]
    if existing:
        raise MediaError(
            f'{existing[0]}: exists already'
            + (f', as do {len(existing) - 1} other outputs' if len(existing) > 1 else '')
            + '; nothing is overwritten: choose another output, or leave out inputs that have one '
            'with --skip-existing'
        )
    taken = set()
    for path in outputs:
        if (real := path.resolve()) in taken:
            raise MediaError(
                f'{path}: got two outputs of this name, expected one; rename the input, or choose '
                'another file for the detections'
            )
        taken.add(real)
    return todo


@contextlib.contextmanager
def _detections_file(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    partial = _partial(path)
    with _as_media_error(path):
        file = partial.open('w', encoding='utf-8')
    try:
        with file:
            yield file
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _frame_count(job: Job) -> int:
    if not job.is_video:
        return 1
    try:
        from ffs_anonymizer.frames.video import count_pictures
    except ImportError:
        return 0
    return count_pictures(job.source)


@contextlib.contextmanager
def _needing_pyav() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MediaError(f'a video, but {error}') from error


@contextlib.contextmanager
def _as_media_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f'{path}: {error.strerror or error}') from error


@contextlib.contextmanager
def _listed(job: Job, report: _Report) -> Iterator[None]:
    """List what goes wrong with one file, leave nothing half done of it behind, and go on."""
    job.forget_partial()
    try:
        yield
    except AnonymizerError as error:
        text = str(error)
        named = text.startswith((str(job.source), str(job.target), str(job.partial)))
        report.problems.append(text if named else f'{job.name}: {text}')
    finally:
        job.forget_partial()


@dataclass
class _Loaded:
    job: Job
    picture: picture.Picture | None = None

    def decode(self) -> Frame:
        with _as_media_error(self.job.source):
            data = self.job.source.read_bytes()
        self.picture = picture.parse(data)
        return picture.decode(self.picture)


@dataclass(frozen=True)
class _Work:
    anonymizer: Anonymizer
    args: argparse.Namespace
    report: _Report
    streams: Mapping[str, str]
    progress: Callable[[], object]

    def anonymize_images(self, jobs: list[Job]) -> None:
        tasks = _image_tasks(jobs, self.args.boxes, self.streams)
        outcomes = anonymize_all(tasks, self.anonymizer)
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                job = outcome.item.job
                with _listed(job, self.report):
                    _write_image(outcome, preview=self.args.preview)
                    self.report.add(job.name, 0, outcome)
                    self.report.written += 1
                self.progress()

    def anonymize_video(self, job: Job) -> None:
        with _listed(job, self.report):
            if self.args.boxes is not None:
                raise MediaError('a video, for which there are no boxes: --boxes is for images')
            with _as_media_error(job.target):
                job.target.parent.mkdir(parents=True, exist_ok=True)
                notes = self._write_video(job)
                _finish(job)
            self.report.written += 1
            self.report.problems += [f'{job.name}: {note}' for note in notes]

    def _write_video(self, job: Job) -> list[str]:
        with _needing_pyav():
            from ffs_anonymizer.frames.video import Shot, VideoSource, VideoTarget

        black = 0
        shown = not self.args.preview
        keep_audio, crf = self.args.keep_audio, self.args.crf
        stream = self.streams[job.name]
        suffix = job.target.suffix.lower()
        with contextlib.closing(VideoSource(job.source, keep_audio=keep_audio)) as source:
            target = VideoTarget(job.partial, source, suffix=suffix, crf=crf)
            outcomes = anonymize_all(_video_tasks(source, stream), self.anonymizer)
            with contextlib.closing(target), contextlib.closing(outcomes):
                for outcome in outcomes:
                    shot = outcome.item
                    if not isinstance(shot, Shot):
                        target.write_sound(shot)
                        continue
                    if outcome.data is not None:
                        samples = shot.samples.with_data(outcome.data)
                    elif self.args.on_error == 'black':
                        samples = source.black()
                        black += 1
                    else:
                        raise MediaError(
                            f'{outcome.error}; with --on-error black this frame would be black'
                        ) from outcome.error
                    target.write(shot, samples)
                    if not shown and len(outcome.regions):
                        _write_preview(job, shot.decode().image_bgr, samples.decode().image_bgr)
                        shown = True
                    self.report.add(job.name, shot.stamp_ns, outcome)
                    self.progress()
                target.finish()
            self.anonymizer.forget(stream)
            notes = [source.shortfall()]
        if black:
            notes.append(f'{black} frames could not be anonymized and are black')
        return [note for note in notes if note]


def _image_tasks(
    jobs: Iterable[Job], boxes: Path | None, streams: Mapping[str, str]
) -> Iterator[Task[_Loaded]]:
    for i, job in enumerate(jobs):
        loaded = _Loaded(job)
        decode = loaded.decode
        detections = None
        if boxes is not None:
            try:
                detections = read_boxes(boxes / Path(job.name).with_suffix('.txt'))
            except MediaError as error:
                decode = _raising(error)
        yield Task(
            loaded,
            decode,
            stream=streams[job.name],
            stamp_ns=i * _PICTURE_DISTANCE_NS,
            clock_ns=i * _PICTURE_DISTANCE_NS,
            size_bytes=job.source.stat().st_size * _DECODED_PER_FILE_BYTE,
            detections=detections,
        )


def _raising(error: AnonymizerError) -> Any:
    def decode() -> Frame:
        raise error

    return decode


def _write_image(outcome: Outcome[_Loaded], *, preview: bool) -> None:
    job, source = outcome.item.job, outcome.item.picture
    if outcome.error is not None:
        raise outcome.error
    assert source is not None
    assert outcome.data is not None
    data = picture.assemble(bytes(outcome.data), source)
    with _as_media_error(job.target):
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.partial.write_bytes(data)
        if preview:
            before = picture.decode(source).image_bgr
            _write_preview(job, before, picture.decode(picture.parse(data)).image_bgr)
        _finish(job)


def _finish(job: Job) -> None:
    """Give what is finished its name, unless something of that name has come up meanwhile."""
    finished = [path for path in (job.target, job.preview) if _partial(path).exists()]
    for path in finished:
        if path.exists():
            raise MediaError(f'{path}: exists already; nothing is overwritten')
    for path in finished:
        _partial(path).rename(path)


def _write_preview(job: Job, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
    scale = min(1.0, _PREVIEW_SIDE_PX / max(before.shape[:2]))
    sides = [
        cv2.resize(side, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for side in (before, after)
    ]
    done, encoded = cv2.imencode('.jpg', np.hstack(sides))
    if not done:
        raise ImageError(f'{job.preview}: OpenCV cannot encode the preview')
    _partial(job.preview).write_bytes(encoded.tobytes())


def _video_tasks(source: VideoSource, stream: str) -> Iterator[Task[Any]]:
    from ffs_anonymizer.frames.video import Shot

    frame_bytes = 8 * source.width * source.height
    clock_ns = 0
    for item in source:
        if not isinstance(item, Shot):
            yield Task(item, clock_ns=clock_ns, size_bytes=item.size)
            continue
        clock_ns = item.stamp_ns
        yield Task(
            item,
            item.decode,
            stream=stream,
            stamp_ns=item.stamp_ns,
            clock_ns=clock_ns,
            size_bytes=frame_bytes,
        )


def _conclude(todo: Plan, jobs: int, report: _Report) -> int:
    """Print what was done and what was not."""
    counts = ', '.join(f'{n} of class {name}' for name, n in report.regions.items() if n)
    print(
        f'{report.written} of {jobs + len(todo.broken)} files written, {report.frames} images '
        f'and frames, regions replaced: {counts or "none"}'
    )
    if todo.left_out:
        print(
            f'left out, neither image nor video by their names: {len(todo.left_out)} files: '
            + ', '.join(todo.left_out[:_LISTED_NAMES])
            + (', ...' if len(todo.left_out) > _LISTED_NAMES else '')
        )
    return _tell_problems(report)


def _tell_problems(report: _Report) -> int:
    """Print what could not be done; return the exit code."""
    if not report.problems:
        return 0
    print('error: not everything could be done:', file=sys.stderr)
    for problem in report.problems:
        print(f'  {problem}', file=sys.stderr)
    return 1
