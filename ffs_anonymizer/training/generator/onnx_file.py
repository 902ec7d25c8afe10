"""A generator as an ONNX file: written from torch, halved, run to be checked."""

from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.backend.onnx_file import read
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.training.generator.network import Generator
import numpy as np
from numpy.typing import NDArray
import onnx
import torch

OPSET = 17


def probe(size_px: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return inputs to compare networks on, always the same.

    :param size_px: S.
    :param count: how many crops.
    """
    chance = torch.Generator().manual_seed(1)
    image = torch.rand((count, 3, size_px // 8, size_px // 8), generator=chance) * 2 - 1
    image = torch.nn.functional.interpolate(image, size=(size_px, size_px), mode='bilinear')
    mask = torch.ones((count, 1, size_px, size_px))
    quarter = size_px // 4
    mask[:, :, quarter : 3 * quarter, quarter : 3 * quarter] = 0
    return image * mask, mask


def write_onnx(folded: Generator, path: Path, size_px: int) -> None:
    """
    Write a folded generator as FP32 ONNX with a free batch, simplified once.

    :param folded: the network.
    :param path: the file.
    :param size_px: S.
    """
    import onnxslim

    partial = path.with_name(f'{path.name}.partial')
    inputs = probe(size_px, 2)
    torch.onnx.export(
        folded,
        inputs,
        str(partial),
        input_names=['condition', 'mask'],
        output_names=['inpainted'],
        dynamic_axes={key: {0: 'N'} for key in ('condition', 'mask', 'inpainted')},
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnxslim.slim(onnx.load(str(partial)))
    onnx.checker.check_model(model)
    onnx.save(model, str(partial))
    partial.replace(path)


def write_half(fp32: Path, fp16: Path) -> None:
    """
    Write the FP16 form of an FP32 file, inputs and outputs left in FP32.

    :param fp32: the file to read.
    :param fp16: the file to write.
    """
    model = onnx.load(str(fp32))
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    keep_float = {
        name for node in graph.node if node.op_type == 'Resize' for name in node.input[1:] if name
    }
    for tensor in graph.initializer:
        if tensor.name in keep_float and tensor.data_type == onnx.TensorProto.FLOAT16:
            scales = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(scales, tensor.name))
    renamed = {value.name: f'{value.name}_half' for value in (*graph.input, *graph.output)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    entries = [
        onnx.helper.make_node('Cast', [v.name], [renamed[v.name]], to=onnx.TensorProto.FLOAT16)
        for v in graph.input
    ]
    exits = [
        onnx.helper.make_node('Cast', [renamed[v.name]], [v.name], to=onnx.TensorProto.FLOAT)
        for v in graph.output
    ]
    nodes = [*entries, *graph.node, *exits]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    partial = fp16.with_name(f'{fp16.name}.partial')
    onnx.save(model, str(partial))
    partial.replace(fp16)


def run_onnx(
    path: Path, condition: NDArray[np.float32], mask: NDArray[np.float32]
) -> NDArray[np.float32]:
    """
    Return what ONNX Runtime paints with a file on the CPU.

    :param path: the file.
    :param condition: (N, 3, S, S).
    :param mask: (N, 1, S, S).
    """
    session = open_session(read(path))
    (painted,) = session.run(['inpainted'], {'condition': condition, 'mask': mask})
    return np.asarray(painted, np.float32)
