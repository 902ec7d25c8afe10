"""One node in one process: made, spun until a signal comes, and taken down."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import itertools
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.node import middleware
from ffs_anonymizer.node.camera import QUEUE_FRAMES
from ffs_anonymizer.node.lifecycle import AnonymizerLifecycleNode
from ffs_anonymizer.node.node import AnonymizerNode
from ffs_anonymizer.node.replay import Pacer
from ffs_anonymizer.node.worker import StoppedError
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args, try_shutdown

if TYPE_CHECKING:
    from ffs_anonymizer.node.program import Stop

# How long the frames that wait may take at the end of a replay.
_FINISH_S = 50.0
_PACE_S = 0.02
_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (AnonymizerNode, AnonymizerLifecycleNode)
}


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
        options = _options(args)
        made = _KINDS[kind](parameter_files=parameter_files(args), stopped=lambda: stop.came)
        logger = made.get_logger()
        logger.info(f'Fast DDS profile: {profile or "not found, large frames may be lost"}')
        executor = SingleThreadedExecutor()
        executor.add_node(made)
        if options.pace:
            clock = Clock(clock_type=ClockType.STEADY_TIME)
            made.create_timer(_PACE_S, _pacer(made, options.pace).step, clock=clock)
        while not stop.came:
            executor.spin_once(timeout_sec=0.2)
        if options.finish:
            made.finish(_FINISH_S)
        executor.shutdown()
    except StoppedError:
        return 0
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


def _options(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='The live node; its parameters are ROS ones.')
    parser.add_argument(
        '--finish', action='store_true', help='at the end, work on until no frame waits'
    )
    parser.add_argument(
        '--pace', metavar='PLAYER', help='pause this rosbag2 player while frames wait'
    )
    return parser.parse_args(remove_ros_args(args)[1:])


def _pacer(made: Any, player: str) -> Pacer:
    try:
        from rosbag2_interfaces.srv import Pause, Resume
    except ImportError as error:
        raise SettingsError(f'--pace needs rosbag2_interfaces: {error}') from error
    pause = made.create_client(Pause, f'{player}/pause')
    resume = made.create_client(Resume, f'{player}/resume')
    return Pacer(
        waiting=lambda: max((account.waiting for account in made.accounts().values()), default=0),
        pause=lambda: pause.call_async(Pause.Request()),
        resume=lambda: resume.call_async(Resume.Request()),
        room=QUEUE_FRAMES,
    )


def parameter_files(args: Sequence[str]) -> list[Path]:
    """Return the parameter files that a command line names."""
    return [Path(value) for name, value in itertools.pairwise(args) if name == '--params-file']
