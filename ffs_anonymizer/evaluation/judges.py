"""Those who judge anonymized faces from outside: detector, finder of landmarks, recognizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.painting.crops import cut_square
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detector import detect
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

SAME_PERSON = 0.31
ALIGNED_PX = 112
# Where a recognizer of the ArcFace family expects eyes, nose and mouth corners in 112 x 112.
ALIGNED_POINTS_PX = np.array(
    [[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]], np.float64
)
LOOK_PX = 224
LOOK_SCALE = 2.0


class FaceDetector:
    """
    Find faces as the product does, or with another model of the same layouts.

    :param model: an ONNX detector; the product's default where it is empty.
    """

    def __init__(self, model: str = '') -> None:
        """Load the model."""
        from ffs_anonymizer.networks import Networks

        # Of any method but generate, which would open a generator, too; and plates are no faces.
        changes = {
            'face.method': 'blur',
            'detector.model_path': model,
            'detector.plate_model_path': 'none',
        }
        self.settings = Settings().updated(changes)
        self.networks = Networks(self.settings)
        self.detectors, _, _ = self.networks.of(self.settings)
        self.name = self.detectors[0].model.path.name

    def boxes(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the boxes of the faces of an image, (N, 4)."""
        return detect(image_bgr, self.detectors, self.settings).xyxy_px

    def close(self) -> None:
        """Give the model back."""
        self.networks.close()


class LandmarkFinder:
    """
    Find eyes, nose and mouth corners of the face in a box, with YuNet in OpenCV.

    :param model: face_detection_yunet_*.onnx.
    """

    def __init__(self, model: Path) -> None:
        """Load the model."""
        if not model.is_file():
            raise ModelError(f'{model}: got no such file, expected a YuNet model for OpenCV')
        try:
            self.finder: Any = cv2.FaceDetectorYN.create(str(model), '', (LOOK_PX, LOOK_PX), 0.5)
        except cv2.error as error:
            raise ModelError(f'{model}: OpenCV cannot load it: {error}') from error
        self.name = model.name

    def points(
        self, image_bgr: NDArray[np.uint8], box_xyxy_px: NDArray[np.float32]
    ) -> NDArray[np.float64] | None:
        """
        Return five points in pixels of the image, (5, 2), None where there is no face in the box.

        :param image_bgr: (H, W, 3) uint8.
        :param box_xyxy_px: (4,) where to look.
        """
        size_wh = box_xyxy_px[2:] - box_xyxy_px[:2]
        side = max(round(float(size_wh.max()) * LOOK_SCALE), 2)
        corner = np.round((box_xyxy_px[:2] + box_xyxy_px[2:] - side) / 2).astype(np.int32)
        patch = cut_square(image_bgr, np.append(corner, side))
        scale = LOOK_PX / side
        kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        _, found = self.finder.detect(cv2.resize(patch, (LOOK_PX, LOOK_PX), interpolation=kind))
        if found is None:
            return None
        seen = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:4]], 1)
        wanted = (box_xyxy_px - np.tile(corner, 2)) * scale
        there = boxes.iou(wanted[None], seen)[0]
        best = int(there.argmax())
        if there[best] < 0.3:
            return None
        return np.asarray(found[best, 4:14].reshape(5, 2) / scale + corner, np.float64)


class Recognizer:
    """
    Turn aligned faces into vectors whose cosine tells persons apart, with an ncnn network.

    :param param: the .param file; the .bin of the same stem lies beside it.
    """

    def __init__(self, param: Path) -> None:
        """Load the network."""
        try:
            import ncnn
        except ImportError as error:
            raise ModelError(
                "the recognizer needs ncnn: pip install 'ffs_anonymizer[train]'"
            ) from error
        weights = param.with_suffix('.bin')
        if not param.is_file() or not weights.is_file():
            raise ModelError(f'{param}: got no such file or no .bin beside it, expected both')
        self.ncnn = ncnn
        self.network = ncnn.Net()
        if self.network.load_param(str(param)) or self.network.load_model(str(weights)):
            raise ModelError(f'{param}: ncnn cannot load it')
        self.name = param.stem

    def embed(
        self, image_bgr: NDArray[np.uint8], points_px: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """
        Return the vector of a face, of length 1.

        :param image_bgr: (H, W, 3) uint8.
        :param points_px: (5, 2) eyes, nose, mouth corners.
        """
        aligned = cv2.warpAffine(
            image_bgr,
            similarity(points_px, ALIGNED_POINTS_PX),
            (ALIGNED_PX, ALIGNED_PX),
            flags=cv2.INTER_LINEAR,
        )
        rgb = np.ascontiguousarray(aligned[:, :, ::-1])
        extractor = self.network.create_extractor()
        kind = self.ncnn.Mat.PixelType.PIXEL_RGB
        extractor.input('data', self.ncnn.Mat.from_pixels(rgb, kind, ALIGNED_PX, ALIGNED_PX))
        code, out = extractor.extract('fc1')
        vector = np.array(out, np.float64).ravel()
        length = float(np.linalg.norm(vector))
        if code or not np.isfinite(length) or length == 0:
            raise ModelError(f'{self.name}: got no vector for a face')
        return vector / length


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Return the shift, turn and scale that bring points closest to others, a (2, 3) matrix.

    :param source: (N, 2).
    :param target: (N, 2).
    """
    n = len(source)
    rows = np.zeros((2 * n, 4))
    rows[0::2] = np.column_stack([source[:, 0], -source[:, 1], np.ones(n), np.zeros(n)])
    rows[1::2] = np.column_stack([source[:, 1], source[:, 0], np.zeros(n), np.ones(n)])
    a, b, x, y = np.linalg.lstsq(rows, target.ravel(), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y]])
