"""Which test files can be collected here, and whether a run executed anything."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

_OWN = ('ffs_anonymizer', 'support')


def imported(path: Path) -> Iterator[str]:
    """Yield the libraries that a file, with the helpers it takes, cannot be imported without."""
    for statement in ast.parse(path.read_text('utf-8')).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.split('.')[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            package, _, module = statement.module.partition('.')
            helper = Path(__file__).with_name(f'{module}.py')
            if package == 'support' and helper.is_file():
                yield from imported(helper)
            yield package


def uncollectable(folder: Path) -> dict[str, str]:
    """
    Return the test files of a folder that need a library which is not installed, and its name.

    `pytest.importorskip` at the top of a file is no way out: launch_testing, part of every ROS
    installation, imports each file while collecting, and one such skip then ends the whole run.
    """
    missing = {}
    for path in sorted(folder.rglob('test_*.py')):
        needed = [name for name in imported(path) if name not in _OWN]
        lacking = next((name for name in needed if find_spec(name) is None), None)
        if lacking:
            missing[path.relative_to(folder).as_posix()] = lacking
    return missing


class Executed:
    """Make a run fail that executed no test; `colcon test` calls it a success."""

    def __init__(self) -> None:
        self.any = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.any = self.any or (report.when == 'call' and not report.skipped)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        idle = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if idle and not self.any and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.any and not terminalreporter.config.option.collectonly:
            terminalreporter.write_line('no test was executed, which counts as a failure')
