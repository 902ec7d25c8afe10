"""The commands `audit`, `review` and `verify`: is anything left, put it right, is it that."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
import sys
import tempfile
from typing import Any, TYPE_CHECKING
import webbrowser

from ffs_anonymizer.cli.options import add_settings_options, settings_from, whole_number
from ffs_anonymizer.errors import MediaError, SettingsError
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.terminal import printable, say, warn

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.cli.options import Subparsers
    from ffs_anonymizer.review.recording import RecordedFrame, Recording
    from ffs_anonymizer.review.session import Rerun
    from ffs_anonymizer.settings.runtime import Settings
    import numpy as np
    from numpy.typing import NDArray

_AUDIT_EXAMPLES = """\
examples:
  ffs_anonymizer audit -i drive_01 -o drive_01_anonymized --report audit.html
  ffs_anonymizer audit -i in/ -o out/ --report audit.html --second-model yunet.onnx
"""
_REVIEW_EXAMPLES = """\
examples:
  ffs_anonymizer review -i drive_01 -o drive_01_anonymized --detections found.jsonl
"""


def add_parsers(subparsers: Subparsers) -> None:
    """
    Register audit, review and verify.

    :param subparsers: of the program's parser.
    """
    _add_audit(subparsers)
    _add_review(subparsers)
    _add_verify(subparsers)


def _add_audit(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        'audit',
        help='look once more: is anything left?',
        description='Look at every frame of an original and its anonymized output once more, and '
        'list in one HTML file what is not covered, with a random sample for a person. Exit '
        'code: 0 nothing found, 3 something is left.',
        epilog=_AUDIT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_recordings(parser, needs_output=True)
    parser.add_argument(
        '--detections',
        type=Path,
        metavar='FILE',
        help='what --write-detections wrote, or its corrected copy',
    )
    parser.add_argument('--report', type=Path, required=True, metavar='FILE', help='new HTML file')
    parser.add_argument(
        '--second-model',
        default='',
        metavar='FILE',
        help='ONNX face detector for the second look; without it, the same one sees the frames '
        'mirrored, in other light and at twice their size',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.35,
        metavar='SCORE',
        help='lowest score that the second look takes for a face or plate (default: %(default)s)',
    )
    parser.add_argument(
        '--thorough', action='store_true', help='all views of every frame, not of every 64th'
    )
    parser.add_argument(
        '--sample',
        type=whole_number,
        default=100,
        metavar='N',
        help='randomly drawn frames for a person (default: %(default)s)',
    )
    parser.add_argument(
        '--seed', type=int, default=1, metavar='N', help='of the sample (default: %(default)s)'
    )
    parser.add_argument('--disable-progress-output', action='store_true', help='no progress bar')
    add_settings_options(parser)
    parser.set_defaults(run=run_audit)


def _add_review(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        'review',
        help='correct in a browser what was found',
        description='Serve a page on this machine alone: the frames with their boxes, to add what '
        'was missed and delete what is none. The corrected list is fed back with --detections of '
        'bag and media, or by the button `run again`. CAUTION: the page shows the original.',
        epilog=_REVIEW_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_recordings(parser, needs_output=False)
    parser.add_argument(
        '--detections',
        type=Path,
        required=True,
        metavar='FILE',
        help='what --write-detections wrote',
    )
    parser.add_argument(
        '--save',
        type=Path,
        metavar='FILE',
        help='the corrected list (default: beside the other, as NAME.corrected.jsonl)',
    )
    parser.add_argument(
        '--write-config',
        type=Path,
        metavar='FILE',
        help='where tuned settings go (default: beside the list, as NAME.param.yaml)',
    )
    parser.add_argument(
        '--port', type=int, default=0, metavar='N', help='of the page; 0: a free one (default)'
    )
    parser.add_argument('--no-browser', action='store_true', help='only print the address')
    add_settings_options(parser)
    parser.set_defaults(run=run_review)


def _add_verify(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        'verify',
        help='compare an output with its privacy record',
        description='Compare the hashes of an output with those of its privacy record, '
        'OUTPUT.privacy.json. Exit code: 0 they are equal, 1 they are not.',
        epilog='example:\n  ffs_anonymizer verify drive_01_anonymized',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('output', type=Path, help='a file or a folder that bag or media made')
    parser.add_argument(
        '--record', type=Path, metavar='FILE', help='the record, where it lies elsewhere'
    )
    parser.set_defaults(run=run_verify)


def _add_recordings(parser: argparse.ArgumentParser, *, needs_output: bool) -> None:
    parser.add_argument(
        '-i',
        '--input',
        type=Path,
        required=True,
        help='the original: a bag, a video, a picture or a folder of them',
    )
    parser.add_argument(
        '-o', '--output', type=Path, required=needs_output, help='what bag or media made of it'
    )


def run_verify(args: argparse.Namespace) -> int:
    """
    Compare an output with its record.

    :returns: 0 they agree, 1 they do not.
    :raises MediaError: there is no record, or a file cannot be read.
    """
    from ffs_anonymizer.jobs.record import differences, read_record

    record = read_record(args.record or record_of(args.output))
    told = differences(record, args.output)
    for line in told:
        say(f'error: {printable(line)}', file=sys.stderr)
    if told:
        return 1
    files = len(record['output']['files'])
    say(f'{args.output}: {files} file{"s" * (files != 1)} as recorded on {record["ended"]}')
    audited = record['audit']
    say(
        'not audited'
        if audited is None
        else f'audited on {audited["ended"]}: {audited["missed_frames"]} of {audited["frames"]} '
        f'frames with something uncovered, {audited["findings"]} things'
    )
    return 0


def run_audit(args: argparse.Namespace) -> int:
    """
    Look once more.

    :returns: 0 nothing was found uncovered, 3 something was, or there was nothing to look at.
    :raises AnonymizerError: the recordings cannot be read, or do not belong together.
    """
    from ffs_anonymizer.jobs.report import counted
    from ffs_anonymizer.review import audit_job

    job = audit_job.AuditJob(
        original=args.input,
        output=args.output,
        report=args.report,
        settings=_settings(args),
        detections=args.detections,
        second_model=args.second_model,
        threshold=args.threshold,
        is_thorough=args.thorough,
        sample=args.sample,
        seed=args.seed,
    )
    done = audit_job.run(job, shows_progress=not args.disable_progress_output)
    result = done.audit
    for finding in result.findings[:20]:
        say(
            f'{finding.stream}, frame {finding.number}: {finding.class_name} '
            f'{finding.score:.2f}, {finding.why}, {finding.frames} frame(s)'
        )
    say(
        f'{result.looked_at} frames, {result.missed_frames} with something uncovered, '
        f'{len(result.findings)} things; {len(result.unreadable)} frames black or unreadable: '
        f'{args.report}'
    )
    if result.measured:
        say(
            f'{result.measured.total()} clouds and depth images, {result.missed_measured} with a '
            f'shape uncovered: {counted(result.measured)}'
        )
    for name, reason in done.unseen.items():
        say(f'not looked at: {name} ({reason})')
    return done.exit_code


def run_review(args: argparse.Namespace) -> int:
    """
    Serve the page until somebody ends it.

    :raises AnonymizerError: the recording or the list cannot be read.
    """
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.networks import Networks
    from ffs_anonymizer.regions.detections_file import DetectionsReader
    from ffs_anonymizer.review.corrections import Corrections
    from ffs_anonymizer.review.recording import open_recording
    from ffs_anonymizer.review.server import ReviewServer
    from ffs_anonymizer.review.session import ReviewSession

    settings = _settings(args)
    stem = args.detections.name.removesuffix('.jsonl')
    saved_to = args.save or args.detections.with_name(f'{stem}.corrected.jsonl')
    yaml_to = args.write_config or args.detections.with_name(f'{stem}.param.yaml')
    if saved_to.resolve() == args.detections.resolve():
        raise SettingsError(f'--save: got {saved_to}, expected another file than --detections')
    with DetectionsReader(args.detections) as reader:
        listed_ns = reader.log_ns

    def opened(path: Path, name: str = '') -> Recording:
        recording = open_recording(path, settings, name=name)
        recording.take(listed_ns)
        return recording

    original = opened(args.input)
    corrections = Corrections(args.detections, original.streams)
    with contextlib.ExitStack() as stack:
        networks = stack.enter_context(Networks(settings))

        def preview(tuned: Settings, stream: str, number: int) -> Any:
            return _preview(Recipe(networks, tuned), original.frame(stream, number))

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='ffs_review_')))
        session = ReviewSession(
            original,
            args.output,
            corrections,
            saved_to=saved_to,
            open_output=lambda path: opened(path, original.own_name),
            rerun=_rerun(args, settings, original, folder),
            scratch=folder,
            settings=settings,
            preview=preview,
            yaml_to=yaml_to,
        )
        stack.callback(session.close)
        try:
            server = ReviewServer(session.routes, args.port)
        except OSError as error:
            raise MediaError(f'--port {args.port}: {error.strerror or error}') from error
        stack.callback(server.server_close)
        say(f'review: {server.address}')
        say('on this machine alone, for whoever has this address; Ctrl-C ends it')
        for name, why in original.unlisted(corrections.streams).items():
            say(f'not shown: {name} ({why})')
        if not args.no_browser:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(0.1)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the options, over those that the output was made with."""
    from ffs_anonymizer.review.audit_job import record_beside, recorded_settings

    is_recorded = args.config is None and args.output is not None
    record = record_beside(args.output) if is_recorded else None
    return settings_from(args, None if record is None else recorded_settings(record))


