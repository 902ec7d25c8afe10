"""What makes a node an anonymizer: its parameters, its worker, its topics and its diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import difflib
from functools import partial
from pathlib import Path
import time
from typing import Any

from ffs_anonymizer import allocator
from ffs_anonymizer.anonymizer import Anonymized
from ffs_anonymizer.clouds.scene import Scene
from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.frames.message import idle_rotations
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node import parameters, qos, topics, weakenings
from ffs_anonymizer.node.camera import Account, Camera, QUEUE_FRAMES
from ffs_anonymizer.node.diagnostics import Diagnostics, PERIOD_S, Reminder, StatusReport
from ffs_anonymizer.node.infos import Infos
from ffs_anonymizer.node.listing import Listing
from ffs_anonymizer.node.messages import (
    CLOUD_TYPES,
    COMPRESSED_IMAGE,
    DETECTIONS,
    detections_of,
    header_of,
    IMAGE_TYPES,
    INFO_TYPES,
    message_type,
    put_data,
    TRANSFORMS,
)
from ffs_anonymizer.node.parameter_files import check_parameter_file
from ffs_anonymizer.node.pictures import check_video, is_packet, stamp_of
from ffs_anonymizer.node.route import Route, SENSOR_DEPTH
from ffs_anonymizer.node.snapshot import Snapshots
from ffs_anonymizer.node.topics import NodeTopic
from ffs_anonymizer.node.worker import Worker
from ffs_anonymizer.regions.zones import Zone
from ffs_anonymizer.settings.runtime import Settings
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

READY = 'ready: models are loaded'
_POLL_S = 0.1
_QUIET_S = 5.0
# How long a topic may stay without a publisher before the log says so, and how often it does.
SILENT_S = 5.0
_REMIND_S = 60.0
# Messages of /tf that the middleware keeps for us, as tf2 has it.
_TRANSFORMS = 100


class Service:
    """
    Anonymize the camera topics that a node's parameters name.

    Four steps, each with its way back: the constructor declares the parameters, `load` opens the
    networks, `open` the topics; `close` and `free`. Nothing is subscribed to or published before
    `open` but diagnostics. All is called in the executor's thread.

    :param node: a plain or a managed one.
    :param parameter_files: those that the node was given.
    :param stopped: tells whether the process is to end, which ends the loading too.
    :param networks: open ones, shared with other nodes of the process; None: own ones.
    :raises SettingsError: a parameter or a topic's name is wrong, or a file is not for the node.
    """

    def __init__(
        self,
        node: Node,
        *,
        parameter_files: Sequence[Path] = (),
        stopped: Callable[[], bool] = lambda: False,
        networks: Networks | None = None,
    ) -> None:
        self._node = node
        self._networks = networks
        self._stopped = stopped
        for path in parameter_files:
            check_parameter_file(path, node.get_fully_qualified_name())
        # rclpy has no public way to the overrides, and ignores those that nobody declares.
        self._overrides = dict(node._parameter_overrides)
        self.settings: Settings = parameters.settings_of(self._overrides)
        self._topics = topics.plan(
            self.settings,
            resolve=node.resolve_topic_name,
            expand=partial(node.resolve_topic_name, only_expand=True),
        )
        self._strange_qos = qos.check(self._overrides, self._topics)
        parameters.declare(node, self.settings, self._on_change)
        self._sources = [
            *((topic, 'image') for topic in self._topics.images),
            *((topic, 'cloud') for topic in self._topics.clouds),
            *((topic, 'depth') for topic in self._topics.depths),
            *((topic, 'registered') for topic in self._topics.registered),
        ]
        self._worker: Worker | None = None
        self._cameras: list[Camera] = []
        self._routes: dict[str, Route] = {}
        self._passed: list[Route] = []
        self._infos: list[tuple[Route, Infos, NodeTopic]] = []
        self._lenses: list[Any] = []
        self._detections: Any = None
        self._listing: Listing | None = None
        self._diagnostics = Diagnostics(node)
        self._snapshots: Snapshots | None = None
        if self.settings.snapshot_folder:
            self._snapshots = Snapshots(Path(self.settings.snapshot_folder))
            node.create_service(Trigger, '~/snapshot', self._snapshot)
        self._failures = Reminder(_QUIET_S)
        self._silence = Reminder(_REMIND_S)
        self._problems = Reminder(_REMIND_S)
        self._sizes_wh: dict[str, tuple[int, int]] = {}
        self._fallen: dict[str, tuple[float, str]] = {}
        self._said: dict[str, tuple[float, list[str]]] = {}
        self._opened_s = 0.0
        # Steady, since ROS time stands still while a simulation or a recording does.
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnosing = node.create_timer(PERIOD_S, self._diagnose, clock=self._clock)
        self._polling = node.create_timer(_POLL_S, self._poll, clock=self._clock)
        self._polling.cancel()

    def accounts(self) -> dict[str, Account]:
        """Return what became of each camera's frames, by topic."""
        return {camera.topic: camera.account() for camera in self._cameras}

    def load(self) -> None:
        """
        Open the networks.

        :raises AnonymizerError: one of them cannot be loaded, a zone cannot be read, or the
            encoder or decoder of videos does not work.
        """
        for text in check_video(self.settings):
            self._logger.warning(f'video: {text}')
        self._cameras = [
            Camera(
                topic.name,
                drop_old=self.settings.drop_old,
                kind=kind,
                links=topic.links,
            )
            for topic, kind in self._sources
        ]
        self._diagnostics.restart()
        self._worker = Worker(
            self.settings,
            self._cameras,
            deliver=self._deliver,
            report=self._report,
            stopped=self._stopped,
            networks=self._networks,
        )
        for name, value in self._worker.description.items():
            self._logger.info(f'{name}: {value}')

    def open(self) -> None:  # noqa: A003
        """
        Take the topics, from now on.

        :raises SettingsError: the middleware refuses the QoS that the user has set.
        """
        assert self._worker is not None
        if DETECTIONS is not None and self.settings.publish_detections:
            self._detections = self._node.create_publisher(DETECTIONS, '~/detections', 5)
        if self.settings.write_detections:
            self._listing = Listing(
                Path(self.settings.write_detections),
                source=self._node.get_fully_qualified_name(),
                settings=self.settings,
            )
        self._routes = {
            camera.topic: self._source_route(topic, camera, self._worker)
            for (topic, _), camera in zip(self._sources, self._cameras, strict=True)
        }
        self._learn_of_cameras(self._worker)
        self._passed = [self._passing_route(topic, ()) for topic in self._topics.copies]
        for topic in self._topics.infos:
            self._add_info(topic)
        self._opened_s = time.monotonic()
        self._polling.reset()
        self._logger.info(f'{READY}; cameras: {", ".join(self._routes) or "none"}')
        if not self._routes and not self._passed:
            self._logger.warning('image_topics is empty: there is nothing to do')
        for text in self._strange_qos:
            self._logger.warning(text)
        self._warn_of_zones()
        self._say_weakenings()

    def close(self) -> None:
        """Leave the topics; the networks stay. Frames that wait are dropped."""
        self._polling.cancel()
        for subscription in self._lenses:
            self._node.destroy_subscription(subscription)
        self._lenses = []
        for route in (*self._routes.values(), *self._passed):
            route.close()
        self._routes, self._passed, self._infos = {}, [], []
        if self._detections is not None:
            self._node.destroy_publisher(self._detections)
            self._detections = None
        self._end_listing()
        for camera in self._cameras:
            camera.drop_waiting()

    def finish(self, timeout_s: float) -> None:
        """Wait until no frame waits any more, for so long at most."""
        end_s = time.monotonic() + timeout_s
        while any(account.waiting for account in self.accounts().values()):
            if time.monotonic() > end_s:
                return
            time.sleep(_POLL_S)

    def free(self) -> None:
        """Finish the frame in work, give the networks back, and sum up the frames."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if not worker.close():
            self._logger.error('the frame in work does not end: it is left behind')
        self._end_listing()
        self._sum_up()
        allocator.give_back()

    @property
    def _logger(self) -> Any:
        return self._node.get_logger()

    def _sum_up(self) -> None:
        for topic, account in self.accounts().items():
            text = (
                f'{topic}: {account.received} frames in, {account.published} out, '
                f'{account.dropped} dropped, {account.failed} failed, '
                f'{account.lost} lost before arrival'
            )
            # rclpy lets a line of code log in one severity alone.
            if account.dropped + account.failed + account.lost:
                self._logger.warning(text)
            else:
                self._logger.info(text)

    # -- parameters

    def _on_change(self, changes: Mapping[str, object]) -> None:
        if self.settings.lock_parameters:
            raise SettingsError('lock_parameters is true: nothing changes while the node runs')
        settings = self.settings.updated(changes)
        for text in (*settings.mask_zones, *settings.ignore_zones):
            Zone.parse(text)
        if self._worker is not None:
            self._worker.update(settings)
        self.settings = settings
        if changes.keys() & {'mask_zones', 'ignore_zones'}:
            self._warn_of_zones()
        self._say_weakenings()

    def _warn_of_zones(self) -> None:
        """Tell of zones that fit no camera; a file may serve several nodes, so it is no error."""
        pictures = (*self._topics.images, *self._topics.clouds)
        names = [topic.name for topic in pictures if not topic.links]
        for setting in ('mask_zones', 'ignore_zones'):
            for text in getattr(self.settings, setting):
                if not Zone.parse(text).fits_any(names):
                    self._logger.warning(
                        f'{setting}: {text!r} fits no camera topic of this node, so it has no '
                        'effect'
                    )
        for text in idle_rotations(self.settings.rotation, names):
            self._logger.warning(
                f'rotation: {text!r} fits no camera topic of this node, so it has no effect'
            )

    def _weakenings(self, topic: str) -> list[str]:
        found = weakenings.weakenings(self.settings, topic, self._sizes_wh.get(topic))
        clouds = [cloud.name for cloud in (*self._topics.clouds, *self._topics.registered)]
        if topic in clouds and self.settings.cloud.geometry == 'keep':
            found.append('cloud.geometry is keep: the shape of faces stays in the cloud')
        fallen_s, reason = self._fallen.get(topic, (0.0, ''))
        if reason and time.monotonic() - fallen_s <= 2 * PERIOD_S:
            found.append(reason)
        return found

    def _say_weakenings(self) -> None:
        """Log what weakens the protection where it has changed, and as a reminder."""
        now_s = time.monotonic()
        weak = {topic: self._weakenings(topic) for topic in self._routes}
        if self._passed:
            weak |= {topic.name: [_copied(topic)] for topic in self._topics.copies}
        for topic, texts in weak.items():
            said_s, before = self._said.get(topic, (0.0, []))
            if texts != before or (texts and now_s - said_s >= _REMIND_S):
                self._said[topic] = (now_s, texts)
                for text in texts or ['the protection is as it should be again']:
                    self._logger.warning(f'{topic}: {text}')

    # -- topics

    def _source_route(self, topic: NodeTopic, camera: Camera, worker: Worker) -> Route:
        return Route(
            self._node,
            topic,
            types=CLOUD_TYPES if camera.is_cloud else IMAGE_TYPES,
            presumed_type=COMPRESSED_IMAGE if topic.name.endswith('/compressed') else '',
            is_needed=partial(self._is_needed, topic.name),
            overrides=self._overrides,
            lazy=self.settings.lazy,
            on_message=partial(self._take, camera, worker),
            on_lost=camera.count_lost,
            depth=SENSOR_DEPTH if camera.drops_old else QUEUE_FRAMES,
        )

    def _is_needed(self, image: str) -> bool:
        """Return whether a cloud or a depth image that is taken waits for a picture."""
        return any(
            link.image == image and self._routes[topic.name].subscribed
            for topic, _ in self._sources
            for link in topic.links
        )

    def _learn_of_cameras(self, worker: Worker) -> None:
        """Take the lenses and places of the cameras that clouds are seen by."""
        links = {link.info for topic in self._topics.clouds for link in topic.links}
        scene = worker.measured.scene
        for info in sorted(links):
            self._lenses.append(
                self._node.create_subscription(
                    message_type(INFO_TYPES[0]),
                    info,
                    partial(scene.add_info, info),
                    QoSProfile(depth=SENSOR_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT),
                )
            )
        if not links:
            return
        try:
            kind = message_type(TRANSFORMS)
        except ImportError:
            self._logger.warning(
                'tf2_msgs is not installed: clouds are seen in the frame of their camera alone'
            )
            return
        for name, is_static in (('/tf', False), ('/tf_static', True)):
            durability = (
                DurabilityPolicy.TRANSIENT_LOCAL if is_static else DurabilityPolicy.VOLATILE
            )
            take = partial(self._take_transforms, scene, is_static)
            profile = QoSProfile(depth=_TRANSFORMS, durability=durability)
            self._lenses.append(self._node.create_subscription(kind, name, take, profile))

    def _take_transforms(self, scene: Scene, is_static: bool, message: Any) -> None:
        try:
            scene.add_transforms(message, is_static=is_static)
        except AnonymizerError as error:
            if self._problems.due(str(error)):
                self._logger.error(str(error))

    def _passing_route(
        self, topic: NodeTopic, types: tuple[str, ...], on_message: Any = None
    ) -> Route:
        return Route(
            self._node,
            topic,
            types=types,
            overrides=self._overrides,
            lazy=self.settings.lazy,
            raw=True,
            on_message=on_message,
        )

    def _add_info(self, topic: NodeTopic) -> None:
        def publish(info: bytes) -> None:
            route.publish(info)

        def is_awaited() -> bool:
            images = [self._routes[name] for name in topic.images]
            return not route.latched and any(image.subscribed for image in images)

        infos = Infos(publish, is_awaited=is_awaited)
        route = self._passing_route(topic, INFO_TYPES, infos.put)
        self._passed.append(route)
        self._infos.append((route, infos, topic))

    def _poll(self) -> None:
        assert self._worker is not None
        self._worker.give_up_late()
        for route in (*self._routes.values(), *self._passed):
            route.poll()

    # -- frames

    def _take(self, camera: Camera, worker: Worker, message: Any) -> None:
        if self._snapshots is not None and camera.kind == 'image' and not is_packet(message):
            self._snapshots.before(camera.topic, message)
        worker.put(camera, message)

    def _snapshot(self, request: Any, response: Any) -> Any:
        assert self._snapshots is not None
        images = [topic.name for topic in self._topics.images if topic.name in self._routes]
        response.message = self._snapshots.ask(images)
        response.success = bool(images)
        return response

    # These run in the worker's thread.

    def _deliver(self, camera: Camera, message: Any, anonymized: Anonymized) -> None:
        route = self._routes.get(camera.topic)
        if route is None:
            raise SettingsError('the topics were closed meanwhile')
        put_data(message, anonymized.data)
        if camera.is_cloud:
            message.is_dense = False
        if camera.kind == 'image' and hasattr(message, 'width'):
            self._sizes_wh[camera.topic] = (message.width, message.height)
        if anonymized.replaced.warnings:
            self._fallen[camera.topic] = (time.monotonic(), anonymized.replaced.warnings[0])
        detections = self._detections
        if detections is not None and camera.kind == 'image':
            detections.publish(detections_of(header_of(message), anonymized.regions))
        if self._listing is not None and camera.kind == 'image':
            self._list(self._listing, camera.topic, message, anonymized)
        route.publish(message)
        if self._snapshots is not None and camera.kind == 'image':
            self._write_snapshot(self._snapshots, camera.topic, message)
        for _, infos, topic in self._infos:
            if camera.topic in topic.images:
                infos.image_published(stamp_of(message))

    def _list(self, listing: Listing, topic: str, message: Any, anonymized: Anonymized) -> None:
        try:
            listing.add(
                topic,
                stamp_ns=stamp_of(message),
                size_wh=anonymized.size_wh,
                regions=anonymized.regions,
            )
        except AnonymizerError as error:
            self._logger.error(str(error))

    def _end_listing(self) -> None:
        listing, self._listing = self._listing, None
        if listing is None:
            return
        try:
            listing.close()
        except AnonymizerError as error:
            self._logger.error(str(error))

    def _write_snapshot(self, snapshots: Snapshots, topic: str, message: Any) -> None:
        try:
            path = snapshots.after(topic, message)
        except (AnonymizerError, OSError) as error:
            self._logger.error(f'snapshot of {topic}: {error}')
            return
        if path is not None:
            self._logger.warning(f'{topic}: a picture with its faces was written to {path}')

    def _report(self, camera: Camera, reason: str) -> None:
        if self._failures.due(camera.topic):
            self._logger.error(f'{camera.topic}: frame not published: {reason}')

    # -- once a second

    def _diagnose(self) -> None:
        for route in (*self._routes.values(), *self._passed):
            route.check()
        self._say_weakenings()
        self._say_silence()
        self._say_problems()
        self._diagnostics.publish(self._statuses())

    def _statuses(self) -> Iterator[Any]:
        backend = StatusReport('back end')
        if self._worker is not None:
            backend.values = self._worker.description
            backend.fail(self._worker.dead_reason)
        yield backend.status(self._node, 'loaded' if self._worker else 'not loaded')
        for camera in self._cameras:
            route = self._routes.get(camera.topic)
            if route is not None:
                assert self._worker is not None
                yield self._diagnostics.of_camera(
                    route,
                    camera.account(),
                    weakenings=self._weakenings(camera.topic),
                    fault=self._worker.stuck_reason(camera.topic),
                )
        copied = {topic.name: topic for topic in self._topics.copies}
        unpaired = {route.topic: infos.fit_no_image for route, infos, _ in self._infos}
        for route in self._passed:
            warnings = [_copied(copied[route.topic])] if route.topic in copied else []
            if unpaired.get(route.topic):
                warnings.append('its stamps fit no image, so it is passed on unpaired')
            if warnings or route.problem:
                yield self._diagnostics.of_passed(route, warnings)

    def _say_silence(self) -> None:
        """Tell of topics that nobody publishes, which may be misspelt."""
        if time.monotonic() - self._opened_s < SILENT_S:
            return
        infos = {topic.name for topic in self._topics.infos}
        wanted = {topic.name for topic in self._topics.every} - infos
        for route in (*self._routes.values(), *self._passed):
            silent = route.topic in wanted and not route.seen and not route.problem
            if silent and self._silence.due(route.topic):
                self._logger.warning(
                    f'{route.topic}: no publisher since the start: {self._suggestion(route)}'
                )

    def _suggestion(self, route: Route) -> str:
        ours = {topic.output for topic in self._topics.every}
        names = sorted(
            name
            for name, types in self._node.get_topic_names_and_types()
            if set(types) & set(IMAGE_TYPES) and name not in ours and name != route.topic
        )
        close = difflib.get_close_matches(route.topic, names, n=1)
        if close:
            return f'did you mean {close[0]}?'
        return f'image topics here are {", ".join(names)}' if names else 'there is no image topic'

    def _say_problems(self) -> None:
        for route in (*self._routes.values(), *self._passed):
            if route.problem and self._problems.due(route.problem):
                self._logger.error(route.problem)


def _copied(topic: NodeTopic) -> str:
    return f'copy_topics: it is passed on to {topic.output} as it is, persons and all'
