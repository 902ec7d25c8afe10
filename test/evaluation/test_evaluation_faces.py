from pathlib import Path

import cv2
from ffs_anonymizer.datasets.photos import Photo, read_photo
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.evaluation.faces import (
    anonymize,
    evaluate,
    frechet_distance,
    JudgedFaces,
    Judges,
    kernel_distance,
    load_photos,
    score,
    seam,
    to_markdown,
    with_points,
)
from ffs_anonymizer.evaluation.judges import (
    ALIGNED_POINTS_PX,
    FaceDetector,
    LandmarkFinder,
    Recognizer,
    similarity,
)
from ffs_anonymizer.evaluation.looks import Looks
from ffs_anonymizer.regions.detections import Detections, FACE, PLATE
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest

SHARED = Path(__file__).resolve().parents[3] / 'shared' / 'data'


@pytest.fixture(scope='module')
def detector() -> FaceDetector:
    try:
        return FaceDetector()
    except ModelError as error:
        pytest.skip(str(error))


def judged(**changes: object) -> JudgedFaces:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 8))
    values = {
        'found': np.ones(6, np.bool_),
        'points_px': np.tile(ALIGNED_POINTS_PX, (6, 1, 1)),
        'vectors': vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        'seams': np.full(6, 2.0),
        'looks': Looks(
            np.array([0, 0, 0, 1, 1, 1]),
            np.full(6, 100.0),
            np.full(6, 9.0),
            np.tile([50.0, 10.0, 10.0], (6, 1)),
        ),
    }
    return JudgedFaces(**{**values, **changes})


def test_plates_are_no_faces_to_the_detector(detector: FaceDetector) -> None:
    assert [network.model.path.name for network in detector.detectors] == [detector.name]


def test_similarity_undoes_a_shift_a_turn_and_a_scale() -> None:
    turn = 2 * np.array([[0.8, -0.6], [0.6, 0.8]])
    moved = ALIGNED_POINTS_PX @ turn.T + [7, -3]
    matrix = similarity(moved, ALIGNED_POINTS_PX)
    back = moved @ matrix[:, :2].T + matrix[:, 2]
    assert back == pytest.approx(ALIGNED_POINTS_PX)


def test_the_same_faces_score_as_the_same() -> None:
    values = score(judged(), judged())
    assert values['retention'] == values['identity'] == values['linkage_top1'] == 1.0
    assert values['linkage_chance'] == pytest.approx(1 / 6)
    assert values['landmarks'] == 0.0
    assert values['seam'] == values['sharpness'] == 1.0
    assert values['skin'] == values['skin_dark'] == 0.0
    assert values['fid_recognizer'] == pytest.approx(0, abs=1e-6)


def test_other_faces_score_as_others() -> None:
    mine = judged()
    points = mine.points_px + np.array([3.5236, 0.0])
    points[0] = np.nan
    other = judged(
        found=np.array([True, True, True, False, False, False]),
        vectors=np.roll(mine.vectors, 1, axis=0),
        points_px=points,
        seams=np.full(6, 5.0),
    )
    values = score(mine, other)
    assert values['retention'] == 0.5
    assert values['linkage_top1'] == 0.0
    assert values['landmarks'] == pytest.approx(0.1, rel=1e-3)
    assert values['seam'] == 2.5
    one = other.vectors[:1].repeat(6, 0)
    assert score(mine, judged(vectors=one))['sameness'] == 1.0


def test_without_recognizer_and_landmarks_the_numbers_are_none() -> None:
    blind = judged(vectors=np.full((6, 1), np.nan), points_px=np.full((6, 5, 2), np.nan))
    values = score(blind, blind)
    unknown = {name for name, value in values.items() if value is None}
    assert unknown == {
        'identity',
        'identity_cosine',
        'sameness',
        'sharpness_small',
        'sharpness_large',
        'yaw',
        'roll',
        'linkage_top1',
        'landmarks',
        'fid_recognizer',
        'kid_recognizer',
    }
    assert '| - |' in to_markdown({'x': values})


def test_distances_grow_with_the_difference() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    assert frechet_distance(a, a + 1) == pytest.approx(4.0)
    assert frechet_distance(a, 2 * a) == pytest.approx(
        a.mean(0) @ a.mean(0) + np.trace(np.cov(a, rowvar=False)), rel=1e-6
    )
    assert abs(kernel_distance(a, b)) < kernel_distance(a, b + 1)


def test_seam_is_the_step_across_the_border() -> None:
    image: NDArray[np.uint8] = np.full((100, 100, 3), 50, np.uint8)
    box = np.array([40, 40, 60, 60], np.float32)
    assert seam(image, box, 1.0, 0.0) == 0.0
    image[40:60, 40:60] = 80
    assert seam(image, box, 1.0, 0.0) == 30.0
    assert seam(image, box, 1.5, 0.0) == 0.0


