"""What is known of cameras at a time, and what other sensors measured hidden by it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
import fnmatch
import threading
from typing import Any

from ffs_anonymizer.clouds import depth, projection
from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.clouds.projection import CameraModel, CameraView, Transforms
from ffs_anonymizer.errors import ImageError, SettingsError
from ffs_anonymizer.frames.frame import Buffer
from ffs_anonymizer.frames.upright import Turn
from ffs_anonymizer.regions.detections import Regions
import numpy as np
from numpy.typing import NDArray

_MEMORY_NS = 10_000_000_000
_UPRIGHT = Turn()
_COMPRESSED = ('/compressed', '/compressedDepth')


@dataclass(frozen=True)
class Link:
    """
    Hold which camera sees what a topic measures.

    :param topics: a topic's name, or a glob.
    :param image: the topic of the camera's picture.
    :param info: the topic of its camera_info.
    """

    topics: str
    image: str
    info: str

    @classmethod
    def parse(cls, text: str) -> Link:
        """
        Read `<topic or glob> <image topic> [<camera_info topic>]`.

        :raises SettingsError: the text is something else.
        """
        words = text.split()
        if len(words) not in (2, 3):
            raise SettingsError(
                f'cameras: got {text!r}, expected `<topic or glob> <image topic> '
                '[<camera_info topic>]`'
            )
        return cls(words[0], words[1], words[2] if len(words) == 3 else info_topic(words[1]))

    def fits(self, topic: str) -> bool:
        """Tell whether the camera sees what a topic measures."""
        return fnmatch.fnmatchcase(topic, self.topics)


def info_topic(image_topic: str) -> str:
    """Return the topic of the camera_info that belongs to an image topic."""
    for suffix in _COMPRESSED:
        if image_topic.endswith(suffix):
            image_topic = image_topic[: -len(suffix)]
    return image_topic.rpartition('/')[0] + '/camera_info'


@dataclass(frozen=True)
class SeenPicture:
    """
    Hold the regions of a picture.

    :param size_wh: as the camera has its pixels lie.
    :param xyxy_px: (N, 4) in them, right and bottom exclusive.
    :param upright_wh: of the upright picture.
    :param regions: in that.
    """

    stamp_ns: int
    size_wh: tuple[int, int]
    xyxy_px: NDArray[np.float64]
    upright_wh: tuple[int, int]
    regions: Regions


class Scene:
    """
    Remember what cameras saw, and hide the same in what other sensors measured.

    Any thread may call any method.

    :param max_gap_ms: the most between a measurement and the nearest picture of a camera.
    """

    def __init__(self, max_gap_ms: float) -> None:
        self._max_gap_ns = int(max_gap_ms * 1e6)
        self._seen: dict[str, list[SeenPicture]] = {}
        self._infos: dict[str, Any] = {}
        self._transforms = Transforms()
        self._lock = threading.Lock()

    def add_info(self, topic: str, info: Any) -> None:
        """Remember a sensor_msgs/CameraInfo."""
        with self._lock:
            self._infos[topic] = info

    def add_transforms(self, message: Any, *, is_static: bool) -> None:
        """
        Remember a tf2_msgs/TFMessage.

        :raises ImageError: one of them is no transform.
        """
        for transform in message.transforms:
            with self._lock:
                self._transforms.add(transform, is_static=is_static)

    def add_regions(
        self,
        image_topic: str,
        stamp_ns: int,
        size_wh: tuple[int, int],
        regions: Regions,
        turn: Turn = _UPRIGHT,
    ) -> None:
        """
        Remember the regions of a picture.

        :param size_wh: of the upright picture.
        :param regions: in it.
        :param turn: how the camera's pixels became upright; lenses and depth know nothing of it.
        """
        boxes = regions.xyxy_px.astype(np.float64)
        whole = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
        stored = turn.stored(whole.astype(np.int32), size_wh).astype(np.float64)
        stored_wh = size_wh[::-1] if turn.transpose else size_wh
        one = SeenPicture(stamp_ns, stored_wh, stored, size_wh, regions)
        with self._lock:
            self._add_seen(self._seen.setdefault(image_topic, []), one)

    def is_ready(self, links: Sequence[Link], stamp_ns: int) -> bool:
        """Return whether no later picture can be nearer than those that are known."""
        with self._lock:
            every = [self._seen.get(link.image) for link in links]
            return all(seen and seen[-1].stamp_ns >= stamp_ns for seen in every)

    def nearest(self, image_topic: str, stamp_ns: int) -> SeenPicture:
        """
        Return the regions of the picture that is nearest in time.

        :raises ImageError: there is none near enough.
        """
        with self._lock:
            return self._nearest(image_topic, stamp_ns)

    def regions_at(self, image_topic: str, stamp_ns: int, size_wh: tuple[int, int]) -> Regions:
        """
        Return the regions of a picture in what shows the same, pixel for pixel.

        :param stamp_ns: of that.
        :param size_wh: of that, upright.
        :raises ImageError: no picture is near enough in time, or it has other proportions.
        """
        seen = self.nearest(image_topic, stamp_ns)
        apart_ns = seen.stamp_ns - stamp_ns
        boxes = projection.grown(seen.regions.xyxy_px, apart_ns, seen.upright_wh, slack=0.0)
        whole = depth.scaled(boxes, seen.upright_wh, size_wh).astype(np.float32)
        # Landmarks lie where the picture's do, at its size alone.
        points = np.full_like(seen.regions.points_px, np.nan)
        return dataclasses.replace(seen.regions, xyxy_px=whole, points_px=points)

    def hide_in_cloud(
        self,
        msg: Any,
        links: Sequence[Link],
        geometry: str,
        stamp_ns: int,
        *,
        in_place: bool = False,
    ) -> tuple[Buffer, int]:
        """
        Return a PointCloud2's data with all points in regions anonymous, and how many regions.

        :param links: the cameras that see the cloud.
        :param geometry: keep, flatten or drop.
        :param stamp_ns: of the cloud.
        :param in_place: whether its data, where it can be written to, may be changed itself.
        :raises ImageError: the cloud cannot be read, or a camera's picture, lens or place at the
            time is not known.
        """
        cloud = Cloud(msg, in_place=in_place)
        if not links:
            raise ImageError('got no camera that sees this cloud: list one in cloud.cameras')
        views = self.views(msg, links, stamp_ns)
        data = projection.cover(cloud, views, geometry)
        return data, sum(len(view.xyxy_px) for view in views)

    def hide_in_depth(
        self, msg: Any, links: Sequence[Link], geometry: str, stamp_ns: int
    ) -> tuple[Buffer, int]:
        """
        Return a depth image's data without the shape in regions, and how many there were.

        :param links: the cameras that it is registered to.
        :raises ImageError: the image cannot be read, or a camera's picture at the time is not
            known.
        """
        image = depth.Depth(msg)
        if not links:
            raise ImageError('got no camera that depth is registered to: list it in depth.cameras')
        every = self.rects(image.size_wh, links, stamp_ns)
        return image.cover(every, geometry), len(every)

    def views(self, msg: Any, links: Sequence[Link], stamp_ns: int) -> list[CameraView]:
        """
        Return what cameras see of a PointCloud2, with what must not be seen.

        :raises ImageError: a camera's picture, lens or place at the time is not known.
        """
        with self._lock:
            return [self._view(link, frame_of(msg), stamp_ns) for link in links]

    def rects(
        self, size_wh: tuple[int, int], links: Sequence[Link], stamp_ns: int
    ) -> NDArray[np.int32]:
        """
        Return the regions of cameras in a depth image, (N, 4), which may reach out of it.

        :param size_wh: of the depth image.
        :raises ImageError: a camera's picture at the time is not known, or it has other
            proportions.
        """
        rects = []
        for link in links:
            seen = self.nearest(link.image, stamp_ns)
            boxes = projection.grown(seen.xyxy_px, seen.stamp_ns - stamp_ns, seen.size_wh)
            rects.append(depth.scaled(boxes, seen.size_wh, size_wh))
        return np.concatenate(rects)

    def _add_seen(self, seen: list[SeenPicture], one: SeenPicture) -> None:
        stamp_ns = one.stamp_ns
        if seen and stamp_ns < seen[-1].stamp_ns - _MEMORY_NS:
            # Time has jumped back, as when a recording starts again.
            seen.clear()
        stamps_ns = [one.stamp_ns for one in seen]
        seen.insert(bisect.bisect_right(stamps_ns, stamp_ns), one)
        while seen[0].stamp_ns < seen[-1].stamp_ns - _MEMORY_NS:
            seen.pop(0)

    def _view(self, link: Link, cloud_frame: str, stamp_ns: int) -> CameraView:
        seen = self._nearest(link.image, stamp_ns)
        info = self._infos.get(link.info)
        if info is None:
            raise ImageError(f'got no camera_info on {link.info}; name it in cloud.cameras')
        camera = CameraModel.of(info, is_rectified='rect' in link.image)
        to_camera = self._transforms.lookup(camera.frame, cloud_frame, stamp_ns)
        boxes = projection.grown(seen.xyxy_px, seen.stamp_ns - stamp_ns, seen.size_wh)
        return CameraView(camera, to_camera, seen.size_wh, boxes)

    def _nearest(self, image_topic: str, stamp_ns: int) -> SeenPicture:
        known = self._seen.get(image_topic)
        if not known:
            raise ImageError(f'got no anonymized picture of {image_topic} so far')
        nearest = min(known, key=lambda seen: abs(seen.stamp_ns - stamp_ns))
        apart_ns = abs(nearest.stamp_ns - stamp_ns)
        if apart_ns > self._max_gap_ns:
            raise ImageError(
                f'got the nearest anonymized picture of {image_topic} {apart_ns / 1e6:.0f} ms '
                f'away, expected at most {self._max_gap_ns / 1e6:.0f} ms (cloud.max_gap_ms)'
            )
        return nearest


def frame_of(msg: Any) -> str:
    """Return the name of the frame that a message's points are in."""
    return projection.frame_name(msg.header.frame_id)
