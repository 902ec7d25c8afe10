"""The live node: camera topics in, anonymized camera topics out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node.camera import Account
from ffs_anonymizer.node.service import Service
from ffs_anonymizer.settings.runtime import Settings
from rclpy.node import Node


class AnonymizerNode(Node):  # type: ignore[misc]
    """
    Anonymize the camera topics that its parameters name.

    The constructor loads the models; nothing is subscribed or published before.

    :param parameter_files: those that it was given; one that is not for it is refused.
    :param stopped: tells whether the process is to end, which ends the loading too.
    :param networks: open ones, shared with other nodes of the process; None: own ones.
    :param node_options: handed to `rclpy.node.Node`: namespace, context, parameter_overrides ...
    :raises AnonymizerError: a parameter is wrong, or a model cannot be loaded.
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
            self._service.load()
            self._service.open()
        except BaseException:
            self.destroy_node()
            raise

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        assert self._service is not None
        return self._service.settings

    def accounts(self) -> dict[str, Account]:
        """Return what became of each camera's frames, by topic."""
        assert self._service is not None
        return self._service.accounts()

    def finish(self, timeout_s: float) -> None:
        """Work on until no frame waits any more, for so long at most."""
        assert self._service is not None
        self._service.finish(timeout_s)

    def destroy_node(self) -> None:
        """Finish the frame in work, release the models and destroy the node."""
        if self._service is not None:
            self._service.free()
        super().destroy_node()
