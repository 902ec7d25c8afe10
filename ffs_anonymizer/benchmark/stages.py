"""Each stage of the recipe and the whole of it, for frames with a known number of faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
import time
from types import SimpleNamespace

import cv2
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.datasets.photos import list_photos, read_photo
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.models.manifest import crop_scale_of, load_manifest
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
from numpy.typing import NDArray

STAGES = ('decode', 'detect', 'track', 'paint', 'paste', 'encode')
SIZES = {'480p': (640, 480), '720p': (1280, 720), '1080p': (1920, 1080), '2160p': (3840, 2160)}
USUAL = ('720p', '1080p')
ENCODINGS = ('bgr8', 'jpeg')
_FACE_WH = (0.045, 0.11)
_JPEG_QUALITY = 90


def measure(
    settings: Settings,
    *,
    sizes: Sequence[str],
    faces: Sequence[int],
    encodings: Sequence[str],
    photos: Path | None,
    rounds: int,
    limits: dict[str, float],
    macs: tuple[float, float],
    say: Callable[[str], object],
) -> list[dict[str, object]]:
    """
    Time all stages, for each size, encoding and number of faces in turns.

    The detector runs on each frame and its time counts; the faces that are replaced are given,
    on a grid, so that their number is exact.

    :param settings: of the recipe.
    :param photos: to tile frames from; None makes noise of several scales.
    :param limits: of the machine, from measure_limits().
    :param macs: of the detector for a pixel, of the generator for a face; 0 where unknown.
    :param say: told what is being measured.
    """
    networks = Networks(settings)
    recipe = Recipe(networks, settings)
    generator = settings.generator
    manifest = load_manifest(Path(generator.model_path)) if generator.model_path else None
    crop_scale = generator.crop_scale or crop_scale_of(manifest)
    rows = []
    for size in sizes:
        width, height = SIZES[size]
        picture = make_frame((width, height), photos)
        for encoding in encodings:
            say(f'stages, {size} {encoding}')
            message = make_message(picture, encoding)
            times: dict[int, list[dict[str, float]]] = {count: [] for count in faces}
            for number in range(rounds + 1):
                for count in faces:
                    boxes = grid_of_faces(count, (width, height))
                    timings = _run(recipe, message, boxes)
                    if number:
                        times[count].append(timings)
            for count, several in times.items():
                medians = {
                    stage: round(float(np.median([t.get(stage, 0.0) for t in several])), 3)
                    for stage in (*STAGES, 'total', 'processor')
                }
                least = _least_ms((width, height), count, limits, macs, settings, crop_scale)
                rows.append(_row(size, encoding, count, medians, least))
    networks.close()
    return rows


def make_frame(size_wh: tuple[int, int], photos: Path | None) -> NDArray[np.uint8]:
    """
    Return a frame: photos side by side, or noise of several scales.

    :param size_wh: of the frame.
    :param photos: a folder.
    :raises MediaError: there is no photo, or one cannot be read.
    """
    width, height = size_wh
    if photos is None:
        rng = np.random.default_rng(0)
        total = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64, 256):
            coarse = rng.normal(0, 1, (cells, cells * 16 // 9, 3)).astype(np.float32)
            total += cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC) * (20 / cells**0.3)
        return np.asarray(np.clip(total + 110, 0, 255), np.uint8)
    tiles = [read_photo(path) for path in list_photos(photos)[:16]]
    side = 4 if len(tiles) >= 16 else 2 if len(tiles) >= 4 else 1
    cell = (-(-width // side), -(-height // side))
    rows = [
        np.concatenate([cv2.resize(t, cell) for t in tiles[y * side : (y + 1) * side]], 1)
        for y in range(side)
    ]
    return np.ascontiguousarray(np.concatenate(rows)[:height, :width], np.uint8)


def grid_of_faces(count: int, size_wh: tuple[int, int]) -> Detections:
    """
    Return boxes of one size, evenly over a frame: 58 x 79 px at 720p.

    :param count: how many.
    :param size_wh: of the frame.
    """
    width, height = size_wh
    columns = max(1, int(np.ceil(np.sqrt(count * 16 / 9))))
    rows = max(1, -(-count // columns))
    face_w, face_h = _FACE_WH[0] * width, _FACE_WH[1] * height
    boxes = []
    for i in range(count):
        x = (i % columns + 0.5) * width / columns
        y = (i // columns + 0.5) * height / rows
        boxes.append((x - face_w / 2, y - face_h / 2, x + face_w / 2, y + face_h / 2))
    return Detections.of(np.array(boxes).reshape(-1, 4), np.ones(count), FACE)


def make_message(image_bgr: NDArray[np.uint8], encoding: str) -> SimpleNamespace:
    """Return what decode() takes for a sensor_msgs Image or CompressedImage."""
    height, width = image_bgr.shape[:2]
    if encoding == 'jpeg':
        options = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
        data = cv2.imencode('.jpg', image_bgr, options)[1].tobytes()
        return SimpleNamespace(format='bgr8; jpeg compressed bgr8', data=data)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding='bgr8',
        is_bigendian=0,
        step=3 * width,
        data=image_bgr.tobytes(),
    )


def _run(
    recipe: Recipe,
    message: SimpleNamespace,
    boxes: Detections,
) -> dict[str, float]:
    start, busy = time.perf_counter(), time.process_time()
    frame = decode(message)
    decoded = time.perf_counter()
    recipe.detect(frame)
    detected = time.perf_counter()
    done, _ = recipe.anonymize(frame, Stream(), stamp_ns=0, detections=boxes)
    end = time.perf_counter()
    return {
        **done.timings_ms,
        'decode': (decoded - start) * 1e3,
        'detect': (detected - decoded) * 1e3,
        'total': (end - start) * 1e3,
        'processor': (time.process_time() - busy) * 1e3,
    }


def _least_ms(
    size_wh: tuple[int, int],
    faces: int,
    limits: dict[str, float],
    macs: tuple[float, float],
    settings: Settings,
    crop_scale: float,
) -> dict[str, float]:
    """
    Return what each stage would take at the machine's limits; 0 where nothing can be said.

    Decoding must read and write a raw frame once (encoding hands out what was decoded into),
    cropping and pasting the regions (pasting reads what is there too), and the networks must do
    their products in FP32.
    """
    frame_bytes = 3.0 * size_wh[0] * size_wh[1]
    side = _FACE_WH[0] * size_wh[0] * _FACE_WH[1] * size_wh[1] * settings.face.region_scale**2
    region_bytes = 3.0 * side * faces
    copy = limits['copy_gb_s'] * 1e6
    products = limits['fp32_gops'] * 1e6
    return {
        'decode': 2 * frame_bytes / copy,
        'detect': 2 * macs[0] * size_wh[0] * size_wh[1] / products,
        'paint': region_bytes * crop_scale**2 / copy + 2 * macs[1] * faces / products,
        'paste': 3 * region_bytes / copy,
    }


def _row(
    size: str,
    encoding: str,
    faces: int,
    medians: dict[str, float],
    least: dict[str, float],
) -> dict[str, object]:
    of_limit = {
        stage: round(least[stage] / medians[stage], 4)
        for stage in STAGES
        if least.get(stage) and medians[stage] and (encoding == 'bgr8' or stage in _NETWORKS)
    }
    networks = sum(medians[stage] for stage in _NETWORKS)
    largest = max((s for s in STAGES if s not in _NETWORKS), key=lambda s: medians[s])
    return {
        'size': size,
        'encoding': encoding,
        'faces': faces,
        'ms': medians,
        'frames_per_s': round(1e3 / medians['total'], 2),
        'of_limit': of_limit,
        'networks_share': round(networks / medians['total'], 4),
        'largest_other': largest,
        'largest_other_share': round(medians[largest] / medians['total'], 4),
    }


_NETWORKS = ('detect', 'paint')
