from pathlib import Path

import cv2
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.regions import detector, looks
from ffs_anonymizer.regions.detections import FACE, PLATE, read_boxes
from ffs_anonymizer.regions.detector import Network, Views
from ffs_anonymizer.regions.lanes import in_lanes
from ffs_anonymizer.regions.looks import Look
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.onnx_models import save_generator, save_yunet
from support.recipes import Detector

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
YUNET = SHARED / 'models' / 'yunet_n_dynamic.onnx'
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason='../shared/data is not here')


@pytest.fixture(scope='module')
def astronaut_bgr():
    data = pytest.importorskip('skimage.data')
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def yunet_cells(score_at=None, size=2):
    cells = {}
    for stride in (8, 16, 32):
        n = (64 // stride) * (64 // stride)
        cells[stride] = {
            'cls': np.zeros((1, n, 1)),
            'obj': np.zeros((1, n, 1)),
            'bbox': np.zeros((1, n, 4)),
        }
    if score_at:
        stride, index, score = score_at
        cells[stride]['cls'][0, index] = score
        cells[stride]['obj'][0, index] = score
        cells[stride]['bbox'][0, index] = (0.5, 0.25, np.log(size), np.log(size))
    return cells


def test_decode_yunet_by_hand(tmp_path):
    path = save_yunet(tmp_path / 'yunet.onnx', yunet_cells((16, 5, 0.7)))
    network = Network(open_model(path), FACE)
    found = network.detect(np.zeros((64, 64, 3), np.uint8), threshold=0.6, nms_iou=0.3, scale=1.0)
    # Cell 5 of 4 x 4 is column 1, row 1: its centre is (1.5 * 16, 1.25 * 16).
    assert np.allclose(found.xyxy_px, [[24 - 16, 20 - 16, 24 + 16, 20 + 16]])
    assert np.allclose(found.scores, [0.7])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error(tmp_path, bad):
    cells = yunet_cells((8, 0, 0.9))
    cells[8]['cls'][0, 3] = bad
    network = Network(open_model(save_yunet(tmp_path / 'yunet.onnx', cells)), FACE)
    with pytest.raises(ModelError, match='got scores that are not finite'):
        network.detect(np.zeros((64, 64, 3), np.uint8), threshold=0.6, nms_iou=0.3, scale=1.0)


def test_a_box_of_infinite_size_is_an_error(tmp_path):
    cells = yunet_cells((8, 0, 0.9), size=1)
    cells[8]['bbox'][0, 0, 2] = 1e9
    network = Network(open_model(save_yunet(tmp_path / 'yunet.onnx', cells)), FACE)
    with pytest.raises(ModelError, match='got boxes that are not finite'):
        network.detect(np.zeros((64, 64, 3), np.uint8), threshold=0.6, nms_iou=0.3, scale=1.0)


def test_a_network_of_another_kind_is_refused(tmp_path):
    model = open_model(save_generator(tmp_path / 'generator.onnx'))
    with pytest.raises(ModelError, match=r"outputs \['inpainted'\], expected those of CenterFace"):
        Network(model, FACE)


def settings_with(**changes):
    return Settings().updated({name.replace('__', '.'): v for name, v in changes.items()})


MODELS = [
    pytest.param('', id='centerface'),
    pytest.param(str(YUNET), id='yunet', marks=needs_shared),
    pytest.param(
        str(SHARED / 'models' / 'face_detection_yunet_2023mar.onnx'),
        id='yunet-640x640',
        marks=needs_shared,
    ),
]


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('scale', [0.5, 1.0, 2.0])
def test_the_astronaut_is_found(astronaut_bgr, model, scale):
    finder = Detector(
        settings_with(
            detector__model_path=model,
            detector__plate_model_path='none',
            detector__scale=scale,
            face__threshold=0.5,
        )
    )
    found = finder.detect(astronaut_bgr)
    assert len(found) == 1
    assert iou(found.xyxy_px[0], np.array([175, 65, 275, 190], np.float32)) > 0.6
    assert found.classes.tolist() == [FACE]


@pytest.mark.parametrize('size_wh', [(1, 1), (33, 7), (513, 300)])
def test_any_size_is_taken(astronaut_bgr, size_wh):
    image = cv2.resize(astronaut_bgr, size_wh)
    found = Detector(Settings()).detect(image)
    assert (found.xyxy_px >= 0).all()
    assert (found.xyxy_px <= (*size_wh, *size_wh)).all()


def test_an_empty_wall_has_no_face():
    assert len(Detector(Settings()).detect(np.full((120, 160, 3), 128, np.uint8))) == 0


@needs_shared
@pytest.mark.parametrize('model', MODELS[:2])
def test_all_19_ministers_are_found(model):
    image = cv2.imread(str(SHARED / 'groups' / 'regjeringen.jpg'))
    truth = read_boxes(SHARED / 'groups' / 'regjeringen.txt')
    found = Detector(settings_with(detector__model_path=model)).detect(image)
    assert len(truth) == 19
    for box in truth.xyxy_px:
        assert max(iou(box, other) for other in found.xyxy_px) > 0.5


@needs_shared
def test_a_second_network_finds_plates(astronaut_bgr):
    finder = Detector(settings_with(detector__plate_model_path=str(YUNET), face__threshold=0.5))
    found = finder.detect(astronaut_bgr)
    assert sorted(found.classes.tolist()) == [FACE, PLATE]


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('', []), ('\n', []), ('1 2 3 4\n', [[1, 2, 3, 4]]), ('1.5 2 3e1 4', [[1.5, 2, 30, 4]])],
)
def test_read_boxes(tmp_path, text, expected):
    path = tmp_path / 'a.txt'
    path.write_text(text)
    assert read_boxes(path).xyxy_px.tolist() == expected


