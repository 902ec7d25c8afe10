"""How steady anonymized faces are from frame to frame: films through the product's recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.evaluation.faces import Judges, ORIGINAL
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.frames.video import Shot, VideoSource
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.composite import cover
from ffs_anonymizer.regions.boxes import iou
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
from numpy.typing import NDArray

MOST_FRAMES = 300
SAME_TRACK_IOU = 0.3
LEAST_FACES = 5
FRAME_NS = 33_000_000
COLUMNS = ('frames', 'faces', 'change', 'flicker', 'steadiness')


@dataclass(frozen=True)
class Film:
    """
    Hold the first frames of a film and the faces in them.

    :param path: where it came from.
    :param frames_bgr: (H, W, 3) uint8 each.
    :param boxes_xyxy_px: (N, 4) float32 for each frame.
    :param tracks: (N,) int64 for each frame: whose face each box shows.
    """

    path: Path
    frames_bgr: tuple[NDArray[np.uint8], ...]
    boxes_xyxy_px: tuple[NDArray[np.float32], ...]
    tracks: tuple[NDArray[np.int64], ...]


def load_film(path: Path, judges: Judges, most_frames: int = MOST_FRAMES) -> Film:
    """
    Read a film and find the faces in it.

    :param path: the file.
    :param judges: their detector finds the faces.
    :param most_frames: how many at most.
    :raises MediaError: it cannot be read, or shows no face twice.
    """
    source = VideoSource(path)
    frames = []
    try:
        for shot in source:
            if isinstance(shot, Shot):
                frames.append(shot.decode().image_bgr)
            if len(frames) == most_frames:
                break
    finally:
        source.close()
    boxes = [judges.detector.boxes(frame) for frame in frames]
    tracks = follow(boxes)
    numbers = np.concatenate([np.empty(0, np.int64), *tracks])
    if len(numbers) == len(np.unique(numbers)):
        raise MediaError(f'{path}: got no face that is seen twice in {len(frames)} frames')
    return Film(path, tuple(frames), tuple(boxes), tuple(tracks))


def follow(boxes_xyxy_px: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int64]]:
    """
    Return whose face each box shows: the nearest of the frame before, or somebody new.

    :param boxes_xyxy_px: (N, 4) for each frame.
    """
    tracks: list[NDArray[np.int64]] = []
    before, ids, count = np.empty((0, 4), np.float32), np.empty(0, np.int64), 0
    for boxes in boxes_xyxy_px:
        now = np.full(len(boxes), -1, np.int64)
        if len(boxes) and len(before):
            overlaps = iou(boxes, before)
            while overlaps.max() > SAME_TRACK_IOU:
                i, j = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
                now[i] = ids[j]
                overlaps[i, :] = overlaps[:, j] = 0
        new = now < 0
        now[new] = count + np.arange(new.sum())
        count += int(new.sum())
        tracks.append(now)
        before, ids = boxes, now
    return tracks


def change(film: Film, frames_bgr: Sequence[NDArray[np.uint8]], region_scale: float) -> float:
    """
    Return how much regions change from frame to frame, in levels of 255.

    :param film: where the faces are.
    :param frames_bgr: its frames, original or anonymized.
    :param region_scale: side of a region over the side of its box.
    """
    changes = []
    for i in range(1, len(film.frames_bgr)):
        boxes, known = film.boxes_xyxy_px[i], np.isin(film.tracks[i], film.tracks[i - 1])
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        grown = np.concatenate([centre - half * region_scale, centre + half * region_scale], 1)
        height, width = frames_bgr[i].shape[:2]
        for x0, y0, x1, y1 in cover(grown[known], size_wh=(width, height)):
            part = (slice(y0, y1), slice(x0, x1))
            now, before = frames_bgr[i][part], frames_bgr[i - 1][part]
            changes.append(float(np.abs(now.astype(np.int16) - before).mean()))
    return float(np.mean(changes)) if changes else 0.0


def steadiness(
    film: Film, frames_bgr: Sequence[NDArray[np.uint8]], judges: Judges
) -> float | None:
    """
    Return the mean cosine of faces with the mean of their track, to a recognizer.

    :param film: where the faces are; they are aligned by the landmarks of its own frames.
    :param frames_bgr: its frames, original or anonymized.
    :param judges: landmarks and recognizer.
    :returns: None where a judge is missing or no track is long enough.
    """
    if judges.landmarks is None or judges.recognizer is None:
        return None
    vectors: dict[int, list[NDArray[np.float64]]] = {}
    for original, frame, boxes, tracks in zip(
        film.frames_bgr, frames_bgr, film.boxes_xyxy_px, film.tracks, strict=True
    ):
        for box, track in zip(boxes, tracks.tolist(), strict=True):
            points = judges.landmarks.points(original, box)
            if points is not None:
                vectors.setdefault(track, []).append(judges.recognizer.embed(frame, points))
    cosines = []
    for faces in vectors.values():
        if len(faces) >= LEAST_FACES:
            rows = np.stack(faces)
            mean = rows.mean(0)
            cosines.append(float((rows @ (mean / np.linalg.norm(mean))).mean()))
    return float(np.mean(cosines)) if cosines else None


def anonymize(film: Film, settings: Settings) -> list[NDArray[np.uint8]]:
    """
    Return the frames as the product hands them out, one after the other.

    :param film: its faces are found by the recipe itself.
    :param settings: the method above all.
    """
    with Networks(settings) as networks:
        recipe, stream, frames = Recipe(networks, settings), Stream((film.path.name,)), []
        for i, image_bgr in enumerate(film.frames_bgr):
            frame = ArrayFrame(image_bgr)
            _, stream = recipe.anonymize(frame, stream, stamp_ns=i * FRAME_NS)
            frames.append(frame.image_bgr)
        return frames


def evaluate(
    films: Sequence[Film],
    settings_by_method: Mapping[str, Settings],
    judges: Judges,
    *,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> dict[str, dict[str, float | None]]:
    """
    Return the metrics of each method as means over films, the originals first.

    :param films: what to judge on.
    :param settings_by_method: method to the settings of the recipe.
    :param judges: who judges.
    :param progress: wraps the names, for a progress bar.
    """
    usual = next(iter(settings_by_method.values()), Settings())
    results: dict[str, dict[str, float | None]] = {}
    still: list[float] = []
    for name in progress([ORIGINAL, *settings_by_method]):
        changes, steady = [], []
        for film in films:
            shown = (
                list(film.frames_bgr)
                if name == ORIGINAL
                else anonymize(film, settings_by_method[name])
            )
            changes.append(change(film, shown, usual.face.region_scale))
            cosine = steadiness(film, shown, judges)
            steady += [] if cosine is None else [cosine]
        still = still or changes
        results[name] = {
            'frames': float(sum(len(film.frames_bgr) for film in films)),
            'faces': float(sum(len(boxes) for film in films for boxes in film.boxes_xyxy_px)),
            'change': float(np.mean(changes)),
            'flicker': float(np.mean(np.array(changes) - still)),
            'steadiness': float(np.mean(steady)) if steady else None,
        }
    return results


def to_markdown(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """
    Return the table of results in Markdown.

    :param results: what evaluate() returned.
    """
    lines = [f'| method | {" | ".join(COLUMNS)} |', '|---' * (len(COLUMNS) + 1) + '|']
    for name, values in results.items():
        cells = ['-' if (value := values[c]) is None else f'{value:.4g}' for c in COLUMNS]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'
