"""
The process of the node, from the first signal to the last.

Nothing heavy is imported before the signals are taken, so that one in the first seconds ends the
process as cleanly as a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import os
import signal
import sys
import threading
from types import FrameType

# How long each thread that was not finished in time, or is still loading, may take to end.
END_S = 1.0
_WORKER = 'anonymizer'


class Stop:
    """
    Remember whether SIGINT or SIGTERM came.

    rclpy's own handlers race with the shutdown of its context at exit; and what a handler raises
    while a library is being imported comes out as anything.
    """

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.came = True


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until SIGINT or SIGTERM, and return the exit code.

    :param args: the command line with its ROS arguments; None: that of the process.
    """
    return _run('AnonymizerNode', args)


def lifecycle_main(args: Sequence[str] | None = None) -> int:
    """Run the managed node until SIGINT or SIGTERM, and return the exit code."""
    return _run('AnonymizerLifecycleNode', args)


def _run(kind: str, args: Sequence[str] | None) -> int:
    stop = Stop()
    from ffs_anonymizer.node import running

    code = running.run(kind, list(sys.argv if args is None else args), stop)
    _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process at once if the worker hangs in native code, which nothing can interrupt."""
    for thread in threading.enumerate():
        if thread.name.startswith(_WORKER):
            thread.join(END_S)
            if thread.is_alive():
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
