"""What a model file is: the JSON beside each ONNX, checked against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, MISSING
import hashlib
import json
from pathlib import Path
from typing import Any

from ffs_anonymizer.errors import ModelError

TASKS = ('generator', 'detector', 'chooser')
PRECISIONS = ('fp32', 'fp16', 'int8')
DEFAULT_GENERATOR = 'ffs-128-small.onnx'
# That of the generators whose contract is taken over, which have no manifest.
CROP_SCALE = 1.7
DEFAULT_FOR_CPU = 'ffs-128-small-int8-cpu.onnx'
DEFAULT_LARGER_FOR_CPU = 'ffs-256-int8-cpu.onnx'
DEFAULT_PLATES = 'ffs-plates.onnx'

Shape = tuple[int | str, ...]
# In the order of the contract; the first two are always there.
GENERATOR_INPUTS = ('condition', 'mask', 'latent', 'points')
CHOOSER_INPUTS = ('condition', 'mask', 'chance', 'points')


@dataclass(frozen=True)
class Manifest:
    """
    Say what a model is, how it is fed and where it comes from.

    :param name: the network, for example ffs-128-small.
    :param task: 'generator' or 'detector'.
    :param version: of the weights.
    :param sha256: of the ONNX file, in hexadecimal.
    :param inputs: input name to shape; a text in a shape is a free dimension.
    :param outputs: output name to shape.
    :param size_px: S, the side of the network's square input; 0 where any size will do.
    :param crop_scale: side of the crop over the longer side of its rectangle; 0 for detectors.
    :param precision: of the weights: fp32, fp16 or int8.
    :param training_data: what it was trained on, and on what terms that data was had.
    :param licence: of the weights.
    :param metrics: name to measured number, or to a mapping of these.
    :param layout: of a detector's outputs, one of regions.layouts; empty: told by the outputs.
    :param classes: of a detector, in the order of its scores; `face` and `plate` are looked for.
    :param chooser: of a generator, the name of the file beside it that chooses its latents; empty:
        they are standard normal.
    :param larger: of a generator, the name of the file beside it that paints the same faces with
        more detail where they are large; empty: none does.
    """

    name: str
    task: str
    version: str
    sha256: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    size_px: int
    crop_scale: float
    precision: str
    training_data: str
    licence: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    layout: str = ''
    classes: tuple[str, ...] = ()
    chooser: str = ''
    larger: str = ''

    def __post_init__(self) -> None:
        """Refuse what no model of ours can be."""
        if self.task not in TASKS:
            raise ModelError(f'task: got {self.task!r}, expected one of {", ".join(TASKS)}')
        if self.precision not in PRECISIONS:
            raise ModelError(
                f'precision: got {self.precision!r}, expected one of {", ".join(PRECISIONS)}'
            )
        if self.task != 'detector' and (self.size_px < 16 or self.crop_scale < 1.0):
            raise ModelError(
                f'{self.task}: got size_px {self.size_px} and crop_scale {self.crop_scale}, '
                'expected at least 16 and 1.0'
            )


def is_generator(inputs: Iterable[str]) -> bool:
    """
    Tell generators from detectors by the names of their inputs.

    :param inputs: the names.
    """
    names = set(inputs)
    return set(GENERATOR_INPUTS[:2]) <= names <= set(GENERATOR_INPUTS)


def is_chooser(inputs: Iterable[str]) -> bool:
    """
    Tell what chooses latents by the names of its inputs.

    :param inputs: the names.
    """
    return set(inputs) == set(CHOOSER_INPUTS)


def manifest_path(onnx_path: Path) -> Path:
    """Return where the manifest of a model file belongs."""
    return onnx_path.with_suffix('.json')


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_manifest(onnx_path: Path, sha256: str = '') -> Manifest | None:
    """
    Read the manifest beside a model file and check it against the file.

    :param onnx_path: the ONNX; its manifest is the JSON of the same stem in the same folder.
    :param sha256: of the file's content where that is known; empty hashes it.
    :returns: None where there is no manifest.
    :raises ModelError: the manifest is malformed, or describes another file than this one.
    """
    manifest = _read_manifest(manifest_path(onnx_path))
    if manifest is None:
        return None
    try:
        sha256 = sha256 or file_sha256(onnx_path)
    except OSError as error:
        raise ModelError(f'{onnx_path}: cannot be read: {error}') from error
    if sha256 != manifest.sha256:
        raise ModelError(
            f'{onnx_path}: got sha256 {sha256}, expected {manifest.sha256} as '
            f'{manifest_path(onnx_path).name} says; '
            'fetch both files again, or export the model again'
        )
    return manifest


def companion_of(generator_path: Path, role: str) -> Path | None:
    """
    Return a file that works with a generator, None where its manifest names none.

    Whether the manifest is that of this very file is checked where the file is opened.

    :param role: `chooser` or `larger`, as in the manifest.
    :raises ModelError: the manifest is malformed, or names a file elsewhere.
    """
    manifest = _read_manifest(manifest_path(generator_path))
    name = '' if manifest is None else str(getattr(manifest, role))
    if Path(name).name != name:
        raise ModelError(
            f'{manifest_path(generator_path)}: {role}: got {name!r}, expected the name of a file '
            'beside it'
        )
    return generator_path.with_name(name) if name else None


def crop_scale_of(manifest: Manifest | None) -> float:
    """Return the side of a crop over the longer side of its region, as a generator was trained."""
    return CROP_SCALE if manifest is None else manifest.crop_scale


def parse_manifest(values: object) -> Manifest:
    """
    Make a manifest of decoded JSON.

    :param values: what json.loads returned.
    :raises ModelError: a key is missing, unknown or of the wrong type.
    """
    if not isinstance(values, dict):
        raise ModelError(f'got {type(values).__name__}, expected an object')
    names = {f.name for f in fields(Manifest)}
    needed = {f.name for f in fields(Manifest) if f.default is f.default_factory is MISSING}
    missing = sorted(needed - values.keys())
    unknown = sorted(values.keys() - names)
    if missing or unknown:
        raise ModelError(f'missing keys {missing}, unknown keys {unknown}')
    for key in ('name', 'task', 'version', 'sha256', 'precision', 'training_data', 'licence'):
        if not isinstance(values[key], str):
            raise ModelError(f'{key}: got {values[key]!r}, expected a text')
    for key in ('size_px', 'crop_scale'):
        if isinstance(values[key], bool) or not isinstance(values[key], (int, float)):
            raise ModelError(f'{key}: got {values[key]!r}, expected a number')
    if not isinstance(values.get('metrics', {}), dict):
        raise ModelError(f'metrics: got {values["metrics"]!r}, expected an object')
    for key in ('layout', 'chooser', 'larger'):
        if not isinstance(values.get(key, ''), str):
            raise ModelError(f'{key}: got {values[key]!r}, expected a text')
    classes = values.get('classes', [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ModelError(f'classes: got {classes!r}, expected a list of texts')
    return Manifest(
        **{
            **values,
            'classes': tuple(classes),
            'inputs': _shapes(values['inputs']),
            'outputs': _shapes(values['outputs']),
            'size_px': int(values['size_px']),
            'crop_scale': float(values['crop_scale']),
        }
    )


def save_manifest(manifest: Manifest, onnx_path: Path) -> Path:
    """
    Write the manifest beside its model file and return its path.

    :param manifest: what to write.
    :param onnx_path: the model that it describes.
    """
    path = manifest_path(onnx_path)
    partial = path.with_suffix('.json.partial')
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + '\n'
    try:
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    except OSError as error:
        raise ModelError(f'{path}: cannot be written: {error}') from error
    return path


def default_generator(name: str = DEFAULT_GENERATOR) -> Path | None:
    """Return the generator that the package ships, None where it ships none."""
    return shipped(name)


def shipped(name: str) -> Path | None:
    """Return a model file that comes with the package, None where it has none of that name."""
    path = Path(__file__).resolve().parent / name
    return path if path.is_file() else None


def _read_manifest(path: Path) -> Manifest | None:
    """Return what a manifest says, whatever file lies beside it; None where there is none."""
    try:
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f'{path}: cannot be read: {error}') from error
    try:
        return parse_manifest(json.loads(text))
    except (json.JSONDecodeError, ModelError) as error:
        raise ModelError(
            f'{path}: not a model manifest: {error}; export the model again, or delete the '
            'manifest and give its values by hand'
        ) from error


def _shapes(values: object) -> dict[str, Shape]:
    """Return name to shape, checked."""
    if not isinstance(values, dict):
        raise ModelError(f'inputs and outputs: got {values!r}, expected name to shape')
    for shape in values.values():
        if not isinstance(shape, list) or not all(isinstance(n, (int, str)) for n in shape):
            raise ModelError(f'shape: got {shape!r}, expected a list of numbers and texts')
    return {name: tuple(shape) for name, shape in values.items()}
