"""The sub-commands of training; torch is imported only when one of them runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING, TypeVar

from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.jobs.output import refuse_no_place
from ffs_anonymizer.terminal import say, warn
from ffs_anonymizer.training.tasks import add_task, DETECTOR, GENERATOR, TaskOptions

if TYPE_CHECKING:
    from ffs_anonymizer.evaluation.faces import Judges
    from ffs_anonymizer.evaluation.films import Film
    from ffs_anonymizer.settings.runtime import Settings

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

INSTALL = "pip install 'ffs_anonymizer[train]'"
METHODS = ('face=generate', 'face=blur', 'face=mosaic', 'face=solid')
T = TypeVar('T')


def add_parsers(subparsers: Subparsers) -> None:
    """Register data, train, search, export, evaluate and models."""
    add_data_parser(subparsers)
    add_train_parser(subparsers)
    add_search_parser(subparsers)
    add_export_parser(subparsers)
    add_evaluate_parser(subparsers)
    add_models_parser(subparsers)


def add_data_parser(subparsers: Subparsers) -> None:
    """Register `data build`."""
    parser = subparsers.add_parser('data', help='make data sets for training')
    actions = parser.add_subparsers(metavar='ACTION', required=True)
    build = actions.add_parser(
        'build',
        help='pack the faces of a folder of photos, or its plates for a detector',
        description='Cut one square photo around each face of a folder of photos and pack them '
        'into one file that training maps into memory, with a contact sheet (sheet.jpg). For a '
        'detector: pack whole photos with the boxes of their plates and faces, plates of nobody '
        'that are drawn with fonts of the system, and the heads of packed faces.',
        epilog='examples:\n  ffs_anonymizer data build -i photos -o packed\n'
        '  ffs_anonymizer data build --task detector -i photos --boxes plates.csv -o packed\n'
        '  ffs_anonymizer data build --task detector -i photos --boxes boxes.csv \\\n'
        '    --faces faces -o packed',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = TaskOptions(build)
    build.add_argument('-i', '--input', type=Path, required=True, help='folder of photos')
    build.add_argument('-o', '--output', type=Path, required=True, help='new folder')
    build.add_argument(
        '--boxes',
        type=Path,
        action='append',
        default=[],
        help='CSV with path, identity, x0, y0, x1, y1, or a folder with a .txt of boxes for each '
        'photo; without it, the detector looks for the largest face of each photo. For a '
        'detector: CSV with path, x0, y0, x1, y1 and optionally group (the scene), class (plate, '
        'face or ignore) and labelled (what was looked for), or a folder with a .txt or Pascal '
        'VOC .xml for each photo; may be repeated: the boxes of all count',
    )
    options.add(
        GENERATOR, '--detector-model', metavar='FILE', help='ONNX face detector, without --boxes'
    )
    options.add(
        GENERATOR,
        '--landmarks-model',
        type=Path,
        metavar='FILE',
        help='YuNet for OpenCV (ONNX): where eyes, nose and mouth are, for training with a '
        'recognizer',
    )
    options.add(
        GENERATOR,
        '--photo-px',
        type=int,
        default=160,
        metavar='PX',
        help='side of the packed photos (default 160)',
    )
    options.add(
        GENERATOR,
        '--margin',
        type=float,
        default=2.0,
        metavar='TIMES',
        help='side of a photo over the root of its face area (default 2)',
    )
    options.add(
        GENERATOR,
        '--min-face-px',
        type=float,
        default=24.0,
        metavar='PX',
        help='least root of face area (default 24)',
    )
    options.add(
        DETECTOR,
        '--drawn',
        type=int,
        default=4000,
        metavar='N',
        help='plates to draw; 0 for none (default 4000)',
    )
    options.add(
        DETECTOR,
        '--faces',
        type=Path,
        metavar='FOLDER',
        help='packed faces (made without --task), whose heads are put into the scenes',
    )
    build.set_defaults(run=options.checked(run_data_build))


def run_data_build(args: argparse.Namespace) -> int:
    """Pack a folder of photos; return 1 where a photo was left out."""
    if args.task == DETECTOR:
        return run_pictures_build(args)
    from ffs_anonymizer.datasets.packing import Detect, FindPoints, list_faces, pack

    if not 16 <= args.photo_px <= 1024 or not 1.0 <= args.margin <= 8.0:
        raise SettingsError(
            f'got --photo-px {args.photo_px} and --margin {args.margin}, expected 16 to 1024 and '
            '1 to 8'
        )
    boxes = one_source(args.boxes)
    if boxes is not None and args.detector_model:
        raise SettingsError('--detector-model: got it with --boxes, which say where the faces are')
    faces = list_faces(args.input, boxes)
    detect: Detect | None = None
    if boxes is None:
        from ffs_anonymizer.evaluation.judges import FaceDetector

        detect = FaceDetector(args.detector_model or '').boxes
    find_points: FindPoints | None = None
    if args.landmarks_model is not None:
        from ffs_anonymizer.evaluation.judges import LandmarkFinder

        find_points = LandmarkFinder(args.landmarks_model).points
    report = pack(
        faces,
        args.output,
        detect=detect,
        find_points=find_points,
        photo_px=args.photo_px,
        margin=args.margin,
        min_face_px=args.min_face_px,
        progress=with_bar,
    )
    print(f'{args.output}: {report.packed} faces; look at {args.output / "sheet.jpg"}')
    for path in report.unreadable:
        say(f'{path}: cannot be read as a photo', file=sys.stderr)
    for path in report.without_face:
        say(f'{path}: no face of {args.min_face_px:g} px or more', file=sys.stderr)
    return 1 if report.unreadable or report.without_face else 0


def one_source(boxes: list[Path]) -> Path | None:
    """Return where faces are told, None where nothing says it."""
    if len(boxes) > 1:
        raise SettingsError(f'--boxes: got {len(boxes)} of them for faces, expected one')
    return boxes[0] if boxes else None


def run_pictures_build(args: argparse.Namespace) -> int:
    """Pack photos and their plates for a detector; return 1 where a photo was left out."""
    from ffs_anonymizer.datasets.faces import load_packed
    from ffs_anonymizer.datasets.pictures import list_annotated, pack_pictures

    if not args.boxes:
        raise SettingsError('--task detector: got no --boxes, expected where the plates are')
    if args.drawn < 0:
        raise SettingsError(f'--drawn: got {args.drawn}, expected 0 or more')
    packed = pack_pictures(
        list_annotated(args.input, args.boxes),
        args.output,
        faces=None if args.faces is None else load_packed(args.faces),
        drawn=args.drawn,
        progress=with_bar,
    )
    told = ', '.join(f'{count} boxes of {name}' for name, count in packed.objects.items())
    print(f'{args.output}: {packed.photos} photos, {told}; look at {args.output / "sheet.jpg"}')
    for path in packed.unreadable:
        say(f'{path}: cannot be read as a photo', file=sys.stderr)
    return 1 if packed.unreadable else 0


def add_train_parser(subparsers: Subparsers) -> None:
    """Register `train`."""
    parser = subparsers.add_parser(
        'train',
        help='train a face generator or a detector of plates and faces',
        description='Train a face generator on packed faces, or a detector of plates and faces. '
        'A run that was interrupted goes on where it stopped when the same command is given '
        'again.',
        epilog='examples:\n'
        '  ffs_anonymizer train --config config/training.yaml --set data=packed --set out=run\n'
        '  ffs_anonymizer train --config config/training.yaml --set data=own --set out=tuned \\\n'
        '    --init-from run/last.pt --set freeze=entry,top,down\n'
        '  ffs_anonymizer train --task detector --data packed --out run --set device=cuda',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_task(parser)
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with settings')
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='one setting; may be repeated and wins over the file',
    )
    parser.add_argument('--data', type=Path, metavar='FOLDER', help='what `data build` packed')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='the folder of the run')
    parser.add_argument(
        '--init-from', type=Path, metavar='CHECKPOINT', help='weights that a new run starts from'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='print the settings that result, and exit'
    )
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train, or print what would be trained."""
    from ffs_anonymizer.training.settings import (
        DetectorTrainSettings,
        from_mapping,
        load_settings,
        parse_overrides,
        RunSettings,
        TrainSettings,
    )
    import yaml

    values: dict[str, Any] = load_settings(args.config) if args.config is not None else {}
    named = {'data': args.data, 'out': args.out, 'init_from': args.init_from}
    values.update({name: str(value) for name, value in named.items() if value is not None})
    values.update(parse_overrides(args.set))
    kind = DetectorTrainSettings if args.task == DETECTOR else TrainSettings
    settings: RunSettings = from_mapping(values, kind)
    if args.dry_run:
        print(yaml.safe_dump(settings.as_dict(), sort_keys=False), end='')
        return 0
    need_torch()
    if isinstance(settings, DetectorTrainSettings):
        from ffs_anonymizer.training.detector.train import train as train_detector

        train_detector(settings)
    elif isinstance(settings, TrainSettings):
        from ffs_anonymizer.training.generator.train import train

        train(settings)
    return 0


