"""What a command is for, a generator or a detector, and which of its options count for which."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ffs_anonymizer.errors import SettingsError

GENERATOR, DETECTOR = 'generator', 'detector'
TASKS = (GENERATOR, DETECTOR)


def add_task(parser: argparse.ArgumentParser) -> None:
    """Let a command be told what it is for."""
    parser.add_argument(
        '--task', choices=TASKS, default=GENERATOR, help='what it is for (default %(default)s)'
    )


class TaskOptions:
    """
    Add a command's `--task`, and the options that count for one task alone.

    :param parser: of the command.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        add_task(parser)
        self._groups = {
            task: parser.add_argument_group(f'only with --task {task}{default}')
            for task, default in zip(TASKS, (', the default', ''), strict=True)
        }
        self._added: list[tuple[str, argparse.Action, Any]] = []

    def add(self, task: str, *names: str, default: Any = None, **how: Any) -> None:
        """Add an option as `add_argument` does, for one task."""
        # It is among what was parsed only where it was given.
        action = self._groups[task].add_argument(*names, default=argparse.SUPPRESS, **how)
        self._added.append((task, action, default))

    def checked(self, run: Callable[[argparse.Namespace], int]) -> Callable[..., int]:
        """
        Return what refuses options of the other task, and then runs the command.

        :param run: is given the defaults of what was not given.
        """

        def checked(args: argparse.Namespace) -> int:
            for task, action, default in self._added:
                if args.task != task and hasattr(args, action.dest):
                    raise SettingsError(
                        f'{action.option_strings[-1]}: got it with --task {args.task}, expected '
                        f'it with --task {task} alone'
                    )
                vars(args).setdefault(action.dest, default)
            return run(args)

        return checked
