from __future__ import annotations

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.quantization.explicit import check_explicit, to_explicit
from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.half import halved, to_half
from ffs_anonymizer.quantization.ranges import measure_ranges
import numpy as np
import onnx
from onnx import numpy_helper, TensorProto
import pytest
from support.quantize_models import CONVS, feeds, LEVEL, painted, save_unet


@pytest.mark.parametrize('kept', [[], ['top', 'exit'], CONVS])
def test_file_b_is_fp16_inside_with_fp16_scales(unet, ranges, kept):
    model = to_half(to_explicit(unet, ranges, kept))
    check_explicit(model, kept, scale_type=TensorProto.FLOAT16, opset=19)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {n for n, kind in kinds.items() if kind == TensorProto.FLOAT} == {'scales'}
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == [
        *('condition', 'mask', 'inpainted')
    ]
    error = np.abs(painted(model, optimized=False) - painted(unet)).max()
    assert error < (0.01 if kept == CONVS else 14 * LEVEL)


def test_a_float_network_is_halved_at_its_own_opset(unet):
    model = halved(unet)
    assert {o.domain: o.version for o in model.opset_import}[''] == 17
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {n for n, kind in kinds.items() if kind == TensorProto.FLOAT} == {'scales'}
    assert 0 < np.abs(painted(model) - painted(unet)).max() < 0.01


def test_weights_that_fp16_cannot_hold_are_refused(tmp_path, ranges):
    model = prepare(save_unet(tmp_path / 'large.onnx', outlier=1e6))
    with pytest.raises(ModelError, match=r'entry\.[wb]: got values over 65504'):
        to_half(to_explicit(model, ranges, CONVS))


def test_a_scale_never_becomes_zero_in_fp16(tmp_path):
    path = save_unet(tmp_path / 'tiny.onnx')
    model = onnx.load(path)
    kernel = next(t for t in model.graph.initializer if t.name == 'down.w')
    values = numpy_helper.to_array(kernel).copy()
    values[2] *= 1e-9
    kernel.CopyFrom(numpy_helper.from_array(values, 'down.w'))
    onnx.save(model, path)
    model = prepare(path)
    half = to_half(to_explicit(model, measure_ranges(model, [feeds()], 1, 'minmax')))
    check_explicit(half, [], scale_type=TensorProto.FLOAT16, opset=19)
    assert np.isfinite(painted(half, optimized=False)).all()


@pytest.mark.parametrize('kept', [[], ['top', 'exit']])
def test_tensorrt_takes_both_files(unet, ranges, kept):
    try:
        import tensorrt_rtx_bindings as rtx
    except (ImportError, OSError) as error:
        pytest.skip(f'needs TensorRT-RTX, see docs/tensorrt.md: {error}')
    from ffs_anonymizer.backend.tensorrt.runner import build_engine

    shapes = [{'condition': (n, 3, 32, 32), 'mask': (n, 1, 32, 32)} for n in (1, 4)]
    explicit = to_explicit(unet, ranges, kept)
    for model, precision in ((explicit, 'int8+fp32'), (to_half(explicit), 'int8+fp16')):
        built = build_engine(rtx, model.SerializeToString(), shapes)
        assert built.precision == precision
        assert len(built.data) > 1000
