"""The command `bag`: a recorded bag in, the same without faces and plates out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import combinations
import os
import re
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.cli.options import (
    add_error_option,
    add_file_options,
    add_settings_options,
    add_workers_option,
    crew_of,
    file_options,
    settings_from,
    whole_number,
    words_of,
)
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.jobs.estimate import estimate_words
from ffs_anonymizer.jobs.output import partial_of
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.terminal import say, warn

if TYPE_CHECKING:
    from ffs_anonymizer.bag.plan import BagJob
    from ffs_anonymizer.bag.selection import Selection
    from ffs_anonymizer.cli.options import Subparsers

_SECOND_NS = 1_000_000_000
_DESCRIPTION = """\
Anonymize the images of a ROS 2 bag. No ROS installation is needed.

All topics of sensor_msgs Image and CompressedImage are anonymized in their own encoding; every
other message is copied byte for byte, with its topic, QoS, definition and times. The new bag is
read back before it gets its name; until then it is called <output>.partial. Nothing is ever
overwritten, and no image is written that could not be anonymized.
"""
_EXAMPLES = """\
examples:
  ffs_anonymizer bag -i drive_01 -o drive_01_anonymized
  ffs_anonymizer bag -i drive_01 -o out --dry-run
  ffs_anonymizer bag -i drive_01 -o out --exclude-topics /depth/image --method face=solid
  ffs_anonymizer bag -i drive_01 -o out --drop-topics /front/image_raw/ffmpeg /microphone
  ffs_anonymizer bag -i old.db3 -o new --storage mcap --compression-mode chunk
