"""A network as ONNX nodes: read, brought into the one form that quantizing starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import tempfile

from ffs_anonymizer.backend.onnx_file import free_inputs, read
from ffs_anonymizer.backend.ort import open_session
from ffs_anonymizer.errors import ModelError
import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import numpy_helper, version_converter

OPSET = 17
IR_VERSION = 8

_PRODUCTS = {'Conv', 'ConvTranspose', 'MatMul', 'Gemm'}


def prepare(path: Path) -> onnx.ModelProto:
    """
    Read an FP32 network: opset 17, batch norms folded, every node named, shapes inferred.

    :raises ModelError: it is no FP32 network of standard operators, or has no convolution.
    """
    model = read(path)
    _refuse_unfit(model, path)
    free_inputs(model)
    try:
        if opset_of(model) != OPSET:
            model = version_converter.convert_version(model, OPSET)
        if any(node.op_type == 'BatchNormalization' for node in model.graph.node):
            model = _folded(model)
        model.ir_version = min(model.ir_version, IR_VERSION)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # the converter's and the runtime's exceptions share no base
        raise ModelError(
            f'{path}: got opset {opset_of(model)}, which cannot be brought to opset {OPSET}: '
            f'{error}; export the network at opset {OPSET}'
        ) from error
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f'{node.op_type}_{i}'
    if not convs(model):
        raise ModelError(f'{path}: got no convolution, expected some to quantize')
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model is written in."""
    return next((int(o.version) for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0)


def weights(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the constants of a graph by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'Constant' and node.attribute[0].name == 'value':
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def convs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions with constant weights, in the order of the graph."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return [n for n in model.graph.node if n.op_type == 'Conv' and n.input[1] in constant]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Return the attributes of a node by name, texts decoded."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the inferred shape of each tensor, -1 where any size goes."""
    graph = model.graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        found[value.name] = tuple(d.dim_value if d.HasField('dim_value') else -1 for d in dims)
    return found


def joining(model: onnx.ModelProto) -> set[str]:
    """Return the names of the convolutions that see the network's inputs joined, nothing else."""
    constant = set(weights(model))
    joined = {value.name: False for value in model.graph.input}
    found = set()
    for node in model.graph.node:
        sources = [name for name in node.input if name and name not in constant]
        if not all(name in joined for name in sources):
            continue
        is_joined = node.op_type == 'Concat' or any(joined[name] for name in sources)
        if node.op_type not in _PRODUCTS:
            joined.update(dict.fromkeys(node.output, is_joined))
        elif node.op_type == 'Conv' and is_joined:
            found.add(node.name)
    return found


def quantized_pairs(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Yield each QuantizeLinear with the DequantizeLinear that reads it."""
    after = {n.input[0]: n for n in model.graph.node if n.op_type == 'DequantizeLinear'}
    for node in model.graph.node:
        if node.op_type == 'QuantizeLinear' and node.output[0] in after:
            yield node, after[node.output[0]]


def _refuse_unfit(model: onnx.ModelProto, path: Path) -> None:
    operators = {node.op_type for node in model.graph.node}
    domains = {node.domain for node in model.graph.node} - {'', 'ai.onnx'}
    halves = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    if operators & {'QuantizeLinear', 'QLinearConv'} or domains or halves:
        got = (
            'one quantized already'
            if operators & {'QuantizeLinear', 'QLinearConv'}
            else (f'operators of {", ".join(sorted(domains))}' if domains else 'an FP16 one')
        )
        raise ModelError(
            f'{path}: got {got}, expected an FP32 network of standard ONNX operators; '
            'take the file that it was made from'
        )


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let ONNX Runtime's basic optimizations fold what needs no operators of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'folded.onnx'
        open_session(model, folded_into=path)
        folded = onnx.load(str(path))
    for opset in [o for o in folded.opset_import if o.domain not in ('', 'ai.onnx')]:
        folded.opset_import.remove(opset)
    return folded
