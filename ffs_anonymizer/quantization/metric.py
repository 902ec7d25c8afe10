"""How good a quantized network is: beside its FP32 self, or on photos with boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
from ffs_anonymizer.backend import Backend, open_model, Tensors, TensorSpec
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.backend.ort import open_session, specs_of
from ffs_anonymizer.datasets.photos import Photo
from ffs_anonymizer.models.manifest import companion_of
from ffs_anonymizer.painting.chooser import Chooser
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.painting.inputs import feeds_of, usual_points
from ffs_anonymizer.quantization.calibration import detect, THRESHOLD
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.regions.detector import Network
import numpy as np
from numpy.typing import NDArray
import onnx

GENERATOR_METRICS = ('ssim', 'error')
DETECTOR_METRICS = ('ap',)

_BATCH = 8
_MATCH_IOU = 0.5
# Of the SSIM of Wang et al. 2004: the window, and what keeps flat patches from dividing by zero.
_SIGMA_PX = 1.5
_C1, _C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2


class Candidate(Backend):
    """
    Run a network that is not a file yet, on the CPU.

    :param optimized: False runs the nodes one by one as they stand. File B needs it: where ONNX
        Runtime fuses it, the product of two FP16 scales is kept in FP16 and underflows.
    """

    name = 'onnxruntime'
    device = Device('cpu')

    def __init__(self, model: onnx.ModelProto, *, optimized: bool = True) -> None:
        self.path = Path(model.graph.name or 'network')
        self._session = open_session(model, optimized=optimized)
        self.inputs, self.outputs = specs_of(self._session)

    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the session."""
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))


class Quality(ABC):
    """
    Put a number on a network, higher is better.

    :param name: of the metric.
    :param truth: what it compares with.
    """

    name: str
    truth: str = 'the FP32 network'

    @abstractmethod
    def score(self, model: Backend) -> float:
        """Return the number."""


class GeneratorQuality(Quality):
    """
    Compare what a generator paints into holes with what the FP32 network paints.

    `ssim` is the mean structural similarity of both paintings over the pixels of the hole;
    `error` is 1 - RMS of the difference / RMS contrast of the FP32 painting, in the hole. Both
    are 1 for the FP32 network itself.

    :param reference: the FP32 network.
    :param crops: what is painted.
    :param metric: ssim or error.
    """

    def __init__(
        self,
        reference: Backend,
        crops: Crops,
        metric: str,
        latents: NDArray[np.float32] | None = None,
    ) -> None:
        self.name = metric
        self.crops = crops
        self.latents = latents
        self.wanted = self.paint(reference)

    def score(self, model: Backend) -> float:
        """Return the mean over all crops."""
        painted = self.paint(model)
        if not np.isfinite(painted).all():
            return 0.0
        measure = structural_similarity if self.name == 'ssim' else agreement
        holes = self.crops.mask[:, 0] == 0
        scores = [
            measure(got, wanted, hole)
            for got, wanted, hole in zip(painted, self.wanted, holes, strict=True)
        ]
        return float(np.mean(scores))

    def paint(self, model: Backend) -> NDArray[np.float32]:
        """Return what a network paints, (N, 3, S, S)."""
        feeds = crop_feeds(self.crops, model.inputs, self.latents)
        return np.concatenate([model.infer(feed)['inpainted'] for feed in feeds])


class DetectorQuality(Quality):
    """
    Score a detector by its average precision at an overlap of 0.5 on photos with boxes.

    :param photos: with boxes; detections on ignored boxes do not count either way.
    :param truth: where the boxes are from.
    """

    name = 'ap'

    def __init__(self, photos: Sequence[Photo], truth: str) -> None:
        self.photos = photos
        self.truth = truth
        self.objects = sum(len(photo.boxes_xyxy_px) for photo in photos)

    def score(self, model: Backend) -> float:
        """Return the average precision."""
        return average_precision(self.found(model), self.photos)

    def found(self, model: Backend) -> list[Detections]:
        """Return what a network finds in each photo."""
        network = Network(model, FACE)
        return [detect(network, photo) for photo in self.photos]


