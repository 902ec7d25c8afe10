"""What anonymized pictures are still good for: how far the keypoints of people's bodies move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ffs_anonymizer.datasets.photos import Photo
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.painting.crops import cut_square
import numpy as np
from numpy.typing import NDArray

# BlazePose: the first 11 of 33 keypoints are of the face.
KEYPOINTS, FACE_KEYPOINTS = 33, 11
NOSE, LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 0, 11, 12, 23, 24
LEAST_VISIBILITY = 0.5
# Around a face lies the person: how large the square is over the longer side of the face's box,
# and where in its height the middle of the face comes to lie.
PERSON_SCALE, FACE_AT = 9.0, 0.22
# A nose that is further from the face's box than its sides times this is somebody else's.
NEAR = 0.5
LEAST_FACE_PX = 16


class PoseFinder(Protocol):
    """Find the keypoints of the one person that a picture shows."""

    name: str

    def keypoints(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """
        Return x, y in pixels and visibility in [0, 1] of each keypoint, None without a person.

        :param image_bgr: (H, W, 3) uint8.
        :returns: (33, 3) in BlazePose's order.
        """

    def close(self) -> None:
        """Give the model back."""


class MediaPipePose:
    """
    Find poses with the model in MediaPipe's wheel, which needs no download.

    Wheels up to 0.10.21 (Python 3.10 to 3.12) carry it; later ones carry no model.

    :raises ModelError: MediaPipe is missing, or carries no model.
    """

    def __init__(self) -> None:
        """Load the model."""
        fix = "expected MediaPipe with its pose model: pip install 'ffs_anonymizer[utility]' "
        fix += '(Python 3.10 to 3.12, NumPy 1; best in an environment of its own)'
        try:
            import mediapipe
        except ImportError as error:
            raise ModelError(f'--utility: got no MediaPipe ({error}), {fix}') from error
        solutions = getattr(mediapipe, 'solutions', None)
        if solutions is None:
            raise ModelError(
                f'--utility: got MediaPipe {mediapipe.__version__}, whose wheel has no pose '
                f'model, {fix}'
            )
        self.name = f'MediaPipe {mediapipe.__version__}'
        self.pose: Any = solutions.pose.Pose(static_image_mode=True, model_complexity=1)

    def keypoints(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Return the keypoints of the most prominent person, (33, 3)."""
        found = self.pose.process(np.ascontiguousarray(image_bgr[:, :, ::-1])).pose_landmarks
        if found is None:
            return None
        height, width = image_bgr.shape[:2]
        rows = [(p.x * width, p.y * height, p.visibility) for p in found.landmark]
        return np.array(rows, np.float64)

    def close(self) -> None:
        """Give the model back."""
        self.pose.close()


@dataclass(frozen=True)
class Person:
    """
    Hold a person whose pose is found in the original.

    :param photo: its number.
    :param square_xys_px: (3,) left, top and side of where the judge looks.
    :param box_xyxy_px: (4,) the face, in pixels of the square.
    :param keypoints: (33, 3) in pixels of the square.
    """

    photo: int
    square_xys_px: NDArray[np.int32]
    box_xyxy_px: NDArray[np.float32]
    keypoints: NDArray[np.float64]

    @property
    def size_px(self) -> float:
        """Return the width of the shoulders, or the length of the torso where that is more."""
        at = self.keypoints[:, :2]
        width = np.linalg.norm(at[LEFT_SHOULDER] - at[RIGHT_SHOULDER])
        if self.keypoints[[LEFT_HIP, RIGHT_HIP], 2].min() < LEAST_VISIBILITY:
            return float(width)
        shoulders = at[[LEFT_SHOULDER, RIGHT_SHOULDER]].mean(0)
        hips = at[[LEFT_HIP, RIGHT_HIP]].mean(0)
        return float(max(width, np.linalg.norm(shoulders - hips)))


def square_of(box_xyxy_px: NDArray[np.float32]) -> NDArray[np.int32]:
    """
    Return the square in which a person with this face is looked for, left, top and side.

    :param box_xyxy_px: (4,) the face.
    """
    side = max(round(float((box_xyxy_px[2:] - box_xyxy_px[:2]).max()) * PERSON_SCALE), 2)
    middle = (box_xyxy_px[:2] + box_xyxy_px[2:]) / 2
    left_top = np.round(middle - np.array([0.5, FACE_AT]) * side)
    return np.array([*left_top, side], np.int32)


def is_of(keypoints: NDArray[np.float64] | None, box_xyxy_px: NDArray[np.float32]) -> bool:
    """
    Tell whether a pose is that of the person with this face.

    :param keypoints: (33, 3), None where no pose was found.
    :param box_xyxy_px: (4,) the face, in the same pixels.
    """
    if keypoints is None:
        return False
    reach = (box_xyxy_px[2:] - box_xyxy_px[:2]) * NEAR
    nose = keypoints[NOSE, :2]
    inside = (box_xyxy_px[:2] - reach <= nose) & (nose <= box_xyxy_px[2:] + reach)
    return bool(inside.all())


def people_of(photos: Sequence[Photo], judge: PoseFinder) -> list[Person]:
    """
    Return the people in photos whose shoulders and nose the judge finds.

    :param photos: with their faces.
    :param judge: who finds poses.
    :raises MediaError: there is nobody.
    """
    people = []
    faces = 0
    for number, photo in enumerate(photos):
        for box in photo.boxes_xyxy_px:
            faces += 1
            if (box[2:] - box[:2]).max() < LEAST_FACE_PX:
                continue
            square = square_of(box)
            there = box - np.tile(square[:2], 2).astype(np.float32)
            found = judge.keypoints(cut_square(photo.image_bgr, square))
            if found is None or not is_of(found, there):
                continue
            if found[[LEFT_SHOULDER, RIGHT_SHOULDER], 2].min() >= LEAST_VISIBILITY:
                people.append(Person(number, square, there, found))
    if not people:
        raise MediaError(
            f'--utility: got no pose for {faces} faces of {len(photos)} photos, expected people '
            'with their shoulders'
        )
    return people


def score(
    people: Sequence[Person], images: Sequence[NDArray[np.uint8]], judge: PoseFinder
) -> dict[str, float | None]:
    """
    Return how far keypoints move, and whose are lost.

    :param people: as they were found in the originals.
    :param images: the photos' pixels, original or anonymized.
    :param judge: who found them.
    :returns: mean shift of the visible keypoints of body and face, in sizes of the person, over
        those who are found; and the share of people who are not.
    """
    bodies, faces, lost = [], [], 0
    for person in people:
        found = judge.keypoints(cut_square(images[person.photo], person.square_xys_px))
        if found is None or not is_of(found, person.box_xyxy_px):
            lost += 1
            continue
        moved = np.linalg.norm(found[:, :2] - person.keypoints[:, :2], axis=1)
        moved /= max(person.size_px, 1e-9)
        seen = person.keypoints[:, 2] >= LEAST_VISIBILITY
        on_face = np.arange(KEYPOINTS) < FACE_KEYPOINTS
        bodies.append(float(moved[seen & ~on_face].mean()))
        faces += [float(moved[seen & on_face].mean())] if (seen & on_face).any() else []
    return {
        'people': len(people),
        'body_shift': float(np.mean(bodies)) if bodies else None,
        'face_shift': float(np.mean(faces)) if faces else None,
        'lost': lost / len(people),
    }