def add_search_parser(subparsers: Subparsers) -> None:
    """Register `search`."""
    parser = subparsers.add_parser(
        'search',
        help='find a narrower face generator by channel search',
        description='Train one set of weights for face generators of many widths, taught by a '
        'trained one (GAN Compression), judge each of a table on faces held out, and write the '
        'nearest to the teacher within a budget as a checkpoint for `train --init-from` and '
        '`export`. A search that was interrupted goes on where it stopped when the same command '
        'is given again; another budget judges nothing anew.',
        epilog='examples:\n'
        '  ffs_anonymizer search --teacher run/last.pt --data packed --out found --gmac 0.2 \\\n'
        '    --widths 16,32 32,64 64,96,128 96,128,192 128,192,256 --set minutes=60\n'
        '  ffs_anonymizer train --config config/training.yaml --init-from found/last.pt \\\n'
        '    --set channels=16,32,96,128,192 --data packed --out tuned',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--teacher', type=Path, required=True, metavar='CHECKPOINT', help='a trained generator'
    )
    parser.add_argument(
        '--data', type=Path, required=True, metavar='FOLDER', help='what `data build` packed'
    )
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='all results')
    parser.add_argument(
        '--widths',
        nargs='+',
        default=[],
        metavar='WIDTHS',
        help='what each level may have, from the top down, commas between; default: multiples of '
        "32 from a quarter of the teacher's to the teacher's",
    )
    parser.add_argument(
        '--gmac',
        type=float,
        metavar='G',
        help='budget: 1e9 multiply-accumulates a face; default: halfway between the narrowest and '
        'the widest',
    )
    parser.add_argument(
        '--candidates',
        type=int,
        default=400,
        metavar='N',
        help='judge all of a table of so many; of a larger one so many by evolution; default 400',
    )
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='one setting of the training; may be repeated',
    )
    parser.add_argument('--no-plot', action='store_true', help='write no plot')
    parser.add_argument(
        '--dry-run', action='store_true', help='print what would be searched, and exit'
    )
    parser.set_defaults(run=run_search)


