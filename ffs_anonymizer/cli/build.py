"""The command `build`: from ONNX files to engines for this very machine, in its private cache."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
import re
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from ffs_anonymizer.cli.options import add_settings_options, settings_from
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.models.manifest import is_chooser, load_manifest
from ffs_anonymizer.models.manifest import is_generator as is_generator_inputs
from ffs_anonymizer.models.roster import whole_roster
from ffs_anonymizer.regions.layouts import layout_of
from ffs_anonymizer.regions.looks import looks_at

if TYPE_CHECKING:
    from ffs_anonymizer.backend.tensorrt.engine_cache import EngineCache
    from ffs_anonymizer.backend.tensorrt.runner import Built, Shapes
    from ffs_anonymizer.cli.options import Subparsers

_BATCHES = (1, 4, 16)
_SIZES_WH = ((1920, 1080),)
_STRIDE = 32
_FP16 = ('none', 'generators', 'all')
_EXAMPLES = """\
examples:
  ffs_anonymizer build --config anonymizer.param.yaml --size 1920x1080
  ffs_anonymizer build --model generator.onnx --batch 1,4,16 --force-engine-update
"""
_Result = TypeVar('_Result')


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        'build',
        help='build TensorRT engines for this machine',
        description='Build TensorRT engines, on the device that will run them and for its user. '
        'An engine is executable code: it is kept in a private folder, checked each time it is '
        'loaded, and never taken from elsewhere. Minutes on a Jetson; run it again after an '
        'update of JetPack, TensorRT or a model.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--model',
        type=Path,
        metavar='ONNX',
        help='only this file; without it, the models that the settings name',
    )
    parser.add_argument(
        '--batch',
        default=','.join(map(str, _BATCHES)),
        metavar='N,...',
        help='generators: how many faces at once, each tuned by itself; a frame takes the '
        'smallest that holds its faces (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        default=','.join(f'{w}x{h}' for w, h in _SIZES_WH),
        metavar='WxH,...',
        help='detectors: the sizes of the camera images (default: %(default)s)',
    )
    parser.add_argument(
        '--force-engine-update',
        action='store_true',
        help='build although there is a good engine, or a bad one',
    )
    parser.add_argument(
        '--fp16',
        choices=_FP16,
        default='generators',
        help='TensorRT up to 10: which files in FP32 may be computed in FP16; a detector should '
        'only if it was measured to find as much then (default: %(default)s)',
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Build what is missing and return the exit code.

    :raises SettingsError: the options cannot be read.
    :raises ModelError: there is no GPU or no TensorRT, or a model cannot be built.
    """
    settings = settings_from(args)
    batches = parse_batches(args.batch)
    sizes_wh = parse_sizes(args.size)
    # One file may play two roles.
    roles = dict.fromkeys(role.path for role in whole_roster(settings))
    paths = [args.model] if args.model else [*roles]
    plans = [(path, plan(path, batches, sizes_wh, settings.detector.scale)) for path in paths]
    for path, variants in plans:
        print(f'{path}: shapes to build for')
        for shapes in variants:
            print('  ' + ', '.join(f'{k} {"x".join(map(str, v))}' for k, v in shapes.items()))
    if args.dry_run:
        return 0

    from ffs_anonymizer.backend.cuda import Gpu
    from ffs_anonymizer.backend.tensorrt import runner as trt
    from ffs_anonymizer.backend.tensorrt.engine_cache import EngineCache

    cache, module = EngineCache(), trt.import_tensorrt()
    gpu = Gpu()
    try:
        target = trt.target_of(module, gpu)
    finally:
        gpu.close()
    print(f'for {", ".join(target.values())}, into {cache.folder}')
    force = args.force_engine_update
    _build_kernels(cache, target['compute_capability'], force=force)
    for path, variants in plans:
        half = args.fp16 == 'all' or (args.fp16 == 'generators' and is_generator(variants))
        _build_one(cache, path, variants, target, force=force, exact=not half)
    return 0


