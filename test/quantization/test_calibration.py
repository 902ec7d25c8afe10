from __future__ import annotations

from pathlib import Path

import cv2
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.quantization.calibration import found_by, load_crops, load_photos
from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.metric import Candidate, DetectorQuality
from ffs_anonymizer.regions.detections import FACE
from ffs_anonymizer.regions.detector import Network
import numpy as np
import pytest
from support.quantize_models import save_photos, save_spots, save_spotter


def test_photos_with_a_table_of_boxes(tmp_path):
    save_photos(tmp_path, 3)
    (tmp_path / 'boxes.csv').write_text(
        'file,x0,y0,x1,y1,invalid\n0.png,1,2,30,40,0\n0.png,50,50,60,60,1\n1.png,5,5,9,9,1\n'
    )
    (photo,) = load_photos(tmp_path, 10)
    assert photo.image_bgr.shape == (96, 96, 3)
    assert photo.boxes_xyxy_px.tolist() == [[1, 2, 30, 40]]
    assert photo.ignored_xyxy_px.tolist() == [[50, 50, 60, 60]]


def test_boxes_to_ignore_may_be_told_by_their_class(tmp_path):
    save_photos(tmp_path, 3)
    (tmp_path / 'boxes.csv').write_text(
        'path,x0,y0,x1,y1,class\n0.png,1,2,30,40,plate\n0.png,50,50,60,60,ignore\n'
    )
    (photo,) = load_photos(tmp_path, 10)
    assert photo.boxes_xyxy_px.tolist() == [[1, 2, 30, 40]]
    assert photo.ignored_xyxy_px.tolist() == [[50, 50, 60, 60]]


def test_photos_without_any_file_of_boxes_have_none(tmp_path):
    save_spots(tmp_path, 3)
    assert [photo.boxes_xyxy_px.shape for photo in load_photos(tmp_path, 10)] == [(0, 4)] * 3
    (tmp_path / '1.txt').write_text('1 2 3 4')
    (photo,) = load_photos(tmp_path, 10)
    assert photo.boxes_xyxy_px.tolist() == [[1, 2, 3, 4]]


def test_what_a_network_finds_are_the_boxes_and_what_it_doubts_is_ignored(tmp_path):
    model = Candidate(prepare(save_spotter(tmp_path / 'spotter.onnx')))
    photos = load_photos(save_spots(tmp_path / 'frames', 2), 10)
    found = found_by(Network(model, FACE), photos)
    assert sorted(photo.boxes_xyxy_px[0, 0] for photo in found) == pytest.approx([8, 12])
    for photo in found:
        x = photo.boxes_xyxy_px[0, 0]
        assert photo.boxes_xyxy_px == pytest.approx(np.array([[x, 8, x + 12, 20]]))
        assert photo.ignored_xyxy_px == pytest.approx(np.array([[60, 40, 72, 52]]))
    assert DetectorQuality(found, 'the FP32 network').score(model) == 1.0


def test_crops_without_boxes_are_of_what_the_default_detector_finds(tmp_path):
    try:
        default_detector()
    except ModelError as error:
        pytest.skip(str(error))
    save_spots(tmp_path, 2)
    with pytest.raises(MediaError, match='got 2 photos without boxes in which the default'):
        load_crops(tmp_path, 10, size_px=32, crop_scale=2.0, region_scale=1.0)
    picture = Path(__file__).resolve().parents[2] / 'docs' / 'before_after.jpg'
    cv2.imwrite(str(tmp_path / 'face.jpg'), cv2.imread(str(picture)))
    assert 1 <= len(load_crops(tmp_path, 10, size_px=32, crop_scale=2.0, region_scale=1.0)) <= 10


def test_crops_have_every_face_of_their_photo_cut_out(tmp_path):
    save_photos(tmp_path, 1)
    (tmp_path / '0.txt').write_text('20 24 40 44\n42 24 60 44\n')
    crops = load_crops(tmp_path, 10, size_px=32, crop_scale=2.0, region_scale=1.0)
    assert len(crops) == 2
    # The crop of the left face is 10..50, 14..54 in the photo: the right one fills its end.
    holes = {
        tuple(square): mask[0] == 0
        for square, mask in zip(crops.squares_xys_px.tolist(), crops.mask, strict=True)
    }
    left = holes[10, 14, 40]
    assert left[8:24, 8:24].all()
    assert left[8:24, 27:].all()
    assert not left[:7].any()
    one = load_crops(tmp_path, 1, size_px=32, crop_scale=2.0, region_scale=1.0)
    assert len(one) == 1
    assert (one.mask[0, 0] == 0).sum() == holes[tuple(one.squares_xys_px[0].tolist())].sum()


def test_packed_faces_are_calibrated_on_too(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    np.save(tmp_path / 'photos.npy', photos)
    header = 'path,identity,x0,y0,x1,y1,in_x0,in_y0,in_x1,in_y1'
    rows = [f'{i}.jpg,{i},16,16,48,48,0,0,64,64' for i in range(3)]
    (tmp_path / 'index.csv').write_text('\n'.join([header, *rows]) + '\n')
    for source in (tmp_path, tmp_path / 'photos.npy'):
        crops = load_crops(source, 2, size_px=32, crop_scale=1.7, region_scale=1.25)
        assert crops.condition.shape == (2, 3, 32, 32)
        assert 0.2 < (crops.mask == 0).mean() < 0.6


def test_photos_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(MediaError, match='got no such folder'):
        load_photos(tmp_path / 'nowhere', 1)
    with pytest.raises(MediaError, match='got no photo, or boxes in none, expected photos'):
        load_photos(tmp_path, 1)
    save_photos(tmp_path, 1)
    (tmp_path / '0.txt').write_text('')
    with pytest.raises(MediaError, match='got no photo, or boxes in none, expected photos'):
        load_photos(tmp_path, 1)
    (tmp_path / '0.txt').write_text('1 2 3 4')
    (tmp_path / '0.png').write_bytes(b'torn')
    with pytest.raises(MediaError, match=r'0\.png: got no image'):
        load_photos(tmp_path, 1)
    (tmp_path / 'boxes.csv').write_text('file,x0\n0.png,1\n')
    with pytest.raises(MediaError, match='cannot be read as boxes'):
        load_photos(tmp_path, 1)
