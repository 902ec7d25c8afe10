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

# How long the end may take: what has not ended by then, as a network that hangs, is left behind.
END_S = 4.0
_WORKER = 'anonymizer'


class _Stopped(BaseException):
    """A signal came while the node was starting."""


class Stop:
    """
    Remember whether SIGINT or SIGTERM came; while starting, interrupt what the main thread does.

    rclpy's own handlers race with the shutdown of its context at exit.
    """

    def __init__(self) -> None:
        self.came = False
        self._starting = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def started(self) -> None:
        """
        Interrupt nothing from now on.

        :raises _Stopped: a signal has come already.
        """
        self._starting = False
        if self.came:
            raise _Stopped

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if self._starting:
            self._starting = False
            raise _Stopped


def main(args: Sequence[str] | None = None) -> int:
    """
    Run the node until SIGINT or SIGTERM, and return the exit code.

    :param args: the command line with its ROS arguments; None: that of the process.
    """
    return _run('AnonymizerNode', args)


def _run(kind: str, args: Sequence[str] | None) -> int:
    stop = Stop()
    code = 0
    try:
        from ffs_anonymizer.node import running

        code = running.run(kind, list(sys.argv if args is None else args), stop)
    except _Stopped:
        pass
    _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process at once if the worker hangs in native code, which nothing can interrupt."""
    for thread in threading.enumerate():
        if thread.name == _WORKER:
            thread.join(END_S)
            if thread.is_alive():
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
