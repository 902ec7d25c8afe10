"""How much a drawn face is sharpened, so that it goes with what surrounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
from ffs_anonymizer.painting.crops import cut_square, enclosing_squares, resize_square
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.regions.detections import Regions
import numpy as np
from numpy.typing import NDArray

# By who painted it (`who_paints`) and its id, how much the face of a track was sharpened in the
# newest frame.
Strengths = Mapping[tuple[int, int], float]
# How far the strength of a track goes from frame to frame at most.
STEP = 0.02
_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16
# How far the zero of a hole reaches once it was made smaller, blurred and made larger again, in
# pixels of the small picture, and of the large one beyond that.
_REACH = 5
_BEYOND_PX = 1
# Detail that is as good as none, as a sum of squared grey levels: what is blank decides nothing.
_LEAST_DETAIL = 20_000.0


def strengths(
    image_bgr: NDArray[np.uint8],
    regions: Regions,
    rects_xyxy_px: NDArray[np.int32],
    painters: NDArray[np.int8],
    *,
    generators: Sequence[Generator],
    before: Strengths,
) -> tuple[NDArray[np.float32], dict[tuple[int, int], float]]:
    """
    Return how much the face that each region gets is to be sharpened.

    :param image_bgr: (H, W, 3) uint8, only read, and nothing of it inside any region.
    :param regions: N regions.
    :param rects_xyxy_px: (N, 4) int32, where each region covers completely.
    :param painters: (N,) int8, of `who_paints`.
    :param generators: by their place there.
    :param before: what was returned for the frame before.
    :returns: (N,) float32 from 0 to 1, and how much each track that is drawn is sharpened now.
    """
    result, tracks = np.zeros(len(painters), np.float32), regions.track_ids.tolist()
    held: dict[tuple[int, int], float] = {}
    for place, generator in enumerate(generators):
        own = np.nonzero(painters == place)[0]
        squares = enclosing_squares(rects_xyxy_px[own], generator.crop_scale)
        wanted = needed(image_bgr, squares, holes_xyxy_px=rects_xyxy_px, size_px=generator.size_px)
        for i, strength in zip(own.tolist(), wanted.tolist(), strict=True):
            then = before.get((place, tracks[i]), strength)
            result[i] = np.clip(strength, then - STEP, then + STEP)
            if tracks[i] >= 0:
                held[place, tracks[i]] = float(result[i])
    return result, held


def needed(
    image_bgr: NDArray[np.uint8],
    squares_xys_px: NDArray[np.int32],
    *,
    holes_xyxy_px: NDArray[np.int32],
    size_px: int,
) -> NDArray[np.float32]:
    """
    Return how much the face of each crop needs to be sharpened, from what is outside of all holes.

    A crop that is larger than the generator's picture is made smaller, and the face larger again.
    The surroundings go the same way here, and what brings their detail nearest to what it was
    (least squares) is right for the face, too: noise, which no sharpening brings back, has no say.

    :param image_bgr: (H, W, 3) uint8, only read.
    :param squares_xys_px: (N, 3) int32, left, top and side of each crop.
    :param holes_xyxy_px: (M, 4) int32, all that may not be seen in this frame.
    :param size_px: S, the side of the generator's picture.
    :returns: (N,) float32 from 0 to 1, 0 where a crop is not larger than S.
    """
    strengths = np.zeros(len(squares_xys_px), np.float32)
    for i in np.nonzero(squares_xys_px[:, 2] > size_px)[0].tolist():
        strengths[i] = _needed(image_bgr, squares_xys_px[i], holes_xyxy_px, size_px)
    return strengths


def sharpened(face_bgr: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """
    Return a face with more of its own detail: an unsharp mask with binomial weights of 5 x 5.

    :param face_bgr: (S, S, 3) uint8.
    :param strength: of the detail, how much is added; 0: nothing.
    """
    if strength <= 0:
        return face_bgr
    levels = face_bgr.astype(np.float32)
    added = np.float32(strength) * _detail(levels)
    return np.asarray(np.clip(np.rint(levels + added), 0, 255).astype(np.uint8))


def _detail(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a blur takes away; the sums are exact, as they are in kernels.h."""
    blurred = cv2.sepFilter2D(
        levels, cv2.CV_32F, _BINOMIAL, _BINOMIAL, borderType=cv2.BORDER_REPLICATE
    )
    return np.asarray(levels - blurred, np.float32)


def _needed(
    image_bgr: NDArray[np.uint8],
    square_xys_px: NDArray[np.int32],
    holes_xyxy_px: NDArray[np.int32],
    size_px: int,
) -> float:
    size_wh, side = image_bgr.shape[1::-1], int(square_xys_px[2])
    known = _outside(square_xys_px, holes_xyxy_px, size_wh)
    grey = cv2.cvtColor(cut_square(image_bgr, square_xys_px), cv2.COLOR_BGR2GRAY) & known
    small = resize_square(grey, size_px).astype(np.float32)
    larger, finer = (
        cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC)
        for part in (small, _detail(small))
    )
    lost = cv2.Laplacian(grey - larger, cv2.CV_32F)
    given = cv2.Laplacian(finer, cv2.CV_32F)
    far = _outside(
        square_xys_px, holes_xyxy_px, size_wh, -(-_REACH * side // size_px) + _BEYOND_PX
    )
    most = cv2.norm(given, cv2.NORM_L2SQR, far)
    apart = cv2.norm(given, lost, cv2.NORM_L2SQR, far)
    shared = (most + cv2.norm(lost, cv2.NORM_L2SQR, far) - apart) / 2
    return float(np.clip(shared / (most + _LEAST_DETAIL), 0, 1))


def _outside(
    square_xys_px: NDArray[np.int32],
    holes_xyxy_px: NDArray[np.int32],
    size_wh: Sequence[int],
    reach_px: int = 0,
) -> NDArray[np.uint8]:
    """Return 255 where a crop shows the frame and no hole is within reach, else 0."""
    side = int(square_xys_px[2])
    grown = np.array([-reach_px, -reach_px, reach_px, reach_px])
    corner = np.tile(square_xys_px[:2], 2)
    frame = np.array([0, 0, *size_wh]) - grown - corner
    outside = np.zeros((side, side), np.uint8)
    x0, y0, x1, y1 = np.clip(frame, 0, side)
    outside[y0:y1, x0:x1] = 255
    for x0, y0, x1, y1 in np.clip(holes_xyxy_px + grown - corner, 0, side):
        outside[y0:y1, x0:x1] = 0
    return outside
