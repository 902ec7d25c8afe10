"""Play a recording into ROS 2 topics, and record what the node makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
from dataclasses import dataclass, field
import importlib
from pathlib import Path
import re
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from ffs_anonymizer.node import middleware
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from recording import TYPESTORE
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

OUTPUTS = re.compile('/anonymized/.*')
DEPTH = 200


@dataclass
class Recorder:
    """
    Keep what is published on topics that match, as it comes.

    :param messages: topic, time of arrival in ns and serialized message, in order.
    :param diagnostics: the newest values of each status, by the name of its topic.
    """

    node: Node
    messages: list[tuple[str, int, bytes]] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    diagnostics: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Listen to the diagnostics at once; the other topics come with `look`."""
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnose, 10)

    def look(self) -> None:
        """Subscribe to the matching topics that have come up."""
        for topic, names in self.node.get_topic_names_and_types():
            if OUTPUTS.fullmatch(topic) and topic not in self.types:
                self.types[topic] = names[0]
                self.node.create_subscription(
                    _message_class(names[0]),
                    topic,
                    lambda data, topic=topic: self.messages.append((topic, time.time_ns(), data)),
                    DEPTH,
                    raw=True,
                )

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.rpartition(': ')[2]
            self.diagnostics[name] = {value.key: value.value for value in status.values}

    def write(self, path: Path) -> None:
        """Write what was kept into a recording of its own."""
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {
                topic: writer.add_connection(topic, name, typestore=TYPESTORE)
                for topic, name in self.types.items()
            }
            for topic, arrived_ns, data in self.messages:
                writer.write(connections[topic], arrived_ns, data)


@contextlib.contextmanager
def ros_node(name: str) -> Iterator[Node]:
    """Yield a node that is spun in a thread."""
    middleware.use_large_frames()
    context = Context()
    rclpy.init(context=context)
    node = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stopped = threading.Event()

    def spin() -> None:
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield node
    finally:
        stopped.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


class Player:
    """
    Publish the messages of a recording at its own pace.

    :param path: of the recording.
    """

    def __init__(self, node: Node, path: Path) -> None:
        with Reader(path) as reader:
            self._messages = [
                (connection.topic, stamp_ns, bytes(data))
                for connection, stamp_ns, data in reader.messages()
            ]
            self.publishers = {
                connection.topic: node.create_publisher(
                    _message_class(connection.msgtype), connection.topic, DEPTH
                )
                for connection in reader.connections
            }

    def subscribed(self, topics: tuple[str, ...]) -> bool:
        """Return whether somebody listens to each of the topics."""
        return all(self.publishers[topic].get_subscription_count() for topic in topics)

    def play(self) -> Mapping[str, int]:
        """Publish everything and return the number of messages by topic."""
        sent = dict.fromkeys(self.publishers, 0)
        start_s, first_ns = time.monotonic(), self._messages[0][1]
        for topic, stamp_ns, data in self._messages:
            due_s = start_s + (stamp_ns - first_ns) / 1e9
            time.sleep(max(0.0, due_s - time.monotonic()))
            self.publishers[topic].publish(data)
            sent[topic] += 1
        return sent


def wait_for(what: str, condition: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    """
    Wait until a condition holds.

    :raises TimeoutError: it does not within the time; the text says what was waited for.
    """
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f'waited {timeout_s:g} s in vain: {what}')
        time.sleep(0.05)


def _message_class(name: str) -> Any:
    package, _, message = name.partition('/msg/')
    return getattr(importlib.import_module(f'{package}.msg'), message)
