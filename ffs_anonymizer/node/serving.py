"""What the plain and the managed node have in common: the service that makes them anonymizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node.camera import Account
from ffs_anonymizer.node.service import Service
from ffs_anonymizer.settings.runtime import Settings
from rclpy.node import Node


class ServingNode(Node):  # type: ignore[misc]
    """
    Hold a service, from the parameters to the end.

    :param node_name: may stand first, as what loads components has it.
    :param parameter_files: those that it was given; one that is not for it is refused.
    :param stopped: tells whether the process is to end, which ends the loading too.
    :param networks: open ones, shared with other nodes of the process; None: own ones.
    :param node_options: handed to `rclpy.node.Node`: namespace, context, parameter_overrides ...
    :raises SettingsError: a parameter is wrong.
    """

    def __init__(
        self,
        node_name: str = 'anonymizer',
        *,
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
            self._begin(self._service)
        except BaseException:
            self.destroy_node()
            raise

    def _begin(self, service: Service) -> None:
        """Do what is to be done before the node is spun."""

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

    def destroy_node(self) -> None:
        """Finish the frame in work, give the networks back and destroy the node."""
        if self._service is not None:
            self._service.free()
        super().destroy_node()

    @property
    def _do(self) -> Service:
        assert self._service is not None
        return self._service
