"""How light tracks were drawn, so that a face does not pulse with what lies around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.job import Job
import numpy as np
from numpy.typing import NDArray

# By track id, (3,): the mean colour of the middle of the face that was drawn last, BGR.
Tones = Mapping[int, NDArray[np.float32]]
# How far the tone of a face may stay behind what the generator paints, in grey levels.
PLAY = 8.0
# The middle that is looked at, and the margin over which a shift fades out, in shares of a side.
_MIDDLE = 0.25
_MARGIN = 0.25
_SEEN = 0.5


def steady(
    job: Job, patches: Sequence[Patch], track_ids: NDArray[np.int64], before: Tones
) -> tuple[list[Patch], dict[int, NDArray[np.float32]]]:
    """
    Return the patches of a frame, of which drawn faces stay as light as they were if they may.

    A shift is full in the middle of a face and none at the edge of what is covered. It follows
    from what was painted alone.

    :param job: that the patches were painted from.
    :param patches: the job's.
    :param track_ids: (N,) of the job's crops.
    :param before: what was returned for the frame before.
    :returns: the patches, and how light those that are drawn are now.
    """
    result = list(patches)
    tones: dict[int, NDArray[np.float32]] = {}
    for i, crop in enumerate(job.crop_index.tolist()):
        track = int(track_ids[crop]) if crop >= 0 else -1
        if track < 0:
            continue
        patch, rect = patches[i], job.rect_xyxy_px[i] - np.tile(job.outer_xyxy_px[i, :2], 2)
        x0, y0, x1, y1 = (int(v) for v in rect)
        face = patch.pixels_bgr[y0:y1, x0:x1]
        high, wide = face.shape[:2]
        top, left = int(high * _MIDDLE), int(wide * _MIDDLE)
        painted = face[top : high - top, left : wide - left].mean((0, 1), dtype=np.float32)
        held = before.get(track, painted)
        tones[track] = np.clip(held, painted - PLAY, painted + PLAY).astype(np.float32)
        shift = tones[track] - painted
        if np.abs(shift).max() < _SEEN:
            continue
        pixels = patch.pixels_bgr.copy()
        weight = np.outer(_rise(high), _rise(wide))[..., None]
        pixels[y0:y1, x0:x1] = np.clip(np.rint(face + weight * shift), 0, 255).astype(np.uint8)
        result[i] = Patch(pixels, patch.outer_xyxy_px, patch.rect_xyxy_px)
    return result, tones


def _rise(length: int) -> NDArray[np.float32]:
    """Return weights that rise from an edge to 1 and fall to the other one."""
    at = (np.arange(length, dtype=np.float32) + 0.5) / length
    return np.minimum(np.minimum(at, 1 - at) / _MARGIN, 1).astype(np.float32)
