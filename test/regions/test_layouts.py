import dataclasses

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import file_sha256, Manifest, save_manifest
from ffs_anonymizer.regions.detections import FACE, PLATE
from ffs_anonymizer.regions.detector import Network
from ffs_anonymizer.regions.layouts import CenterFace, layout_of, LAYOUTS, YuNet
import numpy as np
from onnx import helper
import pytest
from support.onnx_models import save_answering, save_network, save_seeing

CELLS = 8 * 8 + 4 * 4 + 2 * 2  # of 64 x 64 at the strides 8, 16 and 32
BOX = (10.0, 20.0, 50.0, 32.0)
CENTRE_AND_SIZE = (30.0, 26.0, 40.0, 12.0)


def test_decode_centerface_by_hand():
    outputs = {
        '537': np.zeros((1, 1, 3, 4), np.float32),
        '538': np.zeros((1, 2, 3, 4), np.float32),
        '539': np.zeros((1, 2, 3, 4), np.float32),
    }
    outputs['537'][0, 0, 1, 2] = 0.8
    outputs['538'][0, :, 1, 2] = np.log((5, 2))
    outputs['539'][0, :, 1, 2] = (0.25, 0.5)
    found = CenterFace().decode(outputs, 0.5, size_wh=(16, 12))
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
    found = CenterFace().decode(outputs, 0.5, size_wh=(8, 8))
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
    found = YuNet().decode(outputs, 0.5, size_wh=(64, 64))
    assert found.points_px.tolist() == [[[16, 32], [48, 64], [80, 96], [112, 128], [144, 160]]]
    del outputs['kps_16']
    assert np.isnan(YuNet().decode(outputs, 0.5, size_wh=(64, 64)).points_px).all()


def test_what_nobody_knows_is_refused():
    with pytest.raises(ModelError, match=r"a.onnx: got a network with the outputs \['x'\]"):
        layout_of({'x': (1, 2)}, of='a.onnx')


def test_every_layout_has_a_name_of_its_own():
    assert sorted({layout.name for layout in LAYOUTS}) == ['centerface', 'ffs', 'yolo', 'yunet']


def own_cells(classes=1):
    values = {}
    for stride in (8, 16, 32):
        side = 64 // stride
        values[f'score_{stride}'] = np.zeros((1, classes, side, side))
        values[f'box_{stride}'] = np.zeros((1, 4, side, side))
    return values


def yolo_table(rows, wide, row, at=7):
    table = np.zeros((rows, wide))
    table[at, : len(row)] = row
    return table[None]


def test_large_objects_are_found_by_a_second_look_at_a_smaller_picture(tmp_path):
    """The network takes any size; its one answer is in the pixels of what it sees."""
    nodes, weights, outputs = [], {}, {}
    nodes.append(
        helper.make_node('MaxPool', ['image'], ['p8'], kernel_shape=[8, 8], strides=[8, 8])
    )
    for stride in (8, 16, 32):
        k = stride // 8
        if k > 1:
            size = {'kernel_shape': [k, k], 'strides': [k, k]}
            nodes.append(helper.make_node('MaxPool', ['p8'], [f'p{stride}'], **size))
        for name, channels in (('score', 1), ('box', 4)):
            weights[f'{name}_w{stride}'] = np.zeros((channels, 3, 1, 1), np.float32)
            weights[f'{name}_b{stride}'] = np.zeros(channels, np.float32)
            names = [f'p{stride}', f'{name}_w{stride}', f'{name}_b{stride}']
            nodes.append(helper.make_node('Conv', names, [f'{name}_{stride}']))
            outputs[f'{name}_{stride}'] = ['N', channels, f'h{stride}', f'w{stride}']
    # Where stride 32 sees white, there is a plate of 64 x 32 pixels.
    weights['score_w32'][0, 0] = 1 / 255
    weights['box_b32'][2] = np.log(2)
    shapes = {'image': ['N', 3, 'h', 'w']}
    path = save_network(tmp_path / 'own.onnx', nodes, shapes, outputs, weights)
    image = np.zeros((256, 512, 3), np.uint8)
    image[100:104, 200:204] = 255
    found = found_by(path, image=image)
    sizes = sorted((found.xyxy_px[:, 2:] - found.xyxy_px[:, :2]).astype(int).tolist())
    # The smaller one lies in the larger, which covers both.
    assert sizes == [[256, 128]]
    # Of a small frame, a second look would see too little.
    (box,) = found_by(path, image=np.ascontiguousarray(image[64:192, 128:384])).xyxy_px
    assert (box[2:] - box[:2]).astype(int).tolist() == [64, 32]


def found_by(path, *, threshold=0.5, index=PLATE, image=None):
    image = np.zeros((64, 64, 3), np.uint8) if image is None else image
    network = Network(open_model(path, device='cpu'), index)
    return network.detect(image, threshold=threshold, nms_iou=0.5, scale=1.0)


def test_our_own_detector_is_read(tmp_path):
    values = own_cells()
    values['score_16'][0, 0, 1, 2] = 0.8  # the cell's centre is (40, 24)
    values['box_16'][0, :, 1, 2] = (0.25, -0.5, np.log(2), np.log(0.5))
    found = found_by(save_answering(tmp_path / 'own.onnx', values))
    assert np.allclose(found.xyxy_px, [[44 - 16, 16 - 4, 44 + 16, 16 + 4]])
    assert np.allclose(found.scores, [0.8])
    assert found.classes.tolist() == [PLATE]
    assert len(found_by(tmp_path / 'own.onnx', threshold=0.81)) == 0


YOLOS = {
    'v8 [1, 5, cells]': yolo_table(CELLS, 5, (*CENTRE_AND_SIZE, 0.9)).swapaxes(1, 2),
    'v8 of three classes': yolo_table(CELLS, 7, (*CENTRE_AND_SIZE, 0.1, 0.2, 0.9)).swapaxes(1, 2),
    'v8 turned [1, cells, 5]': yolo_table(CELLS, 5, (*CENTRE_AND_SIZE, 0.9)),
    'v8 of four strides': yolo_table(CELLS + 1, 6, (*CENTRE_AND_SIZE, 0.9)).swapaxes(1, 2),
    'v5 [1, 3 cells, 6]': yolo_table(3 * CELLS, 6, (*CENTRE_AND_SIZE, 0.95, 0.9 / 0.95)),
    'v5 of two classes': yolo_table(3 * CELLS, 7, (*CENTRE_AND_SIZE, 0.9, 0.3, 1.0)),
    'v10 [1, 300, 6]': yolo_table(300, 6, (*BOX, 0.9, 2.0)),
    'v7 [rows, 7]': yolo_table(3, 7, (0.0, *BOX, 4.0, 0.9), at=0)[0],
}


@pytest.mark.parametrize('table', YOLOS.values(), ids=YOLOS.keys())
def test_yolo_is_read(table, tmp_path):
    path = save_answering(tmp_path / 'yolo.onnx', {'output0': table}, input_hw=(64, 64))
    found = found_by(path)
    # Nothing at all would be close to anything for numpy.
    assert found.xyxy_px.tolist() == [pytest.approx(BOX, abs=1e-4)]
    assert found.scores.tolist() == [pytest.approx(0.9)]
    assert len(found_by(path, threshold=0.95)) == 0


TWO_CLASSES = {
    'v8': yolo_table(CELLS, 6, (*CENTRE_AND_SIZE, 0.6, 0.8)).swapaxes(1, 2),
    'v5': yolo_table(3 * CELLS, 7, (*CENTRE_AND_SIZE, 1.0, 0.6, 0.8)),
}


