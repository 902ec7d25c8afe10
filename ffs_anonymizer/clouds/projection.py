"""Where points are seen by a camera, and what takes the place of those in its regions."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
from ffs_anonymizer.clouds import surface
from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.frame import Buffer
import numpy as np
from numpy.typing import NDArray

_PINHOLE = ('plumb_bob', 'rational_polynomial')
_FISHEYE = ('equidistant', 'fisheye')
_NEAREST_M = 0.01
# Lens models run wild where no pixel is.
_FIELD_MARGIN = 0.2
# What lies further behind the nearest point in a cell is another thing.
_CELL_PX = 8
_BEHIND_M = 0.5
_RING_SHARE = 0.25
_LEAST_RING_PX = 4.0
_LEAST_RING_POINTS = 8
# A person who walks by at arm's length crosses this many sides of a face region in a second.
SIDES_PER_S = 4.0
# For what calibrations err.
_SLACK_SIDES = 0.05
# How far a transform may be used beyond the last one that is known.
EXTRAPOLATION_NS = 100_000_000
_MEMORY_NS = 10_000_000_000
_LONGEST_CHAIN = 64
# Powers of the plastic number: Roberts' sequence.
_EVENLY = np.array([0.7548776662466927, 0.5698402909980532])


@dataclass(frozen=True)
class CameraModel:
    """
    Hold how a camera maps points to pixels.

    :param frame: the camera's optical frame: x to the right, y down, z forward.
    :param size_wh: of the picture that the numbers go with.
    :param matrix: (3, 3) float64.
    :param distortion: (n,) float64; empty for a rectified picture.
    :param is_fisheye: whether the distortion is that of the equidistant model.
    :param rotation: (3, 3) float64, into the rectified frame.
    :param shift_m: to the right; of the second camera of a rectified pair.
    """

    frame: str
    size_wh: tuple[int, int]
    matrix: NDArray[np.float64]
    distortion: NDArray[np.float64]
    is_fisheye: bool
    rotation: NDArray[np.float64]
    shift_m: float = 0.0

    @classmethod
    def of(cls, info: Any, *, is_rectified: bool) -> CameraModel:
        """
        Read a sensor_msgs/CameraInfo.

        :param is_rectified: whether the picture shows what the camera sees after rectification.
        :raises ImageError: the camera is not calibrated, or its lens model is not known.
        """
        matrix = np.array(info.k, np.float64).reshape(3, 3)
        projection = np.array(info.p, np.float64).reshape(3, 4)
        used = projection[:, :3] if is_rectified else matrix
        frame = frame_name(info.header.frame_id)
        if not (np.isfinite(used).all() and used[0, 0] > 0 and used[1, 1] > 0):
            raise ImageError(
                f'camera_info of {frame!r}: got no focal length; calibrate the camera'
            )
        known = (*_PINHOLE, *_FISHEYE)
        distortion = np.array(info.d, np.float64)
        if not is_rectified and distortion.any() and info.distortion_model not in known:
            raise ImageError(
                f'camera_info of {frame!r}: got the lens model {info.distortion_model!r}, '
                f'expected one of {", ".join(known)}'
            )
        if distortion[12:].any():
            raise ImageError(f'camera_info of {frame!r}: a tilted sensor is not supported')
        binning = np.array([max(info.binning_x, 1), max(info.binning_y, 1)], np.float64)
        scale = np.diag([*1 / binning, 1.0])
        corner = np.eye(3)
        corner[:2, 2] = -info.roi.x_offset, -info.roi.y_offset
        size = np.array([info.roi.width or info.width, info.roi.height or info.height])
        rotation = np.array(info.r, np.float64).reshape(3, 3)
        is_turned = is_rectified and rotation.any()
        return cls(
            frame,
            (int(size[0] // binning[0]), int(size[1] // binning[1])),
            scale @ corner @ used,
            np.empty(0) if is_rectified else distortion,
            info.distortion_model in _FISHEYE,
            rotation if is_turned else np.eye(3),
            float(projection[0, 3] / projection[0, 0]) if is_rectified else 0.0,
        )

    def project(
        self,
        points_m: NDArray[np.float64],
        to_camera: NDArray[np.float64],
        size_wh: tuple[int, int],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """
        Return the pixels that points are seen at, and their distances along the view.

        :param points_m: (N, 3).
        :param to_camera: (4, 4), from their frame to the camera's.
        :param size_wh: of the picture.
        :returns: (N, 2), with pixel centres at whole numbers and a half, NaN where a point does
            not fall into the picture; and (N,).
        """
        matrix = self._into_view() @ to_camera
        x, y, depth = cv2.split(cv2.transform(points_m[None], matrix[:3]).reshape(-1, 1, 3))
        x, y, depth = x.ravel(), y.ravel(), depth.ravel()
        low, high = self._field()
        with np.errstate(all='ignore'):
            x, y = x / depth, y / depth
            ahead = (depth > _NEAREST_M) & (x > low[0]) & (x < high[0])
            places = np.flatnonzero(ahead & (y > low[1]) & (y < high[1]))
        x, y = self._distorted(x[places], y[places])
        # A camera matrix counts from the centre of the first pixel, boxes from its corner.
        scale = np.array(size_wh) / np.array(self.size_wh)
        u = (self.matrix[0, 0] * x + self.matrix[0, 1] * y + self.matrix[0, 2] + 0.5) * scale[0]
        v = (self.matrix[1, 1] * y + self.matrix[1, 2] + 0.5) * scale[1]
        inside = (u >= 0) & (u < size_wh[0]) & (v >= 0) & (v < size_wh[1])
        pixels = np.full((2, len(points_m)), np.nan)
        pixels[:, places[inside]] = u[inside], v[inside]
        return pixels.T, depth

    def place(
        self,
        pixels: NDArray[np.float64],
        depth_m: NDArray[np.float64],
        to_camera: NDArray[np.float64],
        size_wh: tuple[int, int],
    ) -> NDArray[np.float64]:
        """Return the points (N, 3) that `project` takes to pixels (N, 2) and distances (N,)."""
        rays = self._straight(pixels * (np.array(self.size_wh) / np.array(size_wh)) - 0.5)
        turned = np.concatenate([rays, np.ones((len(rays), 1))], axis=1) * depth_m[:, None]
        back = np.linalg.inv(self._into_view() @ to_camera)
        return np.asarray(cv2.transform(turned[None], back[:3])[0], np.float64).reshape(-1, 3)

    def _into_view(self) -> NDArray[np.float64]:
        """Return the matrix (4, 4) from the camera's frame to the one that its rays are in."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[0, 3] = self.rotation, self.shift_m
        return matrix

    def _straight(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return x / z and y / z of what is seen at pixels (N, 2)."""
        if self.is_fisheye and self.distortion.any():
            rays = cv2.fisheye.undistortPoints(pixels[None], self.matrix, self.distortion[:4])
        else:
            rays = cv2.undistortPoints(pixels[None], self.matrix, self.distortion)
        return np.asarray(rays, np.float64).reshape(-1, 2)

    def _distorted(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return x / z and y / z as the lens bends them, as OpenCV's documentation has it."""
        if not self.distortion.any():
            return x, y
        r2 = x * x + y * y
        if self.is_fisheye:
            k1, k2, k3, k4 = np.resize([*self.distortion[:4], 0, 0, 0, 0], 4)
            radius = np.sqrt(r2)
            theta = np.arctan(radius)
            t2 = theta * theta
            bent = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
            factor = np.where(radius > 0, bent / np.where(radius > 0, radius, 1.0), 1.0)
            return x * factor, y * factor
        k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = np.resize(
            [*self.distortion, *[0.0] * 12], 12
        )
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        across = 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + r2 * s2)
        down = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + r2 * (s3 + r2 * s4)
        return x * radial + across, y * radial + down

    def _field(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the least and greatest x / z and y / z that the picture's border shows."""
        width, height = self.size_wh
        s = np.linspace(0, 1, 17)
        zero, one = np.zeros_like(s), np.ones_like(s)
        across = np.concatenate([s, s, zero, one]) * width - 0.5
        down = np.concatenate([zero, one, s, s]) * height - 0.5
        border = np.stack([across, down], axis=1)
        rays = self._straight(border)
        low, high = rays.min(axis=0), rays.max(axis=0)
        margin = _FIELD_MARGIN * (high - low)
        return low - margin, high + margin


@dataclass(frozen=True)
class CameraView:
    """
    Hold what a camera sees of a cloud, and what must not be seen.

    :param to_camera: (4, 4) float64, from the cloud's frame to the camera's.
    :param size_wh: of the picture.
    :param xyxy_px: (N, 4) regions in its pixels.
    """

    camera: CameraModel
    to_camera: NDArray[np.float64]
    size_wh: tuple[int, int]
    xyxy_px: NDArray[np.float64]


class Transforms:
    """Remember where frames were, for a while, as tf2's buffer does."""

    def __init__(self) -> None:
        self._edges: dict[str, _Edge] = {}

    def add(self, transform: Any, *, is_static: bool) -> None:
        """
        Remember a geometry_msgs/TransformStamped.

        :raises ImageError: its numbers are no transform.
        """
        parent, child = frame_name(transform.header.frame_id), frame_name(transform.child_frame_id)
        moved, turned = transform.transform.translation, transform.transform.rotation
        numbers = [moved.x, moved.y, moved.z, turned.x, turned.y, turned.z, turned.w]
        pose = np.array(numbers, np.float64)
        length = float(np.linalg.norm(pose[3:]))
        if not np.isfinite(pose).all() or not 0.9 < length < 1.1:
            raise ImageError(f'transform from {child!r} to {parent!r}: got no rotation in {pose}')
        pose[3:] /= length
        stamp_ns = transform.header.stamp.sec * 1_000_000_000 + transform.header.stamp.nanosec
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent or is_static or edge.is_static:
            edge = self._edges[child] = _Edge(parent, is_static, [], [])
        edge.add(stamp_ns, pose)

    def lookup(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        """
        Return the matrix (4, 4) that takes points of one frame into another.

        :raises ImageError: nothing connects the two at that time.
        """
        chains = [self._to_root(frame_name(name), stamp_ns) for name in (target, source)]
        (to_root, root), (from_source, other) = chains
        if root != other:
            raise ImageError(
                f'got no transform from {source!r} to {target!r} at {stamp_ns} ns: record or '
                'publish /tf and /tf_static of the time'
            )
        return np.asarray(np.linalg.inv(to_root) @ from_source)

    def _to_root(self, frame: str, stamp_ns: int) -> tuple[NDArray[np.float64], str]:
        """Return the matrix into the furthest parent that is known then, and its name."""
        matrix = np.eye(4)
        for _ in range(_LONGEST_CHAIN):
            edge = self._edges.get(frame)
            pose = None if edge is None else edge.at(stamp_ns)
            if edge is None or pose is None:
                return matrix, frame
            matrix, frame = _matrix(pose) @ matrix, edge.parent
        raise ImageError(f'the transforms above {frame!r} go in a circle')


@dataclass
class _Edge:
    """Hold the poses of a frame in its parent by time: x, y, z and a quaternion x, y, z, w."""

    parent: str
    is_static: bool
    stamps_ns: list[int]
    poses: list[NDArray[np.float64]]

    def add(self, stamp_ns: int, pose: NDArray[np.float64]) -> None:
        if self.stamps_ns and stamp_ns < self.stamps_ns[-1] - _MEMORY_NS:
            # Time has jumped back, as when a recording starts again.
            self.stamps_ns.clear()
            self.poses.clear()
        place = bisect.bisect_right(self.stamps_ns, stamp_ns)
        self.stamps_ns.insert(place, stamp_ns)
        self.poses.insert(place, pose)
        old = bisect.bisect_left(self.stamps_ns, self.stamps_ns[-1] - _MEMORY_NS)
        del self.stamps_ns[:old], self.poses[:old]

    def at(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return the pose at a time; None where too little is known of it."""
        if self.is_static:
            return self.poses[-1]
        place = bisect.bisect_left(self.stamps_ns, stamp_ns)
        near = [i for i in (place - 1, place) if 0 <= i < len(self.stamps_ns)]
        if len(near) < 2:
            beyond = abs(self.stamps_ns[near[0]] - stamp_ns)
            return self.poses[near[0]] if beyond <= EXTRAPOLATION_NS else None
        first_ns, last_ns = self.stamps_ns[near[0]], self.stamps_ns[near[1]]
        first, last = self.poses[near[0]], self.poses[near[1]]
        part = (stamp_ns - first_ns) / max(last_ns - first_ns, 1)
        if first[3:] @ last[3:] < 0:
            last = np.concatenate([last[:3], -last[3:]])
        pose = first + (last - first) * part
        pose[3:] /= np.linalg.norm(pose[3:])
        return np.asarray(pose)


def frame_name(name: str) -> str:
    """Return the name of a frame as tf2 compares it."""
    return name.lstrip('/')


def grown(
    xyxy_px: NDArray[np.floating[Any]],
    apart_ns: int,
    size_wh: tuple[int, int],
    slack: float = _SLACK_SIDES,
) -> NDArray[np.float64]:
    """
    Return regions with a margin for the time between a picture and a cloud.

    :param xyxy_px: (N, 4).
    :param apart_ns: between the two stamps.
    :param slack: for what calibrations err, in sides.
    """
    boxes = np.asarray(xyxy_px, np.float64).reshape(-1, 4)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0)
    margin = (sides * (slack + SIDES_PER_S * abs(apart_ns) / 1e9))[:, None]
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    limit = np.array(size_wh, np.float64)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1)


def cover(cloud: Cloud, views: Sequence[CameraView], geometry: str) -> Buffer:
    """
    Return a cloud's bytes with the points in the regions of cameras made anonymous.

    A point is in a region if the camera sees it there. With flatten, the points of a region are
    spread evenly over a plane through what is seen around it, in its colours; so nothing but
    their number comes from them. What lies behind what is nearer by more than an arm's length
    keeps its place, but not its colours, which may be those of what hides it. Where there are
    regions, colours and the like go from all points that were not measured or that no camera
    sees. All others keep every byte; row padding is zero.

    :param geometry: keep: colours alone change; drop: points become NaN, as with flatten where
        too little is seen around.
    """
    cloud.clear_padding()
    if not len(cloud.data) or not any(len(view.xyxy_px) for view in views):
        return cloud.data
    points, known = cloud.positions()
    points, known = points.reshape(-1, 3), known.reshape(-1)
    colours = cloud.colours().reshape(-1, 3) if cloud.is_coloured else None
    looks = [_Look(view, points, known) for view in views]
    free, seen = known.copy(), np.zeros(len(known), np.bool_)
    for look in looks:
        free &= look.region < 0
        seen |= look.seen
    patches = []
    for look in looks:
        for i in range(len(look.view.xyxy_px)):
            hits = np.flatnonzero(look.region == i)
            if len(hits):
                patches.append((hits, ~look.hidden[hits], look.patch(i, len(hits), colours, free)))
    _clear(cloud, np.flatnonzero(~known if colours is None else ~seen))
    for hits, is_front, patch in patches:
        front = _where(cloud, hits[is_front])
        cloud.put(front, None if patch is None else patch[0][is_front], geometry)
        if colours is not None:
            _clear(cloud, hits[~is_front])
            if patch is not None:
                cloud.put_colours(_where(cloud, hits), patch[1])
    return cloud.data


def left_in(before: Cloud, after: Cloud, views: Sequence[CameraView]) -> list[tuple[float, float]]:
    """
    Return of each region, view by view, what is left of the points that are seen in it.

    :param after: has the same points in the same order.
    :returns: which share of those in front kept their place, and of all their colours, 0 to 1.
    """
    old, was_known = before.positions()
    old, was_known = old.reshape(-1, 3), was_known.reshape(-1)
    new, _ = after.positions()
    stayed = (old == new.reshape(-1, 3)).all(axis=1)
    painted: NDArray[np.bool_] = np.zeros(len(old), np.bool_)
    shown = painted
    if before.is_coloured and after.is_coloured:
        colours = before.colours().reshape(-1, 3)
        # Black is what cleared colours are, too.
        painted = np.asarray(colours.any(axis=1))
        shown = (colours == after.colours().reshape(-1, 3)).all(axis=1)
    shares = []
    for view in views:
        look = _Look(view, old, was_known)
        for i in range(len(view.xyxy_px)):
            hits = np.flatnonzero(look.region == i)
            front = hits[~look.hidden[hits]]
            shares.append((_share(stayed[front]), _share(shown[hits[painted[hits]]])))
    return shares


def _share(is_so: NDArray[np.bool_]) -> float:
    return float(is_so.mean()) if len(is_so) else 0.0


def _where(cloud: Cloud, places: NDArray[np.intp]) -> tuple[NDArray[np.intp], ...]:
    return np.unravel_index(places, (cloud.height, cloud.width))


def _clear(cloud: Cloud, places: NDArray[np.intp]) -> None:
    """Clear all of points but where they are."""
    if len(places):
        cloud.put(_where(cloud, places), None, 'keep')


class _Look:
    """
    Hold where a camera sees the points of a cloud.

    `region` is the index of the region that a point is seen in, or -1; `hidden` tells whether
    something nearer hides it there.
    """

    def __init__(
        self, view: CameraView, points: NDArray[np.float64], known: NDArray[np.bool_]
    ) -> None:
        self.view = view
        self.pixels, self.depth = view.camera.project(points, view.to_camera, view.size_wh)
        self.pixels[~known] = np.nan
        self.seen = np.isfinite(self.pixels[:, 0])
        self.region = np.full(len(points), -1)
        self.hidden = np.zeros(len(points), np.bool_)
        for i, box in enumerate(view.xyxy_px):
            places = np.flatnonzero(self._in(box) & (self.region < 0))
            self.region[places] = i
            self.hidden[places] = self._behind(places)

    def patch(
        self,
        index: int,
        count: int,
        colours: NDArray[np.uint8] | None,
        free: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]] | None:
        """
        Return points (count, 3) on a plane through the ring around a region, and their colours.

        :param free: which points may be read.
        """
        box = self.view.xyxy_px[index]
        margin = max(_RING_SHARE * float((box[2:] - box[:2]).max()), _LEAST_RING_PX)
        ring = self._in(box + margin * np.array([-1, -1, 1, 1])) & free
        places = np.flatnonzero(ring)
        if len(places) < _LEAST_RING_POINTS:
            return None
        middle, extent = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        pixels = box[:2] + _spread(count) * extent
        old_at = _terms((self.pixels[places] - middle) / extent)
        new_at = _terms((pixels - middle) / extent)
        # Planes are linear in inverse depth.
        nearness = 1 / self.depth[places]
        plane = np.linalg.lstsq(old_at, nearness, rcond=None)[0]
        film = np.clip(new_at @ plane, nearness.min(), nearness.max())
        part = slice(places[0], places[-1] + 1)
        near = np.zeros(places[-1] + 1 - places[0])
        near[places - places[0]] = nearness
        # Neighbours in memory were mostly measured one after the other; if not, they differ more
        # than from the plane.
        size = min(
            surface.noise_size(near[None], ring[None, part]),
            surface.deviation(nearness - old_at @ plane),
        )
        numbers = np.random.default_rng(box.astype(np.int64).tolist()).standard_normal(count)
        depth = 1 / np.maximum(film + size * numbers, film / 2)
        new_points = self.view.camera.place(pixels, depth, self.view.to_camera, self.view.size_wh)
        if colours is None:
            return new_points, np.zeros((count, 3), np.uint8)
        shades = np.linalg.lstsq(old_at, colours[places].astype(np.float64), rcond=None)[0]
        return new_points, np.clip(np.rint(new_at @ shades), 0, 255).astype(np.uint8)

    def _in(self, box: NDArray[np.float64]) -> NDArray[np.bool_]:
        u, v = self.pixels.T
        with np.errstate(invalid='ignore'):
            return np.asarray((u >= box[0]) & (v >= box[1]) & (u < box[2]) & (v < box[3]))

    def _behind(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which of the points at these places something nearer hides."""
        cells = (self.pixels[places] // _CELL_PX).astype(np.int64)
        columns = self.view.size_wh[0] // _CELL_PX + 1
        _, own = np.unique(cells[:, 1] * columns + cells[:, 0], return_inverse=True)
        nearest = np.full(len(places), np.inf)
        np.minimum.at(nearest, own, self.depth[places])
        return np.asarray(self.depth[places] > nearest[own] + _BEHIND_M)


def _matrix(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (4, 4) of x, y, z and a unit quaternion x, y, z, w."""
    x, y, z, w = pose[3:]
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pose[:3]
    return matrix


def _spread(count: int) -> NDArray[np.float64]:
    """Return points (count, 2) that fill the unit square evenly, however many there are."""
    numbers = np.arange(1, count + 1)[:, None] * _EVENLY
    return np.asarray(numbers % 1.0)


def _terms(at: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.ones((len(at), 1)), at], axis=1)
