from ffs_anonymizer.evaluation.looks import (
    joined,
    look_at,
    Looks,
    pose,
    sameness,
    sharpness,
    skin,
    within,
)
import numpy as np
import pytest

BOXES = np.array([[10, 10, 90, 110], [120, 10, 160, 60]], np.float32)
POINTS = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float64)


def noisy(strength: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(128, strength, (128, 192, 3)), 0, 255).astype(np.uint8)


def test_sharpness_is_the_share_of_detail_by_size():
    original, other = (look_at(noisy(v), BOXES, 0) for v in (40.0, 20.0))
    values = sharpness(original, other)
    assert values['sharpness'] == pytest.approx(0.5, abs=0.03)
    assert values['sharpness_small'] == pytest.approx(0.5, abs=0.05)
    assert values['sharpness_large'] is None
    assert sharpness(original, original)['sharpness'] == 1.0


def test_skin_is_measured_in_the_middle_of_the_faces():
    image = np.full((128, 192, 3), 60, np.uint8)
    lighter = image.copy()
    lighter[:, :100] = 120
    original, other = look_at(image, BOXES, 0), look_at(lighter, BOXES, 0)
    values = skin(original, other)
    assert skin(original, original) == {'skin': 0, 'skin_dark': 0, 'skin_light': 0}
    shift = other.skin_lab[0, 0] - original.skin_lab[0, 0]
    assert shift == pytest.approx(25.4, abs=1)  # L of grey 120 less that of grey 60
    assert values['skin'] == pytest.approx(shift / 2, abs=0.01)
    outside = image.copy()
    outside[:20] = 255
    assert skin(original, look_at(outside, BOXES, 0))['skin'] < 1e-3


def test_pairs_of_one_photo_count_for_sameness():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [np.nan, np.nan]], np.float64)
    assert sameness(vectors, np.array([0, 0, 0, 1, 0])) == pytest.approx(1 / 3)
    assert sameness(vectors, np.arange(5)) is None
    assert sameness(np.empty((0, 2)), np.empty(0, np.int64)) is None


def test_pose_is_correlated():
    steps = np.arange(-3, 4)[:, None, None]
    turned = POINTS + steps * np.array([[0, 0], [0, 2], [3, 0], [0, 0], [0, 0]])
    same = pose(turned, turned)
    assert same == {'yaw': pytest.approx(1.0), 'roll': pytest.approx(1.0)}
    assert pose(turned, turned[::-1])['yaw'] == pytest.approx(-1.0, abs=0.01)
    frontal = np.repeat(POINTS[None], 7, 0)
    assert pose(turned, frontal) == {'yaw': None, 'roll': None}
    assert pose(turned[:2], turned[:2])['yaw'] is None


@pytest.mark.parametrize(
    ('box', 'shape'),
    [([10, 10, 30, 50], (20, 10)), ([-50, -50, -10, -10], (1, 1)), ([180, 0, 260, 20], (10, 1))],
)
def test_the_middle_of_a_box_is_never_empty(box, shape):
    assert within(noisy(1.0), np.array(box, np.float32), 0.5).shape[:2] == shape


def test_no_face_is_an_ordinary_case():
    nobody = look_at(noisy(1.0), np.empty((0, 4), np.float32), 3)
    both = joined([nobody, look_at(noisy(1.0), BOXES, 4)])
    assert both.photo.tolist() == [4, 4]
    assert sharpness(nobody, nobody)['sharpness'] is None
    with pytest.raises(ValueError, match='expected one row for each of 2 faces'):
        Looks(both.photo, both.size_px[:1], both.detail, both.skin_lab)
