"""From a checkpoint to model files: folded, checked against torch, with manifest and card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffs_anonymizer.backend.onnx_file import read, write
from ffs_anonymizer.datasets.faces import load_packed
from ffs_anonymizer.datasets.sampler import Batch
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.cost import measure
from ffs_anonymizer.models.manifest import (
    companion_of,
    file_sha256,
    load_manifest,
    Manifest,
    save_manifest,
    Shape,
)
from ffs_anonymizer.quantization.half import halved
from ffs_anonymizer.training.checkpoint import Checkpoint, load_checkpoint, load_weights
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.gallery import (
    EVENLY_LIT,
    is_table,
    make_chooser,
    of_nobody,
    write_gallery,
)
from ffs_anonymizer.training.generator.network import (
    architecture,
    CHANCE,
    composite,
    DetailedGenerator,
    FaceNetwork,
    GeneratorNetwork,
    LATENT,
    make_network,
    Matcher,
)
from ffs_anonymizer.training.generator.onnx_file import (
    chooser_probe,
    probe,
    run_onnx,
    write_onnx,
)
from ffs_anonymizer.training.generator.train import (
    FIXED_STEP,
    retake,
    sampler_of,
    settle,
    spread_out,
    taking_statistics,
    with_points,
)
from ffs_anonymizer.training.settings import from_mapping, STEADYING, TrainSettings
import numpy as np
from numpy.typing import NDArray
import torch

FOLD_LIMIT = 1e-5
FP32_LIMIT = 1e-4
FP16_LIMIT = 0.1
PICTURED = 64
PICTURE_SEED = 4


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
    gallery: str,
    matching: Path | None = None,
    name: str = '',
    data: Path | None = None,
    picture_data: Path | None = None,
    provenance: Provenance | None = None,
) -> Exported:
    """
    Write <name>.onnx, <name>-fp16.onnx, <name>-faces.onnx, manifests, a card and a picture.

    :param gallery: people in the data who do not exist, as of_nobody() reads them: theirs are the
        faces that are worn, all of a table's and the most evenly lit ones of others;
        <name>-faces.csv says which.
    :param matching: checkpoint of a run that learned matching alone, whose matcher and crops are
        taken; None takes those of the generator's.
    :param name: of the files; the network's name where there is none.
    :param data: the packed faces; None takes those that it was trained on.
    :param picture_data: packed faces for the card's picture, which shows their surroundings;
        None takes held-out faces of the data.
    :param provenance: what the manifest and the card should say.
    :raises MediaError: there are no packed faces, or none in the gallery.
    :raises ModelError: the checkpoint is unfit, or a file differs too much from torch.
    """
    # The averaged network, with batch statistics of its own, and the faces that it wears
    checkpoint, settings, network = settled(checkpoint_path, data)
    where = data if data is not None else Path(settings.data)
    seen, matcher = settings, network.matcher
    if matching is not None:
        seen, matcher = settled_matcher(matching, where)
    faces = load_packed(where)
    nobody = of_nobody(faces, gallery)
    sampler = sampler_of(faces, nobody, settings, torch.device('cpu'))
    source = f'{where}: {gallery!r}'
    kept = 1.0 if is_table(gallery) else EVENLY_LIT
    chooser, stayed = make_chooser(network, matcher, sampler, kept=kept, error=source)
    pictured = picture_data if picture_data is not None else where
    shown = [held_out_faces(pictured, each) for each in (settings, seen)]

    # In ONNX
    name = name or settings.network
    provenance = provenance or Provenance()
    exported, folded = write_generator(network.generator, settings.size_px, out, name)
    third = out / f'{name}-faces.onnx'
    choosing = chooser_probe(seen.size_px)
    chooser_folded = fold(chooser)
    with torch.no_grad():
        chosen = chooser(*choosing.values()).numpy()
    try:
        write_onnx(chooser_folded, third, _two_rows(choosing), 'latent')
    except OSError as error:
        raise ModelError(f'{out}: cannot be written: {error}') from error
    difference(third, choosing, chosen, FP32_LIMIT)

    # With what says what it is
    save_manifest(make_manifest(third, name, '', 'fp32', seen, checkpoint, provenance), third)
    write_gallery(third.with_suffix('.csv'), faces, nobody[stayed].tolist())
    with torch.no_grad():
        latents = chooser_folded(*choosing_of(shown[1]).values())
    worn_ones = (
        f'{len(chooser.latents)}, of people who do not exist or mirror images of them '
        f'(`{third.with_suffix(".csv").name}`), as codes in `{third.name}`, which chooses one '
        'that fits the surroundings'
    )
    told = Told(name, third.name, worn_ones, settings, checkpoint, provenance)
    write_about(exported, folded, told, latents, shown[0])
    return exported


def export_larger(
    checkpoint_path: Path,
    out: Path,
    *,
    above: Path,
    name: str = '',
    data: Path | None = None,
    picture_data: Path | None = None,
    provenance: Provenance | None = None,
) -> Exported:
    """
    Write a generator that paints large faces beside another: its faces, with more detail.

    Files, manifests, card and picture are written as by export(), but no faces to choose from:
    those of the other are worn, whose manifest names this one then.

    :param above: ONNX of the generator that it was begun with (`init_from`), in the folder `out`.
    :raises MediaError: there are no packed faces.
    :raises ModelError: as export(); or the other has no chooser, lies elsewhere, or would be
        overwritten, or its pictures are not smaller.
    """
    manifest, chooses = load_manifest(above), companion_of(above, 'chooser')
    if manifest is None or chooses is None or above.parent.resolve() != out.resolve():
        raise ModelError(
            f'{above}: got {"no chooser beside it" if chooses is None else f"it beside {out}"}, '
            f'expected a generator in {out} with its manifest and the file that chooses its faces'
        )
    checkpoint, settings, network = settled(checkpoint_path, data)
    where = data if data is not None else Path(settings.data)
    name = name or settings.network
    if settings.size_px <= manifest.size_px:
        raise ModelError(
            f'{checkpoint_path}: got crops of {settings.size_px} px, expected more than the '
            f'{manifest.size_px} of {above}, beside which it is to paint large faces'
        )
    if above.stem in (name, f'{name}-fp16'):
        raise ModelError(f'{above}: would be overwritten by that beside it; give another name')
    provenance = provenance or Provenance()
    exported, folded = write_generator(network.generator, settings.size_px, out, name)
    seen_as = load_manifest(chooses)
    assert seen_as is not None
    pictured = picture_data if picture_data is not None else where
    seen = replace(settings, size_px=seen_as.size_px, crop_scale=seen_as.crop_scale)
    choosing = choosing_of(held_out_faces(pictured, seen))
    latents = run_onnx(chooses, {key: value.numpy() for key, value in choosing.items()})
    batch = held_out_faces(pictured, settings)
    worn_ones = f'those of `{above.name}`, chosen by `{chooses.name}`'
    told = Told(name, chooses.name, worn_ones, settings, checkpoint, provenance)
    write_about(exported, folded, told, torch.from_numpy(latents), batch)
    save_manifest(replace(manifest, larger=exported.fp32.name), above)
    return exported


@dataclass(frozen=True)
class Told:
    """
    Hold what manifests and card tell of a generator.

    :param name: of the model.
    :param chooses: name of the file that chooses its faces.
    :param faces: how many there are to wear, and what chooses.
    """

    name: str
    chooses: str
    faces: str
    settings: TrainSettings
    checkpoint: Checkpoint
    provenance: Provenance


def write_about(
    exported: Exported, folded: torch.nn.Module, told: Told, latents: torch.Tensor, batch: Batch
) -> None:
    """
    Write manifests, picture and card beside the files of a generator.

    :param folded: what was written.
    :param latents: (N, LATENT), the faces of the picture.
    :param batch: their crops.
    """
    name, settings, checkpoint = told.name, told.settings, told.checkpoint
    for path, precision in ((exported.fp32, 'fp32'), (exported.fp16, 'fp16')):
        manifest = make_manifest(
            path, name, told.chooses, precision, settings, checkpoint, told.provenance
        )
        save_manifest(manifest, path)
    out = exported.fp32.parent
    write_picture(out / f'{name}.jpg', folded, latents, batch)
    cost = measure(folded, settings.size_px)
    text = card(exported, name, settings, checkpoint, told.provenance, cost, told.faces)
    (out / f'{name}.md').write_text(text, encoding='utf-8')


def write_generator(
    generator: GeneratorNetwork | DetailedGenerator, size_px: int, out: Path, name: str
) -> tuple[Exported, torch.nn.Module]:
    """
    Write <name>.onnx and <name>-fp16.onnx; return them, and the folded network.

    :param generator: in evaluation mode.
    :param size_px: S.
    :param out: the folder, made where it is missing.
    :raises ModelError: a file differs too much from torch, or cannot be written.
    """
    inputs = probe(size_px)
    folded = fold(generator)
    with torch.no_grad():
        reference = generator(*inputs.values()).numpy()
        fold_error = float(np.abs(folded(*inputs.values()).numpy() - reference).max())
    check('the folded network', fold_error, FOLD_LIMIT)
    fp32, fp16 = (out / f'{name}{end}.onnx' for end in ('', '-fp16'))
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_onnx(folded, fp32, _two_rows(inputs), 'inpainted')
        write(halved(read(fp32)), fp16)
    except OSError as error:
        raise ModelError(f'{out}: cannot be written: {error}') from error
    errors = [
        difference(path, inputs, reference, limit)
        for path, limit in ((fp32, FP32_LIMIT), (fp16, FP16_LIMIT))
    ]
    return Exported(fp32, fp16, fold_error, *errors), folded


def difference(
    path: Path, inputs: Mapping[str, torch.Tensor], reference: NDArray[np.float32], limit: float
) -> float:
    """
    Return how far a file in ONNX Runtime is from torch, with one row and with all.

    :param inputs: by name.
    :param reference: what torch makes of them.
    :raises ModelError: farther than the limit.
    """
    feeds = {key: value.numpy() for key, value in inputs.items()}
    error = 0.0
    for n in (1, len(reference)):
        got = run_onnx(path, {key: value[:n] for key, value in feeds.items()})
        error = max(error, float(np.abs(got - reference[:n]).max()))
        check(str(path), error, limit)
    return error


def choosing_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Return what a chooser is asked about crops, always with the same chance."""
    seeded = torch.Generator().manual_seed(PICTURE_SEED)
    chance = torch.randn((len(batch), CHANCE), generator=seeded)
    return {
        'condition': batch.condition,
        'mask': batch.mask,
        'chance': chance,
        'points': batch.mean_points_px,
    }


