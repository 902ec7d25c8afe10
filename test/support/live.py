"""A node under test beside a tester over real DDS, and the messages that they exchange."""

from __future__ import annotations

import array
from collections.abc import Callable
import os
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from ffs_anonymizer.node.node import AnonymizerNode
import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

DOMAIN = 1 + os.getpid() % 100
# Nothing is detected, so all that changes is the zone.
BLIND = {'detector.plate_model_path': 'none', 'face.threshold': 1.0, 'mask_zones': ['* 8 8 24 24']}
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=20)


class Live:
    """A node under test beside a tester, in a context that nobody else can see."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Any] = []
        self.tester = self._add(rclpy.create_node('tester', context=self.context))

    def _add(self, node: Any) -> Any:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def start(
        self,
        node_name: str = 'anonymizer',
        namespace: str = '',
        kind: Any = AnonymizerNode,
        networks: Any = None,
        **values: Any,
    ) -> Any:
        overrides = [
            Parameter(name.replace('__', '.'), value=value) for name, value in values.items()
        ]
        return self._add(
            kind(
                node_name=node_name,
                namespace=namespace,
                context=self.context,
                parameter_overrides=overrides,
                networks=networks,
            )
        )

    def remove(self, node: Any) -> None:
        """End a node before the test does."""
        self.executor.remove_node(node)
        self.nodes.remove(node)
        node.destroy_node()

    def blind(self, *topics: str, **values: Any) -> Any:
        return self.start(image_topics=list(topics), **{**BLIND, **values})

    def publisher(self, kind: Any, topic: str, qos: Any = RELIABLE) -> Any:
        return self.tester.create_publisher(kind, topic, qos)

    def received(self, kind: Any, topic: str, **options: Any) -> list[Any]:
        messages: list[Any] = []
        self.tester.create_subscription(kind, topic, messages.append, RELIABLE, **options)
        return messages

    def until(self, what: str, holds: Callable[[], object], timeout_s: float = 10.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            self.executor.spin_once(timeout_sec=0.02)
            assert time.monotonic() < end_s, f'waited {timeout_s} s until {what}'

    def spin(self, seconds: float) -> None:
        """For what must not happen, which no condition can wait for."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.02)

    def matched(self, *publishers: Any) -> None:
        self.until(
            'the node subscribes', lambda: all(p.get_subscription_count() for p in publishers)
        )

    def pass_one(self, publisher: Any, message: Any, outputs: list[Any]) -> Any:
        before = len(outputs)
        publisher.publish(message)
        self.until('the frame comes out', lambda: len(outputs) > before)
        return outputs[-1]

    def statuses(self, name: str) -> list[Any]:
        found: list[Any] = []
        self.tester.create_subscription(
            DiagnosticArray,
            '/diagnostics',
            lambda message: found.extend(s for s in message.status if s.name.endswith(name)),
            10,
        )
        return found

    def call(self, kind: Any, service: str, request: Any) -> Any:
        client = self.tester.create_client(kind, service)
        self.until('the service is there', client.service_is_ready)
        future = client.call_async(request)
        self.until('the service answers', future.done)
        self.tester.destroy_client(client)
        return future.result()

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        result = self.call(SetParameters, '/anonymizer/set_parameters', request).results[0]
        return result.successful, result.reason

    def close(self) -> None:
        self.executor.shutdown()
        for node in reversed(self.nodes):
            node.destroy_node()
        self.context.try_shutdown()


def pixels(width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """Return a smooth picture; each sample is odd, so none is as black as a zone."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (c + 1) + y * 2) % 200 + 30 | 1 for c in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def buffer(data: bytes) -> array.array[int]:
    held = array.array('B')
    held.frombytes(data)
    return held


def image(
    encoding: str = 'bgr8',
    channels: int = 3,
    *,
    width: int = 48,
    height: int = 40,
    padding: int = 0,
    stamp: int = 1,
) -> Any:
    rows = pixels(width, height, channels).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=buffer(rows.tobytes()),
    )
    message.header.frame_id = 'camera_optical'
    message.header.stamp.sec = stamp
    message.header.stamp.nanosec = 123456789
    return message


def jpeg(stamp: int = 1) -> Any:
    data = cv2.imencode('.jpg', pixels(48, 40, 3))[1].tobytes()
    message = CompressedImage(format='bgr8; jpeg compressed bgr8', data=buffer(data))
    message.header.frame_id = 'camera_optical'
    message.header.stamp.sec = stamp
    return message
