"""What the node says of itself once a second, as diagnostic_updater would name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from ffs_anonymizer.node import middleware
from ffs_anonymizer.node.camera import Account
from ffs_anonymizer.node.route import Route
from rclpy.node import Node

PERIOD_S = 1.0
# Part of the frames lost by the middleware in one second above which it is worth a word.
_LOST_SHARE = 0.05
_QUIET_S = 30.0
_LEVELS = (DiagnosticStatus.ERROR, DiagnosticStatus.WARN, DiagnosticStatus.OK)


@dataclass
class StatusReport:
    """
    Collect what there is to say of one thing; the worst sets the level.

    :param name: of the thing, a topic or `back end`.
    :param values: more of it, in numbers and names.
    """

    name: str
    values: Mapping[str, object] = field(default_factory=dict)
    sentences: dict[bytes, list[str]] = field(default_factory=dict)

    def say(self, level: bytes, text: str) -> None:
        """Add a sentence."""
        self.sentences.setdefault(level, []).append(text)

    def warn(self, texts: Iterable[str]) -> None:
        """Add warnings."""
        for text in texts:
            self.say(DiagnosticStatus.WARN, text)

    def fail(self, text: str) -> None:
        """Add an error; an empty text is none."""
        if text:
            self.say(DiagnosticStatus.ERROR, text)

    def status(self, node: Node, usual: str) -> DiagnosticStatus:
        """
        Return it as a message.

        :param usual: what is said where nothing is out of order.
        """
        said = [text for level in _LEVELS for text in self.sentences.get(level, ())]
        level = next((level for level in _LEVELS if level in self.sentences), DiagnosticStatus.OK)
        return DiagnosticStatus(
            name=f'{full_name(node)}: {self.name}',
            hardware_id=node.get_fully_qualified_name(),
            level=level,
            message='; '.join(said) or usual,
            values=[KeyValue(key=key, value=str(value)) for key, value in self.values.items()],
        )


def full_name(node: Node) -> str:
    """Return a node's name with its namespace, which tells it from others of the same name."""
    name: str = node.get_fully_qualified_name()
    return name.removeprefix('/')


class Reminder:
    """Tell what is due to be said again; rclpy throttles by the line of code, not by the topic."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._said_s: dict[str, float] = {}

    def due(self, text: str) -> bool:
        """Tell whether a text was last said longer ago than the period, and take it as said."""
        now_s = time.monotonic()
        if now_s - self._said_s.get(text, float('-inf')) < self._period_s:
            return False
        self._said_s[text] = now_s
        return True


class Diagnostics:
    """Publish the reports of a node, and remember what was counted when the last ones left."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._before: dict[str, Account] = {}
        self._lossy = Reminder(_QUIET_S)

    def restart(self) -> None:
        """Count from zero again."""
        self._before = {}

    def publish(self, statuses: Iterable[DiagnosticStatus]) -> None:
        """Publish statuses."""
        message = DiagnosticArray(status=list(statuses))
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def of_camera(
        self, route: Route, now: Account, *, weakenings: Iterable[str], fault: str
    ) -> DiagnosticStatus:
        """
        Return what is to be said of a camera, by what was counted since the last time.

        :param fault: why nothing comes of it; empty while it does.
        """
        before = self._before.get(route.topic, Account())
        self._before[route.topic] = now
        failed, dropped = now.failed - before.failed, now.dropped - before.dropped
        received, lost = now.received - before.received, now.lost - before.lost
        report = StatusReport(route.topic, _values(route, now, before))
        report.warn(weakenings)
        usual = 'anonymizing'
        if not route.seen and not route.problem:
            report.warn(['waiting for a publisher'])
        elif not route.subscribed:
            usual = 'idle: nobody subscribes to the output'
        elif not received:
            report.warn(['no frames arrive'])
        if dropped:
            report.warn([_dropped_text(dropped, received, now.timings_ms)])
        if lost > _LOST_SHARE * (lost + received):
            report.warn([self._lost_text(route, lost, lost + received)])
        report.fail(route.problem)
        report.fail(fault)
        if failed:
            report.fail(f'{failed} frames were not published: {now.last_error}')
        return report.status(self._node, usual)

    def of_passed(self, route: Route, warnings: Iterable[str]) -> DiagnosticStatus:
        """Return what is to be said of a topic that is passed on as it is."""
        report = StatusReport(route.topic, {'output': route.output, 'type': route.type_name})
        report.warn(warnings)
        report.fail(route.problem)
        return report.status(self._node, 'passed on as it is')

    def _lost_text(self, route: Route, lost: int, sent: int) -> str:
        text = (
            f'{lost} of {sent} frames were lost before they arrived: start the camera driver with '
            f'{middleware.PROFILE_VARIABLES[0]}='
            f'{middleware.profile_path() or "config/fastdds.xml"} (Fast DDS), '
            'or raise the socket buffers (others)'
        )
        if route.best_effort:
            text += '; its best effort publisher sends nothing twice'
        if self._lossy.due(route.topic):
            self._node.get_logger().warning(f'{route.topic}: {text}')
        return text


def _dropped_text(dropped: int, received: int, timings_ms: Mapping[str, float]) -> str:
    text = f'{dropped} of {received} frames were dropped'
    if timings_ms:
        stage = max(timings_ms, key=lambda name: timings_ms[name])
        text += f'; the last frame took {sum(timings_ms.values()):.0f} ms, most of it to {stage}'
    return text


def _values(route: Route, now: Account, before: Account) -> dict[str, Any]:
    return {
        'output': route.output,
        'type': route.type_name,
        'frames in': now.received,
        'frames out': now.published,
        'frames dropped': now.dropped,
        'frames failed': now.failed,
        'frames waiting': now.waiting,
        'frames lost before arrival': now.lost,
        'regions': now.regions,
        'rate in Hz': f'{(now.received - before.received) / PERIOD_S:.1f}',
        'rate out Hz': f'{(now.published - before.published) / PERIOD_S:.1f}',
        'latency p50 ms': f'{now.latency_p50_ms:.1f}',
        'latency p95 ms': f'{now.latency_p95_ms:.1f}',
        **{f'{stage} ms': f'{spent:.1f}' for stage, spent in now.timings_ms.items()},
        'last error': now.last_error,
    }
