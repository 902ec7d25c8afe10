import json
from pathlib import Path

from ffs_anonymizer.backend import open_model
from ffs_anonymizer.backend.onnx_file import read
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import load_manifest
from ffs_anonymizer.regions.detections import FACE, PLATE
from ffs_anonymizer.regions.detector import Network
from ffs_anonymizer.training.checkpoint import load_checkpoint
from ffs_anonymizer.training.detector.export import export_detector, Provenance
from ffs_anonymizer.training.detector.losses import boxes_of, flatten, make_cells
from ffs_anonymizer.training.detector.network import make_detector
from ffs_anonymizer.training.detector.train import train
import numpy as np
import pytest
from support.drawn_plates import detector_settings, draw_street
import torch


@pytest.fixture(scope='module')
def checkpoint(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = detector_settings(streets, tmp_path_factory.mktemp('run'), steps=8, rate=1e-2)
    return train(chosen, quiet=True)


@pytest.fixture(scope='module')
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('exported')
    said = Provenance(version='7', licence='Apache-2.0', training_data='drawn', notes='Fails.')
    return export_detector(checkpoint, out, name='tiny', provenance=said).fp32


def test_a_detector_is_exported_with_all_that_says_what_it_is(exported: Path) -> None:
    manifest = load_manifest(exported)
    assert manifest is not None
    assert (manifest.task, manifest.layout, manifest.classes) == ('detector', 'ffs', ('plate',))
    assert (manifest.version, manifest.licence) == ('7', 'Apache-2.0')
    assert load_manifest(exported.with_name('tiny-fp16.onnx')) is not None
    card = exported.with_suffix('.md').read_text()
    assert 'Fails.' in card
    assert 'network: plates-tiny' in card
    assert '/' not in json.loads(exported.with_suffix('.json').read_text())['training_data']


def test_the_runtime_reads_the_boxes_that_the_network_was_taught(
    exported: Path, checkpoint: Path
) -> None:
    """Through export, ONNX Runtime and the decoder: the same boxes as torch's own."""
    values = load_checkpoint(checkpoint, 'detector')
    detector = make_detector('plates-tiny').eval()
    detector.load_state_dict(values['ema'])
    image, _ = draw_street(5)
    image = np.ascontiguousarray(image[:224])
    with torch.no_grad():
        seen = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        flat = flatten(detector(seen))[0]
        boxes = boxes_of(flat[:, 1:], make_cells(224, 320, torch.device('cpu'))).numpy()
        scores = flat[:, 0].sigmoid().numpy()
    best = int(scores.argmax())
    network = Network(open_model(exported, device='cpu'), PLATE)
    threshold = float(scores[best]) - 1e-5
    found = network.detect(image, threshold=threshold, nms_iou=0.3, scale=1.0)
    inside = np.clip(boxes[best], 0, [320, 224, 320, 224])
    np.testing.assert_allclose(found.xyxy_px[0], inside, atol=1e-2)
    np.testing.assert_allclose(found.scores[0], scores[best], atol=1e-5)


def test_scores_are_shifted_and_the_card_says_so(checkpoint: Path, tmp_path: Path) -> None:
    image, _ = draw_street(5)
    logits = []
    for shift in (0.0, -2.0):
        path = export_detector(checkpoint, tmp_path, name=f's{shift:g}', score_shift=shift).fp32
        network = Network(open_model(path, device='cpu'), PLATE)
        found = network.detect(image, threshold=0.0, nms_iou=0.3, scale=1.0)
        best = float(found.scores.max())
        logits.append(np.log(best / (1 - best)))
    assert logits[1] - logits[0] == pytest.approx(-2.0, abs=1e-3)
    assert 'logits shifted by -2' in (tmp_path / 's-2.md').read_text()


def test_frames_of_any_size_are_taken(exported: Path) -> None:
    network = Network(open_model(exported, device='cpu'), PLATE)
    for size in ((1, 1), (33, 70), (240, 100)):
        image = np.zeros((*size, 3), np.uint8)
        found = network.detect(image, threshold=0.0, nms_iou=0.3, scale=1.0)
        assert (found.xyxy_px[:, 2:] <= (size[1], size[0])).all()


def test_a_plate_detector_is_not_taken_for_faces(exported: Path) -> None:
    with pytest.raises(ModelError, match='finds plate by its manifest, expected face'):
        Network(open_model(exported, device='cpu'), FACE)


def test_a_detector_of_two_classes_is_read_as_it_was_taught(
    streets_with_heads: Path, tmp_path: Path
) -> None:
    chosen = detector_settings(streets_with_heads, tmp_path, classes='plate, face', steps=2)
    path = export_detector(train(chosen, quiet=True), tmp_path / 'out', name='both').fp32
    manifest = load_manifest(path)
    assert manifest is not None
    assert manifest.classes == ('plate', 'face')
    assert manifest.outputs['score_8'] == ('N', 2, 'rows_8', 'columns_8')
    assert 'Finds plates and faces' in path.with_suffix('.md').read_text()
    image, _ = draw_street(5)
    image = np.ascontiguousarray(image[:224])
    detector = make_detector('plates-tiny', 2).eval()
    detector.load_state_dict(load_checkpoint(tmp_path / 'last.pt', 'detector')['ema'])
    with torch.no_grad():
        flat = flatten(detector(torch.from_numpy(image).permute(2, 0, 1)[None].float()))[0]
    for k, class_index in enumerate((PLATE, FACE)):
        network = Network(open_model(path, device='cpu'), class_index)
        found = network.detect(image, threshold=0.0, nms_iou=0.3, scale=1.0)
        assert float(found.scores.max()) == pytest.approx(
            float(flat[:, k].max().sigmoid()), abs=1e-5
        )


def test_the_command_exports(checkpoint: Path, tmp_path: Path) -> None:
    out = ['-o', str(tmp_path / 'out')]
    assert main(['export', '--task', 'detector', '-i', str(checkpoint), *out]) == 0
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert {'ffs-plates-tiny.onnx', 'ffs-plates-tiny.json', 'ffs-plates-tiny.md'} <= names


def test_8_bit_files_keep_layout_and_classes(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    photos = tmp_path / 'photos'
    photos.mkdir()
    for number in range(1, 9):
        image, boxes = draw_street(number)
        cv2.imwrite(str(photos / f'{number}.png'), image)
        text = ''.join(' '.join(map(str, box)) + '\n' for box in boxes)
        (photos / f'{number}.txt').write_text(text)
    command = ['quantize', '--task', 'detector', '-i', str(exported), '-o', str(tmp_path / 'q')]
    options = ['--calibration', str(photos), '--files', 'A', 'CPU', '--keep-float', '0']
    quick = ['--evaluate', '4', '--no-plot', '--disable-progress-output', '--quick']
    assert main([*command, *options, *quick]) == 0
    for suffix in ('-int8', '-int8-cpu'):
        path = tmp_path / 'q' / f'tiny{suffix}.onnx'
        manifest = load_manifest(path)
        assert manifest is not None
        assert (manifest.layout, manifest.classes) == ('ffs', ('plate',))
        assert {output.name for output in read(path).graph.output} >= {'score_8', 'box_32'}
