"""A short recording of one astronaut in front of two cameras, for the demo and for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from skimage import data as pictures

FRONT = '/camera/front/image_raw'
REAR = '/camera/rear/image_raw/compressed'
VELOCITY = '/vehicle/velocity'
IMAGE_TOPICS = (FRONT, REAR)
INFO_TOPICS = ('/camera/front/camera_info', '/camera/rear/camera_info')
SIZE_WH = (640, 480)
RATE_HZ = 5
SECONDS = 8
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)

_START_NS = 1_700_000_000_000_000_000
# Where the camera looks in the photo of 512x512 pixels: centre x, centre y and width, in order.
_PATH = np.array(
    [[256, 192, 512], [225, 160, 340], [215, 130, 240], [300, 200, 420], [380, 400, 260]], float
)


def astronaut_bgr() -> NDArray[np.uint8]:
    """Return the portrait of Eileen Collins by NASA (public domain) that scikit-image brings."""
    return np.ascontiguousarray(pictures.astronaut()[:, :, ::-1])


def view(photo_bgr: NDArray[np.uint8], progress: float) -> NDArray[np.uint8]:
    """
    Return what a camera sees that pans and zooms over a photo.

    :param progress: 0 at the start, 1 at the end.
    :returns: (480, 640, 3) uint8.
    """
    at = np.linspace(0, 1, len(_PATH))
    x, y, width = (np.interp(progress, at, _PATH[:, i]) for i in range(3))
    scale = SIZE_WH[0] / width
    turn = np.array(
        [[scale, 0, SIZE_WH[0] / 2 - x * scale], [0, scale, SIZE_WH[1] / 2 - y * scale]]
    )
    return np.asarray(
        cv2.warpAffine(
            photo_bgr, turn, SIZE_WH, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        ),
        np.uint8,
    )


def write(path: Path) -> None:
    """
    Write the recording: raw and JPEG images, their camera_info, and the vehicle's velocity.

    :param path: a folder that does not exist yet.
    """
    types = {
        FRONT: 'sensor_msgs/msg/Image',
        REAR: 'sensor_msgs/msg/CompressedImage',
        **dict.fromkeys(INFO_TOPICS, 'sensor_msgs/msg/CameraInfo'),
        VELOCITY: 'geometry_msgs/msg/TwistStamped',
    }
    photo = astronaut_bgr()
    count = RATE_HZ * SECONDS
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(topic, name, typestore=TYPESTORE)
            for topic, name in types.items()
        }
        for i in range(count):
            progress = i / (count - 1)
            front, rear = view(photo, progress), view(photo[:, ::-1], 1 - progress)
            front_ns = _START_NS + i * 1_000_000_000 // RATE_HZ
            rear_ns = front_ns + 13_000_000
            for topic, stamp_ns, message in (
                (FRONT, front_ns, _image(front, front_ns)),
                (INFO_TOPICS[0], front_ns, _camera_info(front_ns, 'camera_front')),
                (VELOCITY, front_ns, _velocity(front_ns, progress)),
                (REAR, rear_ns, _compressed(rear, rear_ns)),
                (INFO_TOPICS[1], rear_ns, _camera_info(rear_ns, 'camera_rear')),
            ):
                data = TYPESTORE.serialize_cdr(message, types[topic])
                # Written a little after it was taken, as by a real recorder.
                writer.write(connections[topic], stamp_ns + 2_000_000, data)


def _message(name: str, **fields: Any) -> Any:
    return TYPESTORE.types[name](**fields)


def _header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = _message('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return _message('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _image(image_bgr: NDArray[np.uint8], stamp_ns: int) -> Any:
    height, width = image_bgr.shape[:2]
    return _message(
        'sensor_msgs/msg/Image',
        header=_header(stamp_ns, 'camera_front'),
        height=height,
        width=width,
        encoding='bgr8',
        is_bigendian=0,
        step=width * 3,
        data=image_bgr.reshape(-1),
    )


def _compressed(image_bgr: NDArray[np.uint8], stamp_ns: int) -> Any:
    done, encoded = cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise RuntimeError('OpenCV cannot encode a JPEG')
    return _message(
        'sensor_msgs/msg/CompressedImage',
        header=_header(stamp_ns, 'camera_rear'),
        format='bgr8; jpeg compressed bgr8',
        data=encoded.reshape(-1),
    )


def _camera_info(stamp_ns: int, frame_id: str) -> Any:
    width, height = SIZE_WH
    focal = 500.0
    k = np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1])
    p = np.array([focal, 0, width / 2, 0, 0, focal, height / 2, 0, 0, 0, 1, 0])
    roi = _message(
        'sensor_msgs/msg/RegionOfInterest',
        x_offset=0,
        y_offset=0,
        height=0,
        width=0,
        do_rectify=False,
    )
    return _message(
        'sensor_msgs/msg/CameraInfo',
        header=_header(stamp_ns, frame_id),
        height=height,
        width=width,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=k,
        r=np.eye(3).reshape(-1),
        p=p,
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def _velocity(stamp_ns: int, progress: float) -> Any:
    def vector(x: float) -> Any:
        return _message('geometry_msgs/msg/Vector3', x=x, y=0.0, z=0.0)

    return _message(
        'geometry_msgs/msg/TwistStamped',
        header=_header(stamp_ns, 'base_link'),
        twist=_message(
            'geometry_msgs/msg/Twist', linear=vector(10 * progress), angular=vector(0.0)
        ),
    )
