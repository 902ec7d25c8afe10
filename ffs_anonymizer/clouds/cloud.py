"""A coloured sensor_msgs/PointCloud2 as a frame: its colours a picture, its shape behind it."""

from __future__ import annotations

import re
from typing import Any

from ffs_anonymizer.clouds import surface
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.frame import Buffer, Frame, Rect
from ffs_anonymizer.frames.raw import as_buffer, writable
from ffs_anonymizer.frames.upright import upright
import numpy as np
from numpy.typing import NDArray

# By sensor_msgs/PointField's numbers, 1 to 8.
_DATATYPES = ('i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'f4', 'f8')
_POSITION = ('x', 'y', 'z')
_SHAPE = frozenset(('curvature', 'depth', 'distance', 'nx', 'ny', 'nz', 'range'))
# When and by which beam a point was measured, which shows nobody.
_STRUCTURE = frozenset(
    ('channel', 'line', 'offset_time', 'ring', 't', 'time', 'time_offset', 'timestamp')
)
_PACKED_COLOUR = ('rgb', 'rgba')
_COLOUR = re.compile(r'r|g|b|red|green|blue|.*(rgb|bgr|colou?r).*', re.I)
# No camera sees further; what is further is no measurement.
_FURTHEST_M = 1e6
GEOMETRIES = ('keep', 'flatten', 'drop')


class Cloud:
    """
    Hold the bytes of a PointCloud2 and where in them its points lie.

    `data` is the source until `edit` is called; then it is a copy, but for `in_place`.

    :param msg: the fields of sensor_msgs/PointCloud2; point_step and row_step in bytes.
    :param in_place: whether its data, where it can be written to, is the cloud's own from now on.
    :raises ImageError: sizes, fields and data do not go together, or there is no x, y and z.
    """

    def __init__(self, msg: Any, *, in_place: bool = False) -> None:
        self.height, self.width = int(msg.height), int(msg.width)
        self.point_step, self.row_step = int(msg.point_step), int(msg.row_step)
        self._order = '>' if msg.is_bigendian else '<'
        self.data: Buffer = as_buffer(msg.data)
        self._in_place, self._is_editable = in_place, False
        self._what = f'cloud of {self.width}x{self.height} points of {self.point_step} bytes'
        self._check_sizes()
        self._fields = self._read_fields(msg.fields)
        self.colour_offsets = self._find_colours()

    @property
    def is_organized(self) -> bool:
        """Return whether neighbours in memory are neighbours in a picture."""
        return self.height > 1

    @property
    def is_coloured(self) -> bool:
        """Return whether the points have colours."""
        return bool(self.colour_offsets)

    def edit(self) -> None:
        """Make `data` something that may be written to."""
        if not self._is_editable:
            self.data = writable(self.data, in_place=self._in_place)
            self._is_editable = True

    def clear_padding(self) -> None:
        """Clear what stands behind the last point of each row, which nobody looks at."""
        used = self.width * self.point_step
        if self.row_step > used:
            self.edit()
            np.frombuffer(self.data, np.uint8).reshape(self.height, -1)[:, used:] = 0

    def bytes_of_points(self) -> NDArray[np.uint8]:
        """Return a view (height, width, point_step) of `data`."""
        shape = (self.height, self.width, self.point_step)
        view: NDArray[np.uint8] = np.ndarray(
            shape, np.uint8, self.data, strides=(self.row_step, self.point_step, 1)
        )
        return view

    def coordinate(self, name: str) -> NDArray[np.floating[Any]]:
        """Return a view (height, width) of the field x, y or z."""
        kind, offset = self._fields[name]
        shape, strides = (self.height, self.width), (self.row_step, self.point_step)
        view: NDArray[np.floating[Any]] = np.ndarray(
            shape, self._order + kind, self.data, offset, strides
        )
        return view

    def positions(self, where: Any = ...) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """
        Return points, (..., 3) in m, and which of them were measured, (...).

        :param where: index into (height, width).
        """
        # Whatever the bytes are, signalling NaN included.
        with np.errstate(invalid='ignore'):
            columns = [self.coordinate(name)[where].astype(np.float64) for name in _POSITION]
        away = np.maximum(np.maximum(abs(columns[0]), abs(columns[1])), abs(columns[2]))
        # Some cameras write the origin where they measured nothing.
        return np.stack(columns, axis=-1), (away > 0) & (away < _FURTHEST_M)

    def put(self, where: Any, points: NDArray[np.float64] | None, geometry: str) -> None:
        """
        Clear points of all that may show somebody, and set them somewhere else.

        :param where: index into (height, width).
        :param points: (..., 3) in m, for flatten; None: they become NaN.
        :param geometry: keep leaves the coordinates and what goes with them; drop makes them NaN.
        """
        self.edit()
        kept = np.zeros(self.point_step, np.uint8)
        for name, (kind, offset) in self._fields.items():
            is_shape = name in _POSITION or name in _SHAPE or name.startswith('normal')
            if name in _STRUCTURE or (geometry == 'keep' and is_shape):
                kept[offset : offset + int(kind[-1])] = 255
        raw = self.bytes_of_points()
        raw[where] &= kept
        if geometry == 'keep':
            return
        if geometry == 'drop':
            points = None
        for i, name in enumerate(_POSITION):
            self.coordinate(name)[where] = np.nan if points is None else points[..., i]

    def colours(self) -> NDArray[np.uint8]:
        """Return the colours in memory of their own, (height, width, 3), blue, green, red."""
        raw = self.bytes_of_points()
        colours = np.empty((self.height, self.width, 3), np.uint8)
        for channel, offset in enumerate(self.colour_offsets[:3]):
            colours[..., channel] = raw[..., offset]
        return colours

    def put_colours(self, where: Any, colours_bgr: NDArray[np.uint8]) -> None:
        """Write colours (..., 3); alpha, where there is one, becomes opaque."""
        self.edit()
        raw = self.bytes_of_points()
        for channel, offset in enumerate(self.colour_offsets[:3]):
            raw[..., offset][where] = colours_bgr[..., channel]
        for offset in self.colour_offsets[3:]:
            raw[..., offset][where] = 255

    def _check_sizes(self) -> None:
        if self.width < 0 or self.height < 0 or self.point_step <= 0:
            raise ImageError(f'{self._what}: expected a size; its fields are wrong')
        if self.row_step < self.width * self.point_step:
            raise ImageError(
                f'{self._what}: got a row_step of {self.row_step} bytes, expected '
                f'{self.width * self.point_step} or more'
            )
        if len(self.data) != self.row_step * self.height:
            raise ImageError(
                f'{self._what}: got {len(self.data)} bytes of data, expected '
                f'{self.row_step * self.height}; the message is cut off or its fields are wrong'
            )

    def _read_fields(self, described: Any) -> dict[str, tuple[str, int]]:
        """Return type and offset of each field that has one number a point."""
        fields: dict[str, tuple[str, int]] = {}
        for field in described:
            name, offset, number = str(field.name), int(field.offset), int(field.datatype)
            # Some drivers write a count of 0 for a single number.
            count = max(int(field.count), 1)
            if not 1 <= number <= len(_DATATYPES):
                raise ImageError(f'{self._what}: field {name!r} has the unknown type {number}')
            kind = _DATATYPES[number - 1]
            if offset < 0 or offset + count * int(kind[-1]) > self.point_step:
                raise ImageError(
                    f'{self._what}: field {name!r} ends at byte '
                    f'{offset + count * int(kind[-1])}, outside of the point'
                )
            if name in fields and (name in _POSITION or _COLOUR.fullmatch(name)):
                raise ImageError(f'{self._what}: there are two fields {name!r}')
            if count == 1:
                fields[name] = (kind, offset)
            elif _COLOUR.fullmatch(name):
                raise ImageError(f'{self._what}: field {name!r} has {count} numbers, expected 1')
        for name in _POSITION:
            if fields.get(name, ('', 0))[0] not in ('f4', 'f8'):
                raise ImageError(
                    f'{self._what}: got fields {", ".join(fields) or "none"}, expected x, y and z '
                    'of floating point numbers'
                )
        return fields

    def _find_colours(self) -> tuple[int, ...]:
        """Return the offsets of blue, green, red and alpha in a point; alpha may be missing."""
        for name in _PACKED_COLOUR:
            if name not in self._fields:
                continue
            kind, offset = self._fields[name]
            if int(kind[-1]) != 4:
                raise ImageError(
                    f'{self._what}: the field {name!r} has {kind[-1]} bytes, expected 4'
                )
            channels = 4 if name == 'rgba' else 3
            places = range(3, -1, -1) if self._order == '>' else range(4)
            return tuple(offset + place for place in places[:channels])
        apart = [self._fields[name] for name in ('b', 'g', 'r', 'a') if name in self._fields]
        if len(apart) >= 3 and all(kind == 'u1' for kind, _ in apart):
            return tuple(offset for _, offset in apart)
        suspect = [name for name in self._fields if _COLOUR.fullmatch(name)]
        if suspect:
            raise ImageError(
                f'{self._what}: got colours in {", ".join(suspect)}, expected rgb or rgba of 4 '
                'bytes, or r, g and b of one byte each'
            )
        return ()


class CloudFrame(Frame):
    """
    Hold an organized cloud with colours.

    :param geometry: what becomes of the shape in what is touched: keep leaves it, drop makes the
        points NaN, flatten puts them on a smooth surface in the border, with noise of the
        sensor's size; where nothing is known around, they are dropped too.
    """

    def __init__(self, cloud: Cloud, geometry: str) -> None:
        self._cloud, self._geometry = cloud, geometry
        self.image_bgr = cloud.colours()

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """
        Return the cloud's bytes, changed in the touched rectangles alone.

        There, nothing is left but the picture, the surface, and when and by which beam a point
        was measured. Row padding is zero.
        """
        self._cloud.clear_padding()
        rects = list(self._inside(touched_xyxy_px))
        size_wh = (self._cloud.width, self._cloud.height)
        surfaces = [self._surface(rect, rects, size_wh) for rect in rects]
        for rect, points in zip(rects, surfaces, strict=True):
            x0, y0, x1, y1 = rect
            where = (slice(y0, y1), slice(x0, x1))
            self._cloud.put(where, points, self._geometry)
            self._cloud.put_colours(where, self.image_bgr[where])
        return self._cloud.data

    def _surface(
        self, rect: Rect, rects: list[Rect], size_wh: tuple[int, int]
    ) -> NDArray[np.float64] | None:
        if self._geometry != 'flatten':
            return None
        left, top, right, bottom = window = surface.around(rect, size_wh)
        points, known = self._cloud.positions((slice(top, bottom), slice(left, right)))
        known &= surface.outside(window, rects)
        hole = (rect[0] - left, rect[1] - top, rect[2] - left, rect[3] - top)
        spanned = surface.span(points, known, hole)
        if spanned is None:
            return None
        # Along the view, as range sensors err.
        size = surface.noise_size(_lengths(points), known) * surface.noise(rect)
        factor = 1 + size / np.maximum(_lengths(spanned), np.finfo(np.float64).tiny)
        return np.asarray(spanned * factor[..., None])


def decode_cloud(msg: Any, geometry: str, *, rotation: int = 0, in_place: bool = False) -> Frame:
    """
    Decode an organized sensor_msgs/PointCloud2 with colours, or anything with its fields.

    :param geometry: one of GEOMETRIES.
    :param rotation: degrees clockwise that make the camera's picture upright.
    :param in_place: whether the message's data, where it can be written to, is the frame's own
        from now on, instead of a copy.
    :raises ImageError: it is empty or not organized, has no colours, or its sizes do not go
        together.
    """
    cloud = Cloud(msg, in_place=in_place)
    if not cloud.is_coloured or not cloud.is_organized or not cloud.width:
        raise ImageError(
            f'got a cloud of {cloud.width}x{cloud.height} points '
            f'{"with" if cloud.is_coloured else "without"} colours, expected rows and columns of '
            'coloured points; list the camera that sees the same in cloud.cameras'
        )
    return upright(CloudFrame(cloud, geometry), rotation=rotation)


def shape_left(before: Cloud, after: Cloud, xyxy_px: NDArray[np.int32]) -> float:
    """
    Return which share of the shape in a rectangle of an organized cloud is there still, 0 to 1.

    Where another shape than that of a smooth surface is not to be seen, it is 0.

    :param xyxy_px: (4,) columns and rows, inside the cloud.
    """
    x0, y0, x1, y1 = rect = tuple(xyxy_px.tolist())
    left, top, right, bottom = surface.around(rect, (before.width, before.height))
    window = (slice(top, bottom), slice(left, right))
    old, was_known = before.positions(window)
    new, is_known = after.positions(window)
    hole = (x0 - left, y0 - top, x1 - left, y1 - top)
    inside = (slice(hole[1], hole[3]), slice(hole[0], hole[2]))
    same = (old == new).all(axis=-1)[inside][was_known[inside]]
    if not same.any() or surface.is_flat(new, is_known, hole):
        return 0.0
    return float(same.mean())


def blank_cloud(msg: Any) -> Buffer:
    """
    Return the data of a cloud of which no point was measured.

    :raises ImageError: sizes, fields and data do not go together.
    """
    cloud = Cloud(msg)
    if len(cloud.data):
        cloud.put(..., None, 'drop')
        cloud.clear_padding()
    return cloud.data


def _lengths(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of points (..., 3) from the origin; of some, no number or infinity."""
    with np.errstate(all='ignore'):
        return np.asarray(np.sqrt(np.einsum('...i,...i', points, points)))
