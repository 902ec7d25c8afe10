"""The live node: camera topics in, anonymized camera topics out."""

from __future__ import annotations

import array
from collections.abc import Iterator, Sequence
from functools import partial
import signal
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from ffs_anonymizer.anonymizer import Anonymized, Zone
from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.node import middleware
from ffs_anonymizer.node.camera import Account, Camera, QUEUE_FRAMES
from ffs_anonymizer.node.route import Route, SENSOR_DEPTH
from ffs_anonymizer.node.worker import Worker
from ffs_anonymizer.regions.detections import CLASSES, Regions
from ffs_anonymizer.settings import declaration
from ffs_anonymizer.settings.parameter_file import ROS_NAMES
from ffs_anonymizer.settings.runtime import find_parameter, PARAMETERS, Settings
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None

READY = 'ready: models are loaded'
_IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
_INFO_TYPES = ('sensor_msgs/msg/CameraInfo',)
_COMPRESSED = '/compressed'
_POLL_S = 0.1
_DIAGNOSTICS_S = 1.0
_QUIET_S = 5.0
# Part of the frames lost by the middleware in one second above which it is worth a word.
_LOST_SHARE = 0.05
_PARAMETER_TYPES = {
    'bool': Parameter.Type.BOOL,
    'integer': Parameter.Type.INTEGER,
    'double': Parameter.Type.DOUBLE,
    'string': Parameter.Type.STRING,
    'integer array': Parameter.Type.INTEGER_ARRAY,
    'string array': Parameter.Type.STRING_ARRAY,
}