@pytest.mark.parametrize(
    'line', ['1 2 3', '1 2 3 4 5', 'a b c d', '3 2 1 4', '1 2 nan 4', '1 2 inf 4']
)
def test_read_boxes_refuses(tmp_path, line):
    path = tmp_path / 'a.txt'
    path.write_text(f'1 2 3 4\n{line}\n')
    with pytest.raises(MediaError, match=r'a.txt, line 2: got .*, expected x0 y0 x1 y1'):
        read_boxes(path)


def test_read_boxes_names_a_missing_file(tmp_path):
    with pytest.raises(MediaError, match='cannot read the boxes .*none.txt'):
        read_boxes(tmp_path / 'none.txt')


def test_networks_share_a_frame_at_the_sizes_at_which_they_look():
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    views = Views(image)
    whole, part = (0, 0, 160, 90), (40, 10, 120, 50)
    half = views.of(Look(whole, (80, 45), (0, 0), (96, 64)))
    np.testing.assert_array_equal(half, cv2.resize(image, (80, 45), interpolation=cv2.INTER_AREA))
    assert views.of(Look(whole, (80, 45), (8, 8), (96, 96), level=1)) is half
    assert views.of(Look(part, (80, 45), (0, 0), (96, 64))) is not half
    as_it_is = views.of(Look(part, (80, 40), (0, 0), (96, 64)))
    np.testing.assert_array_equal(as_it_is, image[10:50, 40:120])
    assert np.shares_memory(as_it_is, image)


@pytest.fixture
def asked_lanes(monkeypatch):
    """Return the list of how many pieces of work a frame was, and how many were done at once."""
    asked = []

    def noting(works, lanes):
        asked.append((len(works), lanes))
        return in_lanes(works, lanes)

    monkeypatch.setattr(detector, 'in_lanes', noting)
    return asked


def test_looks_side_by_side_find_what_they_find_one_by_one(astronaut_bgr, asked_lanes):
    finder = Detector(Settings())
    networks = finder.networks.of(finder.settings)[0]
    one, two = (
        detector.detect(astronaut_bgr, networks, finder.settings, lanes=lanes) for lanes in (1, 2)
    )
    assert asked_lanes == [(4, 1), (4, 2)]
    assert len(one)
    for name in one.COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_tiles_of_a_network_and_gpus_are_worked_on_one_by_one(asked_lanes, monkeypatch):
    finder = Detector(Settings())
    networks = finder.networks.of(finder.settings)[0]
    image = np.zeros((256, 256, 3), np.uint8)
    detector.detect(image, networks, finder.settings, lanes=2)
    detector.detect(np.zeros((640, 800, 3), np.uint8), networks, finder.settings, lanes=2)
    monkeypatch.setattr(looks, 'MOST_PIXELS', 400_000)
    detector.detect(np.zeros((640, 800, 3), np.uint8), networks, finder.settings, lanes=2)
    assert asked_lanes == [(4, 2), (4, 2), (2, 2)]
    monkeypatch.setattr(networks[0].model, 'device', Device('cuda'))
    detector.detect(image, networks, finder.settings, lanes=2)
    assert asked_lanes[3:] == [(4, 1)]
