"""File A: FP32 with Q/DQ pairs before the convolutions, for TensorRT 8.5 to 10."""

from __future__ import annotations

from collections.abc import Iterable
import logging

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.quantization.graph import (
    consumers,
    convs,
    joining,
    OPSET,
    opset_of,
    quantized_pairs,
)
from ffs_anonymizer.quantization.ranges import Ranges
import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

_OPTIONS = {
    'ActivationSymmetric': True,
    'WeightSymmetric': True,
    'AddQDQPairToWeight': True,
    'QuantizeBias': False,
    'OpTypesToExcludeOutputQuantization': ['Conv'],
}


def to_explicit(
    model: onnx.ModelProto, ranges: Ranges, keep_float: Iterable[str] = ()
) -> onnx.ModelProto:
    """
    Put Q/DQ pairs on the inputs and the weights of convolutions, nowhere else.

    A skip that is quantized for a convolution is quantized for the sum that it ends in as well.

    :param model: from prepare().
    :param ranges: low and high of the inputs of its convolutions.
    :param keep_float: names of the convolutions that stay in FP32.
    """
    kept = set(keep_float)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = [node.name for node in convs(copy) if node.name not in kept]
    if not wanted:
        return copy
    arrays = {
        name: (np.float32(low), np.float32(max(high, low + 1e-6)))
        for name, (low, high) in ranges.items()
    }
    with _quiet():
        quantizer = QDQQuantizer(
            copy,
            True,  # one scale a channel of the weights
            False,
            QuantType.QInt8,
            QuantType.QInt8,
            TensorsData(CalibrationMethod.MinMax, arrays),
            wanted,
            sorted(kept),
            ['Conv'],
            dict(_OPTIONS),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _bypass(quantized, kept)
    check_explicit(quantized, kept, scale_type=onnx.TensorProto.FLOAT, opset=OPSET)
    return quantized


def to_portable(
    model: onnx.ModelProto, ranges: Ranges, keep_float: Iterable[str] = ()
) -> onnx.ModelProto:
    """
    Put Q/DQ pairs as to_explicit() does, but none before the convolution of joined inputs.

    OpenVINO 2026.4.1 computes a convolution over a quantized concatenation wrongly, and one of
    the few channels of a picture and its mask gains nothing from 8 bits.
    """
    return to_explicit(model, ranges, {*keep_float, *joining(model)})


def check_explicit(
    model: onnx.ModelProto, keep_float: Iterable[str], *, scale_type: int, opset: int
) -> None:
    """
    Refuse a file with Q/DQ pairs that TensorRT would not take, or not fuse.

    :param keep_float: convolutions that must have no pair at any input.
    :param scale_type: the ONNX number type of all scales.
    :raises ModelError: a rule is broken.
    """
    kept = set(keep_float)
    onnx.checker.check_model(model, full_check=True)
    if opset_of(model) != opset:
        raise ModelError(f'got opset {opset_of(model)}, expected {opset}')
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = consumers(model)
    for node, after in quantized_pairs(model):
        operators = {reader.op_type for reader in readers.get(after.output[0], [])}
        if 'Conv' not in operators:
            raise ModelError(f'{node.name}: got a pair before {sorted(operators)}, expected Conv')
        if list(node.input[1:]) != list(after.input[1:]):
            raise ModelError(f'{node.name}: got another scale than {after.name}')
        if constants[node.input[1]].data_type != scale_type:
            raise ModelError(f'{node.name}: got a scale of another type than the file is for')
        if not (numpy_helper.to_array(constants[node.input[1]]) > 0).all():
            raise ModelError(f'{node.name}: got a scale that is not positive')
        if numpy_helper.to_array(constants[node.input[2]]).any():
            raise ModelError(f'{node.name}: got a zero point other than zero')
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == 'DequantizeLinear'}
    for node in model.graph.node:
        touched = dequantized & set(node.input)
        if node.op_type == 'Conv' and node.name in kept and touched:
            raise ModelError(f'{node.name}: got a pair, expected none: it is kept in float')
        if node.op_type == 'Conv' and node.name not in kept and len(touched) < 2:
            raise ModelError(f'{node.name}: got {len(touched)} pairs, expected two')


def _bypass(model: onnx.ModelProto, kept: set[str]) -> None:
    """Give the convolutions that stay in float what was before the pairs."""
    before = {after.output[0]: node.input[0] for node, after in quantized_pairs(model)}
    for node in model.graph.node:
        if node.op_type == 'Conv' and node.name in kept:
            node.input[:] = [before.get(name, name) for name in node.input]


class _quiet:  # noqa: N801
    """Keep the quantizer's advice on pre-processing, which is done already, off the terminal."""

    def __enter__(self) -> None:
        self._was = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._was)