def run_search(args: argparse.Namespace) -> int:
    """Search, or print what would be searched; return 1 where it was interrupted."""
    from ffs_anonymizer.training.settings import parse_overrides
    import yaml

    need_torch()
    from ffs_anonymizer.quantization.plot import refuse_without_library
    from ffs_anonymizer.training.generator.search import make_plan, search

    if not args.no_plot:
        refuse_without_library()
    values = {'data': str(args.data), 'widths': ' '.join(args.widths), 'drawn_share': 0.75}
    values.update(parse_overrides(args.set))
    plan = make_plan(args.teacher, args.out, values, gmac=args.gmac, most=args.candidates)
    if args.dry_run:
        print(yaml.safe_dump(plan.settings.as_dict(), sort_keys=False), end='')
        print(plan)
        return 0
    if search(plan, plot=not args.no_plot) is None:
        warn('the training was interrupted; the same command goes on with it')
        return 1
    return 0


def add_export_parser(subparsers: Subparsers) -> None:
    """Register `export`."""
    parser = subparsers.add_parser(
        'export',
        help='make ONNX files of a checkpoint',
        description='Fold the batch norms of a checkpoint, write it as ONNX in FP32 and FP16, '
        'check both against torch, and write manifests, a model card and a picture beside them.',
        epilog='examples:\n'
        "  ffs_anonymizer export -i run/last.pt -o models --gallery 'generated_*'\n"
        '  ffs_anonymizer export --task detector -i run/last.pt -o models',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = TaskOptions(parser)
    parser.add_argument('-i', '--input', type=Path, required=True, help='checkpoint')
    parser.add_argument('-o', '--output', type=Path, required=True, help='folder')
    parser.add_argument('--name', default='', help="of the files; the network's by default")
    options.add(GENERATOR, '--data', type=Path, help='packed faces, where those of training moved')
    options.add(
        GENERATOR,
        '--gallery',
        metavar='NAMES',
        help='names of people in the packed faces who do not exist, with * and ?, commas between; '
        '! before one leaves out who matches; or a .csv with the column identity, all of whom '
        'stay: whose faces the generator wears (this or --above is needed)',
    )
    options.add(
        GENERATOR,
        '--above',
        type=Path,
        metavar='FILE',
        help='the generator (.onnx in OUTPUT) whose faces a network with a level of detail paints '
        'where they are large; its manifest names the new file then',
    )
    options.add(
        GENERATOR,
        '--matching',
        type=Path,
        metavar='CHECKPOINT',
        help='of a run with `learns: matching`, which tells what sort of face fits; without it, '
        'that of the generator',
    )
    options.add(
        GENERATOR,
        '--picture-data',
        type=Path,
        metavar='FOLDER',
        help="packed faces whose surroundings the card's picture may show",
    )
    parser.add_argument('--version', default='0', help='of the weights')
    parser.add_argument(
        '--training-data', default='not stated', help='what it was trained on, and its terms'
    )
    parser.add_argument('--licence', default='not stated', help='of the weights')
    parser.add_argument(
        '--metrics', type=Path, help='JSON that `evaluate --json` wrote, for manifest and card'
    )
    parser.add_argument('--notes', type=Path, help='Markdown for the card')
    options.add(
        DETECTOR,
        '--score-shift',
        type=float,
        default=0.0,
        help='added to the logit of every score, chosen on held-out frames',
    )
    parser.set_defaults(run=options.checked(run_export))


def run_export(args: argparse.Namespace) -> int:
    """Write the model files of a checkpoint."""
    need_torch()
    refuse_no_place(args.output, is_folder=True)
    from ffs_anonymizer.training.generator.export import export, export_larger, Provenance

    provenance = Provenance(
        version=args.version,
        training_data=args.training_data,
        licence=args.licence,
        metrics=None if args.metrics is None else read_json(args.metrics),
        notes='' if args.notes is None else read_text(args.notes),
    )
    if args.task == DETECTOR:
        from ffs_anonymizer.training.detector.export import export_detector

        done = export_detector(
            args.input,
            args.output,
            name=args.name,
            provenance=provenance,
            score_shift=args.score_shift,
        )
    else:
        if bool(args.gallery) == bool(args.above):
            raise SettingsError(
                '--gallery, --above: got both or none of them, expected one: names of people in '
                "the packed faces who do not exist, for example 'generated_*', whose faces are "
                'worn; or the generator beside which large faces are to be painted'
            )
        write = (
            partial(export_larger, above=args.above)
            if args.above
            else partial(export, gallery=args.gallery, matching=args.matching)
        )
        done = write(
            args.input,
            args.output,
            name=args.name,
            data=args.data,
            picture_data=args.picture_data,
            provenance=provenance,
        )
    print(f'{done.fp32}: largest difference from torch {done.fp32_error:.1e}')
    print(f'{done.fp16}: largest difference from torch {done.fp16_error:.1e}')
    return 0


def add_evaluate_parser(subparsers: Subparsers) -> None:
    """Register `evaluate`."""
    parser = subparsers.add_parser(
        'evaluate',
        help='judge anonymized faces, or a detector',
        description='Anonymize photos in memory by the recipe of the product and judge the '
        'faces: are they still found, whose are they, where are eyes and mouth, is there a seam. '
        'For a detector: how many of the known plates it finds, by their height, and how often '
        'it finds what is none.',
        epilog='examples:\n'
        '  ffs_anonymizer evaluate -i photos --method face=generate --method face=blur \\\n'
        '    --json metrics.json --sheet sheet.png\n'
        '  ffs_anonymizer evaluate --task detector -i photos --boxes plates.csv \\\n'
        '    --detector-model own.onnx --held-out --sheet mistakes.png',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = TaskOptions(parser)
    parser.add_argument('-i', '--input', type=Path, required=True, help='photos, or one photo')
    parser.add_argument(
        '--boxes',
        type=Path,
        action='append',
        default=[],
        help='CSV or folder of .txt files with the faces; else detected. Of plates as for '
        '`data build`; may be repeated then',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the metrics')
    parser.add_argument('--sheet', type=Path, metavar='FILE', help='write a contact sheet')
    options.add(
        GENERATOR,
        '--video',
        action='store_true',
        help='the input is a film or a folder of films: how still and how steady are the faces',
    )
    options.add(
        GENERATOR,
        '--method',
        action='append',
        metavar='face=METHOD',
        help=f'what to judge; may be repeated; by default {" ".join(METHODS)}',
    )
    options.add(
        GENERATOR,
        '--compare',
        action='append',
        default=[],
        metavar='NAME=PATH',
        help="somebody else's result on the same photos: a folder with the same file names, or "
        'a file for one photo',
    )
    options.add(GENERATOR, '--config', type=Path, metavar='FILE', help='settings of the recipe')
    options.add(GENERATOR, '--generator-model', metavar='FILE', help='ONNX face generator')
    options.add(
        GENERATOR, '--mask-scale', type=float, metavar='TIMES', help='region over box side'
    )
    options.add(
        GENERATOR,
        '--pose',
        action='store_true',
        help='generator.pose: true: faces get the points that the detector of the recipe finds',
    )
    options.add(
        GENERATOR,
        '--judge-detector',
        metavar='FILE',
        help="by default the product's detector",
    )
    options.add(
        GENERATOR,
        '--landmarks-model',
        type=Path,
        metavar='FILE',
        help='YuNet for OpenCV (ONNX)',
    )
    options.add(
        GENERATOR,
        '--recognizer',
        type=Path,
        metavar='FILE',
        help='MobileFaceNet for ncnn (.param); needs --landmarks-model',
    )
    options.add(
        GENERATOR,
        '--utility',
        action='store_true',
        help="photos: how far keypoints of bodies move, by MediaPipe's pose model "
        "(pip install 'ffs_anonymizer[utility]', Python 3.10 to 3.12)",
    )
    options.add(
        DETECTOR,
        '--detector-model',
        type=Path,
        metavar='FILE',
        help='needed: ONNX detector to judge',
    )
    options.add(
        DETECTOR,
        '--class',
        dest='class_name',
        choices=('plate', 'face'),
        default='plate',
        help='what it is judged on (default plate)',
    )
    options.add(
        DETECTOR,
        '--held-out',
        action='store_true',
        help='only photos of groups that `data build` keeps from training',
    )
    options.add(
        DETECTOR,
        '--scale',
        type=float,
        default=1.0,
        help='size at which it sees the photos (default 1)',
    )
    options.add(
        DETECTOR,
        '--threshold',
        type=float,
        action='append',
        default=[],
        help='judge at this score, too; may be repeated',
    )
    parser.set_defaults(run=options.checked(run_evaluate))


def run_evaluate(args: argparse.Namespace) -> int:
    """Judge the methods on a folder of photos."""
    from ffs_anonymizer.datasets.sheet import refuse_name

    for path in (args.json, args.sheet):
        if path is not None:
            refuse_no_place(path)
    if args.sheet is not None:
        refuse_name(args.sheet)
    if args.task == DETECTOR:
        return run_evaluate_detector(args)
    from ffs_anonymizer.datasets.photos import read_photo
    from ffs_anonymizer.evaluation import faces as evaluation
    from ffs_anonymizer.evaluation.judges import FaceDetector, LandmarkFinder, Recognizer
    from ffs_anonymizer.evaluation.utility import MediaPipePose
    from ffs_anonymizer.settings.parameter_file import load
    from ffs_anonymizer.settings.runtime import Settings

    usual = load(args.config) if args.config is not None else Settings()
    changes = {'generator.model_path': args.generator_model, 'face.region_scale': args.mask_scale}
    changes['generator.pose'] = args.pose or None
    usual = usual.updated({name: v for name, v in changes.items() if v is not None})
    by_method = {}
    for text in args.method or METHODS:
        name, equals, method = text.partition('=')
        if name != 'face' or not equals:
            raise SettingsError(f'--method: got {text!r}, expected face=METHOD')
        by_method[method] = usual.updated({'face.method': method})
    if args.landmarks_model is None:
        if args.recognizer is not None:
            raise SettingsError(
                f'--recognizer: got {args.recognizer} without --landmarks-model, expected both: '
                'faces are aligned by their landmarks before they are recognized'
            )
        print('landmarks, identity, linkage: null, no --landmarks-model', file=sys.stderr)
    elif args.recognizer is None:
        print('identity, linkage: null, no --recognizer', file=sys.stderr)
    finder = None if args.landmarks_model is None else LandmarkFinder(args.landmarks_model)
    recognizer = None if args.recognizer is None else Recognizer(args.recognizer)
    if args.video and args.utility:
        raise SettingsError('--video: got --utility, which is for photos')
    pose = MediaPipePose() if args.utility else None
    judges = evaluation.Judges(FaceDetector(args.judge_detector or ''), finder, recognizer, pose)
    if args.video:
        return judge_films(args, by_method, judges)
    photos = evaluation.load_photos(args.input, one_source(args.boxes), judges.detector)
    others = {}
    for text in args.compare:
        name, equals, where = text.partition('=')
        if not equals:
            raise SettingsError(f'--compare: got {text!r}, expected NAME=PATH')
        folder = Path(where)
        paths = [folder / p.path.name if folder.is_dir() else folder for p in photos]
        others[name] = [read_photo(path) for path in paths]
        for path, image, photo in zip(paths, others[name], photos, strict=True):
            if image.shape != photo.image_bgr.shape:
                raise MediaError(
                    f'{path}: got {image.shape}, expected a picture of the shape '
                    f'{photo.image_bgr.shape}, as {photo.path.name}'
                )
    results = evaluation.evaluate(
        photos, by_method, judges, others=others, sheet=args.sheet, progress=with_bar
    )
    faces = results[evaluation.ORIGINAL]['faces']
    told = [f'{faces} faces of {len(photos)} photos', f'detector {judges.detector.name}']
    told += [] if judges.landmarks is None else [f'landmarks {judges.landmarks.name}']
    told += [] if judges.recognizer is None else [f'recognizer {judges.recognizer.name}']
    if pose is not None:
        told.append(f'{results[evaluation.ORIGINAL]["people"]} people by {pose.name}')
    print(', '.join(told))
    print(evaluation.to_markdown(results), end='')
    if args.json is not None:
        write_json(args.json, results)
    return 0


def judge_films(args: argparse.Namespace, by_method: dict[str, Settings], judges: Judges) -> int:
    """Judge the methods on films; return 1 where some could not be judged."""
    from ffs_anonymizer.evaluation import films

    if args.boxes or args.compare or args.sheet is not None:
        raise SettingsError('--video: got --boxes, --compare or --sheet, which are for photos')
    paths = [args.input] if args.input.is_file() else sorted(args.input.glob('*'))
    if not paths:
        raise MediaError(f'{args.input}: got no film, expected one or a folder of some')
    loaded = [_film(path, judges) for path in with_bar(paths)]
    found = [film for film in loaded if film is not None]
    if not found:
        raise MediaError(f'{args.input}: got no film that can be judged, expected one')
    results = films.evaluate(found, by_method, judges, progress=with_bar)
    print(films.to_markdown(results), end='')
    if args.json is not None:
        write_json(args.json, results)
    return int(len(found) < len(paths))


def _film(path: Path, judges: Judges) -> Film | None:
    from ffs_anonymizer.evaluation.films import load_film

    try:
        return load_film(path, judges)
    except MediaError as error:
        warn(f'left out: {error}')
        return None


def run_evaluate_detector(args: argparse.Namespace) -> int:
    """Judge a detector on photos whose plates or faces are known."""
    from ffs_anonymizer.backend import open_model
    from ffs_anonymizer.datasets.faces import is_held_out
    from ffs_anonymizer.datasets.pictures import HELD_OUT_PERCENT, list_annotated
    from ffs_anonymizer.evaluation.detector import figures, judge, to_markdown, write_sheet
    from ffs_anonymizer.regions.detections import CLASSES
    from ffs_anonymizer.regions.detector import Network

    for option in ('boxes', 'detector_model'):
        if not getattr(args, option):
            raise SettingsError(f'--task detector: got no --{option.replace("_", "-")}')
    if not 0.1 <= args.scale <= 4.0:
        raise SettingsError(f'--scale: got {args.scale:g}, expected 0.1 to 4')
    name = args.class_name
    photos = [p for p in list_annotated(args.input, args.boxes) if name in p.labelled]
    told = ', '.join(map(str, args.boxes))
    if not photos:
        raise MediaError(f'{told}: got no photo in which a {name} was looked for')
    if args.held_out:
        photos = [p for p in photos if is_held_out(p.group, HELD_OUT_PERCENT)]
        if not photos:
            raise MediaError(f'{told}: got no photo that is held out, expected some')
    network = Network(open_model(args.detector_model, device='cpu'), CLASSES.index(name))
    judged = judge(photos, network, scale=args.scale, progress=with_bar)
    values = figures(judged, args.threshold)
    print(to_markdown(values), end='')
    if args.sheet is not None:
        threshold = args.threshold[0] if args.threshold else values['rows'][1]['threshold']
        missed, false = write_sheet(args.sheet, photos, judged, threshold)
        print(
            f'{args.sheet}: the largest of {missed} {name}s missed at {threshold:.3f} (green), '
            f'and the surest of {false} false finds (red)'
        )
    if args.json is not None:
        write_json(args.json, values)
    return 0


def add_models_parser(subparsers: Subparsers) -> None:
    """Register `models`."""
    parser = subparsers.add_parser(
        'models',
        help='parameters and operations of the networks',
        description='Count the parameters and the multiply-accumulates a face of each network; '
        '`bench --generator --baseline deep-privacy2` measures how fast they are.',
    )
    parser.set_defaults(run=run_models)


def run_models(args: argparse.Namespace) -> int:
    """Print the table of networks."""
    need_torch()
    from ffs_anonymizer.evaluation import cost as table

    print(table.to_markdown(table.costs()), end='')
    return 0


def need_torch() -> None:
    """Refuse to go on without torch, saying what to install."""
    try:
        import torch
    except ImportError as error:
        raise ModelError(f'training needs torch, which is not installed: {INSTALL}') from error
    del torch


def read_text(path: Path) -> str:
    """Return the content of a text file."""
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f'{path}: cannot be read: {error}') from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise MediaError(f'{path}: not JSON: {error}') from error
    if not isinstance(values, dict):
        raise MediaError(f'{path}: got {type(values).__name__}, expected an object')
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as a JSON file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + '\n', encoding='utf-8')
    except OSError as error:
        raise MediaError(f'{path}: cannot be written: {error}') from error


def with_bar(items: Sequence[T]) -> Iterator[T]:
    """Return the items one by one under a progress bar."""
    from tqdm import tqdm

    return iter(tqdm(items, disable=None))
