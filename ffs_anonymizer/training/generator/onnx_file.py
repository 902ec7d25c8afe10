"""A generator as an ONNX file: written from torch, run to be checked."""

from __future__ import annotations

from collections.abc import Mapping
import io
from pathlib import Path

from ffs_anonymizer.backend.onnx_file import read, write
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.painting.crops import mean_points
from ffs_anonymizer.training.generator.network import CHANCE, LATENT
import numpy as np
from numpy.typing import NDArray
import onnx
import torch

OPSET = 17


def probe(size_px: int, count: int = 4) -> dict[str, torch.Tensor]:
    """
    Return inputs to compare networks on, always the same, by name in the order of the contract.

    :param size_px: S.
    :param count: how many crops.
    """
    chance = torch.Generator().manual_seed(1)
    image = torch.rand((count, 3, size_px // 8, size_px // 8), generator=chance) * 2 - 1
    image = torch.nn.functional.interpolate(image, size=(size_px, size_px), mode='bilinear')
    mask = torch.ones((count, 1, size_px, size_px))
    quarter = size_px // 4
    hole = torch.tensor([quarter, quarter, 3 * quarter, 3 * quarter], dtype=torch.float32)
    mask[:, :, quarter : 3 * quarter, quarter : 3 * quarter] = 0
    return {
        'condition': image * mask,
        'mask': mask,
        'latent': torch.randn((count, LATENT), generator=chance) * 0.5,
        'points': torch.from_numpy(mean_points(hole.numpy()[None])).repeat(count, 1, 1),
    }


def chooser_probe(size_px: int, count: int = 4) -> dict[str, torch.Tensor]:
    """
    Return inputs to compare choosers on, as probe() does for generators.

    :param size_px: S.
    :param count: how many crops.
    """
    inputs = probe(size_px, count)
    chance = torch.randn((count, CHANCE), generator=torch.Generator().manual_seed(2))
    seen = {name: inputs[name] for name in ('condition', 'mask')}
    return {**seen, 'chance': chance, 'points': inputs['points']}


def write_onnx(
    folded: torch.nn.Module, path: Path, inputs: Mapping[str, torch.Tensor], output: str
) -> None:
    """
    Write a folded network as FP32 ONNX with a free batch, simplified once.

    :param inputs: some rows of each, by name in the order in which the network takes them.
    :param output: name of what it returns.
    """
    import onnxslim

    exported = io.BytesIO()
    torch.onnx.export(
        folded,
        tuple(inputs.values()),
        exported,
        input_names=list(inputs),
        output_names=[output],
        dynamic_axes={key: {0: 'N'} for key in (*inputs, output)},
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnxslim.slim(onnx.load_model_from_string(exported.getvalue()))
    onnx.checker.check_model(model)
    write(model, path)


def run_onnx(path: Path, feeds: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """
    Return the one output of a file in ONNX Runtime on the CPU.

    :param feeds: input name to value.
    """
    session = open_session(read(path))
    (got,) = session.run(None, dict(feeds))
    return np.asarray(got, np.float32)
