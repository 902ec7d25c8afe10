"""One node in one process: made, spun until a signal comes, and taken down."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.node import middleware, node
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

if TYPE_CHECKING:
    from ffs_anonymizer.node.program import Stop

_KINDS: dict[str, Any] = {'AnonymizerNode': node.AnonymizerNode}


def run(kind: str, args: Sequence[str], stop: Stop) -> int:
    """
    Run a node until a signal comes, and return the exit code.

    :param kind: the name of its class.
    :param args: the command line with the program's name and its ROS arguments.
    """
    profile = middleware.use_large_frames()
    logger = get_logger('anonymizer')
    made = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        made = _KINDS[kind](parameter_files=parameter_files(args))
        stop.started()
        logger = made.get_logger()
        logger.info(f'Fast DDS profile: {profile or "not found, large frames may be lost"}')
        executor = SingleThreadedExecutor()
        executor.add_node(made)
        while not stop.came:
            executor.spin_once(timeout_sec=0.2)
        executor.shutdown()
    except AnonymizerError as error:
        logger.fatal(str(error))
        return 1
    except RuntimeError as error:
        if made is not None:
            raise
        logger.fatal(f'cannot start: {" ".join(str(error).split())}')
        return 1
    finally:
        if made is not None:
            made.destroy_node()
        try_shutdown()
    return 0


def parameter_files(args: Sequence[str]) -> list[Path]:
    """Return the parameter files that a command line names."""
    return [Path(value) for name, value in itertools.pairwise(args) if name == '--params-file']
