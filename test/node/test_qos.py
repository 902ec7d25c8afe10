from __future__ import annotations

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node import qos
from ffs_anonymizer.node.topics import NodeTopic, Topics
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSPolicyKind

TOPICS = Topics(
    (NodeTopic('/cam/image', '/cam/image', '/out/cam/image', '/out/cam/image'),), (), ()
)


def check(name: str, value: object = 'reliable') -> list[str]:
    return qos.check({name: Parameter(name, value=value)}, TOPICS)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('face.threshold', 0.5),
        ('qos_overrides./cam/image.subscription.reliability', 'best_effort'),
        ('qos_overrides./cam/image.subscription.depth', 9),
        ('qos_overrides./out/cam/image.publisher.durability', 'transient_local'),
        ('qos_overrides./out/cam/image.publisher.history', 'keep_all'),
        ('qos_overrides./clock.subscription.depth', 3),
        ('qos_overrides./parameter_events.publisher.depth', 3),
    ],
)
def test_taken(name: str, value: object) -> None:
    assert check(name, value) == []


@pytest.mark.parametrize(
    ('name', 'value', 'text'),
    [
        ('qos_overrides./cam/image.subscription.deadline', 1, r'expected qos_overrides\.<topic>'),
        ('qos_overrides./cam/image.subscription.reliabilty', 'reliable', 'expected qos_overrides'),
        ('qos_overrides./cam/image.subscriber.depth', 1, '<publisher or subscription>'),
        ('qos_overrides.cam.subscription.depth', 1, 'the topic by its full name'),
        ('qos_overrides./cam/image', 'reliable', 'expected qos_overrides'),
        ('qos_overrides./cam/image.subscription.depth', 0, 'got 0, expected a whole number from'),
        ('qos_overrides./cam/image.subscription.depth', '5', "got '5', expected a whole number"),
        (
            'qos_overrides./out/cam/image.publisher.reliability',
            'best',
            "got 'best', expected one of: .*best_effort",
        ),
        ('qos_overrides./out/cam/image.publisher.durability', 1, 'one of: .*transient_local'),
    ],
)
def test_refused(name: str, value: object, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        check(name, value)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('qos_overrides./kam/image.subscription.reliability', 'names no input of this node'),
        (
            'qos_overrides./cam/image.publisher.reliability',
            'names no output of this node; it is an input: write subscription',
        ),
    ],
)
def test_strange_topics_are_told(name: str, expected: str) -> None:
    assert check(name) == [f'{name} {expected}']


def test_only_what_is_set_is_taken_from_the_parameters() -> None:
    overrides = dict.fromkeys(
        [
            'qos_overrides./cam/image.subscription.depth',
            'qos_overrides./cam/image.publisher.history',
        ]
    )
    kinds = qos.kinds(overrides, '/cam/image', 'subscription')
    assert kinds == [QoSPolicyKind.DEPTH]