class Recorder(Backend):
    """Keep what a network is fed with, and what it says, as it runs."""

    def __init__(self, model: Backend) -> None:
        self.model = model
        self.name, self.device, self.path = model.name, model.device, model.path
        self.inputs, self.outputs = model.inputs, model.outputs
        self.feeds: list[dict[str, NDArray[np.float32]]] = []

    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the network."""
        self.feeds.append(dict(feeds))
        return self.model.infer(feeds)


def photo_feeds(model: Backend, photos: Sequence[Photo]) -> Iterator[Tensors]:
    """
    Yield what a detector is fed with for each photo.

    :param photos: their boxes do not matter.
    """
    recorder = Recorder(model)
    network = Network(recorder, FACE)
    for photo in photos:
        detect(network, photo)
        yield recorder.feeds.pop()


def crop_feeds(
    crops: Crops, inputs: Sequence[TensorSpec], latents: NDArray[np.float32] | None
) -> Iterator[Tensors]:
    """
    Yield crops in batches, as the generator is fed.

    :param crops: what it sees.
    :param inputs: what it takes.
    :param latents: (N, Z), the faces that were chosen for the crops; None: standard normal ones.
    """
    whole = feeds_of(inputs, crops, latents=latents)
    for start in range(0, len(crops), _BATCH):
        yield {name: value[start : start + _BATCH] for name, value in whole.items()}


def chosen_latents(
    generator_path: Path, crops_at: Callable[[int, float], Crops]
) -> NDArray[np.float32] | None:
    """
    Return the faces that a generator's chooser picks for crops, (N, Z), None where it has none.

    :param generator_path: the ONNX file.
    :param crops_at: cuts the crops at a size and a crop_scale, those of the chooser.
    :raises ModelError: the chooser's file is missing or unfit.
    """
    path = companion_of(generator_path, 'chooser')
    if path is None:
        return None
    model = open_model(path, device='cpu')
    try:
        chooser = Chooser(model)
        crops = crops_at(chooser.size_px, chooser.crop_scale)
        seeds = np.arange(len(crops), dtype=np.uint64)
        points = usual_points(len(crops), chooser.size_px, chooser.crop_scale)
        return chooser.choose(crops, seeds=seeds, points_px=points)
    finally:
        model.close()


def structural_similarity(
    got: NDArray[np.float32], wanted: NDArray[np.float32], hole: NDArray[np.bool_]
) -> float:
    """
    Return the mean SSIM over a hole (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    :param got: (3, S, S) in [-1, 1].
    :param wanted: (3, S, S) in [-1, 1].
    :param hole: (S, S), the pixels that count.
    """
    if not hole.any():
        return 1.0
    x, y = (np.ascontiguousarray(v.transpose(1, 2, 0), np.float32) for v in (got, wanted))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    shared = _blurred(x * y) - mean_x * mean_y
    similar = ((2 * mean_x * mean_y + _C1) * (2 * shared + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )
    return float(similar[hole].mean())


def agreement(
    got: NDArray[np.float32], wanted: NDArray[np.float32], hole: NDArray[np.bool_]
) -> float:
    """
    Return 1 - RMS difference / RMS contrast of what is wanted, over a hole, never below 0.

    :param got: (3, S, S).
    :param wanted: (3, S, S).
    :param hole: (S, S), the pixels that count.
    """
    if not hole.any():
        return 1.0
    contrast = float(wanted[:, hole].std())
    error = float(np.sqrt(np.mean((got[:, hole] - wanted[:, hole]) ** 2)))
    return max(0.0, 1.0 - error / max(contrast, 1e-6))


def average_precision(found: Sequence[Detections], photos: Sequence[Photo]) -> float:
    """
    Return the area under the curve of precision over recall, precision made falling.

    :param found: of each photo.
    :param photos: with boxes to find and boxes to ignore.
    """
    scores: list[float] = []
    right: list[bool] = []
    wanted = sum(len(photo.boxes_xyxy_px) for photo in photos)
    for detections, photo in zip(found, photos, strict=True):
        matched = _matched(detections, photo.boxes_xyxy_px)
        for box, score, hit in zip(detections.xyxy_px, detections.scores, matched, strict=True):
            if hit or not (boxes.iou(box[None], photo.ignored_xyxy_px) >= _MATCH_IOU).any():
                scores.append(float(score))
                right.append(hit)
    if not scores or not wanted:
        return 0.0
    hits = np.array(right)[np.argsort(-np.array(scores), kind='stable')]
    recall = np.cumsum(hits) / wanted
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def in_common(one: Sequence[Detections], other: Sequence[Detections]) -> dict[str, int]:
    """
    Count the objects that two networks find at the product's threshold.

    :param one: what the first finds in each photo.
    :param other: what the second finds in the same photos.
    :returns: numbers of `both`, `first` alone and `second` alone.
    """
    firsts = [_sure(found) for found in one]
    seconds = [_sure(found) for found in other]
    pairs = zip(firsts, seconds, strict=True)
    both = sum(sum(_matched(first, second.xyxy_px)) for first, second in pairs)
    return {
        'both': both,
        'first': sum(map(len, firsts)) - both,
        'second': sum(map(len, seconds)) - both,
    }


def _sure(found: Detections) -> Detections:
    return found.take(found.scores >= THRESHOLD)


def _matched(found: Detections, boxes_xyxy_px: NDArray[np.float32]) -> list[bool]:
    """Tell of each detection whether it has a box of its own; the best score chooses first."""
    free = np.ones(len(boxes_xyxy_px), bool)
    matched = [False] * len(found)
    for i in np.argsort(-found.scores, kind='stable').tolist():
        overlap = boxes.iou(found.xyxy_px[i : i + 1], boxes_xyxy_px)[0] * free
        if len(overlap) and float(overlap.max()) >= _MATCH_IOU:
            free[int(overlap.argmax())] = False
            matched[i] = True
    return matched


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image, (11, 11), _SIGMA_PX), np.float32)
