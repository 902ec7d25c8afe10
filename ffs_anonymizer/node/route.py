"""A topic's way from its publishers to its output under another name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.node import qos
from ffs_anonymizer.node.camera import QUEUE_PACKETS
from ffs_anonymizer.node.messages import message_type, VIDEO_TYPES
from ffs_anonymizer.node.topics import NodeTopic
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

SENSOR_DEPTH = 5


class Route:
    """
    Publish the output of a topic once its type is known, and subscribe while that is wanted.

    Type and QoS are those that the topic's publishers show on the graph: the subscription is
    reliable where all of them are, else best effort, and latched where all of them are.

    :param topic: where it comes from and goes to; remapped as any name of the node.
    :param types: the message types that are taken; empty: any.
    :param presumed_type: the type to go by until a publisher shows.
    :param overrides: the parameters that the user has set; what `qos_overrides` say stays.
    :param on_message: called in the executor with each message, or its bytes if `raw`; None: the
        message is published as it is.
    :param on_lost: told how many messages the middleware has just lost on their way here.
    :param depth: messages that the middleware keeps for us.
    :param lazy: subscribe only while the output has subscribers, or `is_needed` says so.
    :param is_needed: tells whether somebody else needs the messages.
    """

    def __init__(
        self,
        node: Node,
        topic: NodeTopic,
        *,
        types: tuple[str, ...],
        overrides: Mapping[str, Parameter],
        lazy: bool,
        on_message: Callable[[Any], None] | None = None,
        on_lost: Callable[[int], None] | None = None,
        presumed_type: str = '',
        raw: bool = False,
        depth: int = SENSOR_DEPTH,
        is_needed: Callable[[], bool] = lambda: False,
    ) -> None:
        self.topic = topic.name
        self.output = topic.output
        self.problem = ''
        self._node = node
        self._source = topic.source
        self._target = topic.target
        self._types = types
        self._overrides = overrides
        self._lazy = lazy
        self._on_message = on_message or self.publish
        self._on_lost = on_lost
        self._raw = raw
        self._depth = depth
        self._is_needed = is_needed
        self._publisher: Any = None
        self._subscription: Any = None
        self._type_name = ''
        self._durability = DurabilityPolicy.VOLATILE
        self._reliability = ReliabilityPolicy.BEST_EFFORT
        self._seen = False
        if presumed_type:
            self._open(presumed_type, DurabilityPolicy.VOLATILE)

    @property
    def seen(self) -> bool:
        """Return whether a publisher that suits has ever shown."""
        return self._seen

    @property
    def subscribed(self) -> bool:
        """Return whether messages are taken now."""
        return self._subscription is not None

    @property
    def type_name(self) -> str:
        """Return the type of the output; empty while it is not known."""
        return self._type_name

    @property
    def best_effort(self) -> bool:
        """Return whether messages that are lost on their way here are lost for good."""
        if self._subscription is None:
            return False
        reliability = self._subscription.qos_profile.reliability
        return bool(reliability == ReliabilityPolicy.BEST_EFFORT)

    @property
    def latched(self) -> bool:
        """Return whether the output gives its last message to those who come later."""
        return bool(self._durability == DurabilityPolicy.TRANSIENT_LOCAL)

    def publish(self, message: Any) -> None:
        """
        Publish on the output; any thread may call this.

        :raises AnonymizerError: the output is closed.
        """
        publisher = self._publisher
        if publisher is None:
            raise AnonymizerError(f'{self.output} is closed')
        publisher.publish(message)

    def poll(self) -> None:
        """
        Open, subscribe or unsubscribe as the graph demands.

        :raises SettingsError: the middleware refuses the QoS that the user has set.
        """
        if not self._seen:
            self.check()
        if self._publisher is None:
            return
        is_idle = self._publisher.get_subscription_count() == 0 and not self._is_needed()
        if self._lazy and is_idle:
            self._unsubscribe()
        elif self._subscription is None and self.check():
            self._subscribe()

    def check(self) -> bool:
        """
        Adapt to the publishers of the topic, and return whether there are any that suit.

        :raises SettingsError: the middleware refuses the QoS that the user has set.
        """
        found = self._node.get_publishers_info_by_topic(self._source)
        names = sorted({info.topic_type for info in found})
        suitable = [name for name in names if not self._types or name in self._types]
        self.problem = self._rivals()
        if len(suitable) > 1 or len(suitable) < len(names):
            expected = ' or '.join(self._types) or 'a single type'
            self.problem = f'{self.topic}: got {" and ".join(names)}, expected {expected}'
        if len(suitable) != 1:
            return self._type_name in suitable
        offers = [info.qos_profile for info in found if info.topic_type == suitable[0]]
        latched = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        if suitable[0] != self._type_name or (not self._seen and durability != self._durability):
            self.close()
            self._open(suitable[0], durability)
        self._seen = self._publisher is not None
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        wanted = (reliability, durability)
        if wanted != (self._reliability, self._durability):
            self._reliability, self._durability = wanted
            # Subscribed anew by the next poll; what it had asked for does not suit everyone.
            self._unsubscribe()
        return self._seen

    def close(self) -> None:
        """Remove the subscription and the publisher."""
        self._unsubscribe()
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None

    def _rivals(self) -> str:
        """Tell who else publishes on the output, which is then no proof of anything."""
        if self._publisher is None:
            return ''
        found = self._node.get_publishers_info_by_topic(self.output)
        names = [f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in found]
        own = self._node.get_fully_qualified_name()
        if own in names:
            names.remove(own)
        if not names:
            return ''
        return f'{self.output} is published by {" and ".join(sorted(names))} too'

    def _open(self, type_name: str, durability: DurabilityPolicy) -> None:
        try:
            kind = message_type(type_name)
        except ImportError as error:
            self.problem = f'{self.topic}: the type {type_name} is not installed ({error})'
            return
        self._type_name, self._durability = type_name, durability
        with _granted(self.output):
            self._publisher = self._node.create_publisher(
                kind,
                self._target,
                self._profile(ReliabilityPolicy.RELIABLE, SENSOR_DEPTH),
                qos_overriding_options=self._overriding(self.output, 'publisher'),
            )

    def _subscribe(self) -> None:
        options: dict[str, Any] = {
            'qos_overriding_options': self._overriding(self.topic, 'subscription'),
            'raw': self._raw,
        }
        if self._on_lost is not None:
            on_lost = self._on_lost
            options['event_callbacks'] = SubscriptionEventCallbacks(
                message_lost=lambda event: on_lost(event.total_count_change)
            )
        with _granted(self.topic):
            try:
                self._subscription = self._create_subscription(options)
            except UnsupportedEventTypeError:
                del options['event_callbacks']
                self._subscription = self._create_subscription(options)

    def _create_subscription(self, options: dict[str, Any]) -> Any:
        return self._node.create_subscription(
            message_type(self._type_name),
            self._source,
            self._on_message,
            self._profile(self._reliability, max(self._depth, self._least_depth())),
            **options,
        )

    def _least_depth(self) -> int:
        # A packet of a video that is lost takes the pictures after it along.
        return QUEUE_PACKETS if self._type_name in VIDEO_TYPES else 1

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _overriding(self, topic: str, side: str) -> QoSOverridingOptions:
        # Declared only where the user has set it: once declared it would never adapt again.
        return QoSOverridingOptions(qos.kinds(self._overrides, topic, side))

    def _profile(self, reliability: ReliabilityPolicy, depth: int) -> QoSProfile:
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=depth,
            reliability=reliability,
            durability=self._durability,
        )


@contextmanager
def _granted(topic: str) -> Iterator[None]:
    """Turn a refusal of the middleware into a SettingsError."""
    try:
        yield
    except (InvalidQosOverridesError, ParameterException, RuntimeError) as error:
        raise SettingsError(
            f'{topic}: the middleware refuses this topic, its type or its qos_overrides: {error}'
        ) from error