@pytest.mark.parametrize('table', TWO_CLASSES.values(), ids=TWO_CLASSES.keys())
def test_a_class_of_yolo_hides_no_other_in_the_same_row(table, tmp_path):
    path = save_answering(tmp_path / 'yolo.onnx', {'output0': table}, input_hw=(64, 64))
    with_manifest(path, layout='yolo', classes=('face', 'plate'))
    for index, score in ((FACE, 0.6), (PLATE, 0.8)):
        found = found_by(path, index=index)
        assert found.xyxy_px.tolist() == [pytest.approx(BOX, abs=1e-4)]
        assert found.scores.tolist() == [pytest.approx(score)]
    assert len(found_by(path, index=FACE, threshold=0.7)) == 0


def test_maps_beside_yolo_s_table_are_left_alone(tmp_path):
    values = {'output': YOLOS['v5 [1, 3 cells, 6]'], '345': np.zeros((1, 3, 8, 8, 6))}
    assert len(found_by(save_answering(tmp_path / 'yolo.onnx', values, input_hw=(64, 64)))) == 1


def test_yolo_sees_rgb_from_0_to_1_with_grey_beside_the_picture(tmp_path):
    path = save_seeing(tmp_path / 'yolo.onnx')
    image = np.zeros((64, 32, 3), np.uint8)
    image[:] = (255, 51, 0)  # blue, green, red; half of the input stays grey
    outputs = {}
    network = Network(open_model(path, device='cpu'), PLATE)
    infer = network.model.infer
    network.model.infer = lambda feed: outputs.update(infer(feed)) or outputs
    network.detect(image, threshold=0.5, nms_iou=0.5, scale=1.0)
    grey = 114 / 255
    seen = outputs['output0'][0, 0, :4]
    assert np.allclose(seen, [grey / 2, (0.2 + grey) / 2, (1 + grey) / 2, 1.0], atol=1e-5)


@pytest.mark.parametrize(
    'shape', [(1, 37, CELLS + 3), (1, CELLS - 1, 7), (1, 300, 38)], ids=['v8', 'v5', 'masks']
)
def test_a_table_that_is_none_of_yolo_s_is_refused(shape, tmp_path):
    path = save_answering(tmp_path / 'a.onnx', {'output0': np.zeros(shape)}, input_hw=(64, 64))
    with pytest.raises(ModelError, match=r'a\.onnx: got an output .* for an input of 64x64'):
        found_by(path)


def test_masks_are_no_layout_that_is_known():
    with pytest.raises(ModelError, match=r"outputs \['output0', 'output1'\], expected those of"):
        layout_of({'output0': (1, 37, 84), 'output1': (1, 32, 16, 16)}, of='seg.onnx')


def with_manifest(path, **changes):
    manifest = Manifest(
        name='a',
        task='detector',
        version='1',
        sha256=file_sha256(path),
        inputs={},
        outputs={},
        size_px=0,
        crop_scale=0.0,
        precision='fp32',
        training_data='',
        licence='',
    )
    save_manifest(dataclasses.replace(manifest, **changes), path)
    return path


def test_of_several_classes_only_the_one_looked_for_is_taken(tmp_path):
    values = own_cells(classes=2)
    values['score_8'][0, 0, 1, 1] = 0.7
    values['score_8'][0, 1, 6, 6] = 0.8
    path = save_answering(tmp_path / 'own.onnx', values)
    assert len(found_by(path)) == 2
    with_manifest(path, classes=('plate', 'face'))
    assert found_by(path, index=PLATE).scores.tolist() == [pytest.approx(0.7)]
    assert found_by(path, index=FACE).scores.tolist() == [pytest.approx(0.8)]
    with_manifest(path, classes=('car', 'bus'))
    with pytest.raises(ModelError, match=r'finds car, bus by its manifest, expected plate'):
        found_by(path)


def test_a_manifest_that_names_another_layout_is_refused(tmp_path):
    path = with_manifest(save_answering(tmp_path / 'own.onnx', own_cells()), layout='yolo')
    with pytest.raises(ModelError, match=r"names the layout 'yolo', which the outputs"):
        found_by(path)