def _two_rows(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:2] for name, value in inputs.items()}


def settled(path: Path, data: Path | None) -> tuple[Checkpoint, TrainSettings, FaceNetwork]:
    """
    Return a checkpoint, its settings, and the averaged network with the statistics of worn faces.

    :param path: of the checkpoint.
    :param data: the packed faces; None takes those that it was trained on.
    :raises ModelError: the checkpoint is unfit.
    """
    checkpoint = load_checkpoint(path)
    settings = from_mapping(checkpoint['settings'], TrainSettings)
    network = make_network(settings.network, settings.channels).eval()
    load_weights(network, checkpoint['ema'], str(path))
    drawn = worn_faces(data if data is not None else Path(settings.data), settings)
    if settings.learns == STEADYING:
        retake(network, drawn)
    return checkpoint, settings, settle(network, drawn)


def settled_matcher(path: Path, data: Path) -> tuple[TrainSettings, Matcher]:
    """
    Return the settings of a checkpoint, and its averaged matcher with the statistics of faces.

    :param path: of the checkpoint, of whose networks nothing else is loaded.
    :param data: the packed faces.
    :raises ModelError: the checkpoint is unfit.
    """
    checkpoint = load_checkpoint(path)
    settings = from_mapping(checkpoint['settings'], TrainSettings)
    prefix = 'matcher.'
    weights = {k[len(prefix) :]: v for k, v in checkpoint['ema'].items() if k.startswith(prefix)}
    matcher = Matcher().eval()
    load_weights(matcher, weights, str(path))
    with taking_statistics(matcher):
        for batch in worn_faces(data, settings):
            matcher(batch.condition, batch.mask, batch.mean_points_px)
    return settings, matcher


def worn_faces(data: Path, settings: TrainSettings) -> list[Batch]:
    """
    Return faces to take statistics from.

    :param data: the packed faces.
    """
    faces = load_packed(data)
    numbers, held_out = with_points(faces)
    numbers = numbers if len(numbers) else held_out
    sampler = sampler_of(faces, numbers, settings, torch.device('cpu'))
    return [sampler.draw(64, seed=settings.seed, step=FIXED_STEP + i) for i in range(8)]


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
    chooses: str,
    precision: str,
    settings: TrainSettings,
    checkpoint: Checkpoint,
    provenance: Provenance,
) -> Manifest:
    """
    Return the manifest of a written file.

    :param name: of the model.
    :param chooses: of a generator, the name of the file that chooses its faces; empty: it is one
        that chooses.
    :param precision: fp32 or fp16.
    :param checkpoint: for the images seen.
    :param provenance: the rest.
    """
    size = settings.size_px
    image: Shape = ('N', 3, size, size)
    metrics: dict[str, Any] = {'images_seen': int(checkpoint['images'])}
    if settings.channels and chooses:
        levels = architecture(settings.network, settings.channels).channels
        metrics['channels'] = {str(i): width for i, width in enumerate(levels)}
    latent, chance = ('N', LATENT), ('N', CHANCE)
    return Manifest(
        name=name,
        task='generator' if chooses else 'chooser',
        version=provenance.version,
        sha256=file_sha256(path),
        inputs={
            'condition': image,
            'mask': ('N', 1, size, size),
            **({'latent': latent} if chooses else {'chance': chance}),
            'points': ('N', 5, 2),
        },
        outputs={'inpainted': image} if chooses else {'latent': latent},
        size_px=size,
        crop_scale=settings.crop_scale,
        precision=precision,
        training_data=provenance.training_data,
        licence=provenance.licence,
        metrics={**metrics, **((provenance.metrics or {}) if chooses else {})},
        chooser=chooses,
    )


