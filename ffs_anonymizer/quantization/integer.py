"""The file for ONNX Runtime on a CPU: integer convolutions with the channels last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ffs_anonymizer.quantization.graph import attributes, consumers, convs, OPSET, shapes, weights
from ffs_anonymizer.quantization.ranges import Ranges
import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper

_DOMAIN = 'com.microsoft'
_TO_LAST = [0, 2, 3, 1]
_TO_FIRST = [0, 3, 1, 2]
# ONNX Runtime adds the bias to 32-bit sums; this leaves them half of the range.
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Quantized:
    """
    Name a tensor of 8 bits with its channels last, and what its numbers mean.

    :param real: what scale and zero_point were chosen for: value = (number - zero_point) * scale.
    """

    name: str
    scale: float
    zero_point: int


def to_integer(
    model: onnx.ModelProto, ranges: Ranges, keep_float: Iterable[str] = ()
) -> onnx.ModelProto:
    """
    Write a network in ONNX Runtime's own integer operators.

    Activations have 8 bits without and weights 8 bits with sign, one scale a channel. A Relu
    costs nothing: it is where the numbers end. Doubling the sides before a 3x3 convolution is
    never carried out: each of the four neighbours that the doubled pixel becomes is a 2x2
    convolution of the small picture, with 4/9 of the work and the same result.

    :param model: from prepare().
    :param ranges: low and high of the inputs and outputs of its convolutions, sums and Relus.
    :param keep_float: names of the convolutions that stay in FP32.
    """
    return _Writer(model, ranges, frozenset(keep_float)).write()


class _Writer:
    """Walk through a graph once, with each tensor in FP32, in 8 bits, or in both when needed."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges, keep_float: frozenset[str]) -> None:
        self.model = model
        self.ranges = ranges
        self.readers = consumers(model)
        self.weights = weights(model)
        self.shapes = shapes(model)
        self.outputs = {value.name for value in model.graph.output}
        self.integer = {n.name for n in convs(model) if _fits(n, self.weights)} - keep_float
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.real: set[str] = {value.name for value in model.graph.input}
        self.real.update(self.weights)
        self.quantized: dict[str, Quantized] = {}
        # Tensors that another name stands for: a doubled picture and what it was doubled from.
        self.upsampled: dict[str, str] = {}

    def write(self) -> onnx.ModelProto:
        """Return the whole model."""
        for node in self.model.graph.node:
            if node.op_type == 'Conv' and node.name in self.integer:
                self._conv(node)
            elif node.op_type == 'Relu' and self._clamped(node.input[0]):
                self.quantized[node.output[0]] = self.quantized[node.input[0]]
            elif node.op_type == 'Add' and self._both_quantized(node):
                self._add(node)
            elif node.op_type == 'Resize' and self._is_free(node):
                self.upsampled[node.output[0]] = node.input[0]
            else:
                for name in node.input:
                    self._as_real(name)
                self.nodes.append(node)
                self.real.update(node.output)
        for name in self.outputs:
            self._as_real(name)
        return self._assembled()

    def _assembled(self) -> onnx.ModelProto:
        used = {name for node in self.nodes for name in node.input}
        kept = [t for t in self.model.graph.initializer if t.name in used]
        graph = helper.make_graph(
            self.nodes,
            self.model.graph.name or 'network',
            self.model.graph.input,
            self.model.graph.output,
            [*kept, *self.constants.values()],
        )
        opsets = [helper.make_opsetid('', OPSET), helper.make_opsetid(_DOMAIN, 1)]
        written = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(written)
        return written

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(value, order='C'), name)
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, **values: object) -> str:
        domain = _DOMAIN if operator in _MICROSOFT else ''
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=output, domain=domain, **values)
        )
        return output

    def _numbers(self, tensor: Quantized) -> list[str]:
        """Return a tensor's name and those of its scale and zero point."""
        scale = self._constant(f'{tensor.name}/scale', np.float32(tensor.scale))
        zero = self._constant(f'{tensor.name}/zero', np.uint8(tensor.zero_point))
        return [tensor.name, scale, zero]

    def _chosen(self, name: str, into: str) -> Quantized:
        """Return how a tensor is to be quantized; a Relu right after it cuts off what is below."""
        low, high = self.ranges[self._after_relu(name)]
        low, high = min(low, 0.0), max(high, 0.0, min(low, 0.0) + 1e-6)
        scale = float(np.float32((high - low) / 255))
        return Quantized(into, scale, int(np.clip(round(-low / scale), 0, 255)))

    def _after_relu(self, name: str) -> str:
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == 'Relu' and name not in self.outputs:
            return str(readers[0].output[0])
        return name

    def _clamped(self, name: str) -> bool:
        return name in self.quantized and self._after_relu(name) != name

    def _both_quantized(self, node: onnx.NodeProto) -> bool:
        one, other = node.input
        same = one in self.shapes and self.shapes[one] == self.shapes.get(other)
        known = node.output[0] in self.ranges or self._after_relu(node.output[0]) in self.ranges
        return same and known and one in self.quantized and other in self.quantized

    def _is_free(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Resize doubles the sides by repetition, for integer convolutions only."""
        readers = self.readers.get(node.output[0], [])
        return (
            _upsamples(node, self.weights)
            and bool(readers)
            and node.output[0] not in self.outputs
            and self._known_size(node.input[0])
            and all(
                n.name in self.integer and _is_3x3(n, self.weights) and n.input[0] in node.output
                for n in readers
            )
        )

    def _known_size(self, name: str) -> bool:
        shape = self.shapes.get(name, ())
        return len(shape) == 4 and min(shape[1:]) > 0

    def _as_real(self, name: str) -> None:
        """See to it that a tensor exists in FP32 with its channels first."""
        if not name or name in self.real:
            return
        tensor = self.quantized[name]
        last = self._node('DequantizeLinear', self._numbers(tensor), f'{name}/last')
        self._node('Transpose', [last], name, perm=_TO_FIRST)
        self.real.add(name)

    def _as_quantized(self, name: str) -> Quantized:
        """See to it that a tensor exists in 8 bits with its channels last."""
        if name not in self.quantized:
            tensor = self._chosen(name, f'{name}/u8')
            _, scale, zero = self._numbers(tensor)
            first = self._node('QuantizeLinear', [name, scale, zero], f'{name}/u8_first')
            self._node('Transpose', [first], tensor.name, perm=_TO_LAST)
            self.quantized[name] = tensor
        return self.quantized[name]

    def _conv(self, node: onnx.NodeProto) -> None:
        name, output = node.input[0], node.output[0]
        kernel = self.weights[node.input[1]].astype(np.float64)
        bias = (
            self.weights[node.input[2]].astype(np.float64)
            if len(node.input) > 2 and node.input[2]
            else np.zeros(len(kernel))
        )
        values = attributes(node)
        if name in self.upsampled:
            self._upsampled_conv(node, self._as_quantized(self.upsampled[name]), kernel, bias)
            return
        tensor = self._as_quantized(name)
        known = output in self.ranges or self._after_relu(output) in self.ranges
        if self._stays_real(node) and kernel.shape[2:] == (1, 1) and _plain(values):
            self._projection(output, tensor, kernel, bias)
            return
        if not known:
            raise KeyError(output)
        into = self._chosen(output, f'{output}/u8')
        self._integer_conv(tensor, into, kernel, bias, values)
        self.quantized[output] = into

    def _stays_real(self, node: onnx.NodeProto) -> bool:
        """Tell whether nobody wants a convolution's output in 8 bits."""
        return not any(
            reader.op_type in ('Relu', 'Add', 'Resize') or reader.name in self.integer
            for reader in self.readers.get(node.output[0], [])
        )

    def _projection(
        self,
        output: str,
        tensor: Quantized,
        kernel: NDArray[np.float64],
        bias: NDArray[np.float64],
    ) -> None:
        """Write a 1x1 convolution whose output is FP32: as a product that is never rounded."""
        numbers, scales = _by_channel(kernel, bias, tensor.scale)
        inputs = [
            tensor.name,
            self._constant(f'{output}/weight', numbers[:, :, 0, 0].T),
            self._numbers(tensor)[1],
            self._constant(f'{output}/weight_scale', scales),
            self._numbers(tensor)[2],
            self._constant(f'{output}/weight_zero', np.zeros(len(scales), np.int8)),
            self._constant(f'{output}/bias', bias.astype(np.float32)),
        ]
        last = self._node('MatMulIntegerToFloat', inputs, f'{output}/last')
        self._node('Transpose', [last], output, perm=_TO_FIRST)
        self.real.add(output)

    def _integer_conv(
        self,
        tensor: Quantized,
        into: Quantized,
        kernel: NDArray[np.float64],
        bias: NDArray[np.float64],
        values: Mapping[str, object],
    ) -> None:
        numbers, scales = _by_channel(kernel, bias, tensor.scale)
        biases = np.rint(bias / (tensor.scale * scales.astype(np.float64))).astype(np.int32)
        inputs = [
            *self._numbers(tensor),
            self._constant(f'{into.name}/weight', numbers),
            self._constant(f'{into.name}/weight_scale', scales),
            self._constant(f'{into.name}/weight_zero', np.zeros(len(scales), np.int8)),
            *self._numbers(into)[1:],
            self._constant(f'{into.name}/bias', biases),
        ]
        self._node('QLinearConv', inputs, into.name, channels_last=1, **values)

    def _upsampled_conv(
        self,
        node: onnx.NodeProto,
        small: Quantized,
        kernel: NDArray[np.float64],
        bias: NDArray[np.float64],
    ) -> None:
        output = node.output[0]
        height, width = self.shapes[self.upsampled[node.input[0]]][2:]
        into = self._chosen(output, f'{output}/u8')
        rows = []
        for down in (0, 1):
            parts = []
            for right in (0, 1):
                part = Quantized(f'{output}/u8_{down}{right}', into.scale, into.zero_point)
                pads = [1 - down, 1 - right, down, right]
                quarter = _quarter(kernel, down, right)
                self._integer_conv(small, part, quarter, bias, {'pads': pads})
                parts.append(part.name)
            # (N, H, W, 2C) is (N, H, 2W, C) to the letter
            beside = self._node('Concat', parts, f'{output}/u8_row{down}', axis=3)
            shape = np.array([0, height, 1, 2 * width * len(kernel)])
            flat = self._constant(f'{beside}/shape', shape)
            rows.append(self._node('Reshape', [beside, flat], f'{beside}_flat'))
        woven = self._node('Concat', rows, f'{output}/u8_rows', axis=2)
        shape = np.array([0, 2 * height, 2 * width, len(kernel)])
        self._node('Reshape', [woven, self._constant(f'{woven}/shape', shape)], into.name)
        self.quantized[output] = into

    def _add(self, node: onnx.NodeProto) -> None:
        one, other = (self.quantized[name] for name in node.input)
        into = self._chosen(node.output[0], f'{node.output[0]}/u8')
        inputs = [*self._numbers(one), *self._numbers(other), *self._numbers(into)[1:]]
        self._node('QLinearAdd', inputs, into.name)
        self.quantized[node.output[0]] = into


_MICROSOFT = {'QLinearConv', 'QLinearAdd', 'MatMulIntegerToFloat'}


def _by_channel(
    kernel: NDArray[np.float64], bias: NDArray[np.float64], input_scale: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights in 8 bits and the scale of each output channel."""
    largest = np.abs(kernel).reshape(len(kernel), -1).max(1)
    scales = np.maximum(largest / 127, np.abs(bias) / (input_scale * _BIAS_LIMIT))
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    numbers = np.rint(kernel / scales.astype(np.float64)[:, None, None, None])
    return np.clip(numbers, -127, 127).astype(np.int8), scales


def _quarter(kernel: NDArray[np.float64], down: int, right: int) -> NDArray[np.float64]:
    """Return the 2x2 kernel that makes one of the four pixels of a doubled picture."""
    first, second, third = (kernel[:, :, i] for i in range(3))
    upper, lower = (first + second, third) if down else (first, second + third)
    two_rows = np.stack([upper, lower], 2)
    first, second, third = (two_rows[..., i] for i in range(3))
    before, after = (first + second, third) if right else (first, second + third)
    return np.stack([before, after], 3)


def _fits(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    values = attributes(node)
    return constants[node.input[1]].ndim == 4 and values.get('auto_pad', 'NOTSET') == 'NOTSET'


def _plain(values: Mapping[str, object]) -> bool:
    pads = cast('Sequence[int]', values.get('pads', ()))
    strides = cast('Sequence[int]', values.get('strides', ()))
    return not any(pads) and all(s == 1 for s in strides) and values.get('group', 1) == 1


def _is_3x3(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    values = attributes(node)
    return (
        constants[node.input[1]].shape[2:] == (3, 3)
        and values.get('group', 1) == 1
        and values.get('pads') == [1, 1, 1, 1]
        and values.get('strides', [1, 1]) == [1, 1]
        and values.get('dilations', [1, 1]) == [1, 1]
    )


def _upsamples(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    """Tell whether a Resize repeats each pixel twice in each direction."""
    values = attributes(node)
    scales = constants.get(node.input[2]) if len(node.input) == 3 else None
    return (
        scales is not None
        and scales.tolist() == [1, 1, 2, 2]
        and values.get('mode', 'nearest') == 'nearest'
        and (
            values.get('coordinate_transformation_mode', 'half_pixel'),
            values.get('nearest_mode', 'round_prefer_floor'),
        )
        in {('asymmetric', 'floor'), ('half_pixel', 'round_prefer_floor')}
    )
