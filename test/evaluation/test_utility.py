from pathlib import Path
import sys
import types

from ffs_anonymizer.datasets.photos import Photo
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.evaluation.utility import (
    is_of,
    MediaPipePose,
    people_of,
    Person,
    score,
    square_of,
)
import numpy as np
import pytest

# A person of whom the nose is at 0, 0: shoulders 40 apart, hips 60 below them, legs not seen.
BODY = np.zeros((33, 3))
BODY[:11, 2] = 1.0
BODY[11] = 20, 30, 1
BODY[12] = -20, 30, 1
BODY[23] = 10, 90, 1
BODY[24] = -10, 90, 1
BOX = np.array([90, 90, 110, 114], np.float32)


class Spot:
    """Take the one white pixel of a picture for somebody's nose."""

    name = 'spot'

    def keypoints(self, image_bgr):
        rows, columns = np.nonzero(image_bgr[:, :, 0] == 255)
        if not len(rows):
            return None
        return BODY + np.array([columns[0], rows[0], 0])

    def close(self):
        """Have nothing to give back."""


def picture(x: int, y: int) -> np.ndarray:
    image = np.full((300, 300, 3), 50, np.uint8)
    image[y, x] = 255
    return image


def photo(image: np.ndarray, *boxes: np.ndarray) -> Photo:
    found = np.array(boxes, np.float32).reshape(-1, 4)
    return Photo(Path('a.png'), image, found, np.empty((0, 4), np.float32))


def test_the_square_holds_the_person_below_the_face():
    x, y, side = square_of(BOX)
    assert side == 216
    assert x + side / 2 == pytest.approx(100, abs=1)
    assert y + 0.22 * side == pytest.approx(102, abs=1)


@pytest.mark.parametrize(
    ('nose', 'expected'), [((100, 102), True), ((81, 79), True), ((79, 102), False)]
)
def test_a_pose_belongs_to_the_face_that_its_nose_is_in(nose, expected):
    assert is_of(BODY + np.array([*nose, 0]), BOX) is expected
    assert is_of(None, BOX) is False


def test_a_person_is_as_large_as_shoulders_or_torso():
    square = square_of(BOX)
    person = Person(0, square, BOX, BODY)
    assert person.size_px == pytest.approx(60)
    hidden = BODY.copy()
    hidden[23, 2] = 0.1
    assert Person(0, square, BOX, hidden).size_px == pytest.approx(40)


def test_what_moves_is_counted_in_sizes_of_the_person():
    people = people_of([photo(picture(100, 102), BOX)], Spot())
    same = score(people, [picture(100, 102)], Spot())
    assert same == {'people': 1, 'body_shift': 0.0, 'face_shift': 0.0, 'lost': 0.0}
    moved = score(people, [picture(103, 106)], Spot())
    assert moved['body_shift'] == pytest.approx(5 / 60)
    assert moved['face_shift'] == pytest.approx(5 / 60)


def test_who_is_not_found_where_he_was_is_lost():
    people = people_of([photo(picture(100, 102), BOX)] * 2, Spot())
    elsewhere, none = picture(200, 102), np.zeros((300, 300, 3), np.uint8)
    assert score(people, [elsewhere, picture(100, 102)], Spot())['lost'] == 0.5
    assert score(people, [none, none], Spot()) == {
        'people': 2,
        'body_shift': None,
        'face_shift': None,
        'lost': 1.0,
    }


def test_faces_without_a_pose_of_their_own_are_no_people():
    small = np.array([95, 97, 105, 107], np.float32)
    others = np.array([200, 90, 220, 114], np.float32)
    photos = [photo(picture(100, 102), BOX, small, others)]
    assert [p.box_xyxy_px.tolist() for p in people_of(photos, Spot())] == [
        (BOX - np.tile(square_of(BOX)[:2], 2)).tolist()
    ]
    with pytest.raises(MediaError, match='no pose for 2 faces of 1 photos'):
        people_of([photo(picture(100, 102), small, others)], Spot())


def test_without_the_model_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mediapipe', None)
    with pytest.raises(ModelError, match=r"pip install 'ffs_anonymizer\[utility\]'"):
        MediaPipePose()
    later = types.ModuleType('mediapipe')
    later.__version__ = '0.10.35'
    monkeypatch.setitem(sys.modules, 'mediapipe', later)
    with pytest.raises(ModelError, match='0.10.35, whose wheel has no pose model'):
        MediaPipePose()


def test_the_astronaut_is_found_again():
    mediapipe = pytest.importorskip('mediapipe')
    if not hasattr(mediapipe, 'solutions'):
        pytest.skip(f'MediaPipe {mediapipe.__version__} carries no pose model')
    image = np.ascontiguousarray(pytest.importorskip('skimage.data').astronaut()[:, :, ::-1])
    face = np.array([180, 70, 270, 190], np.float32)
    judge = MediaPipePose()
    people = people_of([photo(image, face)], judge)
    assert score(people, [image], judge)['body_shift'] == 0.0
    covered = image.copy()
    covered[60:200, 170:280] = 0
    values = score(people, [covered], judge)
    assert values['lost'] == 1.0 or values['body_shift'] > 0.01
    judge.close()
