"""Crop, generate and place on the host: the slow, obvious reference, for any back end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
from ffs_anonymizer.painting import crops
from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.painting.job import beside, Job
from ffs_anonymizer.painting.sharpness import sharpened
import numpy as np
from numpy.typing import NDArray


class HostPainter:
    """
    Paint with any number of generators, one call of each for all frames.

    :param generators: a job's crops name theirs by its index.
    """

    def __init__(self, generators: Sequence[Generator]) -> None:
        self._generators = tuple(generators)

    def paint(
        self, images_bgr: Sequence[NDArray[np.uint8]], jobs: Sequence[Job]
    ) -> list[list[Patch]]:
        """
        Return the patches of each frame.

        :raises ModelError: a network fails or returns what is no picture.
        """
        faces = [self._invented(index, images_bgr, jobs) for index in range(len(self._generators))]
        return [_patches(job, faces) for job in jobs]

    def close(self) -> None:
        """Do nothing: all memory is Python's own."""

    def _invented(
        self, index: int, images_bgr: Sequence[NDArray[np.uint8]], jobs: Sequence[Job]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the faces of one generator, in the order of the jobs and of their crops."""
        generator = self._generators[index]
        cuts, latents, points = [], [], []
        for image_bgr, job in zip(images_bgr, jobs, strict=True):
            own = job.generators == index
            if not own.any():
                continue
            cuts.append(
                crops.cut_squares(
                    image_bgr,
                    job.squares_xys_px[own],
                    holes_xyxy_px=job.holes_xyxy_px,
                    size_px=generator.size_px,
                )
            )
            given = beside(job, own, generator.size_px, generator.latent_length)
            latents.append(given['latent'])
            points.append(given['points'])
        if not cuts:
            return iter(())
        faces = generator.generate(
            crops.joined(cuts), latents=np.concatenate(latents), points_px=np.concatenate(points)
        )
        return iter(faces)


def _patches(job: Job, faces: list[Iterator[NDArray[np.uint8]]]) -> list[Patch]:
    """Place the next faces of each generator as the job says."""
    own = [
        sharpened(next(faces[index]), strength)
        for index, strength in zip(job.generators.tolist(), job.strengths.tolist(), strict=True)
    ]
    pixels = iter(job.pixels)
    patches = []
    for outer, rect, crop in zip(
        job.outer_xyxy_px, job.rect_xyxy_px, job.crop_index.tolist(), strict=True
    ):
        shown = next(pixels) if crop < 0 else _window(own[crop], job.squares_xys_px[crop], outer)
        patches.append(Patch(shown, outer, rect))
    return patches


def _window(
    face_bgr: NDArray[np.uint8], square_xys_px: NDArray[np.int32], outer_xyxy_px: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Return the part of a generated crop that lies in a rectangle of the frame."""
    x, y, side = (int(v) for v in square_xys_px)
    interpolation = cv2.INTER_AREA if side < face_bgr.shape[0] else cv2.INTER_CUBIC
    scaled = cv2.resize(face_bgr, (side, side), interpolation=interpolation)
    x0, y0, x1, y1 = (int(v) for v in outer_xyxy_px)
    return np.asarray(scaled[y0 - y : y1 - y, x0 - x : x1 - x], np.uint8)
