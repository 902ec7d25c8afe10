"""Networks in FP16, and file B: Q/DQ pairs of FP16 scales for the strongly typed TensorRT 10."""

from __future__ import annotations

from ffs_anonymizer.errors import ModelError
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

OPSET = 19
# Inputs that hold sizes or factors: ONNX wants them in FP32 whatever the data is.
_FLOAT_INPUTS = {'Resize': (1, 2), 'Upsample': (1,)}
_SMALLEST_SCALE = np.float16(2.0**-24)


def to_half(explicit: onnx.ModelProto) -> onnx.ModelProto:
    """
    Turn file A into file B.

    :param explicit: from to_explicit().
    :raises ModelError: a weight does not fit FP16, or an operator has a graph of its own.
    """
    return halved(onnx.version_converter.convert_version(explicit, OPSET))


def halved(network: onnx.ModelProto) -> onnx.ModelProto:
    """
    Return a network that computes in FP16; inputs and outputs stay FP32, with a cast at each edge.

    :raises ModelError: a weight does not fit FP16, or an operator has a graph of its own.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    if any(a.type == onnx.AttributeProto.GRAPH for n in graph.node for a in n.attribute):
        raise ModelError('got an operator with a graph of its own, which has no FP16 form here')
    stays = {
        node.input[i]
        for node in graph.node
        for i in _FLOAT_INPUTS.get(node.op_type, ())
        if i < len(node.input)
    }
    scales = {
        node.input[1]
        for node in graph.node
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear')
    }
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in stays:
            tensor.CopyFrom(_halved(tensor, tensor.name, is_scale=tensor.name in scales))
    for node in graph.node:
        _halve_attributes(node, stays)
    _cast_edges(graph)
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def _halved(tensor: TensorProto, name: str, *, is_scale: bool) -> TensorProto:
    with np.errstate(over='ignore'):
        half = numpy_helper.to_array(tensor).astype(np.float16)
    if not np.isfinite(half).all():
        raise ModelError(f'{name}: got values over 65504, which FP16 cannot hold')
    if is_scale:
        half = np.maximum(half, _SMALLEST_SCALE)
    return numpy_helper.from_array(half, name)


def _halve_attributes(node: onnx.NodeProto, stays: set[str]) -> None:
    for attribute in node.attribute:
        is_constant = node.op_type in ('Constant', 'ConstantOfShape') and attribute.name == 'value'
        if is_constant and attribute.t.data_type == TensorProto.FLOAT:
            if node.output[0] not in stays:
                half = _halved(attribute.t, attribute.t.name, is_scale=False)
                attribute.t.CopyFrom(half)
        elif attribute.name in ('to', 'dtype') and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _cast_edges(graph: onnx.GraphProto) -> None:
    entries, exits, renamed = [], [], {}
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[value.name] = f'{value.name}/half'
            entries.append(_cast(value.name, renamed[value.name], TensorProto.FLOAT16))
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[value.name] = f'{value.name}/half'
            exits.append(_cast(renamed[value.name], value.name, TensorProto.FLOAT))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    nodes = [*entries, *graph.node, *exits]
    del graph.node[:]
    graph.node.extend(nodes)


def _cast(source: str, target: str, number_type: int) -> onnx.NodeProto:
    return helper.make_node('Cast', [source], [target], name=f'{target}/cast', to=number_type)