class AnonymizerNode(Node):  # type: ignore[misc]
    """
    Anonymize the camera topics that its parameters name.

    The constructor loads the models; nothing is subscribed or published before.

    :param node_name: the node's name.
    :param node_options: handed to `rclpy.node.Node`: namespace, context, parameter_overrides ...
    :raises AnonymizerError: a parameter is wrong, or a model cannot be loaded.
    """

    def __init__(self, *, node_name: str = 'anonymizer', **node_options: Any) -> None:
        super().__init__(node_name, **node_options)
        self._worker: Worker | None = None
        try:
            self._start()
        except BaseException:
            self.destroy_node()
            raise

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._settings

    def accounts(self) -> dict[str, Account]:
        """Return what became of each camera's frames, by topic."""
        return {camera.topic: camera.account() for camera in self._cameras}

    def destroy_node(self) -> None:
        """Finish the frame in work, release the models and destroy the node."""
        if self._worker is not None:
            self._worker.close()
        super().destroy_node()

    def _start(self) -> None:
        # rclpy has no public way to the overrides, and ignores those that nobody declares.
        self._overrides: dict[str, Parameter] = self._parameter_overrides
        self._settings = _settings_from(self._overrides)
        self._declare_settings()
        topics = self._topics()
        self._cameras = [Camera(topic, drop_old=self._settings.drop_old) for topic in topics]
        self._reported_s: dict[str, float] = {}
        self._reports: dict[str, Account] = {}
        self._worker = Worker(
            self._settings, self._cameras, deliver=self._deliver, report=self._report
        )
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._detections: Any = None
        if Detection2DArray is not None and self._settings.publish_detections:
            self._detections = self.create_publisher(Detection2DArray, '~/detections', 5)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        names = self._settings.image_topics
        self._routes = {
            camera.topic: self._image_route(name, camera, self._worker)
            for name, camera in zip(names, self._cameras, strict=True)
        }
        self._relays = [self._relay(name, types) for name, types in self._relayed()]
        self._log_start(self._worker.description)
        # Steady, since ROS time stands still while a simulation or a recording does.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_POLL_S, self._poll, clock=clock)
        self.create_timer(_DIAGNOSTICS_S, self._diagnose, clock=clock)

    def _log_start(self, description: dict[str, str]) -> None:
        logger = self.get_logger()
        for name, value in description.items():
            logger.info(f'{name}: {value}')
        logger.info(f'{READY}; cameras: {", ".join(self._routes) or "none"}')
        routes = (*self._routes.values(), *self._relays)
        if not routes:
            logger.warning('image_topics is empty: there is nothing to do')
        known = {'/clock', *(topic for route in routes for topic in (route.topic, route.output))}
        for name in self._overrides:
            if name.startswith('qos_overrides./') and name.split('.')[1] not in known:
                logger.warning(f'{name} names no camera topic of this node')
        self._warn_of_zones(self._settings)

    def _warn_of_zones(self, settings: Settings) -> None:
        """Tell of zones that fit no camera; a file may serve several nodes, so it is no error."""
        for name in ('mask_zones', 'ignore_zones'):
            for text in getattr(settings, name):
                if not Zone.parse(text).fits_any(camera.topic for camera in self._cameras):
                    self.get_logger().warning(
                        f'{name}: {text!r} fits no camera topic of this node, so it has no effect'
                    )

    # -- parameters

    def _declare_settings(self) -> None:
        values = self._settings.flat()
        for declared in PARAMETERS:
            value = values[declared.name]
            typed = Parameter(
                declared.name,
                _PARAMETER_TYPES[declared.type_name],
                list(value) if isinstance(value, tuple) else value,
            )
            # Dynamic typing, for rclpy takes no integer for a double and no empty list at all;
            # the types are checked in settings/declaration.py. The value is set once more because
            # declaring guesses the type of an empty list.
            self.declare_parameter(
                declared.name,
                typed.value,
                ParameterDescriptor(dynamic_typing=True),
                ignore_override=True,
            )
            self.set_parameters([typed])
            self.set_descriptor(declared.name, _descriptor(declared))

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        changes = {
            parameter.name: parameter.value
            for parameter in parameters
            if parameter.name.split('.')[0] not in ROS_NAMES
        }
        if not changes:
            return SetParametersResult(successful=True)
        assert self._worker is not None
        try:
            settings = self._settings.updated(changes)
            self._worker.update(settings)
        except AnonymizerError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._settings = settings
        if changes.keys() & {'mask_zones', 'ignore_zones'}:
            self._warn_of_zones(settings)
        return SetParametersResult(successful=True)

    # -- topics

    def _topics(self) -> list[str]:
        """
        Return the resolved names of the image topics.

        :raises SettingsError: a name cannot be used, or an output would meet an input.
        """
        prefix = self._settings.output_prefix
        names = (*self._settings.image_topics, *self._settings.copy_topics)
        try:
            inputs = [self.resolve_topic_name(name) for name in names]
            outputs = [self.resolve_topic_name(prefix + topic) for topic in inputs]
        except RuntimeError as error:
            raise SettingsError(
                f'image_topics, copy_topics or output_prefix: not a topic name: {error}'
            ) from error
        for name in sorted({topic for topic in inputs if inputs.count(topic) > 1}):
            raise SettingsError(f'{name} is named twice in image_topics and copy_topics')
        for topic, output in zip(inputs, outputs, strict=True):
            if output in inputs:
                raise SettingsError(
                    f'the output of {topic} would be {output}, which is an input too: choose '
                    'another output_prefix'
                )
            if outputs.count(output) > 1:
                raise SettingsError(f'two topics have the same output {output}')
        return inputs[: len(self._settings.image_topics)]

    def _image_route(self, name: str, camera: Camera, worker: Worker) -> Route:
        return Route(
            self,
            name,
            self._settings.output_prefix + camera.topic,
            types=_IMAGE_TYPES,
            presumed_type=_IMAGE_TYPES[1] if camera.topic.endswith(_COMPRESSED) else '',
            overridden=self._overrides,
            lazy=self._settings.lazy,
            on_message=partial(worker.put, camera),
            on_lost=camera.count_lost,
            depth=SENSOR_DEPTH if self._settings.drop_old else QUEUE_FRAMES,
        )

    def _relay(self, name: str, types: tuple[str, ...]) -> Route:
        return Route(
            self,
            name,
            self._settings.output_prefix + self.resolve_topic_name(name),
            types=types,
            overridden=self._overrides,
            lazy=self._settings.lazy,
            raw=True,
        )

    def _relayed(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the topics that are passed on as they are, with the types allowed."""
        copied = [self.resolve_topic_name(name) for name in self._settings.copy_topics]
        chosen = {*self._routes, *copied}
        yield from ((name, ()) for name in self._settings.copy_topics)
        for topic in (*self._routes, *copied):
            info = camera_info_topic(topic)
            if info not in chosen:
                chosen.add(info)
                yield info, _INFO_TYPES

    def _poll(self) -> None:
        for route in (*self._routes.values(), *self._relays):
            route.poll()

    # -- frames; these run in the worker's thread

    def _deliver(self, camera: Camera, message: Any, anonymized: Anonymized) -> None:
        if anonymized.data is not message.data:
            # The one type that rclpy takes without looking at each byte of it.
            data = array.array('B')
            data.frombytes(anonymized.data)
            message.data = data
        if self._detections is not None:
            self._detections.publish(_detections_of(message.header, anonymized.regions))
        self._routes[camera.topic].publish(message)

    def _report(self, camera: Camera, reason: str) -> None:
        now_s = time.monotonic()
        if now_s - self._reported_s.get(camera.topic, -_QUIET_S) >= _QUIET_S:
            self._reported_s[camera.topic] = now_s
            self.get_logger().error(f'{camera.topic}: frame not published: {reason}')

    # -- diagnostics

    def _diagnose(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status.append(self._backend_status())
        for camera in self._cameras:
            message.status.append(self._camera_status(camera))
        for route in self._relays:
            route.check()
            if route.problem:
                message.status.append(
                    _status(self, route.topic, DiagnosticStatus.ERROR, route.problem, {})
                )
        self._diagnostics.publish(message)

    def _backend_status(self) -> DiagnosticStatus:
        assert self._worker is not None
        reason = self._worker.dead_reason
        level = DiagnosticStatus.ERROR if reason else DiagnosticStatus.OK
        return _status(self, 'back end', level, reason or 'loaded', self._worker.description)

    def _camera_status(self, camera: Camera) -> DiagnosticStatus:
        route = self._routes[camera.topic]
        route.check()
        now = camera.account()
        before = self._reports.get(camera.topic, Account())
        self._reports[camera.topic] = now
        failed = now.failed - before.failed
        dropped = now.dropped - before.dropped
        lost = now.lost - before.lost
        received = now.received - before.received
        level, text = DiagnosticStatus.OK, 'anonymizing'
        if not route.seen:
            level, text = DiagnosticStatus.WARN, 'waiting for a publisher'
        elif not route.subscribed:
            text = 'idle: nobody subscribes to the output'
        elif not received:
            level, text = DiagnosticStatus.WARN, 'no frames arrive'
        if dropped:
            level, text = DiagnosticStatus.WARN, f'{dropped} of {received} frames were dropped'
        if lost > _LOST_SHARE * (lost + received):
            level, text = DiagnosticStatus.WARN, self._lost_text(route, lost, lost + received)
        if route.problem:
            level, text = DiagnosticStatus.ERROR, route.problem
        if failed:
            level = DiagnosticStatus.ERROR
            text = f'{failed} frames were not published: {now.last_error}'
        values = {
            'output': route.output,
            'type': route.type_name,
            'frames in': now.received,
            'frames out': now.published,
            'frames dropped': now.dropped,
            'frames failed': now.failed,
            'frames waiting': now.waiting,
            'frames lost before arrival': now.lost,
            'regions': now.regions,
            'rate in Hz': f'{received / _DIAGNOSTICS_S:.1f}',
            'rate out Hz': f'{(now.published - before.published) / _DIAGNOSTICS_S:.1f}',
            'latency p50 ms': f'{now.latency_p50_ms:.1f}',
            'latency p95 ms': f'{now.latency_p95_ms:.1f}',
            **{f'{stage} ms': f'{spent:.1f}' for stage, spent in now.timings_ms.items()},
            'last error': now.last_error,
        }
        return _status(self, camera.topic, level, text, values)

    def _lost_text(self, route: Route, lost: int, sent: int) -> str:
        text = (
            f'{lost} of {sent} frames were lost before they arrived: start the camera driver with '
            f'{middleware.PROFILE_VARIABLES[0]}='
            f'{middleware.profile_path() or "config/fastdds.xml"} (Fast DDS), '
            'or raise the socket buffers (others)'
        )
        if route.best_effort:
            text += '; its best effort publisher sends nothing twice'
        self.get_logger().warning(f'{route.topic}: {text}', throttle_duration_sec=30.0)
        return text


def camera_info_topic(image_topic: str) -> str:
    """Return the topic of the camera_info that belongs to an image topic (resolved name)."""
    if image_topic.endswith(_COMPRESSED):
        image_topic = image_topic[: -len(_COMPRESSED)]
    return image_topic.rpartition('/')[0] + '/camera_info'


def _settings_from(overrides: dict[str, Parameter]) -> Settings:
    """
    Build the settings from what was given in files, on the command line and by the constructor.

    :raises SettingsError: unknown name, wrong type or out of range.
    """
    changes = {}
    for name, override in overrides.items():
        if name.split('.')[0] in ROS_NAMES:
            continue
        declared = find_parameter(name)
        # rcl gives an empty list no type, and rclpy no value.
        empty = override.value is None and isinstance(declared.default, tuple)
        changes[name] = [] if empty else override.value
    return Settings().updated(changes)


def _descriptor(declared: declaration.Parameter) -> ParameterDescriptor:
    unit = f' Unit: {declared.unit}.' if declared.unit else ''
    descriptor = ParameterDescriptor(
        name=declared.name,
        type=_PARAMETER_TYPES[declared.type_name].value,
        description=f'{declared.meaning}{unit}',
        read_only=not declared.live,
        dynamic_typing=True,
    )
    if declared.choices:
        descriptor.additional_constraints = f'one of: {", ".join(declared.choices)}'
    if declared.bounds is not None:
        low, high = declared.bounds
        if declared.type_name == 'double':
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif declared.type_name == 'integer':
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.additional_constraints = f'each from {low:g} to {high:g}'
    return descriptor


def _status(
    node: Node, name: str, level: bytes, text: str, values: dict[str, Any]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=f'{node.get_name()}: {name}',
        hardware_id=node.get_fully_qualified_name(),
        level=level,
        message=text,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _detections_of(header: Any, regions: Regions) -> Any:
    """Return the regions of a frame as a vision_msgs message; plain numbers, no pixels."""
    message = Detection2DArray(header=header)
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


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until SIGINT or SIGTERM, and return the exit code.

    :param args: the command line with its ROS arguments; None: that of the process.
    """
    stop = threading.Event()
    # rclpy's own handlers race with the shutdown of its context at exit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    profile = middleware.use_large_frames()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    logger = get_logger('anonymizer')
    node = None
    try:
        node = AnonymizerNode()
        logger = node.get_logger()
        logger.info(f'Fast DDS profile: {profile or "not found, large frames may be lost"}')
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.2)
        executor.shutdown()
    except AnonymizerError as error:
        logger.fatal(str(error))
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        try_shutdown()
    return 0