def parse_batches(text: str) -> tuple[int, ...]:
    """
    Read `1,4,16`.

    :raises SettingsError: it is something else.
    """
    words = text.split(',')
    if not all(word.strip().isdecimal() and 1 <= int(word) <= 256 for word in words):
        raise SettingsError(f'--batch: got {text!r}, expected numbers from 1 to 256: 1,4,16')
    return tuple(sorted({int(word) for word in words}))


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """
    Read `1920x1080,1280x720`.

    :raises SettingsError: it is something else.
    """
    sizes = []
    for word in text.split(','):
        match = re.fullmatch(r'\s*([1-9]\d{0,4})x([1-9]\d{0,4})\s*', word)
        if match is None:
            raise SettingsError(f'--size: got {text!r}, expected WIDTHxHEIGHT: 1920x1080,1280x720')
        sizes.append((int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(sizes))


def plan(
    path: Path,
    batches: Sequence[int],
    sizes_wh: Sequence[tuple[int, int]],
    scale: float,
) -> list[Shapes]:
    """
    Return the fixed shapes that an engine of a model needs.

    :param batches: of a generator and of what chooses its latents.
    :param sizes_wh: of the frames that a detector is to see.
    :param scale: size at which the detector sees the frame.
    :raises ModelError: it is no model, or takes free sizes that it gets from nowhere.
    """
    inputs = _inputs(path)
    variants: list[dict[str, tuple[int, ...]]] = []
    if is_generator_inputs(inputs) or is_chooser(inputs):
        variants = [{k: (n, *shape[1:]) for k, shape in inputs.items()} for n in batches]
    elif len(inputs) == 1 and len(shape := next(iter(inputs.values()))) == 4:
        again = _looks_again(path)
        canvases = [
            look.canvas_wh
            for size_wh in sizes_wh
            for look in looks_at(size_wh, scale, _STRIDE, looks_again=again)
        ]
        for width, height in canvases:
            wanted = (1, 3, height, width)
            fixed = tuple(b if a < 0 else a for a, b in zip(shape, wanted, strict=True))
            if {next(iter(inputs)): fixed} not in variants:
                variants.append({next(iter(inputs)): fixed})
    if not variants or any(size < 1 for v in variants for shape in v.values() for size in shape):
        raise ModelError(
            f'{path}: got the inputs {inputs}, expected those of a generator (condition, mask) '
            'or of a detector (one image [N, 3, H, W])'
        )
    return list(variants)


def is_generator(variants: Sequence[Shapes]) -> bool:
    """Tell generators from detectors."""
    return all(is_generator_inputs(shapes) for shapes in variants)


def _inputs(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input, -1 where it is free."""
    import onnx

    graph = onnx.load_model_from_string(_model_bytes(path)).graph
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField('dim_value') else -1
            for dim in value.type.tensor_type.shape.dim
        )
        for value in graph.input
    }


def _looks_again(path: Path) -> bool:
    """Tell whether a detector's layout asks for a second look."""
    import onnx

    manifest = load_manifest(path)
    names = [value.name for value in onnx.load_model_from_string(_model_bytes(path)).graph.output]
    named = '' if manifest is None else manifest.layout
    return bool(layout_of(dict.fromkeys(names, ()), of=str(path), named=named).second_look)


def _model_bytes(path: Path) -> bytes:
    from ffs_anonymizer.backend.onnx_file import cleaned
    from ffs_anonymizer.models.model_file import read_model

    serialized: bytes = cleaned(read_model(path)).SerializeToString()
    return serialized


def _build_kernels(cache: EngineCache, compute_capability: str, *, force: bool) -> None:
    from ffs_anonymizer.backend.tensorrt.engine_cache import name_of
    from ffs_anonymizer.painting.compiler import compile_kernels, find_nvcc, kernel_facts

    facts = kernel_facts(compute_capability)
    name = name_of(facts, '.cubin')
    if not force and _is_good(cache, name, facts):
        print('kernels: there already')
        return
    nvcc = find_nvcc()
    if nvcc is None:
        print('kernels: no nvcc here, so crops and pasting stay on the CPU; install the CUDA')
        print('         toolkit and run this again')
        return
    cache.save(name, compile_kernels(compute_capability, nvcc), facts)
    print(f'kernels: compiled by {nvcc}')


def _build_one(
    cache: EngineCache,
    path: Path,
    variants: Sequence[Shapes],
    target: dict[str, str],
    *,
    force: bool,
    exact: bool,
) -> None:
    from ffs_anonymizer.backend.tensorrt import runner as trt
    from ffs_anonymizer.backend.tensorrt.engine_cache import name_of
    from ffs_anonymizer.models.model_file import read_model

    facts = trt.engine_facts(read_model(path), target)
    wanted = {'variants': _plain(variants), 'exact': exact}
    name = name_of(facts, '.engine')
    if not force and _is_good(cache, name, {**facts, **wanted}):
        print(f'{path}: there already; --force-engine-update builds it again')
        return
    timing_facts = dict(target)
    timing_name = name_of(timing_facts, '.timing')
    timing = b''
    if not force and _is_good(cache, timing_name, timing_facts):
        timing, _ = cache.load(timing_name, timing_facts)
    model, module = _model_bytes(path), trt.import_tensorrt()
    phase = ['starts']

    def work() -> Built:
        return trt.build_engine(
            module,
            model,
            variants,
            exact=exact,
            timing=timing,
            on_phase=lambda name: phase.__setitem__(0, name),
        )

    built = _watched(work, path.name, lambda: phase[0])
    shapes = {'inputs': _plain_shapes(built.inputs), 'outputs': _plain_shapes(built.outputs)}
    described = {'onnx': path.name, 'precision': built.precision, **shapes, **wanted}
    cache.save(name, built.data, {**facts, **described})
    if built.timing:
        cache.save(timing_name, built.timing, timing_facts)
    print(f'{path}: {built.precision}, {len(built.data) / 1e6:.1f} MB, {name}')


def _is_good(cache: EngineCache, name: str, facts: Mapping[str, object]) -> bool:
    """Tell whether a file lies there for these facts; one that was tampered with raises."""
    from ffs_anonymizer.backend.tensorrt.engine_cache import MissingError

    try:
        _, found = cache.load(name, {})
    except MissingError:
        return False
    return all(found.get(key) == value for key, value in facts.items())


def _plain(variants: Sequence[Shapes]) -> list[dict[str, list[int]]]:
    """Return shapes as JSON gives them back."""
    return [_plain_shapes(shapes) for shapes in variants]


def _plain_shapes(shapes: Shapes) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}


def _watched(work: Callable[[], _Result], name: str, phase: Callable[[], str]) -> _Result:
    """Do long work in a thread of its own and show that it is alive; Ctrl-C ends it."""
    from tqdm import tqdm

    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    with tqdm(total=None, desc=name, bar_format='{desc}: {elapsed} {postfix}') as bar:
        for _ in _until(future.done):
            bar.set_postfix_str(phase())
    return future.result()


def _until(done: Callable[[], bool]) -> Iterator[None]:
    while not done():
        time.sleep(0.1)
        yield
