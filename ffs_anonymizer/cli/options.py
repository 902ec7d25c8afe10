"""The command line options that every command shares, and the settings that they amount to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ffs_anonymizer import plain_yaml
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.jobs.fleet import Crew
from ffs_anonymizer.settings.parameter_file import load
from ffs_anonymizer.settings.runtime import DEVICES, find_parameter, METHODS, NO_PLATES, Settings

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_CLASSES = ('face', 'plate')


def add_file_options(
    parser: argparse.ArgumentParser, *, source: str, target: str, whole: str
) -> None:
    """
    Add the options of a command that makes files of files.

    :param source: what may be the input, for the help.
    :param target: what the output is.
    :param whole: what is spoilt by one frame that cannot be anonymized.
    """
    parser.add_argument('-i', '--input', type=Path, required=True, metavar='PATH', help=source)
    parser.add_argument(
        '-o', '--output', action=_Output, required=True, metavar='PATH', help=target
    )
    add_error_option(parser, whole)
    parser.add_argument(
        '--write-detections',
        type=Path,
        metavar='FILE',
        help='write what was found, as a line of JSON for each image or frame',
    )
    parser.add_argument(
        '--detections',
        type=Path,
        metavar='FILE',
        help='go by such a list, which may have been edited: nothing is searched or tracked anew',
    )
    parser.add_argument(
        '--reuse',
        type=Path,
        metavar='OUTPUT',
        help='an earlier output of the same input and settings: frames in which --detections says '
        'what --reuse-detections says are taken over from it',
    )
    parser.add_argument(
        '--reuse-detections',
        type=Path,
        metavar='FILE',
        help='the list that the earlier output was made from, or wrote',
    )
    parser.add_argument(
        '--skip-existing',
        action='store_true',
        help='do nothing for an input whose output exists already, instead of refusing to start',
    )
    parser.add_argument(
        '--disable-progress-output', action='store_true', help='show no progress bar'
    )


def add_error_option(parser: argparse.ArgumentParser, whole: str) -> None:
    """
    Add the option that says what becomes of frames that cannot be anonymized.

    :param whole: what is spoilt by one.
    """
    parser.add_argument(
        '--on-error',
        choices=('stop', 'black'),
        default='stop',
        help=f'what becomes of a {whole} with a frame that cannot be anonymized: none is '
        'written, or one with that frame black, and exit code 1 (default: %(default)s)',
    )


def add_workers_option(parser: argparse.ArgumentParser, whole: str) -> None:
    """
    Add the option that has several processes work on one thing.

    :param whole: that thing.
    """
    parser.add_argument(
        '--workers',
        type=whole_number,
        default=0,
        metavar='N',
        help=f'processes that detect in a {whole}, side by side, chunk by chunk; what they have '
        'done outlives a kill, and the same command goes on. 0: one pass in this process '
        '(default)',
    )
    parser.add_argument(
        '--address',
        default='',
        metavar='ADDRESS',
        help='with --workers: these are of a Ray cluster, whose machines have the input and the '
        'models at the same paths: auto for the one that this machine belongs to, or '
        'ray://host:10001 (default: processes of this machine)',
    )


def crew_of(args: argparse.Namespace) -> Crew | None:
    """
    Return who is to detect on a cluster; None: processes of this machine.

    :raises SettingsError: it is not said how many.
    """
    if not args.address:
        return None
    if not args.workers:
        raise SettingsError(f'--address: got {args.address} without --workers, expected both')
    return Crew(args.address, args.workers)


def whole_number(text: str) -> int:
    """
    Return the number that an option's value is, 0 or more.

    :raises ArgumentTypeError: it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'got {text!r}, expected a whole number, 0 or more')
    return int(text)


def file_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what these options amount to, by the names that every job on files has."""
    return {
        # A machine of a cluster is in no folder of ours.
        'source': args.input.absolute() if args.address else args.input,
        'target': args.output,
        'on_error': args.on_error,
        'skips_existing': args.skip_existing,
        'detections': args.detections,
        'write_detections': args.write_detections,
        'reuse': args.reuse,
        'reuse_detections': args.reuse_detections,
    }


def words_of(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> list[str]:
    """
    Return the words that a parser reads these values from; defaults need none.

    :param values: by the names that the parser gives them; those that it has no option for do
        not count.
    """
    words = []
    for action in parser._actions:
        value = values.get(action.dest, action.default)
        option = action.option_strings[-1]
        if value == action.default or value == ():
            continue
        if action.nargs == 0:
            words.append(option)
        elif action.nargs == '+':
            words += [option, *map(str, value)]
        else:
            words.append(f'{option}={value}')
    return words


class _Output(argparse.Action):
    """Keep a path, and the slash at its end, which a Path forgets and which means a folder."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store both."""
        namespace.output = Path(str(values))
        namespace.output_is_folder = str(values).endswith(os.sep)


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the settings."""
    group = parser.add_argument_group(
        'settings',
        'What is not said here comes from --config, else from the defaults '
        '(`ffs_anonymizer params` prints them).',
    )
    group.add_argument(
        '--config',
        type=Path,
        metavar='FILE',
        help='YAML file with settings, the same that the node takes',
    )
    group.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='one setting by its name, for example tracker.max_gap_ms=600; may be repeated and '
        'wins over everything else',
    )
    group.add_argument(
        '--method',
        metavar='CLASS=METHOD,...',
        help=f'how regions are replaced, for example face=generate,plate=blur; '
        f'one word stands for all classes (generate: for faces); methods: {", ".join(METHODS)}',
    )
    group.add_argument(
        '--face-threshold', type=float, metavar='SCORE', help='lowest score of a face (0.01 to 1)'
    )
    group.add_argument(
        '--plate-threshold',
        type=float,
        metavar='SCORE',
        help='lowest score of a licence plate (0.01 to 1)',
    )
    group.add_argument(
        '--mask-scale',
        type=float,
        metavar='TIMES',
        help='side of the replaced region over the side of the detected box, 1 to 3; '
        'a total factor: 1.3 replaces a region 1.3 times as wide and high',
    )
    group.add_argument(
        '--detector-model',
        metavar='FILE',
        help='ONNX face detector (CenterFace, YuNet, YOLO, or what `export` wrote)',
    )
    group.add_argument('--generator-model', metavar='FILE', help='ONNX face generator')
    group.add_argument('--device', choices=DEVICES, help='where the networks run')
    group.add_argument(
        '--threads', type=int, metavar='N', help='CPU threads of a network; 0: one a core'
    )
    group.add_argument(
        '--dry-run',
        action='store_true',
        help='check the input, print what would be done and with which settings, and exit',
    )


def settings_from(args: argparse.Namespace, base: Settings | None = None) -> Settings:
    """
    Return the settings that the parsed options amount to.

    :param args: of a parser that add_settings_options() was called on.
    :param base: what counts where neither an option nor a file says something.
    :raises SettingsError: the file cannot be read, a name is unknown, or a value is wrong.
    """
    settings = load(args.config) if args.config is not None else base or Settings()
    settings = settings.updated(dict(_chosen(args)))
    given = {
        '--method plate=...': 'plate' in (args.method or ''),
        '--plate-threshold': args.plate_threshold is not None,
    }
    for option, is_given in given.items():
        if is_given and settings.detector.plate_model_path == NO_PLATES:
            raise SettingsError(
                f'{option}: got detector.plate_model_path {NO_PLATES}, so that no plate is looked '
                f'for; name a model or leave it empty, or leave out {option}'
            )
    return settings


def _chosen(args: argparse.Namespace) -> Iterator[tuple[str, object]]:
    if args.method is not None:
        yield from _methods(args.method)
    options = {
        'face.threshold': args.face_threshold,
        'plate.threshold': args.plate_threshold,
        'face.region_scale': args.mask_scale,
        'plate.region_scale': args.mask_scale,
        'detector.model_path': args.detector_model,
        'generator.model_path': args.generator_model,
        'device': args.device,
        'threads': args.threads,
    }
    yield from ((name, value) for name, value in options.items() if value is not None)
    for text in args.set:
        yield _assignment(text)


def _methods(text: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for item in text.split(','):
        name, equals, method = (word.strip() for word in item.partition('='))
        if not equals:
            name, method = '', name
        elif name not in _CLASSES:
            raise SettingsError(
                f'--method: got class {name!r}, expected one of: {", ".join(_CLASSES)}; '
                'write face=generate,plate=blur'
            )
        # An invented number on what is no plate draws the eye: plates are to be asked for.
        one_word = _CLASSES[:1] if method == 'generate' else _CLASSES
        for each in (name,) if name else one_word:
            if each in seen:
                raise SettingsError(
                    f'--method: got {text!r}, which names {each} twice, expected each class once'
                )
            seen.add(each)
            yield f'{each}.method', method


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition('=')
    if not equals:
        raise SettingsError(f'--set: got {text!r}, expected NAME=VALUE')
    if find_parameter(name).type_name == 'string':
        return name, value
    try:
        return name, plain_yaml.parse(value)
    except SettingsError as error:
        raise SettingsError(f'--set {name}: got {value!r}, which is not YAML: {error}') from error
