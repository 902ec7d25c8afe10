"""From a checkpoint to model files: folded, checked against torch, with manifest and card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffs_anonymizer.backend.onnx_file import read, write
from ffs_anonymizer.datasets.faces import load_packed
from ffs_anonymizer.datasets.sampler import Batch, Chance
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.evaluation.cost import measure
from ffs_anonymizer.models.manifest import file_sha256, Manifest, save_manifest, Shape
from ffs_anonymizer.quantization.half import halved
from ffs_anonymizer.training.checkpoint import Checkpoint, load_checkpoint, load_weights
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import CODE, composite, FaceNetwork, make_network
from ffs_anonymizer.training.generator.onnx_file import probe, run_onnx, write_onnx
from ffs_anonymizer.training.generator.train import (
    FIXED_STEP,
    sampler_of,
    settle,
    spread_out,
)
from ffs_anonymizer.training.settings import from_mapping, TrainSettings
import numpy as np
import torch

FOLD_LIMIT = 1e-5
FP32_LIMIT = 1e-4
FP16_LIMIT = 0.1
PICTURED = 16


@dataclass(frozen=True)
class Provenance:
    """
    Say what the manifest and the card tell beside what the checkpoint knows.

    :param version: of the weights.
    :param training_data: what it was trained on, and on what terms that data was had.
    :param licence: of the weights.
    :param metrics: as `evaluate --json` wrote them, or none.
    :param notes: Markdown for the card: quality, known failures.
    """

    version: str = '0'
    training_data: str = 'not stated'
    licence: str = 'not stated'
    metrics: Mapping[str, Any] | None = None
    notes: str = ''


@dataclass(frozen=True)
class Exported:
    """
    Say what was written and how far it is from torch.

    :param fp32: path of the FP32 file.
    :param fp16: path of the FP16 file.
    :param fold_error: largest difference of the folded network from the unfolded one.
    :param fp32_error: largest difference of the FP32 file in ONNX Runtime from torch.
    :param fp16_error: the same for the FP16 file.
    """

    fp32: Path
    fp16: Path
    fold_error: float
    fp32_error: float
    fp16_error: float


def export(
    checkpoint_path: Path,
    out: Path,
    *,
    name: str = '',
    data: Path | None = None,
    picture_data: Path | None = None,
    provenance: Provenance | None = None,
) -> Exported:
    """
    Write <name>.onnx, <name>-fp16.onnx, a manifest beside each, a card and a picture.

    :param name: of the files; the network's name where there is none.
    :param data: the packed faces; None takes those that it was trained on.
    :param picture_data: packed faces for the card's picture, which shows their surroundings;
        None takes held-out faces of the data.
    :param provenance: what the manifest and the card should say.
    :raises ModelError: the checkpoint is unfit, or a file differs too much from torch.
    """
    # The averaged network, with batch statistics of its own
    checkpoint = load_checkpoint(checkpoint_path)
    settings = from_mapping(checkpoint['settings'], TrainSettings)
    network = make_network(settings.network).eval()
    load_weights(network, checkpoint['ema'], str(checkpoint_path))
    network, shown = settle_on_data(network, settings, data)
    if picture_data is not None:
        shown = held_out_faces(picture_data, settings)

    # Folded
    folded = fold(network)
    inputs = probe(settings.size_px)
    feeds = {key: value.numpy() for key, value in inputs.items()}
    with torch.no_grad():
        reference = network(*inputs.values()).numpy()
        fold_error = float(np.abs(folded(*inputs.values()).numpy() - reference).max())
    check('the folded network', fold_error, FOLD_LIMIT)

    # In ONNX
    name = name or settings.network
    provenance = provenance or Provenance()
    fp32, fp16 = out / f'{name}.onnx', out / f'{name}-fp16.onnx'
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_onnx(folded, fp32, settings.size_px)
        write(halved(read(fp32)), fp16)
    except OSError as error:
        raise ModelError(f'{out}: cannot be written: {error}') from error
    errors = {}
    for path, limit in ((fp32, FP32_LIMIT), (fp16, FP16_LIMIT)):
        for n in (1, len(reference)):
            got = run_onnx(path, {key: value[:n] for key, value in feeds.items()})
            errors[path] = float(np.abs(got - reference[:n]).max())
            check(str(path), errors[path], limit)

    # With what says what it is
    cost = measure(folded, settings.size_px)
    for path, precision in ((fp32, 'fp32'), (fp16, 'fp16')):
        save_manifest(make_manifest(path, name, precision, settings, checkpoint, provenance), path)
    if shown is not None:
        write_picture(out / f'{name}.png', folded, shown)
    exported = Exported(fp32, fp16, fold_error, errors[fp32], errors[fp16])
    text = card(exported, name, settings, checkpoint, provenance, cost, shown is not None)
    (out / f'{name}.md').write_text(text, encoding='utf-8')
    return exported


def settle_on_data(
    network: FaceNetwork, settings: TrainSettings, data: Path | None
) -> tuple[FaceNetwork, Batch | None]:
    """
    Return the network with the statistics of drawn faces, and held-out faces to show.

    :param network: averaged.
    :param settings: of its training.
    :param data: the packed faces; None takes those that it was trained on, where they still are.
    """
    where = data if data is not None else Path(settings.data)
    try:
        faces = load_packed(where)
    except MediaError:
        if data is not None:
            raise
        return network, None
    numbers, held_out = faces.split()
    numbers = numbers if len(numbers) else held_out
    cpu = torch.device('cpu')
    sampler = sampler_of(faces, numbers, settings, cpu)
    drawn = (sampler.draw(64, seed=settings.seed, step=FIXED_STEP + i) for i in range(8))
    return settle(network, drawn, Chance(0, cpu)), held_out_faces(where, settings)


def held_out_faces(data: Path, settings: TrainSettings) -> Batch:
    """
    Return faces that were never trained on, or any where all were.

    :param data: the packed faces.
    """
    faces = load_packed(data)
    numbers, held_out = faces.split()
    numbers = held_out if len(held_out) else numbers
    sampler = sampler_of(faces, numbers, settings, torch.device('cpu'))
    return spread_out(sampler, len(numbers), PICTURED)


def check(what: str, got: float, limit: float) -> None:
    """
    Refuse a network that paints something else than its reference.

    :param what: named in the error.
    :param got: largest difference.
    :param limit: largest allowed.
    """
    if not got <= limit:
        raise ModelError(
            f'{what}: got a difference of {got:.2g} from the network in torch, expected at most '
            f'{limit:g}; do not use it'
        )


def make_manifest(
    path: Path,
    name: str,
    precision: str,
    settings: TrainSettings,
    checkpoint: Checkpoint,
    provenance: Provenance,
) -> Manifest:
    """
    Return the manifest of a written file.

    :param name: of the model.
    :param precision: fp32 or fp16.
    :param checkpoint: for the images seen.
    :param provenance: the rest.
    """
    size = settings.size_px
    image: Shape = ('N', 3, size, size)
    metrics: dict[str, Any] = {'images_seen': int(checkpoint['images'])}
    return Manifest(
        name=name,
        task='generator',
        version=provenance.version,
        sha256=file_sha256(path),
        inputs={
            'condition': image,
            'mask': ('N', 1, size, size),
            'latent': ('N', CODE),
            'points': ('N', 5, 2),
        },
        outputs={'inpainted': image},
        size_px=size,
        crop_scale=settings.crop_scale,
        precision=precision,
        training_data=provenance.training_data,
        licence=provenance.licence,
        metrics={**metrics, **(provenance.metrics or {})},
    )


def write_picture(path: Path, network: FaceNetwork, batch: Batch) -> None:
    """
    Write drawn faces beside nothing but their surroundings: no original is shown.

    :param path: a PNG.
    :param network: in evaluation mode.
    :param batch: the crops.
    """
    condition, mask = batch.condition, batch.mask
    latent = Chance(0, condition.device).normal(len(batch), CODE)
    with torch.no_grad():
        painted = network(condition, mask, latent, batch.mean_points_px)
    filled = composite(painted, condition, mask)
    shown = filled.permute(0, 2, 3, 1).numpy()[..., ::-1]
    tiles = np.rint((shown.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    save_tiles(path, tiles, columns=8)


def card(
    exported: Exported,
    name: str,
    settings: TrainSettings,
    checkpoint: Checkpoint,
    provenance: Provenance,
    cost: tuple[int, int],
    has_picture: bool,
) -> str:
    """
    Return the model card in Markdown.

    :param exported: the files and their errors.
    :param name: of the model.
    :param checkpoint: for steps and images seen.
    :param provenance: data, licence, metrics, notes.
    :param cost: parameters and multiply-accumulates a face.
    :param has_picture: whether one lies beside the card.
    """
    parameters, macs = cost
    lines = [
        f'# {name}',
        '',
        'Paints a face that nobody has into the hole of a crop.',
        '',
        '| | |',
        '|---|---|',
        f'| version | {provenance.version} |',
        f'| network | `{settings.network}`, {parameters / 1e6:.2f} M parameters, '
        f'{macs / 1e9:.3f} GMAC a face |',
        f'| input | {settings.size_px} px crops, {settings.crop_scale:g} times the longer side '
        f'of a region of {settings.region_scale:g} times the box; a latent of {CODE} numbers, '
        'standard normal; five points |',
        f'| files | `{exported.fp32.name}` (FP32), `{exported.fp16.name}` (FP16 inside) |',
        f'| largest difference from torch | folding {exported.fold_error:.1e}, '
        f'FP32 {exported.fp32_error:.1e}, FP16 {exported.fp16_error:.1e} (range -1 to 1) |',
        f'| trained for | {checkpoint["step"]} steps, {checkpoint["images"]} images seen |',
        f'| training data | {provenance.training_data} |',
        f'| licence | {provenance.licence} |',
        '',
    ]
    if has_picture:
        lines += [
            f'![generated faces]({name}.png)',
            '',
            'Faces of nobody, in the surroundings of people whom it was never trained on.',
            '',
        ]
    if provenance.notes:
        lines += [provenance.notes.strip(), '']
    lines += ['## Settings of the training', '', '```yaml']
    left_out = ('data', 'out', 'init_from', 'teacher', 'recognizer')
    lines += [f'{k}: {v}' for k, v in settings.as_dict().items() if k not in left_out]
    return '\n'.join([*lines, '```', ''])
