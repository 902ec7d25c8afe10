"""From a detector's checkpoint to model files: folded, checked against torch, with manifest."""

from __future__ import annotations

import copy
from dataclasses import replace
import io
from pathlib import Path

from ffs_anonymizer.backend.onnx_file import read, write
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import file_sha256, Manifest, save_manifest, Shape
from ffs_anonymizer.quantization.half import halved
from ffs_anonymizer.training.checkpoint import Checkpoint, load_checkpoint, load_weights
from ffs_anonymizer.training.detector.network import (
    DetectorNetwork,
    make_detector,
    NormedConv,
    STRIDES,
)
from ffs_anonymizer.training.generator.export import check, Exported, Provenance
from ffs_anonymizer.training.generator.fold import fold_pair
from ffs_anonymizer.training.settings import DetectorTrainSettings, from_mapping
import numpy as np
import onnx
import torch
from torch import nn

OPSET = 17
# Of scores, and of boxes in strides.
FOLD_LIMIT = 1e-3
FP32_LIMIT = 1e-3
FP16_LIMIT = 0.2
OUTPUTS = tuple(f'{name}_{stride}' for name in ('score', 'box') for stride in STRIDES)


class Answers(nn.Module):  # type: ignore[misc]
    """Give out scores and boxes apart, as the layout `ffs` reads them."""

    def __init__(self, detector: DetectorNetwork) -> None:
        """Keep the network."""
        super().__init__()
        self.detector = detector

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Return score_8, score_16, score_32, box_8, box_16 and box_32.

        :param image: (N, 3, H, W) BGR, 0 to 255, H and W multiples of 32.
        """
        answers = self.detector(image)
        classes = self.detector.classes
        scores = [answer[:, :classes].sigmoid() for answer in answers]
        return (*scores, *(answer[:, classes:] for answer in answers))


def export_detector(
    checkpoint_path: Path,
    out: Path,
    *,
    name: str = '',
    provenance: Provenance | None = None,
    score_shift: float = 0.0,
) -> Exported:
    """
    Write <name>.onnx, <name>-fp16.onnx, a manifest beside each and a card.

    :param name: of the files; that of the network with the prefix `ffs-` where there is none.
    :param provenance: what the manifest and the card should say.
    :param score_shift: added to the logit of every score: in frames objects are rarer than in the
        scenes of training, so scores come out too high; choose it on held-out frames.
    :raises ModelError: the checkpoint is unfit, or a file differs too much from torch.
    """
    # The averaged network, folded
    checkpoint = load_checkpoint(checkpoint_path, 'detector')
    settings = from_mapping(checkpoint['settings'], DetectorTrainSettings)
    classes = settings.class_names()
    detector = make_detector(settings.network, len(classes)).eval()
    load_weights(detector, checkpoint['ema'], str(checkpoint_path))
    with torch.no_grad():
        for _, last in detector.heads:
            last.bias[: detector.classes] += score_shift
    folded = fold_detector(detector)
    seen = probe()
    with torch.no_grad():
        reference = [answer.numpy() for answer in Answers(detector)(seen)]
        got = [answer.numpy() for answer in Answers(folded)(seen)]
    fold_error = farthest(got, reference)
    check('the folded network', fold_error, FOLD_LIMIT)

    # In ONNX
    name = name or f'ffs-{settings.network}'
    provenance = provenance or Provenance()
    fp32, fp16 = out / f'{name}.onnx', out / f'{name}-fp16.onnx'
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_onnx(folded, fp32)
        write(halved(read(fp32)), fp16)
    except OSError as error:
        raise ModelError(f'{out}: cannot be written: {error}') from error
    errors = {}
    for path, limit in ((fp32, FP32_LIMIT), (fp16, FP16_LIMIT)):
        answers = open_session(read(path)).run(list(OUTPUTS), {'image': seen.numpy()})
        errors[path] = farthest(answers, reference)
        check(str(path), errors[path], limit)

    # With what says what it is
    parameters = sum(p.numel() for p in detector.parameters())
    measured = {'score_shift': score_shift, **(provenance.metrics or {})}
    provenance = replace(provenance, metrics=measured)
    for path, precision in ((fp32, 'fp32'), (fp16, 'fp16')):
        made = make_manifest(path, name, precision, classes, checkpoint, provenance)
        save_manifest(made, path)
    exported = Exported(fp32, fp16, fold_error, errors[fp32], errors[fp16])
    text = card(exported, name, settings, checkpoint, provenance, parameters)
    (out / f'{name}.md').write_text(text, encoding='utf-8')
    return exported


def fold_detector(detector: DetectorNetwork) -> DetectorNetwork:
    """
    Return a copy without norms that answers the same; the unfolded network is its reference.

    :param detector: its norms hold the statistics to fold.
    """
    with torch.no_grad():
        folded: DetectorNetwork = copy.deepcopy(detector).eval().requires_grad_(False)
        for module in folded.modules():
            if isinstance(module, NormedConv):
                module[0] = fold_pair(module[0], module[1])
                module[1] = nn.Identity()
        return folded


def probe() -> torch.Tensor:
    """Return an image to compare networks on, always the same: (1, 3, 96, 160)."""
    chance = torch.Generator().manual_seed(1)
    coarse = torch.rand((1, 3, 12, 20), generator=chance) * 255
    return torch.nn.functional.interpolate(coarse, size=(96, 160), mode='bilinear')


def farthest(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Return the largest difference of answers."""
    return max(float(np.abs(a - b).max()) for a, b in zip(got, wanted, strict=True))


def write_onnx(folded: DetectorNetwork, path: Path) -> None:
    """Write a folded detector as FP32 ONNX that takes any size, simplified once."""
    import onnxslim

    exported = io.BytesIO()
    axes: dict[str, dict[int, str]] = {'image': {0: 'N', 2: 'height', 3: 'width'}}
    for output in OUTPUTS:
        stride = output.split('_')[1]
        axes[output] = {0: 'N', 2: f'rows_{stride}', 3: f'columns_{stride}'}
    torch.onnx.export(
        Answers(folded),
        (probe(),),
        exported,
        input_names=['image'],
        output_names=list(OUTPUTS),
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnxslim.slim(onnx.load_model_from_string(exported.getvalue()))
    onnx.checker.check_model(model)
    write(model, path)


def make_manifest(
    path: Path,
    name: str,
    precision: str,
    classes: tuple[str, ...],
    checkpoint: Checkpoint,
    provenance: Provenance,
) -> Manifest:
    """
    Return the manifest of a written file.

    :param name: of the model.
    :param precision: fp32 or fp16.
    :param classes: what it finds, in the order of its scores.
    :param checkpoint: for the images seen.
    :param provenance: the rest.
    """
    wide = {'score': len(classes), 'box': 4}
    shapes: dict[str, Shape] = {
        f'{kind}_{stride}': ('N', wide[kind], f'rows_{stride}', f'columns_{stride}')
        for kind in ('score', 'box')
        for stride in STRIDES
    }
    return Manifest(
        name=name,
        task='detector',
        version=provenance.version,
        sha256=file_sha256(path),
        inputs={'image': ('N', 3, 'height', 'width')},
        outputs=shapes,
        size_px=0,
        crop_scale=0.0,
        precision=precision,
        training_data=provenance.training_data,
        licence=provenance.licence,
        metrics={'images_seen': int(checkpoint['images']), **(provenance.metrics or {})},
        layout='ffs',
        classes=classes,
    )


def card(
    exported: Exported,
    name: str,
    settings: DetectorTrainSettings,
    checkpoint: Checkpoint,
    provenance: Provenance,
    parameters: int,
) -> str:
    """
    Return the model card in Markdown.

    :param exported: the files and their errors.
    :param name: of the model.
    :param checkpoint: for steps and images seen.
    :param provenance: data, licence, notes.
    :param parameters: how many the network has.
    """
    lines = [
        f'# {name}',
        '',
        f'Finds {" and ".join(f"{name}s" for name in settings.class_names())} in frames of any '
        'size.',
        '',
        '| | |',
        '|---|---|',
        f'| version | {provenance.version} |',
        f'| network | `{settings.network}`, {parameters:,} parameters |',
        '| input | BGR, 0 to 255, height and width multiples of 32 |',
        f'| files | `{exported.fp32.name}` (FP32), `{exported.fp16.name}` (FP16 inside) |',
        f'| largest difference from torch | folding {exported.fold_error:.1e}, '
        f'FP32 {exported.fp32_error:.1e}, FP16 {exported.fp16_error:.1e} (scores; boxes in '
        'strides) |',
        f'| scores | probabilities in training scenes, their logits shifted by '
        f'{(provenance.metrics or {}).get("score_shift", 0.0):g} |',
        f'| trained for | {checkpoint["step"]} steps, {checkpoint["images"]} images seen |',
        f'| training data | {provenance.training_data} |',
        f'| licence | {provenance.licence} |',
        '',
    ]
    if provenance.notes:
        lines += [provenance.notes.strip(), '']
    lines += ['## Settings of the training', '', '```yaml']
    left_out = ('data', 'out', 'init_from')
    lines += [f'{k}: {v}' for k, v in settings.as_dict().items() if k not in left_out]
    return '\n'.join([*lines, '```', ''])
