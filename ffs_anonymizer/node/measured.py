"""Clouds and depth images of the live node, which wait for the pictures of their cameras."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import time
from typing import Any

from ffs_anonymizer.anonymizer import Anonymized, Recipe, Replaced
from ffs_anonymizer.clouds import depth, projection
from ffs_anonymizer.clouds.cloud import decode_cloud
from ffs_anonymizer.clouds.scene import Scene
from ffs_anonymizer.errors import AnonymizerError, ImageError
from ffs_anonymizer.frames.message import Frame, rotation_of, turn_of
from ffs_anonymizer.node.camera import Camera, Waiting
from ffs_anonymizer.node.pictures import stamp_of
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Drawn
import numpy as np

# How long one waits for a picture that is as late as itself; then the nearest one counts.
WAIT_S = 1.0
_NS_PER_S = 1_000_000_000


class Measured:
    """
    Hide in clouds and depth images what the pictures of their cameras hide.

    :param settings: those of clouds, depth and rotation do not change while the node runs.
    :param cameras: all of them.
    """

    def __init__(self, settings: Settings, cameras: Sequence[Camera]) -> None:
        self._settings = settings
        self._images = {link.image for camera in cameras for link in camera.links}
        self.scene = Scene(settings.cloud.max_gap_ms)

    def learn(
        self, camera: Camera, waiting: Waiting, size_wh: tuple[int, int], regions: Regions
    ) -> None:
        """Remember what was found in a picture, if anything is seen by its camera."""
        if camera.topic in self._images:
            turn = turn_of(waiting.message, rotation_of(self._settings.rotation, camera.topic))
            boxes = regions.xyxy_px
            stamp = stamp_ns(waiting)
            self.scene.add_regions(camera.topic, stamp, size_wh, boxes, turn, regions)

    def decode(self, camera: Camera, message: Any) -> Frame:
        """
        Return a cloud that is a picture of its own.

        :raises ImageError: it is none.
        """
        rotation = rotation_of(self._settings.rotation, camera.topic)
        return decode_cloud(message, self._settings.cloud.geometry, rotation=rotation)

    def is_due(self, camera: Camera) -> bool:
        """Return whether what waits next needs wait no longer."""
        waiting = camera.first()
        if waiting is None or not camera.links:
            return True
        if time.monotonic() - waiting.received_s > WAIT_S:
            return True
        return self.scene.is_ready(camera.links, stamp_ns(waiting))

    def hide(self, recipe: Recipe, camera: Camera, waiting: Waiting) -> Anonymized:
        """
        Return what is to be published.

        :raises ImageError: what is needed for it is not known.
        """
        if camera.kind == 'registered':
            return self._painted(recipe, camera, waiting)
        started_s = time.perf_counter()
        if not camera.links:
            raise ImageError('got no camera that it is registered to: list it in depth.cameras')
        hide = self.scene.hide_in_cloud
        geometry = self._settings.cloud.geometry
        if camera.kind == 'depth':
            hide, geometry = self.scene.hide_in_depth, self._settings.depth.geometry
        data, count = hide(waiting.message, camera.links, geometry, stamp_ns(waiting))
        spent_ms = (time.perf_counter() - started_s) * 1e3
        replaced = Replaced(np.empty((0, 4), np.int32), {'hidden': count})
        return Anonymized(data, Regions.empty(), replaced, {'hide': spent_ms})

    def _painted(self, recipe: Recipe, camera: Camera, waiting: Waiting) -> Anonymized:
        """Return a cloud in which the regions of its picture are replaced as in a picture."""
        stamp, image = stamp_ns(waiting), camera.links[0].image
        seen = self.scene.nearest(image, stamp)
        assert seen.found is not None
        rotation = rotation_of(self._settings.rotation, image)
        geometry = self._settings.cloud.geometry
        frame = decode_cloud(waiting.message, geometry, rotation=rotation)
        height, width = frame.image_bgr.shape[:2]
        boxes = projection.grown(
            seen.found.xyxy_px, seen.stamp_ns - stamp, seen.upright_wh, slack=0.0
        )
        whole = depth.scaled(boxes, seen.upright_wh, (width, height)).astype(np.float32)
        # Landmarks lie where the picture's do, at its size alone.
        points = np.full_like(seen.found.points_px, np.nan)
        regions = dataclasses.replace(seen.found, xyxy_px=whole, points_px=points)
        timings_ms: dict[str, float] = {}
        choice, _ = recipe.choose(frame, regions, Drawn())
        (replaced,) = recipe.replace([choice], timings_ms=timings_ms)
        if isinstance(replaced, AnonymizerError):
            raise replaced
        data = frame.encode(replaced.touched_xyxy_px)
        return Anonymized(data, regions, replaced, timings_ms)


def stamp_ns(waiting: Waiting) -> int:
    """Return the time of a message; drivers that set none are given the time of arrival."""
    return stamp_of(waiting.message) or int(waiting.received_s * _NS_PER_S)
