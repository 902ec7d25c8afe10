"""Serialized clouds, depth images, camera_info and transforms, written by rosbags."""

import struct

import cv2
from ffs_anonymizer.clouds import rvl
import numpy as np
from support.bags import Record, Spec, TYPES, write_bag

CLOUD, INFO = 'sensor_msgs/msg/PointCloud2', 'sensor_msgs/msg/CameraInfo'
IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
TF = 'tf2_msgs/msg/TFMessage'
# Of the topics that tests of clouds and depth write.
TYPES_OF = {
    '/cam/image': IMAGE,
    '/cam/camera_info': INFO,
    '/depth/image': IMAGE,
    '/points': CLOUD,
    '/lidar': CLOUD,
    '/tf_static': TF,
}
T = TYPES.types


def header(frame, stamp_ns):
    stamp = T['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    return T['std_msgs/msg/Header'](stamp, frame)


def serialized(message, type_name):
    return bytes(TYPES.serialize_cdr(message, type_name))


def cloud_cdr(msg, stamp_ns, frame='camera'):
    """Serialize what `cloud_message` returns."""
    fields = [
        T['sensor_msgs/msg/PointField'](f.name, f.offset, f.datatype, f.count) for f in msg.fields
    ]
    message = T[CLOUD](
        header(frame, stamp_ns),
        msg.height,
        msg.width,
        fields,
        msg.is_bigendian,
        msg.point_step,
        msg.row_step,
        np.frombuffer(msg.data, np.uint8),
        True,
    )
    return serialized(message, CLOUD)


def depth_cdr(depth_m, stamp_ns):
    """Serialize a depth image in mm."""
    samples = (depth_m * 1000).round().astype('<u2')
    height, width = samples.shape
    data = samples.view(np.uint8).reshape(-1)
    message = T[IMAGE](header('camera', stamp_ns), height, width, '16UC1', 0, 2 * width, data)
    return serialized(message, IMAGE)


def compressed_depth_cdr(depth_m, stamp_ns, code='png'):
    """Serialize a depth image in mm as compressed_depth_image_transport does."""
    samples = (depth_m * 1000).round().astype(np.uint16)
    if code == 'rvl':
        coded = struct.pack('<II', *samples.shape[::-1]) + rvl.encode(samples)
    else:
        coded = cv2.imencode('.png', samples)[1].tobytes()
    data = np.frombuffer(bytes(12) + coded, np.uint8)
    message = T[COMPRESSED](header('camera', stamp_ns), f'16UC1; compressedDepth {code}', data)
    return serialized(message, COMPRESSED)


def info_cdr(info, stamp_ns):
    """Serialize what `camera_info` returns."""
    roi = T['sensor_msgs/msg/RegionOfInterest'](**vars(info.roi), do_rectify=False)
    message = T[INFO](
        header(info.header.frame_id, stamp_ns),
        info.height,
        info.width,
        info.distortion_model,
        np.array(info.d, float),
        np.array(info.k),
        np.array(info.r),
        np.array(info.p),
        info.binning_x,
        info.binning_y,
        roi,
    )
    return serialized(message, INFO)


def tf_cdr(*transforms):
    """Serialize what `transform` returns."""
    messages = []
    for one in transforms:
        stamp = one.header.stamp
        moved = T['geometry_msgs/msg/Vector3'](
            *map(float, vars(one.transform.translation).values())
        )
        turned = T['geometry_msgs/msg/Quaternion'](
            *map(float, vars(one.transform.rotation).values())
        )
        messages.append(
            T['geometry_msgs/msg/TransformStamped'](
                header(one.header.frame_id, stamp.sec * 10**9 + stamp.nanosec),
                one.child_frame_id,
                T['geometry_msgs/msg/Transform'](moved, turned),
            )
        )
    return serialized(T[TF](messages), TF)


def sensor_bag(folder, rows, types, **options):
    """Write a bag of rows (topic, log_ns, data), with the type of each topic."""
    specs = [Spec(name, type_name) for name, type_name in types.items()]
    records = [
        Record(topic, log_ns, log_ns, number, data)
        for number, (topic, log_ns, data) in enumerate(rows)
    ]
    return write_bag(folder, records, specs=specs, **options)
