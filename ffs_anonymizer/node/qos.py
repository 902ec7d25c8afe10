"""The `qos_overrides` of a node: those of image_transport, and every other is refused at once."""

from __future__ import annotations

from collections.abc import Mapping, Set

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.topics import Topics
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, ReliabilityPolicy

POLICIES = {
    'depth': QoSPolicyKind.DEPTH,
    'durability': QoSPolicyKind.DURABILITY,
    'history': QoSPolicyKind.HISTORY,
    'reliability': QoSPolicyKind.RELIABILITY,
}
_WORDS = {
    'durability': DurabilityPolicy,
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
}
# What rclpy itself opens in every node.
_OF_RCLPY = ('/clock', '/parameter_events', '/rosout')
PREFIX = 'qos_overrides.'


def check(overrides: Mapping[str, Parameter], topics: Topics) -> list[str]:
    """
    Check what the user has set, and return a sentence for each that names no topic of the node.

    A file may serve several nodes, so a strange topic is no error.

    :param overrides: the parameters that the user has set, by name.
    :raises SettingsError: a name or a value is wrong.
    """
    sides = {
        'subscription': {topic.name for topic in topics.every},
        'publisher': {topic.output for topic in topics.every},
    }
    strange = []
    for name, override in overrides.items():
        if not name.startswith(PREFIX):
            continue
        topic, _, rest = name.removeprefix(PREFIX).partition('.')
        side, _, policy = rest.partition('.')
        if not topic.startswith('/') or side not in sides or policy not in POLICIES:
            raise SettingsError(
                f'{name}: expected qos_overrides.<topic>.<publisher or subscription>.'
                f'<{", ".join(POLICIES)}>, the topic by its full name'
            )
        if topic in _OF_RCLPY:
            continue
        _check_value(name, policy, override.value)
        if topic not in sides[side]:
            strange.append(
                f'{name} names no {_kind(side)} of this node{_hint(topic, side, sides)}'
            )
    return strange


def kinds(overrides: Mapping[str, Parameter], topic: str, side: str) -> list[QoSPolicyKind]:
    """Return the policies of a topic that the user has set; what is not set adapts itself."""
    names = {f'{PREFIX}{topic}.{side}.{policy}': kind for policy, kind in POLICIES.items()}
    return [kind for name, kind in names.items() if name in overrides]


def _kind(side: str) -> str:
    return {'subscription': 'input', 'publisher': 'output'}[side]


def _hint(topic: str, side: str, sides: Mapping[str, Set[str]]) -> str:
    other = next(name for name in sides if name != side)
    return f'; it is an {_kind(other)}: write {other}' if topic in sides[other] else ''


def _check_value(name: str, policy: str, value: object) -> None:
    if policy == 'depth':
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingsError(f'{name}: got {value!r}, expected a whole number from 1')
        return
    words = [word for word in _WORDS[policy].short_keys() if word != 'unknown']
    if value not in words:
        raise SettingsError(f'{name}: got {value!r}, expected one of: {", ".join(words)}')
