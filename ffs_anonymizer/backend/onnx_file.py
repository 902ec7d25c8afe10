"""The ONNX file of a network, made ready for a runtime."""

from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.errors import ModelError

try:
    import onnx
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
}


def cleaned(path: Path) -> bytes:
    """
    Return the model without what keeps a runtime from optimizing it.

    :param path: an ONNX file.
    :returns: the serialized model.
    :raises ModelError: the file is no valid ONNX model.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=False)
    except Exception as error:  # protobuf, I/O and checker errors share no base
        raise ModelError(f'{path}: got a file that is no valid ONNX model: {error}') from error
    free_inputs(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def free_inputs(model: onnx.ModelProto) -> None:
    """
    Take the constants off the list of inputs, and the sizes off what takes any size, in place.

    Initializers that are listed as graph inputs count as replaceable at run time, which blocks
    constant folding and fusion. A fully convolutional network takes any size, whatever the one
    at which it was exported.
    """
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)
    values = [*graph.input, *graph.output]
    is_image = all(len(value.type.tensor_type.shape.dim) == 4 for value in values)
    if is_image and all(node.op_type in _SIZE_FREE for node in graph.node):
        for value in values:
            for axis in (0, 2, 3):
                value.type.tensor_type.shape.dim[axis].dim_param = f'{value.name}_{axis}'
        del graph.value_info[:]
