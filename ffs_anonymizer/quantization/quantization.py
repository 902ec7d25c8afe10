"""All of quantizing: a network and photos in, 8-bit files, their figures and their plots out."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
import datetime
import json
from pathlib import Path
import shutil
from typing import Any

from ffs_anonymizer.backend import open_model, Tensors
from ffs_anonymizer.backend.onnx_file import write
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.jobs.output import refuse_no_place
from ffs_anonymizer.models.manifest import (
    companion_of,
    file_sha256,
    load_manifest,
    Manifest,
    manifest_path,
    save_manifest,
    Shape,
)
from ffs_anonymizer.models.model_file import read_model
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.quantization.calibration import (
    found_by,
    load_crops,
    load_photos,
    parted,
    THRESHOLD,
)
from ffs_anonymizer.quantization.explicit import to_explicit, to_portable
from ffs_anonymizer.quantization.graph import convs, joining, prepare
from ffs_anonymizer.quantization.half import to_half
from ffs_anonymizer.quantization.integer import to_integer
from ffs_anonymizer.quantization.metric import (
    Candidate,
    chosen_latents,
    crop_feeds,
    DETECTOR_METRICS,
    DetectorQuality,
    GENERATOR_METRICS,
    GeneratorQuality,
    in_common,
    photo_feeds,
    Quality,
)
from ffs_anonymizer.quantization.plot import draw, draw_faces, refuse_without_library
from ffs_anonymizer.quantization.ranges import measure_ranges, Ranges
from ffs_anonymizer.quantization.sensitivity import Build, choose, curve, LayerLoss, rank
from ffs_anonymizer.regions.detections import FACE
from ffs_anonymizer.regions.detector import Network
from ffs_anonymizer.settings.runtime import Settings
import onnx
import onnxruntime

SUFFIXES = {'A': '-int8', 'B': '-int8-fp16', 'CPU': '-int8-cpu'}
# Photos are held whole, crops are small.
_CALIBRATED_ON = {'generator': 1024, 'detector': 128}


def to_file_b(
    model: onnx.ModelProto, ranges: Ranges, keep_float: Iterable[str]
) -> onnx.ModelProto:
    """Make file B of the same convolutions as file A."""
    return to_half(to_portable(model, ranges, keep_float))


_BUILDS: dict[str, Build] = {'A': to_portable, 'B': to_file_b, 'CPU': to_integer}


@dataclass(frozen=True)
class Prepared:
    """
    Hold what the measuring needs.

    :param quality: the metric and the pictures it looks at.
    :param feeds: calibration data, batch by batch.
    :param batches: how many.
    :param size_px: S of a generator, else 0.
    :param crop_scale: of a generator, else 0.
    :param calibrated_on: how many pictures.
    :param judged_on: how many pictures.
    """

    quality: Quality
    feeds: Iterable[Tensors]
    batches: int
    size_px: int
    crop_scale: float
    calibrated_on: int
    judged_on: int


class Quantization:
    """
    Quantize one network.

    :raises SettingsError: an option is out of range or does not fit the task.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        metrics = GENERATOR_METRICS if args.task == 'generator' else DETECTOR_METRICS
        self.metric: str = args.metric or metrics[0]
        if self.metric not in metrics:
            raise SettingsError(
                f'--metric: got {self.metric!r} for a {args.task}, expected one of: '
                f'{", ".join(metrics)}'
            )
        if not 0 < args.keep <= 1:
            raise SettingsError(f'--keep: got {args.keep}, expected a share over 0 and up to 1')
        self.crops: int = _CALIBRATED_ON[args.task] if args.crops is None else args.crops
        for option, count in (('crops', self.crops), ('evaluate', args.evaluate)):
            if count < 1:
                raise SettingsError(f'--{option}: got {count}, expected 1 or more')
        name = args.name or args.input.stem
        self.files = {
            file: args.output / f'{name}{suffix}.onnx'
            for file, suffix in SUFFIXES.items()
            if file in args.files
        }
        self.plot: Path | None = args.plot or args.output / f'{name}-int8.png'
        self.faces: Path | None = None
        self.beside: dict[Path, Path] = {}
        if args.no_plot:
            self.plot = None
        elif args.task == 'generator':
            self.faces = args.output / f'{name}-int8-faces.png'

    def run(self) -> int:
        """Do all of it and return the exit code."""
        args = self.args

        # What is to be done
        self.beside = self._to_copy()
        self._refuse_existing()
        if self.plot is not None:
            refuse_without_library()
        model = prepare(args.input)
        names = [node.name for node in convs(model)]
        if args.keep_float is not None and not 0 <= args.keep_float <= len(names):
            raise SettingsError(
                f'--keep-float: got {args.keep_float}, expected 0 to {len(names)}, the number of '
                'convolutions'
            )
        print(f'{args.input}: {len(names)} convolutions, task {args.task}, metric {self.metric}')
        for file, path in self.files.items():
            print(f'  {file:3s} -> {path}')
        if args.dry_run:
            return 0

        # Ranges
        prepared = self._prepare(model)
        print(
            f'calibrated on {prepared.calibrated_on} pictures by {args.method}, judged on '
            f'{prepared.judged_on}'
        )
        quality = prepared.quality
        objects = f', {quality.objects} objects' if isinstance(quality, DetectorQuality) else ''
        print(f'judged against: {quality.truth}{objects}')
        feeds = self._bar(prepared.feeds, 'calibrating', prepared.batches)
        ranges = measure_ranges(model, feeds, prepared.batches, args.method)

        # Each layer alone, then the worst in float
        float_score = quality.score(Candidate(model))
        layers: list[LayerLoss] = []
        if not (args.quick and self._suffices(model, ranges, quality, float_score)):
            build: Build = to_integer if set(self.files) == {'CPU'} else to_explicit
            layers = rank(model, ranges, quality, float_score, build, self._bar)
        order = [layer.name for layer in layers]
        curves = {}
        for file, needed_by in (('A', {'A', 'B'}), ('CPU', {'CPU'})):
            if needed_by & set(self.files):
                build = _BUILDS[file]
                curves[file] = curve(model, ranges, quality, order, build, self._bar)
        chosen = {file: self._choose(scores, float_score) for file, scores in curves.items()}

        # The files
        scores = {file: curves[file][chosen[file]] for file in curves}
        tried = range(chosen['A'], len(order) + 1) if 'B' in self.files else ()
        for n in tried:
            chosen['B'] = n
            scores['B'] = quality.score(_candidate('B', to_file_b(model, ranges, order[:n])))
            if args.keep_float is not None or scores['B'] >= args.keep * float_score:
                break
        models = {file: _BUILDS[file](model, ranges, order[: chosen[file]]) for file in self.files}
        figures = {}
        for file in self.files:
            kept = set(order[: chosen[file]]) | (set() if file == 'CPU' else joining(model))
            in_order = [name for name in order or names if name in kept]
            numbers = self._figures(file, prepared, float_score, scores[file], layers, in_order)
            figures[file] = numbers | ({'curve': curves[file]} if file in curves else {})
        if isinstance(quality, DetectorQuality):
            self._count(quality, model, models, figures)
        self._write(models, figures, prepared)
        if self.plot is not None and layers:
            draw(
                self.plot,
                title=f'{args.input.name}, calibrated by {args.method}',
                metric=self.metric,
                layers=layers,
                curves=curves,
                chosen={file: chosen[file] for file in curves},
                float_score=float_score,
                keep=args.keep,
            )
        if self.faces is not None and isinstance(quality, GeneratorQuality):
            made = {'FP32': quality.wanted}
            for file, built in models.items():
                made[file] = quality.paint(_candidate(file, built))
            draw_faces(self.faces, quality.crops, made)
        if args.json is not None:
            args.json.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')
        self._print(figures, layers)
        return 0

    def _prepare(self, model: onnx.ModelProto) -> Prepared:
        args = self.args
        if args.task == 'detector':
            photos = load_photos(args.calibration, self.crops + args.evaluate, seed=args.seed)
            judged, others = photos[: args.evaluate], photos[args.evaluate :] or photos
            reference = Candidate(model)
            truth = 'boxes'
            if not any(len(photo.boxes_xyxy_px) for photo in photos):
                judged = found_by(Network(reference, FACE), judged)
                truth = DetectorQuality.truth
            quality = DetectorQuality(judged, truth)
            if not quality.objects:
                raise MediaError(
                    f'{args.calibration}: got {len(judged)} photos without boxes in which the '
                    f'FP32 network finds no object that scores {THRESHOLD:g}, expected some to '
                    'judge by; give photos that show some, or more of them with --evaluate'
                )
            feeds = photo_feeds(reference, others)
            return Prepared(quality, feeds, len(others), 0, 0.0, len(others), len(judged))
        generator = Generator(open_model(args.input, device='cpu'))
        inputs = generator.model.inputs
        generator.close()
        region_scale = Settings().face.region_scale

        def crops_at(size_px: int, crop_scale: float) -> Crops:
            return load_crops(
                args.calibration,
                self.crops + args.evaluate,
                size_px=size_px,
                crop_scale=crop_scale,
                region_scale=region_scale,
                seed=args.seed,
            )

        crops = crops_at(generator.size_px, generator.crop_scale)
        count = min(args.evaluate, len(crops))
        first, rest = parted(crops, count)
        latents = chosen_latents(args.input, crops_at)
        of_first = of_rest = latents
        if not len(rest):
            rest = crops
        elif latents is not None:
            of_first, of_rest = latents[:count], latents[count:]
        batches = list(crop_feeds(rest, inputs, of_rest))
        return Prepared(
            GeneratorQuality(Candidate(model), first, self.metric, of_first),
            batches,
            len(batches),
            generator.size_px,
            generator.crop_scale,
            len(rest),
            len(first),
        )

    def _suffices(
        self, model: onnx.ModelProto, ranges: Ranges, quality: Quality, float_score: float
    ) -> bool:
        """Tell whether every file is good enough with all convolutions in 8 bits."""
        if self.args.keep_float is not None:
            return bool(self.args.keep_float == 0)
        return all(
            quality.score(_candidate(file, _BUILDS[file](model, ranges, ())))
            >= self.args.keep * float_score
            for file in self.files
        )

    def _choose(self, scores: Sequence[float], float_score: float) -> int:
        if self.args.keep_float is not None:
            return int(self.args.keep_float)
        return choose(scores, float_score, self.args.keep)

    def _figures(
        self,
        file: str,
        prepared: Prepared,
        float_score: float,
        score: float,
        layers: Sequence[LayerLoss],
        kept: Sequence[str],
    ) -> dict[str, Any]:
        return {
            'file': file,
            'calibration': self.args.method,
            'calibrated_on': prepared.calibrated_on,
            'judged_on': prepared.judged_on,
            'judged_against': prepared.quality.truth,
            'metric': self.metric,
            'float_score': float_score,
            'score': score,
            'keep': self.args.keep,
            'kept_in_float': list(kept),
            'layers': [asdict(layer) for layer in layers],
            'date': datetime.date.today().isoformat(),
            'onnxruntime': onnxruntime.__version__,
        }

    def _count(
        self,
        quality: DetectorQuality,
        model: onnx.ModelProto,
        models: dict[str, onnx.ModelProto],
        figures: dict[str, dict[str, Any]],
    ) -> None:
        """Add how many objects each file finds beside the FP32 network, in the product."""
        wanted = quality.found(Candidate(model))
        for file, made in models.items():
            found = quality.found(_candidate(file, made))
            counts = in_common(wanted, found)
            figures[file]['objects'] = quality.objects
            figures[file]['found'] = {
                'threshold': THRESHOLD,
                'both': counts['both'],
                'fp32_alone': counts['first'],
                'file_alone': counts['second'],
            }

    def _write(
        self,
        models: dict[str, onnx.ModelProto],
        figures: dict[str, dict[str, Any]],
        prepared: Prepared,
    ) -> None:
        source = load_manifest(self.args.input)
        try:
            self.args.output.mkdir(parents=True, exist_ok=True)
            for file, model in models.items():
                write(model, self.files[file])
            for path, copy in self.beside.items():
                shutil.copyfile(path, copy)
        except OSError as error:
            raise ModelError(f'{self.args.output}: cannot be written: {error}') from error
        for file, model in models.items():
            path = self.files[file]
            metrics = dict(source.metrics) if source is not None else {}
            metrics['quantization'] = figures[file]
            manifest = Manifest(
                name=source.name if source is not None else self.args.input.stem,
                task=self.args.task,
                version=source.version if source is not None else '0',
                sha256=file_sha256(path),
                inputs=_shapes(model.graph.input),
                outputs=_shapes(model.graph.output),
                size_px=prepared.size_px,
                crop_scale=prepared.crop_scale,
                precision='int8',
                training_data=source.training_data if source is not None else 'not stated',
                licence=source.licence if source is not None else 'not stated',
                metrics=metrics,
                layout=source.layout if source is not None else '',
                classes=source.classes if source is not None else (),
                chooser=source.chooser if source is not None else '',
                larger=self._larger(source),
            )
            save_manifest(manifest, path)

    def _to_copy(self) -> dict[Path, Path]:
        """Return the file that chooses a generator's faces, its manifest, and where copies go."""
        chooser = companion_of(self.args.input, 'chooser')
        if chooser is None:
            return {}
        digest = read_model(chooser).sha256
        copy = self.args.output / chooser.name
        if copy.is_file() and file_sha256(copy) == digest:
            return {}
        parts = chooser, manifest_path(chooser)
        return {part: self.args.output / part.name for part in parts if part.is_file()}

    def _larger(self, source: Manifest | None) -> str:
        """Return the generator for large faces that lies beside the output, if any does."""
        name = '' if source is None else source.larger
        return name if name and (self.args.output / name).is_file() else ''

    def _refuse_existing(self) -> None:
        refuse_no_place(self.args.output, is_folder=True)
        for path in (self.args.json, self.args.plot):
            if path is not None and not path.absolute().parent.is_dir():
                raise ModelError(f'{path}: got no folder {path.parent} to write into')
        wanted = [*self.files.values(), *(manifest_path(p) for p in self.files.values())]
        wanted += [p for p in (self.plot, self.faces, self.args.json) if p is not None]
        wanted += self.beside.values()
        existing = [str(path) for path in wanted if path.exists()]
        if existing:
            raise ModelError(
                f'got {", ".join(existing)} there already, expected no such file; nothing is '
                'overwritten: give another --output or --name, or delete them'
            )

    def _print(self, figures: dict[str, dict[str, Any]], layers: Sequence[LayerLoss]) -> None:
        if layers:
            print('\nlayers, the most sensitive first:')
        for layer in layers:
            print(f'  {layer.loss:9.5f}  {layer.name}')
        print('\nfile  in float  score    of FP32')
        for file, numbers in figures.items():
            share = numbers['score'] / numbers['float_score'] if numbers['float_score'] else 0.0
            count = len(numbers['kept_in_float'])
            print(f'{file:4s}  {count:8d}  {numbers["score"]:.4f}  {share:7.2%}')
        if self.args.task == 'detector':
            print(f'\nobjects that score {THRESHOLD:g} or more:')
            for file, numbers in figures.items():
                found = numbers['found']
                print(
                    f'{file:4s}  {found["both"]} found by both, {found["fp32_alone"]} by FP32 '
                    f'alone, {found["file_alone"]} by the file alone'
                )

    def _bar(self, items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
        from tqdm import tqdm

        hidden = True if self.args.disable_progress_output else None
        bar: Iterator[Any] = iter(tqdm(items, desc=what, total=total, disable=hidden))
        return bar


def _candidate(file: str, model: onnx.ModelProto) -> Candidate:
    return Candidate(model, optimized=file != 'B')


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, Shape]:
    return {
        value.name: tuple(
            int(dim.dim_value) if dim.HasField('dim_value') else str(dim.dim_param)
            for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }
