"""Point clouds and depth images made on the spot, without ROS, and a head to put into them."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np

FLOAT32, UINT32, UINT8, UINT16, FLOAT64 = 7, 6, 2, 4, 8
BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}
LETTERS = ('i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'f4', 'f8')
XYZ_RGB = (('x', 0, FLOAT32), ('y', 4, FLOAT32), ('z', 8, FLOAT32), ('rgb', 16, FLOAT32))
FOCAL_PX = 525.0


def cloud_message(
    points, colours_bgr, *, fields=XYZ_RGB, point_step=32, padding=0, bigendian=False, others=None
):
    """
    Return a PointCloud2 of (H, W, 3) points and colours, one point after the other.

    Bytes that no field names are 0xA5; `others` are values (H, W) by field.
    """
    height, width = points.shape[:2]
    row_step = width * point_step + padding
    data = np.full((height, row_step), 0xA5, np.uint8)
    order = '>' if bigendian else '<'
    values = {'x': points[..., 0], 'y': points[..., 1], 'z': points[..., 2], **(others or {})}
    for name, offset, kind in fields:
        if name in ('rgb', 'rgba'):
            b, g, r = (colours_bgr[..., i].astype(np.uint32) for i in range(3))
            alpha = 0 if name == 'rgb' else 255
            packed = (alpha << 24 | r << 16 | g << 8 | b).astype(f'{order}u4')
        elif name in 'rgb':
            packed = colours_bgr[..., 'bgr'.index(name)]
        else:
            packed = values[name].astype(order + LETTERS[kind - 1])
        size = BYTES[kind]
        raw = np.ascontiguousarray(packed)[..., None].view(np.uint8).reshape(height, width, size)
        for i in range(size):
            data[:, offset + i : width * point_step : point_step] = raw[..., i]
    return SimpleNamespace(
        height=height,
        width=width,
        fields=[
            SimpleNamespace(name=name, offset=offset, datatype=kind, count=1)
            for name, offset, kind in fields
        ],
        is_bigendian=bigendian,
        point_step=point_step,
        row_step=row_step,
        data=data.tobytes(),
        is_dense=False,
    )


def points_from(depth_m, focal_px=FOCAL_PX):
    """Return the points (H, W, 3) that a pinhole camera sees; NaN where the depth is."""
    height, width = depth_m.shape
    v, u = np.mgrid[:height, :width]
    x = (u - (width - 1) / 2) / focal_px * depth_m
    y = (v - (height - 1) / 2) / focal_px * depth_m
    return np.stack([x, y, depth_m], axis=-1)


def head_scene(portrait_bgr, box_xyxy_px, *, size_wh=(640, 480), seed=0):
    """
    Render a head in front of a wall: an ellipsoid with a nose, coloured by a portrait.

    :param box_xyxy_px: of the face in the portrait; the head's surface follows it.
    :returns: image (H, W, 3) BGR and depth (H, W) in m, with noise of 2 mm at 1 m.
    """
    width, height = size_wh
    image = cv2.resize(portrait_bgr, size_wh, interpolation=cv2.INTER_AREA)
    scale = np.array([width / portrait_bgr.shape[1], height / portrait_bgr.shape[0]] * 2)
    x0, y0, x1, y1 = np.array(box_xyxy_px) * scale
    v, u = np.mgrid[:height, :width].astype(np.float64)
    across = (u - (x0 + x1) / 2) / ((x1 - x0) * 0.75)
    down = (v - (y0 + y1) / 2) / ((y1 - y0) * 0.75)
    depth = 2.0 + 0.1 * (u / width) - 0.05 * (v / height)
    body = (down > 0.6) & (np.abs(across) < 2.5)
    depth[body] = 1.15 + 0.05 * np.abs(across[body])
    radius2 = across**2 + down**2
    head = radius2 < 1
    depth[head] = 1.12 - 0.12 * np.sqrt(1 - radius2[head])
    nose = np.exp(-((across / 0.14) ** 2) - ((down - 0.12) / 0.22) ** 2)
    depth -= 0.03 * nose * head
    rng = np.random.default_rng(seed)
    depth += 0.002 * depth**2 * rng.standard_normal(depth.shape)
    return image, depth


def header(frame='camera', stamp_ns=0):
    """Return a std_msgs/Header."""
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(frame_id=frame, stamp=stamp)


def camera_info(size_wh=(640, 480), *, frame='camera', model='plumb_bob', d=(), focal=FOCAL_PX):
    """Return a sensor_msgs/CameraInfo of a camera that `points_from` fits."""
    width, height = size_wh
    k = [focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0]
    return SimpleNamespace(
        header=header(frame),
        width=width,
        height=height,
        distortion_model=model,
        d=list(d),
        k=k,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0],
        binning_x=0,
        binning_y=0,
        roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    )


def transform(parent, child, xyz, xyzw=(0.0, 0.0, 0.0, 1.0), stamp_ns=0):
    """Return a geometry_msgs/TransformStamped."""
    return SimpleNamespace(
        header=header(parent, stamp_ns),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(**dict(zip('xyz', xyz, strict=True))),
            rotation=SimpleNamespace(**dict(zip('xyzw', xyzw, strict=True))),
        ),
    )


FACE_XYXY_PX = (180, 70, 268, 190)


def portrait():
    """Return NASA's portrait of Eileen Collins, 512 pixels wide and 384 high."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:384, :, ::-1])


def draw(points, colours_bgr, *, turned_deg, size_px=320, middle=(-0.09, -0.16, 1.1)):
    """Return a picture of points from another side."""
    turn = np.deg2rad(turned_deg)
    matrix = np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    there = (points.reshape(-1, 3) - middle) @ matrix.T + [0, 0, 1.2]
    colours = colours_bgr.reshape(-1, 3)
    keep = np.isfinite(there).all(1) & (there[:, 2] > 0.3) & (there[:, 2] < 3)
    there, colours = there[keep], colours[keep]
    far_first = np.argsort(-there[:, 2])
    there, colours = there[far_first], colours[far_first]
    focal = 2.1 * size_px
    pixels = np.rint(there[:, :2] / there[:, 2:] * focal + size_px / 2).astype(int)
    picture = np.full((size_px, size_px, 3), 40, np.uint8)
    x, y = (pixels[:, i, None] + side.ravel() for i, side in enumerate(np.mgrid[-2:3, -2:3]))
    inside = (x >= 0) & (y >= 0) & (x < size_px) & (y < size_px)
    picture[y[inside], x[inside]] = np.repeat(colours, 25, axis=0)[inside.ravel()]
    return picture


def three_sides(points, colours_bgr):
    """Return a row of three pictures of a cloud, and below them the same in plaster."""
    columns = []
    smooth = [cv2.GaussianBlur(points[..., i], (0, 0), 3.0) for i in range(3)]
    shape = np.stack(smooth, axis=-1)
    normal = np.cross(np.gradient(shape, axis=1), np.gradient(shape, axis=0))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    light = np.array([0.45, -0.45, 0.77])
    shade = (70 + 180 * np.abs(normal @ light)).clip(0, 255).astype(np.uint8)
    plaster = np.repeat(shade[..., None], 3, axis=-1)
    for degrees in (35, 0, -35):
        column = [draw(points, paint, turned_deg=degrees) for paint in (colours_bgr, plaster)]
        columns.append(np.concatenate(column))
    return np.concatenate(columns, axis=1)


def main():
    """Draw the picture of docs/clouds.md."""
    from ffs_anonymizer.clouds.cloud import Cloud, decode_cloud
    from ffs_anonymizer.settings.runtime import Settings
    from ffs_anonymizer.stream import Stream
    from support.recipes import opened

    image, depth = head_scene(portrait(), FACE_XYXY_PX)
    msg = cloud_message(points_from(depth), image)
    frame = decode_cloud(msg, 'flatten')
    with opened(Settings().updated({'face.method': 'generate'})) as recipe:
        msg.data = bytes(recipe.anonymize(frame, Stream())[0].data)
    after = Cloud(msg)
    before = three_sides(points_from(depth), image)
    gap = np.full((len(before), 16, 3), 255, np.uint8)
    sides = [before, gap, three_sides(after.positions()[0], after.colours())]
    cv2.imwrite(sys.argv[1], np.concatenate(sides, axis=1), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == '__main__':
    main()
