"""Clouds and depth images of the live node, which wait for the pictures of their cameras."""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Any

from ffs_anonymizer import measured
from ffs_anonymizer.anonymizer import Anonymized, Recipe
from ffs_anonymizer.clouds.cloud import decode_cloud
from ffs_anonymizer.clouds.scene import Scene
from ffs_anonymizer.frames.message import Frame, rotation_of, turn_of
from ffs_anonymizer.node.camera import Camera, Waiting
from ffs_anonymizer.node.pictures import stamp_of
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.settings.runtime import Settings

# How long one waits for a picture that is as late as itself to come; then the nearest one counts.
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
        images = {link.image for camera in cameras for link in camera.links}
        self._images = {camera.topic: camera for camera in cameras if camera.topic in images}
        self.scene = Scene(settings.cloud.max_gap_ms)

    def learn(
        self, camera: Camera, waiting: Waiting, size_wh: tuple[int, int], regions: Regions
    ) -> None:
        """Remember what was found in a picture, if anything is seen by its camera."""
        if camera.topic in self._images:
            turn = turn_of(waiting.message, rotation_of(self._settings.rotation, camera.topic))
            self.scene.add_regions(camera.topic, stamp_ns(waiting), size_wh, regions, turn)

    def decode(self, camera: Camera, message: Any) -> Frame | None:
        """
        Return a cloud that is a picture of its own; None: it has no points.

        :raises ImageError: it is none.
        """
        if not len(message.data):
            return None
        rotation = rotation_of(self._settings.rotation, camera.topic)
        geometry = self._settings.cloud.geometry
        return decode_cloud(message, geometry, rotation=rotation, in_place=True)

    def is_due(self, camera: Camera) -> bool:
        """
        Return whether what waits next needs wait no longer.

        Where old frames are dropped, those are that wait before one whose picture is known.
        """
        camera.drop_older(lambda later: self.scene.is_ready(camera.links, stamp_ns(later)))
        waiting = camera.first()
        if waiting is None or not camera.links:
            return True
        if self.scene.is_ready(camera.links, stamp_ns(waiting)):
            return True
        # One that has come by then takes what it takes.
        late_s = waiting.received_s + WAIT_S
        images = [self._images[link.image] for link in camera.links]
        return time.monotonic() > late_s and all(image.at_work_s > late_s for image in images)

    def hide(self, recipe: Recipe, camera: Camera, waiting: Waiting) -> Anonymized:
        """
        Return what is to be published; the message's own data is changed where that is possible.

        :raises ImageError: what is needed for it is not known.
        """
        return measured.hide(
            recipe,
            self.scene,
            waiting.message,
            camera.links,
            kind=camera.kind,
            stamp_ns=stamp_ns(waiting),
            in_place=True,
        )


def stamp_ns(waiting: Waiting) -> int:
    """Return the time of a message; drivers that set none are given the time of arrival."""
    return stamp_of(waiting.message) or int(waiting.received_s * _NS_PER_S)