def write_picture(
    path: Path, generator: torch.nn.Module, latents: torch.Tensor, batch: Batch
) -> None:
    """
    Write worn faces beside nothing but their surroundings: no original is shown.

    :param path: where it goes.
    :param generator: in evaluation mode.
    :param latents: (N, LATENT), the faces.
    :param batch: the crops.
    """
    condition, mask = batch.condition, batch.mask
    with torch.no_grad():
        painted = generator(condition, mask, latents, batch.mean_points_px)
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
    faces: str,
) -> str:
    """
    Return the model card in Markdown.

    :param exported: the files and their errors.
    :param name: of the model.
    :param checkpoint: for steps and images seen.
    :param provenance: data, licence, metrics, notes.
    :param cost: parameters and multiply-accumulates a face.
    :param faces: how many there are to wear, and what chooses.
    """
    parameters, macs = cost
    widths = ', '.join(map(str, architecture(settings.network, settings.channels).channels))
    lines = [
        f'# {name}',
        '',
        'Paints a face that nobody has into the hole of a crop.',
        '',
        '| | |',
        '|---|---|',
        f'| version | {provenance.version} |',
        f'| network | `{settings.network}`, channels {widths}, {parameters / 1e6:.2f} M '
        f'parameters, {macs / 1e9:.3f} GMAC a face |',
        f'| input | {settings.size_px} px crops, {settings.crop_scale:g} times the longer side '
        f'of a region of {settings.region_scale:g} times the box; a latent of {LATENT} numbers, '
        'the face that is worn; five points |',
        f'| faces | {faces} |',
        f'| files | `{exported.fp32.name}` (FP32), `{exported.fp16.name}` (FP16 inside) |',
        f'| largest difference from torch | folding {exported.fold_error:.1e}, '
        f'FP32 {exported.fp32_error:.1e}, FP16 {exported.fp16_error:.1e} (range -1 to 1) |',
        f'| trained for | {checkpoint["step"]} steps, {checkpoint["images"]} images seen |',
        f'| training data | {provenance.training_data} |',
        f'| licence | {provenance.licence} |',
        '',
    ]
    lines += [
        f'![generated faces]({name}.jpg)',
        '',
        'Faces of nobody, in the surroundings of people whom it was never trained on.',
        '',
    ]
    if provenance.notes:
        lines += [provenance.notes.strip(), '']
    lines += ['## Settings of the training', '', '```yaml']
    left_out = ('data', 'out', 'init_from', 'teacher')
    lines += [f'{k}: {v}' for k, v in settings.as_dict().items() if k not in left_out]
    return '\n'.join([*lines, '```', ''])
