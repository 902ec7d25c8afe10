"""Where tracks were drawn, so that what is drawn does not tremble with the detector's boxes."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detections import Regions
import numpy as np
from numpy.typing import NDArray

# By track id, (9, 2): the corners of what was covered and of the box itself, and the five points
# of the face, at the last frame.
Places = Mapping[int, NDArray[np.float32]]
# How far an edge or a point may stay behind, in longer sides of the box.
PLAY = 0.04


def steady(
    regions: Regions,
    before: Places,
    size_wh: tuple[int, int],
    *,
    drawn: NDArray[np.bool_],
) -> tuple[Regions, dict[int, NDArray[np.float32]]]:
    """
    Return regions of which those that are drawn stay where they were as long as they may.

    What a blur does depends on nothing but its frame, and need not be steadied.

    An edge of what is covered lies on the region's own or up to PLAY outside of it, never inside:
    covering does not shrink. An edge of the box, where the face is drawn, and a point of the face
    lie up to PLAY beside their own.

    :param regions: N regions; those without a track stay as they are.
    :param before: what was returned for the frame before.
    :param size_wh: width and height of the frame in pixels.
    :param drawn: (N,), those that get a face.
    :returns: the regions, and where those that are drawn are now.
    """
    tracks = regions.track_ids.tolist()
    old = [i for i in np.nonzero(drawn)[0].tolist() if tracks[i] >= 0 and tracks[i] in before]
    known = np.array(old, np.intp)
    covered, own = regions.xyxy_px.copy(), regions.ungrown_xyxy_px.copy()
    points = regions.points_px.copy()
    if len(known):
        then = np.stack([before[tracks[i]] for i in old])
        play = (own[known, 2:] - own[known, :2]).max(axis=1, keepdims=True) * PLAY
        now, box = covered[known], own[known]
        covered[known, :2] = np.clip(then[:, 0], now[:, :2] - play, now[:, :2])
        covered[known, 2:] = np.clip(then[:, 1], now[:, 2:], now[:, 2:] + play)
        own[known] = np.clip(then[:, 2:4].reshape(-1, 4), box - play, box + play)
        at, play = points[known], play[:, None]
        held = np.where(np.isnan(then[:, 4:]), at, then[:, 4:])
        points[known] = np.clip(held, at - play, at + play)
    covered = boxes.clip(covered, size_wh)
    places = {
        tracks[i]: np.concatenate([covered[i].reshape(2, 2), own[i].reshape(2, 2), points[i]])
        for i in np.nonzero(drawn)[0].tolist()
        if tracks[i] >= 0
    }
    steadied = dataclasses.replace(regions, xyxy_px=covered, ungrown_xyxy_px=own, points_px=points)
    return steadied, places
