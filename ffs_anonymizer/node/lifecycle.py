"""The managed node: networks from configure to cleanup, topics from activate to deactivate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node.camera import Account
from ffs_anonymizer.node.service import Service
from ffs_anonymizer.settings.runtime import Settings
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn


class AnonymizerLifecycleNode(LifecycleNode):  # type: ignore[misc]
    """
    Anonymize the camera topics that its parameters name, while it is active.

    What goes wrong in a transition is logged and goes to error processing, which gives everything
    back: the node is then unconfigured.

    :param parameter_files: those that it was given; one that is not for it is refused.
    :param stopped: tells whether the process is to end, which ends the loading too.
    :param networks: open ones, shared with other nodes of the process; None: own ones.
    :param node_options: handed to `rclpy.node.Node`: namespace, context, parameter_overrides ...
    :raises SettingsError: a parameter is wrong.
    """

    def __init__(
        self,
        *,
        node_name: str = 'anonymizer',
        parameter_files: Sequence[Path] = (),
        stopped: Callable[[], bool] = lambda: False,
        networks: Networks | None = None,
        **node_options: Any,
    ) -> None:
        super().__init__(node_name, **node_options)
        self._service: Service | None = None
        try:
            self._service = Service(
                self, parameter_files=parameter_files, stopped=stopped, networks=networks
            )
        except BaseException:
            self.destroy_node()
            raise

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._do.settings

    def accounts(self) -> dict[str, Account]:
        """Return what became of each camera's frames, by topic."""
        return self._do.accounts()

    def finish(self, timeout_s: float) -> None:
        """Work on until no frame waits any more, for so long at most."""
        self._do.finish(timeout_s)

    @property
    def _do(self) -> Service:
        assert self._service is not None
        return self._service

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

    def destroy_node(self) -> None:
        """Give everything back and destroy the node."""
        if self._service is not None:
            self._service.free()
        super().destroy_node()

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
