from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.regions.layouts import CenterFace, layout_of, YuNet
import numpy as np
import pytest


def test_decode_centerface_by_hand():
    outputs = {
        '537': np.zeros((1, 1, 3, 4), np.float32),
        '538': np.zeros((1, 2, 3, 4), np.float32),
        '539': np.zeros((1, 2, 3, 4), np.float32),
    }
    outputs['537'][0, 0, 1, 2] = 0.8
    outputs['538'][0, :, 1, 2] = np.log((5, 2))
    outputs['539'][0, :, 1, 2] = (0.25, 0.5)
    found = CenterFace().decode(outputs, 0.5, width=16)
    boxes = found.xyxy_px
    assert np.isnan(found.points_px).all()
    assert found.scores.tolist() == [np.float32(0.8)]
    assert np.allclose(boxes, [[12 - 4, 7 - 10, 12 + 4, 7 + 10]])


def test_centerface_points_are_parts_of_the_box():
    outputs = {name: np.zeros((1, n, 2, 2), np.float32) for name, n in (('537', 1), ('538', 2))}
    outputs['539'], outputs['540'] = np.zeros((1, 2, 2, 2)), np.zeros((1, 10, 2, 2))
    outputs['537'][0, 0, 0, 1] = 0.9
    outputs['538'][0, :, 0, 1] = np.log((10, 5))
    outputs['540'][0, :, 0, 1] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    found = CenterFace().decode(outputs, 0.5, width=8)
    (box,) = found.xyxy_px
    parts = np.array([(0.2, 0.1), (0.4, 0.3), (0.6, 0.5), (0.8, 0.7), (1.0, 0.9)])
    assert np.allclose(found.points_px[0], box[:2] + parts * (20, 40), atol=1e-4)


def test_yunet_points_are_offsets_in_strides():
    outputs = {}
    for stride in YuNet.STRIDES:
        n = (64 // stride) ** 2
        for name, wide in (('cls', 1), ('obj', 1), ('bbox', 4), ('kps', 10)):
            outputs[f'{name}_{stride}'] = np.zeros((1, n, wide), np.float32)
    outputs['cls_16'][0, 5] = outputs['obj_16'][0, 5] = 0.9
    outputs['kps_16'][0, 5] = range(10)
    found = YuNet().decode(outputs, 0.5, width=64)
    assert found.points_px.tolist() == [[[16, 32], [48, 64], [80, 96], [112, 128], [144, 160]]]
    del outputs['kps_16']
    assert np.isnan(YuNet().decode(outputs, 0.5, width=64).points_px).all()


def test_what_nobody_knows_is_refused():
    with pytest.raises(ModelError, match=r"a.onnx: got a network with the outputs \['x'\]"):
        layout_of(['x'], of='a.onnx')
