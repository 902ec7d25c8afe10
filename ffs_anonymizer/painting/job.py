"""What is to be painted into a frame, and the one contract of those who can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
from ffs_anonymizer.painting import composite, obscure
from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.crops import enclosing_squares
from ffs_anonymizer.painting.inputs import in_crops, latent_seeds, latents_of, points_of
from ffs_anonymizer.painting.methods import BLUR, GENERATE, GENERATE_SMALL, MOSAIC, PLATE, SOLID
from ffs_anonymizer.painting.plate import draw_plate
from ffs_anonymizer.regions.detections import FACE, Regions
from ffs_anonymizer.settings.runtime import ObscureSettings, Settings
import numpy as np
from numpy.typing import NDArray

# Soft edges by method, in settings.feather. A blurred patch is flat where its surroundings are not
# and takes a wide fade to look soft; a drawn face is softer than the hair and the ears around it,
# which a wide fade would only veil.
FEATHERS = {GENERATE: 0.4, GENERATE_SMALL: 0.4, BLUR: 2.0, PLATE: 1.0}
_HEADER, _CROP, _HOLE, _PATCH = 8, 6, 4, 12


@dataclass(frozen=True)
class Job:
    """
    Say which faces to generate and which patches to paste, in the order of pasting.

    :param squares_xys_px: (N, 3) int32, left, top and side of each crop, as crops.cut takes them.
    :param generators: (N,) int8, the index of each crop's generator.
    :param latent_seeds: (N,) uint64, where the latent of each crop's face begins.
    :param latents: (Z,) float32 of each crop whose face was chosen, None for the others.
    :param points_px: (N, 5, 2) float32, where eyes, nose and mouth corners go, in the frame.
    :param strengths: (N,) float32, how much each face is sharpened.
    :param holes_xyxy_px: (M, 4) int32, all that no crop may see.
    :param outer_xyxy_px: (P, 4) int32, where each patch is written, inside the frame.
    :param rect_xyxy_px: (P, 4) int32, where it covers completely, inside the former.
    :param crop_index: (P,) int32, the crop whose face the patch shows; -1: it has pixels.
    :param pixels: (h, w, 3) uint8 BGR of each patch that has pixels, in their order.
    """

    squares_xys_px: NDArray[np.int32]
    generators: NDArray[np.int8]
    latent_seeds: NDArray[np.uint64]
    latents: tuple[NDArray[np.float32] | None, ...]
    points_px: NDArray[np.float32]
    strengths: NDArray[np.float32]
    holes_xyxy_px: NDArray[np.int32]
    outer_xyxy_px: NDArray[np.int32]
    rect_xyxy_px: NDArray[np.int32]
    crop_index: NDArray[np.int32]
    pixels: tuple[NDArray[np.uint8], ...] = ()

    def __post_init__(self) -> None:
        """Check once, at birth, what the kernels rely on: they cannot say what went wrong."""
        n, p = len(self.squares_xys_px), len(self.outer_xyxy_px)
        got: tuple[tuple[int, ...], ...] = (
            self.squares_xys_px.shape,
            self.generators.shape,
            self.latent_seeds.shape,
            (len(self.latents),),
            self.points_px.shape,
            self.strengths.shape,
            self.holes_xyxy_px.shape[1:],
            self.outer_xyxy_px.shape,
            self.rect_xyxy_px.shape,
            self.crop_index.shape,
        )
        crops: tuple[tuple[int, ...], ...] = ((n, 3), (n,), (n,), (n,), (n, 5, 2), (n,))
        expected = (*crops, (4,), (p, 4), (p, 4), (p,))
        if got != expected:
            raise ValueError(f'Job: got shapes {got}, expected {expected}')
        outer, rect = self.outer_xyxy_px, self.rect_xyxy_px
        low, high = (
            self.squares_xys_px[:, :2],
            self.squares_xys_px[:, :2] + self.squares_xys_px[:, 2:],
        )
        shown = self.crop_index >= 0
        fits = (
            np.all(rect[:, :2] < rect[:, 2:])
            and np.all(outer[:, :2] <= rect[:, :2])
            and np.all(rect[:, 2:] <= outer[:, 2:])
            and np.all(self.crop_index < n)
            and np.all(low[self.crop_index[shown]] <= outer[shown, :2])
            and np.all(outer[shown, 2:] <= high[self.crop_index[shown]])
        )
        if not fits:
            raise ValueError('Job: got a patch that reaches out of its crop or not over its rect')
        sizes = [pixels.shape for pixels in self.pixels]
        own = outer[~shown]
        wanted = [(y1 - y0, x1 - x0, 3) for x0, y0, x1, y1 in own.tolist()]
        if sizes != wanted:
            raise ValueError(f'Job: got pixels of shapes {sizes}, expected {wanted}')

    @property
    def size_px(self) -> int:
        """Return the number of pixels of all patches."""
        return int(np.prod(self.outer_xyxy_px[:, 2:] - self.outer_xyxy_px[:, :2], axis=1).sum())


class Painter(Protocol):
    """Make the patches of frames: the host's way is the reference, a device's is its twin."""

    def paint(
        self, images_bgr: Sequence[NDArray[np.uint8]], jobs: Sequence[Job]
    ) -> list[list[Patch]]:
        """
        Return for each frame the patches that are to be pasted into it, in their order.

        :param images_bgr: (H, W, 3) uint8 each, only read.
        :param jobs: one a frame.
        :raises ModelError: there are no faces, so there is no image.
        """

    def close(self) -> None:
        """Give the memory back."""


def job_of(
    image_bgr: NDArray[np.uint8],
    regions: Regions,
    rects_xyxy_px: NDArray[np.int32],
    methods: NDArray[np.int8],
    settings: Settings,
    *,
    latents: Sequence[NDArray[np.float32] | None],
    strengths: NDArray[np.float32],
    painters: NDArray[np.int8],
    crop_scales: Sequence[float],
    stream: str,
) -> Job:
    """
    Return what is to be painted into a frame.

    :param image_bgr: (H, W, 3) uint8, only read.
    :param regions: N regions.
    :param rects_xyxy_px: (N, 4) int32, where each region covers completely.
    :param methods: (N,) int8, codes of methods.NAMES.
    :param latents: of each region (Z,), or None where no face was chosen.
    :param strengths: (N,) float32, how much each region's face is sharpened.
    :param painters: (N,) int8, which generator paints each region, where a face is drawn.
    :param crop_scales: of the generators, side of a crop over the longer side of its region.
    :param stream: its name; with the track it decides which face or plate is drawn.
    """
    height, width = image_bgr.shape[:2]
    drawn = np.nonzero(methods <= GENERATE_SMALL)[0]
    scales = np.array([*crop_scales, 0.0])[painters[drawn]]
    squares = enclosing_squares(rects_xyxy_px[drawn], scales)
    crop_index = np.full(len(methods), -1, np.int32)
    crop_index[drawn] = np.arange(len(drawn))
    order = composite.far_to_near(rects_xyxy_px)
    seeds = latent_seeds(settings.generator.seed, stream, regions.track_ids)
    outers, pixels, under = [], [], []
    for i in order.tolist():
        rect, method, crop = rects_xyxy_px[i], int(methods[i]), int(crop_index[i])
        feather = settings.feather * FEATHERS.get(method, 0.0)
        outer = composite.with_feather(rect, feather, size_wh=(width, height))
        if crop >= 0:
            low, side = np.tile(squares[crop, :2], 2), int(squares[crop, 2])
            outer = np.clip(outer, low, low + side).astype(np.int32)
        elif method == PLATE:
            drawing = draw_plate(
                image_bgr,
                rect_xyxy_px=rect,
                outer_xyxy_px=outer,
                holes_xyxy_px=rects_xyxy_px,
                grown=settings.plate.region_scale,
                seed=int(seeds[i]),
            )
            pixels.append(drawing)
        else:
            is_face = bool(regions.classes[i] == FACE)
            obscured = _obscured(image_bgr, method, rect, outer, settings.obscure, is_face=is_face)
            pixels.append(obscured)
            if method == BLUR:
                under.append((outer, _surroundings(image_bgr, rect, outer, rects_xyxy_px)))
        outers.append(outer)
    # What blurred patches fade into comes before all of them.
    below = [outer for outer, _ in under]
    return Job(
        squares,
        painters[drawn],
        seeds[drawn],
        tuple(latents[i] for i in drawn.tolist()),
        points_of(regions.take(drawn), pose=settings.generator.pose),
        strengths[drawn],
        rects_xyxy_px,
        np.array([*below, *outers], np.int32).reshape(-1, 4),
        np.array([*below, *rects_xyxy_px[order]], np.int32).reshape(-1, 4),
        np.concatenate([np.full(len(below), -1, np.int32), crop_index[order]]),
        (*(surroundings for _, surroundings in under), *pixels),
    )


def _obscured(
    image_bgr: NDArray[np.uint8],
    method: int,
    rect_xyxy_px: NDArray[np.int32],
    outer_xyxy_px: NDArray[np.int32],
    settings: ObscureSettings,
    *,
    is_face: bool,
) -> NDArray[np.uint8]:
    x0, y0, x1, y1 = (int(v) for v in rect_xyxy_px)
    region = image_bgr[y0:y1, x0:x1]
    if method == SOLID:
        return obscure.solid(region, settings.solid_bgr)
    if method == MOSAIC:
        return obscure.mosaic(region, settings.cells)
    left, top = int(x0 - outer_xyxy_px[0]), int(y0 - outer_xyxy_px[1])
    right, bottom = int(outer_xyxy_px[2] - x1), int(outer_xyxy_px[3] - y1)
    blurred = obscure.blur(region, settings.cells, veiled=is_face)
    padded = cv2.copyMakeBorder(blurred, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8)


def _surroundings(
    image_bgr: NDArray[np.uint8],
    rect_xyxy_px: NDArray[np.int32],
    outer_xyxy_px: NDArray[np.int32],
    holes_xyxy_px: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """
    Return what a blurred patch fades into: its surroundings, blurred, and nothing of any hole.

    A fade into the surroundings themselves could be undone: it is their pixels times a known
    number.
    """
    x0, y0, x1, y1 = (int(v) for v in outer_xyxy_px)
    shown = image_bgr[y0:y1, x0:x1].copy()
    known = np.ones(shown.shape[:2], np.uint8)
    limit = [x1 - x0, y1 - y0] * 2
    for left, top, right, bottom in np.clip(holes_xyxy_px - [x0, y0] * 2, 0, limit).tolist():
        shown[top:bottom, left:right] = 0
        known[top:bottom, left:right] = 0
    # Wide enough that nothing sharp comes back, narrow enough that its own edge does not show.
    side = 2 * (int(np.abs(outer_xyxy_px - rect_xyxy_px).max()) // 6) + 3
    summed, count = (
        cv2.boxFilter(
            part, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_REPLICATE
        )
        for part in (shown, known)
    )
    counts = cv2.merge([np.maximum(count, 1)] * 3)
    return np.asarray(cv2.divide(summed, counts, dtype=cv2.CV_8U), np.uint8)


def beside(
    job: Job, which: NDArray[np.bool_], size_px: int, latent_length: int
) -> dict[str, NDArray[np.float32]]:
    """
    Return what a generator takes beside the pictures of crops.

    :param which: (N,) of the job's crops.
    :param size_px: S.
    :param latent_length: Z, 0 where it takes no latents.
    :returns: latent (n, Z) and points (n, 5, 2), in pixels of the crops.
    """
    latents = latents_of(job.latent_seeds[which], latent_length)
    for row, crop in enumerate(np.nonzero(which)[0].tolist()):
        if (chosen := job.latents[crop]) is not None:
            latents[row] = chosen
    return {
        'latent': latents,
        'points': in_crops(job.points_px[which], job.squares_xys_px[which], size_px),
    }


def pack(job: Job, size_wh: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """
    Return a job as the kernels read it (see kernels.h).

    :param size_wh: of the frame.
    :returns: the numbers, and the pixels of all patches that have some.
    :raises ValueError: a patch reaches out of the frame.
    """
    limit = np.array(size_wh)
    if np.any(job.outer_xyxy_px[:, :2] < 0) or np.any(job.outer_xyxy_px[:, 2:] > limit):
        raise ValueError(f'Job: got a patch outside of the frame of {size_wh}')
    crops: list[tuple[int, ...]] = []
    holes = [np.empty((0, 4), np.int32)]
    bits = job.strengths.astype(np.float32).view(np.int32)
    for (x, y, side), strength in zip(job.squares_xys_px.tolist(), bits.tolist(), strict=True):
        boxes = job.holes_xyxy_px
        near = np.all(boxes[:, :2] < (x + side, y + side), axis=1) & np.all(
            boxes[:, 2:] > (x, y), axis=1
        )
        crops.append((x, y, side, sum(len(part) for part in holes), int(near.sum()), strength))
        holes.append(boxes[near])
    patches = np.zeros((len(job.outer_xyxy_px), _PATCH), np.int64)
    patches[:, 0:4], patches[:, 4:8] = job.outer_xyxy_px, job.rect_xyxy_px
    patches[:, 8] = job.crop_index
    areas = np.prod(job.outer_xyxy_px[:, 2:] - job.outer_xyxy_px[:, :2], axis=1, dtype=np.int64)
    own_bytes = np.where(job.crop_index < 0, areas * 3, 0)
    patches[:, 9] = np.cumsum(own_bytes) - own_bytes
    patches[:, 10] = np.cumsum(areas) - areas
    holes_at = _HEADER + _CROP * len(crops)
    patches_at = holes_at + _HOLE * sum(len(part) for part in holes)
    header = (*size_wh, len(crops), len(patches), int(areas.sum()), _HEADER, holes_at, patches_at)
    parts = (header, crops, *holes, patches)
    numbers = np.concatenate([np.asarray(part, np.int32).ravel() for part in parts])
    pixels = [np.ravel(part) for part in job.pixels]
    return numbers, np.concatenate([np.empty(0, np.uint8), *pixels])


def windows(job: Job, pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """
    Return the parts of the paste kernel's output, each in the shape of its outer rectangle.

    :param pixels: (job.size_px * 3,) uint8.
    """
    parts, start = [], 0
    for x0, y0, x1, y1 in job.outer_xyxy_px.tolist():
        stop = start + (y1 - y0) * (x1 - x0) * 3
        parts.append(pixels[start:stop].reshape(y1 - y0, x1 - x0, 3))
        start = stop
    return parts
