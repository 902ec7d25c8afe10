"""How good anonymized faces are: photos through the product's recipe, judged from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.datasets.packing import list_faces
from ffs_anonymizer.datasets.photos import Photo, read_photo
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.evaluation import looks, utility
from ffs_anonymizer.evaluation.judges import (
    FaceDetector,
    LandmarkFinder,
    Recognizer,
    SAME_PERSON,
)
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.composite import cover, with_feather
from ffs_anonymizer.painting.crops import cut_square, resize_square
from ffs_anonymizer.painting.job import FEATHERS
from ffs_anonymizer.painting.methods import GENERATE
from ffs_anonymizer.regions.boxes import iou
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
from numpy.typing import NDArray

ORIGINAL = 'original'
SAME_FACE_IOU = 0.5
SHEET_PX = 128
SHEET_FACES = 16


@dataclass(frozen=True)
class Judges:
    """
    Hold who judges; without one, its numbers are None.

    :param detector: says whether there still is a face.
    :param landmarks: says where eyes, nose and mouth are.
    :param recognizer: says whether two faces are one person's; needs landmarks.
    :param pose: says where the keypoints of bodies are.
    """

    detector: FaceDetector
    landmarks: LandmarkFinder | None = None
    recognizer: Recognizer | None = None
    pose: utility.PoseFinder | None = None


@dataclass(frozen=True)
class JudgedFaces:
    """
    Hold what the judges said of one set of photos, one row a face.

    :param found: (N,) bool, a face is detected where it was.
    :param points_px: (N, 5, 2), NaN where no face was found.
    :param vectors: (N, D), NaN where there is no recognizer.
    :param seams: (N,) mean step of brightness across the border of the region.
    :param looks: sharpness and skin.
    """

    found: NDArray[np.bool_]
    points_px: NDArray[np.float64]
    vectors: NDArray[np.float64]
    seams: NDArray[np.float64]
    looks: looks.Looks


def load_photos(folder: Path, boxes: Path | None, detector: FaceDetector) -> list[Photo]:
    """
    Read photos and their faces.

    :param folder: of photos, or one photo.
    :param boxes: a CSV, a folder of .txt files or one .txt file; None detects.
    :param detector: finds the faces where no boxes are given.
    :raises MediaError: there is no photo that can be read, or no face in any.
    """
    single = folder if folder.is_file() else None
    if single is not None and boxes is not None and boxes.is_file() and boxes.suffix != '.csv':
        boxes = boxes.parent
    faces = list_faces(folder.parent if single else folder, boxes)
    by_path: dict[Path, list[NDArray[np.float32]]] = {}
    for face in faces:
        if single is None or face.path.name == single.name:
            known = by_path.setdefault(face.path, [])
            if face.box_xyxy_px is not None and len(face.box_xyxy_px) == 4:
                known.append(face.box_xyxy_px)
    photos, unreadable = [], []
    for path, known in by_path.items():
        try:
            image_bgr = read_photo(path)
        except MediaError:
            unreadable.append(path.name)
            continue
        found = np.array(known, np.float32).reshape(-1, 4)
        if boxes is None:
            found = detector.boxes(image_bgr)
        if len(found):
            photos.append(Photo(path, image_bgr, found, np.empty((0, 4), np.float32)))
    if not photos:
        raise MediaError(
            f'{folder}: got no face in {len(by_path)} photos ({len(unreadable)} unreadable), '
            'expected some; give photos with faces, or --boxes'
        )
    return photos


def anonymize(
    photos: Sequence[Photo], settings: Settings
) -> tuple[list[NDArray[np.uint8]], float | None]:
    """
    Return the photos as the product hands them out.

    With `generator.pose` faces get the points that the product's own detector finds, as they do
    at run time; where it finds none, the mean ones.

    :param photos: with their faces.
    :param settings: the method above all.
    :returns: the photos, and the share of faces with points of their own; None without pose.
    """
    with Networks(settings) as networks:
        recipe = Recipe(networks, settings)
        results: list[NDArray[np.uint8]] = []
        posed: list[bool] = []
        for photo in photos:
            frame = ArrayFrame(photo.image_bgr)
            seen = recipe.detect(frame) if settings.generator.pose else Detections.empty()
            found = with_points(photo.boxes_xyxy_px, seen)
            posed += [bool(np.isfinite(points).all()) for points in found.points_px]
            recipe.anonymize(frame, Stream((photo.path.name,)), detections=found)
            results.append(frame.image_bgr)
        return results, float(np.mean(posed)) if settings.generator.pose else None


def with_points(boxes_xyxy_px: NDArray[np.float32], seen: Detections) -> Detections:
    """
    Return known faces with the points of those that a detector found in their places.

    :param boxes_xyxy_px: (N, 4) the faces.
    :param seen: what it found.
    """
    faces = seen.take(seen.classes == FACE)
    points = np.full((len(boxes_xyxy_px), *seen.points_px.shape[1:]), np.nan, np.float32)
    if len(faces):
        overlaps = iou(boxes_xyxy_px, faces.xyxy_px)
        there = overlaps.max(1) >= SAME_FACE_IOU
        points[there] = faces.points_px[overlaps.argmax(1)[there]]
    ones = np.ones(len(boxes_xyxy_px), np.float32)
    return Detections.of(boxes_xyxy_px, ones, FACE, points)


def judge(
    photos: Sequence[Photo],
    images: Iterable[NDArray[np.uint8]],
    judges: Judges,
    region_scale: float,
    feather: float,
    fallback_points: NDArray[np.float64] | None = None,
) -> JudgedFaces:
    """
    Ask the judges about each face of a set of photos.

    :param photos: where the faces are.
    :param images: the photos' pixels, original or anonymized.
    :param region_scale: side of the region over the side of the box.
    :param feather: width of the soft edge over the region's longer side.
    :param fallback_points: (N, 5, 2), where to align faces in which no landmarks are found any
        more, as somebody would who knows where the face was.
    """
    found, points, vectors, seams, seen_looks = [], [], [], [], []
    for number, (photo, image) in enumerate(zip(photos, images, strict=True)):
        there = judges.detector.boxes(image)
        seen_looks.append(looks.look_at(image, photo.boxes_xyxy_px, number))
        for box in photo.boxes_xyxy_px:
            ious = iou(box[None], there)
            found.append(bool((ious >= SAME_FACE_IOU).any()))
            seen = None if judges.landmarks is None else judges.landmarks.points(image, box)
            points.append(np.full((5, 2), np.nan) if seen is None else seen)
            at = seen
            if at is None and fallback_points is not None:
                at = fallback_points[len(points) - 1]
            vector = np.full(1, np.nan)
            if judges.recognizer is not None and at is not None and np.isfinite(at).all():
                vector = judges.recognizer.embed(image, at)
            vectors.append(vector)
            seams.append(seam(image, box, region_scale, feather))
    width = max(len(v) for v in vectors)
    return JudgedFaces(
        np.array(found, np.bool_),
        np.array(points, np.float64),
        np.array([v if len(v) == width else np.full(width, np.nan) for v in vectors]),
        np.array(seams, np.float64),
        looks.joined(seen_looks),
    )


def seam(
    image_bgr: NDArray[np.uint8],
    box_xyxy_px: NDArray[np.float32],
    region_scale: float,
    feather: float,
) -> float:
    """
    Return the mean step of brightness across the borders of a region and of its soft edge.

    :param image_bgr: (H, W, 3) uint8.
    :param box_xyxy_px: (4,) the face.
    :param region_scale: side of the region over the side of the box.
    :param feather: width of the soft edge over the region's longer side.
    """
    height, width = image_bgr.shape[:2]
    centre, half = (box_xyxy_px[:2] + box_xyxy_px[2:]) / 2, box_xyxy_px[2:] - box_xyxy_px[:2]
    grown = np.concatenate([centre - half * region_scale / 2, centre + half * region_scale / 2])
    rect = cover(grown[None].astype(np.float32), size_wh=(width, height))[0]
    grey = image_bgr.astype(np.float64).mean(2)
    steps: list[NDArray[np.float64]] = []
    for x0, y0, x1, y1 in (rect, with_feather(rect, feather, size_wh=(width, height))):
        rows, columns = slice(max(y0, 0), y1), slice(max(x0, 0), x1)
        upright = [x for x in (x0, x1) if 0 < x < width]
        level = [y for y in (y0, y1) if 0 < y < height]
        steps += [np.abs(grey[rows, x] - grey[rows, x - 1]) for x in upright]
        steps += [np.abs(grey[y, columns] - grey[y - 1, columns]) for y in level]
    return float(np.concatenate(steps).mean()) if steps else 0.0


def score(original: JudgedFaces, other: JudgedFaces) -> dict[str, float | None]:
    """
    Return the metrics of one method.

    :param original: what the judges said of the originals.
    :param other: what they said of the anonymized photos.
    """
    n = len(original.found)
    values: dict[str, float | None] = {'faces': n, 'retention': float(other.found.mean())}
    same = np.isfinite(original.vectors).all(1) & np.isfinite(other.vectors).all(1)
    values.update(identity=None, identity_cosine=None, linkage_top1=None, linkage_chance=1.0 / n)
    values.update({'fid_recognizer': None, 'kid_recognizer': None})
    if same.any():
        ours, theirs = original.vectors[same], other.vectors[same]
        cosines = theirs @ ours.T
        own = np.diag(cosines)
        values['identity'] = float((own > SAME_PERSON).mean())
        values['identity_cosine'] = float(own.mean())
        values['linkage_top1'] = float((cosines.argmax(1) == np.arange(len(own))).mean())
        values['linkage_chance'] = 1.0 / len(own)
        if len(own) > 2:
            values['fid_recognizer'] = frechet_distance(ours, theirs)
            values['kid_recognizer'] = kernel_distance(ours, theirs)
    both = np.isfinite(original.points_px) & np.isfinite(other.points_px)
    placed = both.all((1, 2))
    values['landmarks'] = None
    if placed.any():
        was, now = original.points_px[placed], other.points_px[placed]
        eyes = np.linalg.norm(was[:, 0] - was[:, 1], axis=1)
        errors = np.linalg.norm(was - now, axis=2).mean(1) / np.maximum(eyes, 1e-9)
        values['landmarks'] = float(errors.mean())
    values['seam'] = float(other.seams.mean() / max(original.seams.mean(), 1e-9))
    values['sameness'] = looks.sameness(other.vectors, other.looks.photo)
    values.update(looks.sharpness(original.looks, other.looks))
    values.update(looks.skin(original.looks, other.looks))
    values.update(looks.pose(original.points_px, other.points_px))
    return values


def frechet_distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """
    Return the Fréchet distance of two clouds of vectors, each taken for a normal distribution.

    :param ours: (N, D).
    :param theirs: (M, D).
    """
    shift = ours.mean(0) - theirs.mean(0)
    a, b = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    values, axes = np.linalg.eigh(a)
    root = (axes * np.sqrt(np.clip(values, 0, None))) @ axes.T
    inner = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * inner)


def kernel_distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """
    Return the unbiased squared maximum mean discrepancy under the cubic kernel of KID.

    :param ours: (N, D), unit vectors; scaled to a mean square of 1 as KID expects of features.
    :param theirs: (N, D).
    """
    a, b = ours * np.sqrt(ours.shape[1]), theirs * np.sqrt(theirs.shape[1])

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3, np.float64)

    n, m = len(a), len(b)
    within_a, within_b = kernel(a, a), kernel(b, b)
    return float(
        (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
        + (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
        - 2 * kernel(a, b).mean()
    )


def evaluate(
    photos: Sequence[Photo],
    settings_by_method: Mapping[str, Settings],
    judges: Judges,
    *,
    others: Mapping[str, Sequence[NDArray[np.uint8]]] | None = None,
    sheet: Path | None = None,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> dict[str, dict[str, Any]]:
    """
    Return the metrics of each method, the untouched originals first.

    :param settings_by_method: method to the settings of the recipe.
    :param others: name to photos that somebody else anonymized, in the order of photos.
    :param sheet: where to write a contact sheet: a column a face, a row a method.
    :param progress: wraps the names, for a progress bar.
    """
    usual = next(iter(settings_by_method.values()), Settings())
    border = (usual.face.region_scale, usual.feather * FEATHERS[GENERATE])
    untouched = [photo.image_bgr for photo in photos]
    original = judge(photos, untouched, judges, *border)
    results: dict[str, dict[str, Any]] = {ORIGINAL: {**score(original, original), 'posed': None}}
    people = [] if judges.pose is None else utility.people_of(photos, judges.pose)
    if judges.pose is not None:
        results[ORIGINAL].update(utility.score(people, untouched, judges.pose))
    rows = [faces_of(photos, untouched)]
    others = others or {}
    for name in progress([*settings_by_method, *others]):
        posed = None
        if name in settings_by_method:
            images, posed = anonymize(photos, settings_by_method[name])
        else:
            images = list(others[name])
        judged = judge(photos, images, judges, *border, fallback_points=original.points_px)
        results[name] = {**score(original, judged), 'posed': posed}
        if judges.pose is not None:
            results[name].update(utility.score(people, images, judges.pose))
        rows.append(faces_of(photos, images))
    if sheet is not None:
        write_sheet(sheet, rows)
    return results


def faces_of(
    photos: Sequence[Photo], images: Sequence[NDArray[np.uint8]], count: int = SHEET_FACES
) -> NDArray[np.uint8]:
    """
    Return the first faces of photos, (N, SHEET_PX, SHEET_PX, 3).

    :param photos: where the faces are.
    :param images: the photos' pixels.
    :param count: how many at most.
    """
    faces: list[NDArray[np.uint8]] = []
    for photo, image in zip(photos, images, strict=True):
        for box in photo.boxes_xyxy_px[: count - len(faces)]:
            side = max(int(np.ceil(float((box[2:] - box[:2]).max()) * 1.8)), 1)
            corner = np.floor((box[:2] + box[2:] - side) / 2).astype(np.int32)
            faces.append(resize_square(cut_square(image, np.append(corner, side)), SHEET_PX))
        if len(faces) == count:
            break
    return np.stack(faces)


def write_sheet(path: Path, rows: Sequence[NDArray[np.uint8]]) -> None:
    """
    Write rows of faces as one image.

    :param rows: each (N, SHEET_PX, SHEET_PX, 3).
    """
    save_tiles(path, np.concatenate(rows), columns=len(rows[0]))


COLUMNS = (
    'retention',
    'identity',
    'linkage_top1',
    'linkage_chance',
    'sameness',
    'sharpness',
    'skin',
    'skin_dark',
    'skin_light',
    'yaw',
    'roll',
    'posed',
    'landmarks',
    'seam',
    'fid_recognizer',
    'kid_recognizer',
    'body_shift',
    'face_shift',
    'lost',
)


def to_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """
    Return the table of results in Markdown.

    :param results: what evaluate() returned.
    """
    lines = [f'| method | {" | ".join(COLUMNS)} |', '|---' * (len(COLUMNS) + 1) + '|']
    for name, values in results.items():
        cells = ['-' if values.get(c) is None else f'{values[c]:.3f}' for c in COLUMNS]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'