def _preview(recipe: Recipe, recorded: RecordedFrame) -> tuple[NDArray[np.uint8], int]:
    """Return a frame as it would be without a past, and the number of its regions."""
    from ffs_anonymizer.stream import Seen

    frame = recorded.decode()
    height, width = frame.image_bgr.shape[:2]
    regions, _ = recipe.find(
        recipe.detect(frame),
        Seen(),
        names=(recorded.stream,),
        size_wh=(width, height),
        stamp_ns=None,
    )
    recipe.put(frame, regions)
    return frame.image_bgr, len(regions)


def _rerun(
    args: argparse.Namespace, settings: Settings, original: Recording, folder: Path
) -> Rerun | None:
    """
    Return the words of the command that makes an output anew from a corrected list.

    :returns: None where there is none, or nobody knows what it was made with: a topic that was
        left out must not come back.
    """
    from ffs_anonymizer.bag.command import bag_words
    from ffs_anonymizer.media.command import media_words
    from ffs_anonymizer.review.audit_job import record_beside
    from ffs_anonymizer.review.recording import BagRecording
    from ffs_anonymizer.settings.parameter_file import to_yaml

    record = None if args.output is None else record_beside(args.output)
    options = None if record is None else record.get('options')
    if options is None:
        if args.output is not None:
            warn(
                f'{args.output}: no record says with which options it was made: `run again` is off'
            )
        return None
    config = folder / 'settings.yaml'
    config.write_text(to_yaml(settings), encoding='utf-8')
    asked = (
        ['bag', '-i', str(args.input), *bag_words(options)]
        if isinstance(original, BagRecording)
        else ['media', *media_words(args.input, options)]
    )
    # What follows cameras is made anew with every run.
    follows = settings.cloud.cameras + settings.cloud.registered + settings.depth.cameras

    def words(detections: Path, target: Path, used: Path, output: Path) -> list[str]:
        return [
            *asked,
            *('-o', str(target), '--config', str(config)),
            *('--detections', str(detections)),
            *(() if follows else ('--reuse', str(output), '--reuse-detections', str(used))),
        ]

    return words