"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        'bag',
        help='anonymize recorded bags (rosbag2)',
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file_options(
        parser,
        source='a bag folder, a single .mcap or .db3 file, or a ROS 1 .bag file',
        target='the folder of the new bag',
        whole='bag',
    )
    add_workers_option(parser, 'bag')
    add_topic_options(parser)
    add_format_options(parser)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command.

    :returns: 0 done, 1 something could not be done, which is listed on standard error.
    :raises AnonymizerError: there is no output.
    """
    job, crew = job_from(args), crew_of(args)
    if job.skips_existing and job.target.exists() and not os.path.lexists(partial_of(job.target)):
        say(f'{job.target} exists already: nothing to do')
        return 0
    from ffs_anonymizer.allocator import keep_memory
    from ffs_anonymizer.bag import chunks, conversion
    from ffs_anonymizer.bag.plan import BagPlan
    from ffs_anonymizer.bag.preflight import check_first_images
    from ffs_anonymizer.models import roster

    keep_memory()
    plan = BagPlan(job)
    say(plan.words())
    for warning in plan.warnings():
        warn(warning)
    say(_settings_words(job.settings))
    if args.dry_run:
        from ffs_anonymizer.bag.estimate import estimate

        check_first_images(plan)
        if plan.chosen:
            roster.check(job.settings)
        say(estimate_words(lambda: estimate(plan)))
        return 0
    shows_progress = not args.disable_progress_output
    if args.workers:
        report = chunks.run(
            job,
            workers=args.workers,
            crew=crew,
            plan=plan,
            tell=say,
            shows_progress=shows_progress,
        )
    else:
        report = conversion.run(job, plan=plan, tell=say, shows_progress=shows_progress)
    say(conversion.summary(report))
    report.tell()
    return report.exit_code


def add_topic_options(parser: argparse.ArgumentParser) -> None:
    """Add what chooses topics and times."""
    group = parser.add_argument_group(
        'topics', 'Without these, all images are anonymized and everything else is copied.'
    )
    group.add_argument(
        '--topics', nargs='+', default=[], metavar='TOPIC', help='images to anonymize, by name'
    )
    group.add_argument(
        '-e',
        '--regex',
        default='',
        help='images to anonymize, by a regular expression that fits the whole name',
    )
    group.add_argument(
        '--exclude-topics',
        nargs='+',
        default=[],
        metavar='TOPIC',
        help='topics to copy as they are, whatever they show (depth, masks)',
    )
    group.add_argument(
        '-x',
        '--exclude-regex',
        default='',
        metavar='REGEX',
        help='the same, by a regular expression that fits the whole name',
    )
    group.add_argument(
        '--drop-topics',
        nargs='+',
        default=[],
        metavar='TOPIC',
        help='topics to leave out of the new bag altogether',
    )
    group.add_argument(
        '--keep-attachments',
        nargs='+',
        default=[],
        metavar='NAME',
        help='attachments and metadata records of an mcap to copy as they are, by name or glob; '
        'of the others, only plain text is copied',
    )
    for option, dest, when in (
        ('--start-time-ns', 'start_ns', 'before'),
        ('--end-time-ns', 'end_ns', 'after'),
    ):
        group.add_argument(
            option,
            dest=dest,
            type=_time_ns,
            metavar='NS',
            help=f'leave out what was recorded {when}',
        )


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """Add what chooses the form of new bags."""
    group = parser.add_argument_group('format', 'Without these, the new bag is as the old one is.')
    group.add_argument(
        '-s', '--storage', choices=('mcap', 'sqlite3'), default='', help='of the new bag'
    )
    group.add_argument(
        '--compression-mode',
        choices=('none', 'file', 'message', 'chunk'),
        default='',
        help="rosbag2's modes, and chunk: within an mcap",
    )
    group.add_argument('--compression-format', choices=('zstd',), default='zstd')
    group.add_argument(
        '--max-bag-size',
        dest='max_bytes',
        type=whole_number,
        default=0,
        metavar='BYTES',
        help='begin a new file at this size; 0: one file (default)',
    )
    group.add_argument(
        '--max-bag-duration',
        type=whole_number,
        default=0,
        metavar='SECONDS',
        help='begin a new file after this time; 0: one file (default)',
    )


def _time_ns(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f'got {text!r}, expected nanoseconds from 0 to 2^63 - 1')
    return int(text)


def job_from(args: argparse.Namespace) -> BagJob:
    """
    Return what the parsed options ask for.

    :raises SettingsError: they contradict each other.
    """
    from ffs_anonymizer.bag.plan import BagJob

    settings = settings_from(args)
    return BagJob(**file_options(args), settings=settings, **bag_options(args, settings))


def bag_options(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """
    Return what the options of topics, times and forms amount to, by the names of BagJob.

    :raises SettingsError: they contradict each other.
    """
    return {
        'selection': _selection(args, settings),
        'storage': args.storage,
        'compression_mode': args.compression_mode,
        'start_ns': args.start_ns,
        'end_ns': args.end_ns,
        'max_bytes': args.max_bytes,
        'max_duration_ns': args.max_bag_duration * _SECOND_NS,
    }


def bag_words(options: Mapping[str, Any]) -> list[str]:
    """
    Return the words of the command line that ask for what a job asked for.

    :param options: of the job.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_error_option(parser, 'bag')
    add_topic_options(parser)
    add_format_options(parser)
    seconds = options['max_duration_ns'] // _SECOND_NS
    return words_of(parser, {**options, **options['selection'], 'max_bag_duration': seconds})


def _selection(args: argparse.Namespace, settings: Settings) -> Selection:
    from ffs_anonymizer.bag.selection import Selection
    from ffs_anonymizer.clouds.scene import Link

    _check_regex('--regex', args.regex)
    _check_regex('--exclude-regex', args.exclude_regex)
    named = {
        '--topics': args.topics,
        '--exclude-topics': args.exclude_topics,
        '--drop-topics': args.drop_topics,
    }
    for one, other in combinations(named, 2):
        both = sorted({*named[one]} & {*named[other]})
        if both:
            raise SettingsError(f'got {", ".join(both)} in {one} and in {other}')
    return Selection(
        topics=tuple(args.topics),
        regex=args.regex,
        exclude_topics=tuple(args.exclude_topics),
        exclude_regex=args.exclude_regex,
        copy_topics=settings.copy_topics,
        drop_topics=tuple(args.drop_topics),
        keep_attachments=tuple(args.keep_attachments),
        depth_topics=tuple(Link.parse(text).topics for text in settings.depth.cameras),
    )


def _check_regex(option: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SettingsError(
            f'{option}: got {pattern!r}, expected a regular expression: {error}'
        ) from error


def _settings_words(settings: Settings) -> str:
    """Return the resolved settings that matter here, one a line."""
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.flat().items()
    }
    return '\n'.join(f'  {name}: {value}' for name, value in plain.items())
