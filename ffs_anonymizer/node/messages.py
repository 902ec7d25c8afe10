"""The message types that the node takes and makes."""

from __future__ import annotations

import array
import importlib
from typing import Any

from ffs_anonymizer.frames.frame import Buffer
from ffs_anonymizer.regions.detections import CLASSES, Regions
from std_msgs.msg import Header

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    DETECTIONS: Any = Detection2DArray
except ImportError:
    DETECTIONS = None

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
VIDEO_TYPES = ('foxglove_msgs/msg/CompressedVideo', 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket')
IMAGE_TYPES = (
    IMAGE,
    COMPRESSED_IMAGE,
    'foxglove_msgs/msg/RawImage',
    'foxglove_msgs/msg/CompressedImage',
    *VIDEO_TYPES,
)
CLOUD_TYPES = ('sensor_msgs/msg/PointCloud2',)
TRANSFORMS = 'tf2_msgs/msg/TFMessage'
INFO_TYPES = ('sensor_msgs/msg/CameraInfo',)


def message_type(name: str) -> Any:
    """
    Return the class of a message.

    :param name: as the graph shows it, `sensor_msgs/msg/Image`.
    :raises ImportError: its package is not installed.
    """
    package, _, kind = name.partition('/msg/')
    module = importlib.import_module(f'{package}.msg')
    try:
        return getattr(module, kind)
    except AttributeError as error:
        raise ImportError(f'{package} has no message {kind}') from error


def header_of(message: Any) -> Any:
    """Return the header of a message, or one made of the fields that foxglove has instead."""
    if hasattr(message, 'header'):
        return message.header
    return Header(stamp=message.timestamp, frame_id=message.frame_id)


def put_data(message: Any, data: Buffer) -> None:
    """
    Set the data of a message.

    :param data: what `message.data` holds already, where it is a view of that.
    """
    if isinstance(data, memoryview) and data.obj is message.data:
        return
    # The one type that rclpy takes without looking at each byte of it.
    message.data = array.array('B')
    message.data.frombytes(data)


def detections_of(header: Any, regions: Regions) -> Any:
    """Return the regions of a frame as a vision_msgs message; plain numbers, no pixels."""
    message = DETECTIONS(header=header)
    for box, kind, score, track_id in zip(
        regions.xyxy_px.tolist(),
        regions.classes,
        regions.scores,
        regions.track_ids,
        strict=True,
    ):
        x0, y0, x1, y1 = box
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = CLASSES[kind]
        hypothesis.hypothesis.score = float(score)
        detection = Detection2D(header=header, id=str(track_id), results=[hypothesis])
        detection.bbox.center.position.x = (x0 + x1) / 2
        detection.bbox.center.position.y = (y0 + y1) / 2
        detection.bbox.size_x = x1 - x0
        detection.bbox.size_y = y1 - y0
        message.detections.append(detection)
    return message