def test_photos_with_boxes(photos: Path, boxes: Path, detector: FaceDetector) -> None:
    loaded = load_photos(photos, boxes, detector)
    assert len(loaded) == len(list(photos.iterdir()))
    first = sorted(photos.iterdir())[0]
    (single,) = load_photos(first, boxes / f'{first.stem}.txt', detector)
    assert single.boxes_xyxy_px.tolist() == [[46, 30, 114, 126]]


def test_photos_without_faces_are_refused(tmp_path: Path, detector: FaceDetector) -> None:
    (tmp_path / 'broken.png').write_bytes(b'no photo')
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(MediaError, match=r'got no face in 2 photos \(1 unreadable\)'):
        load_photos(tmp_path, None, detector)


def test_solid_boxes_hide_faces_and_the_sheet_shows_them(
    photos: Path, boxes: Path, detector: FaceDetector, tmp_path: Path
) -> None:
    loaded = load_photos(photos, boxes, detector)[:3]
    chosen = {'solid': Settings().updated({'face.method': 'solid'})}
    results = evaluate(loaded, chosen, Judges(detector), sheet=tmp_path / 'sheet.png')
    assert list(results) == ['original', 'solid']
    assert results['solid']['retention'] == 0.0
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    assert sheet is not None
    assert sheet.shape == (2 * 128, 3 * 128, 3)


def test_known_faces_get_the_points_of_what_was_found_in_their_places() -> None:
    boxes = np.array([[0, 0, 10, 20], [50, 0, 60, 20], [90, 0, 99, 20]], np.float32)
    moved, none = np.array([1, 0, 1, 0], np.float32), np.full((5, 2), np.nan)
    points = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    seen = Detections.of(boxes + moved, [0.9] * 3, [FACE, FACE, PLATE], points)
    seen = seen.take(np.array([1, 0, 2]))
    found = with_points(boxes, seen)
    assert np.array_equal(found.xyxy_px, boxes)
    assert np.array_equal(found.points_px, [points[0], points[1], none], equal_nan=True)
    assert np.isnan(with_points(boxes, Detections.empty()).points_px).all()
    assert np.isnan(with_points(boxes + 6 * moved, seen).points_px).all()
    assert len(with_points(np.empty((0, 4), np.float32), seen)) == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason='no shared data here')
def test_points_of_the_detector_turn_faces_where_they_are_let_through() -> None:
    whole = read_photo(SHARED / 'groups' / 'regjeringen.jpg')
    text = np.loadtxt(SHARED / 'groups' / 'regjeringen.txt', np.float32)
    box = text[:1, :4]
    corner = np.maximum(box[0, :2].astype(int) - 100, 0)
    size = box[0, 2:].astype(int) + 100
    image = np.ascontiguousarray(whole[corner[1] : size[1], corner[0] : size[0]])
    own = (box - np.tile(corner, 2)).astype(np.float32)
    photos = [Photo(Path('one.jpg'), image, own, np.empty((0, 4), np.float32))]
    settings = Settings().updated({'face.method': 'generate'})
    (without,), unknown = anonymize(photos, settings)
    (with_own,), posed = anonymize(photos, settings.updated({'generator.pose': True}))
    assert (unknown, posed) == (None, 1.0)
    assert np.abs(without.astype(int) - with_own).max() > 10


def test_missing_judges_say_what_to_give(tmp_path: Path) -> None:
    pytest.importorskip('ncnn')
    with pytest.raises(ModelError, match='got no such file or no .bin beside it'):
        Recognizer(tmp_path / 'a.param')
    with pytest.raises(ModelError, match='expected a YuNet model'):
        LandmarkFinder(tmp_path / 'a.onnx')


@pytest.mark.skipif(not SHARED.is_dir(), reason='no shared data here')
def test_real_judges_tell_persons_apart() -> None:
    pytest.importorskip('ncnn')
    finder = LandmarkFinder(SHARED / 'models' / 'face_detection_yunet_2023mar.onnx')
    recognizer = Recognizer(SHARED / 'models' / 'mobilefacenet.param')
    box = np.array([45, 34, 115, 126], np.float32)
    names = ('Aaron_Peirsol_0001', 'Aaron_Peirsol_0002', 'AJ_Lamas_0001')
    vectors = []
    for name in names:
        image = cv2.imread(str(SHARED / 'faces' / 'lfw' / f'{name}.jpg'))
        points = finder.points(image, box)
        assert points is not None
        vectors.append(recognizer.embed(image, points))
    assert vectors[0] @ vectors[1] > 0.31
    assert vectors[0] @ vectors[2] < 0.31
