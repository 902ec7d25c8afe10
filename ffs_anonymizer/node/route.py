"""A topic's way from its publishers to its output under another name."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
import importlib
from typing import Any

from ffs_anonymizer.errors import SettingsError
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
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

    :param source: the topic's name, as the user wrote it.
    :param target: the output's name; both are resolved and remapped as any name of the node.
    :param types: the message types that are taken; empty: any.
    :param presumed_type: the type to go by until a publisher shows.
    :param overridden: names of the parameters that the user has set; a reliability in
        `qos_overrides` is not adapted.
    :param on_message: called in the executor with each message, or its bytes if `raw`.
    :param on_lost: told how many messages the middleware has just lost on their way here.
    :param depth: messages that the middleware keeps for us.
    :param lazy: subscribe only while the output has subscribers.
    """

    def __init__(
        self,
        node: Node,
        source: str,
        target: str,
        *,
        types: tuple[str, ...],
        overridden: Container[str],
        lazy: bool,
        on_message: Callable[[Any], None] | None = None,
        on_lost: Callable[[int], None] | None = None,
        presumed_type: str = '',
        raw: bool = False,
        depth: int = SENSOR_DEPTH,
    ) -> None:
        self.topic: str = node.resolve_topic_name(source)
        self.output: str = node.resolve_topic_name(target)
        self.problem = ''
        self._node = node
        self._source = source
        self._target = target
        self._types = types
        self._overridden = overridden
        self._lazy = lazy
        self._on_message = on_message or self.publish
        self._on_lost = on_lost
        self._raw = raw
        self._depth = depth
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

    def publish(self, message: Any) -> None:
        """Publish on the output; any thread may call this."""
        self._publisher.publish(message)

    def poll(self) -> None:
        """
        Open, subscribe or unsubscribe as the graph demands.

        :raises SettingsError: the middleware refuses the QoS that the user has set.
        """
        if not self._seen:
            self.check()
        if self._publisher is None:
            return
        if self._lazy and self._publisher.get_subscription_count() == 0:
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
        self.problem = ''
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

    def _open(self, type_name: str, durability: DurabilityPolicy) -> None:
        try:
            message_type = _message_type(type_name)
        except ImportError as error:
            self.problem = f'{self.topic}: the type {type_name} is not installed ({error})'
            return
        self._type_name, self._durability = type_name, durability
        with _granted(self.output):
            self._publisher = self._node.create_publisher(
                message_type,
                self._target,
                self._profile(ReliabilityPolicy.RELIABLE, SENSOR_DEPTH),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )

    def _subscribe(self) -> None:
        kinds = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
        # Declared only where the user has set it: once declared it would never adapt again.
        if f'qos_overrides.{self.topic}.subscription.reliability' in self._overridden:
            kinds.append(QoSPolicyKind.RELIABILITY)
        options: dict[str, Any] = {
            'qos_overriding_options': QoSOverridingOptions(kinds),
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
            _message_type(self._type_name),
            self._source,
            self._on_message,
            self._profile(self._reliability, self._depth),
            **options,
        )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

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


def _message_type(type_name: str) -> Any:
    package, _, name = type_name.partition('/msg/')
    module = importlib.import_module(f'{package}.msg')
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ImportError(f'{package} has no message {name}') from error
