"""The managed node: networks from configure to cleanup, topics from activate to deactivate."""

from __future__ import annotations

from collections.abc import Callable

from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.node.serving import ServingNode
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn


class AnonymizerLifecycleNode(ServingNode, LifecycleNode):  # type: ignore[misc]
    """
    Anonymize the camera topics that its parameters name, while it is active.

    What goes wrong in a transition is logged and goes to error processing, which gives everything
    back: the node is then unconfigured.
    """

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the networks."""
        return self._try('configure', self._do.load)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the topics."""
        super().on_activate(state)
        return self._try('activate', self._do.open)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave the topics; the networks stay."""
        super().on_deactivate(state)
        return self._try('deactivate', self._do.close)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the networks back."""
        return self._try('cleanup', self._do.free)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back, from whatever state."""
        return self._try('shutdown', self._give_back)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back after a transition that failed."""
        return self._try('error processing', self._give_back)

    def _give_back(self) -> None:
        self._do.close()
        self._do.free()

    def _try(self, transition: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except AnonymizerError as error:
            self.get_logger().error(f'{transition}: {error}')
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS
