"""The command `media`: images and videos in, the same without faces and plates out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import contextlib
import glob
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.cli.options import (
    add_error_option,
    add_file_options,
    add_settings_options,
    add_workers_option,
    crew_of,
    file_options,
    settings_from,
    words_of,
)
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.jobs.estimate import estimate_words
from ffs_anonymizer.models import roster
from ffs_anonymizer.settings.parameter_file import to_yaml
from ffs_anonymizer.terminal import say, warn

if TYPE_CHECKING:
    from ffs_anonymizer.cli.options import Subparsers
    from ffs_anonymizer.jobs.report import Report
    from ffs_anonymizer.media.files import MediaJob, MediaPlan

_LISTED_NAMES = 10
_FRAMERATE = 25.0

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
  ffs_anonymizer media -i 'frames/img_%04d.png' -o out/ --image-sequence --framerate 10
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
    add_workers_option(parser, 'video')
    parser.add_argument(
        '--boxes',
        type=Path,
        metavar='FOLDER',
        help='own boxes instead of the detector, for images: <stem>.txt with `x0 y0 x1 y1` a '
        'line, in pixels of the upright image; an empty file means no face, a missing one is an '
        'error; in folders as those of the images are',
    )
    _add_job_options(parser)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--image-sequence',
        action='store_true',
        help='pictures of a folder whose names differ in their last number alone are those of a '
        'film: faces are tracked from one to the next, and a person has one new face in all; '
        'the input may be a pattern in quotes then, as img_%%04d.png or *.png',
    )
    parser.add_argument(
        '--framerate',
        type=_framerate,
        metavar='FPS',
        help='pictures a second of --image-sequence (default: 25)',
    )
    add_video_options(parser)
    parser.add_argument(
        '--preview',
        dest='previews',
        action='store_true',
        help='write <output>.preview.jpg beside each output: before and after, side by side; '
        'CAUTION: it shows the original faces',
    )


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Add what becomes of sound and quality."""
    parser.add_argument(
        '--keep-audio',
        dest='keeps_audio',
        action='store_true',
        help='copy the sound of videos, voices included',
    )
    parser.add_argument(
        '--crf',
        type=_crf,
        default=18,
        metavar='N',
        help='constant rate factor of written videos, 0 to 51: less is better and larger '
        '(default: %(default)s); images keep the quality that they have',
    )


def run(args: argparse.Namespace) -> int:
    """
    Run the command.

    :returns: 0 all done, 1 something could not be done, which is listed on standard error.
    :raises AnonymizerError: there is no output at all.
    """
    from ffs_anonymizer.media.files import MediaPlan

    job, crew = job_from(args), crew_of(args)
    plan = MediaPlan.of(job)
    if args.dry_run:
        return _dry_run(job, plan)
    from ffs_anonymizer.media import conversion

    report = conversion.run(
        job,
        workers=args.workers,
        crew=crew,
        plan=plan,
        tell=say,
        warn=warn,
        shows_progress=not args.disable_progress_output,
    )
    _conclude(plan, report)
    report.tell()
    return report.exit_code


def video_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what these options amount to, by the names of MediaJob."""
    return {'keeps_audio': args.keeps_audio, 'crf': args.crf}


def media_words(source: Path, options: Mapping[str, Any]) -> list[str]:
    """
    Return the words of the command line that ask for what a job asked for, its input among them.

    :param options: of the job.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_error_option(parser, 'video')
    _add_job_options(parser)
    framerate = options['framerate'] or None
    sequence = {'image_sequence': framerate is not None, 'framerate': framerate}
    return ['-i', str(source / options['pattern']), *words_of(parser, {**options, **sequence})]


def _crf(text: str) -> int:
    if not text.isdecimal() or int(text) > 51:
        raise argparse.ArgumentTypeError(f'got {text!r}, expected a whole number, 0 to 51')
    return int(text)


def _framerate(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0.001 <= value <= 1e6:
            return value
    raise argparse.ArgumentTypeError(f'got {text!r}, expected pictures a second, 0.001 to 1e6')


def _sequence(args: argparse.Namespace) -> dict[str, Any]:
    """
    Return where and what the pictures of films are, by the names of MediaJob.

    :raises SettingsError: something is said of films where there are to be none.
    """
    from ffs_anonymizer.media.files import is_numbered

    if not args.image_sequence:
        if args.framerate is not None:
            raise SettingsError('got --framerate without --image-sequence, expected both')
        return {}
    place: Path = args.input
    found: dict[str, Any] = {'framerate': args.framerate or _FRAMERATE}
    if place.exists() or not (is_numbered(place.name) or glob.has_magic(place.name)):
        return found
    return {**found, 'source': place.parent, 'pattern': place.name}


def job_from(args: argparse.Namespace) -> MediaJob:
    """
    Return what the parsed options ask for.

    :raises SettingsError: they contradict each other.
    """
    from ffs_anonymizer.media.files import MediaJob

    return MediaJob(
        **{**file_options(args), **_sequence(args)},
        settings=settings_from(args),
        into_folder=args.output_is_folder,
        boxes=args.boxes,
        **video_options(args),
        previews=args.previews,
    )


def _dry_run(job: MediaJob, plan: MediaPlan) -> int:
    from ffs_anonymizer.jobs.job import refuse_outputs
    from ffs_anonymizer.jobs.report import Report
    from ffs_anonymizer.media.estimate import estimate
    from ffs_anonymizer.media.zones import check_zones

    refuse_outputs(job, plan.outputs(job))
    check_zones(job.settings, plan.all_files, warn)
    roster.check(job.settings)
    say(to_yaml(job.settings).rstrip())
    for file in plan.files:
        say(f'# {file.source} -> {file.target}')
    say(estimate_words(lambda: estimate(job, plan)))
    report = Report(undone=plan.problems)
    report.tell()
    return report.exit_code


def _conclude(plan: MediaPlan, report: Report) -> None:
    """Print what was done."""
    regions = ', '.join(f'{n} of class {name}' for name, n in report.regions.items())
    say(
        f'{report.written} of {len(plan.files) + len(plan.broken)} files written, '
        f'{report.frames} images and frames, regions replaced: {regions or "none"}'
    )
    if plan.left_out:
        say(
            f'left out, neither image nor video by their names: {len(plan.left_out)} files: '
            + ', '.join(plan.left_out[:_LISTED_NAMES])
            + (', ...' if len(plan.left_out) > _LISTED_NAMES else '')
        )
