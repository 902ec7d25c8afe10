"""The ONNX file of a network, made ready for a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.model_file import ModelFile
import numpy as np
from numpy.typing import NDArray

try:
    import onnx
    from onnx import numpy_helper, TensorProto
except ImportError as error:
    raise ModelError(f'cannot import {error.name}: install it with `pip install onnx`') from error

_SIZE_FREE = {
    'Add',
    'BatchNormalization',
    'Concat',
    'Conv',
    'ConvTranspose',
    'MaxPool',
    'Relu',
    'Sigmoid',
    'Transpose',
}
# Of Resize and Reshape.
_SCALES, _SHAPE = 2, 1

# Where an integer operator names the zero point of its activations, which has their type.
_ZERO_POINT = {'MatMulIntegerToFloat': 4, 'QGemm': 2, 'QLinearConv': 2, 'QLinearMatMul': 2}
# Of QLinearConv.
_WEIGHT, _WEIGHT_ZERO_POINT = 3, 5


def read(path: Path) -> onnx.ModelProto:
    """
    Read a network as it stands.

    :raises ModelError: the file is no valid ONNX model, or its weights lie in another file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: cannot be read: {error}') from error
    return parse(content, path)


def parse(content: bytes, path: Path) -> onnx.ModelProto:
    """
    Make a network of a file's content.

    :param path: where it is from, for errors.
    :raises ModelError: it is no valid ONNX model, or its weights lie in another file.
    """
    try:
        model = onnx.load_model_from_string(content)
        outside = _outside(model)
        if not outside:
            onnx.checker.check_model(model, full_check=False)
    except Exception as error:  # protobuf and checker errors share no base
        raise ModelError(f'{path}: got a file that is no valid ONNX model: {error}') from error
    if outside:
        raise ModelError(
            f'{path}: got a network whose weights lie in another file ({outside}), which no hash '
            'of this one covers; expected one that holds them: '
            'onnx.save(onnx.load(OLD), NEW)'
        )
    return model


def _outside(model: onnx.ModelProto) -> str:
    """Return the name of a file beside it that a network takes weights from; empty for none."""
    tensors = [
        *model.graph.initializer,
        *(part for sparse in model.graph.sparse_initializer for part in _parts(sparse)),
    ]
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                inner = [attribute.g, *attribute.graphs]
                graphs += inner
                tensors += [tensor for graph in inner for tensor in graph.initializer]
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            places = {entry.key: entry.value for entry in tensor.external_data}
            return places.get('location', '') or 'unnamed'
    return ''


def _parts(sparse: onnx.SparseTensorProto) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    return sparse.values, sparse.indices


def cleaned(file: ModelFile) -> onnx.ModelProto:
    """
    Return a network without what keeps a runtime from optimizing it.

    :raises ModelError: the file is no valid ONNX model, or its weights lie in another one.
    """
    model = parse(file.content, file.path)
    free_inputs(model)
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    """
    Write a network whole or not at all.

    :raises OSError: the folder or the disk does not let it.
    """
    partial = path.with_name(f'{path.name}.partial')
    onnx.save(model, str(partial))
    partial.replace(path)


def free_inputs(model: onnx.ModelProto) -> None:
    """
    Take the constants off the list of inputs, and the sizes off what takes any size, in place.

    Initializers that are listed as graph inputs count as replaceable at run time, which blocks
    constant folding and fusion. A fully convolutional network takes any size, whatever the one
    at which it was exported, also where its maps come out as lists of cells. Generators, which
    take a mask beside the picture, keep the size that they were trained for.
    """
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if len(inputs) > 1 or not all(_is_size_free(node, constants) for node in graph.node):
        return
    # A list has its cells on the second axis; its first then is that of one picture.
    free = {3: (1,), 4: (2, 3)}
    if not any(node.op_type == 'Reshape' for node in graph.node):
        free = {4: (0, 2, 3)}
    sizes = {
        value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)
    }
    if all(len(dims) in free for dims in sizes.values()):
        for name, dims in sizes.items():
            for axis in free[len(dims)]:
                dims[axis].dim_param = f'{name}_{axis}'
        del graph.value_info[:]


def _is_size_free(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    """Tell whether an operator does the same to pictures of any size."""
    if node.op_type == 'Resize':
        by_factor = len(node.input) == _SCALES + 1
        return by_factor and constants.get(node.input[_SCALES], np.empty(0)).size == 4
    if node.op_type == 'Reshape':
        # From [1, h, w, channels] to [1, cells, channels].
        shape = constants.get(node.input[_SHAPE], np.empty(0)).tolist()
        return len(shape) == 3 and shape[0] in (0, 1) and shape[1] == -1 and shape[2] > 0
    return node.op_type in _SIZE_FREE


def has_integers(model: onnx.ModelProto) -> bool:
    """Tell whether a network computes in 8 bits anywhere."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    return not kinds.isdisjoint({TensorProto.INT8, TensorProto.UINT8})


def has_signed_activations(model: onnx.ModelProto) -> bool:
    """
    Tell whether the integer operators take activations of 8 bits with sign.

    :raises ModelError: some do and some do not.
    """
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {
        kinds[node.input[place]]
        for node in model.graph.node
        if (place := _ZERO_POINT.get(node.op_type, len(node.input))) < len(node.input)
        and node.input[place] in kinds
    }
    if len(found) > 1:
        raise ModelError(
            'got integer operators on numbers with and without sign, expected one kind: on this '
            'processor, which has no VNNI, no setting computes both; take the FP32 file'
        )
    return TensorProto.INT8 in found


def drop_weight_signs(model: onnx.ModelProto) -> None:
    """
    Write the weights of convolutions with the channels last without sign, in place.

    Weights and zero point are 128 higher, so that their difference is the same.

    :raises ModelError: such weights are no constants.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != 'QLinearConv' or not _has_channels_last(node):
            continue
        for place in (_WEIGHT, _WEIGHT_ZERO_POINT):
            name = node.input[place]
            if name not in constants:
                raise ModelError(f'{node.name}: got weights that are computed, expected constants')
            if constants[name].data_type != TensorProto.INT8:
                continue
            node.input[place] = f'{name}/unsigned'
            if node.input[place] not in constants:
                raised = numpy_helper.to_array(constants[name]).astype(np.int16) + 128
                tensor = numpy_helper.from_array(raised.astype(np.uint8), node.input[place])
                constants[tensor.name] = tensor
                model.graph.initializer.append(tensor)


def _has_channels_last(node: onnx.NodeProto) -> bool:
    return any(value.name == 'channels_last' and value.i for value in node.attribute)
