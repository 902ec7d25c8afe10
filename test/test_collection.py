"""What happens to a run where a library is missing, launch_testing in it or not."""

import ast
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest
from support.program import ROOT

HERE = Path(__file__).parent
# launch_testing asks each file for launch descriptions while collecting, and so imports it.
STUB = """
import importlib.util
import pytest

def pytest_pycollect_makemodule(module_path, parent):
    spec = importlib.util.spec_from_file_location(module_path.stem, module_path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
LACKING = 'import no_such_library\ndef test_one():\n    assert no_such_library\n'
WORKING = 'def test_two():\n    pass\n'
SKIPPED = 'import pytest\ndef test_three():\n    pytest.skip("not here")\n'


def run(folder: Path, **files: str) -> 'subprocess.CompletedProcess[str]':
    tests = folder / 'test'
    tests.mkdir()
    shutil.copy(HERE / 'conftest.py', tests)
    (folder / 'stub.py').write_text(STUB)
    for name, text in files.items():
        (tests / f'{name}.py').write_text(text)
    path = f'import sys; sys.path[:0] = {[str(folder), str(HERE), str(ROOT)]!r}; '
    words = ['-p', 'stub', '-p', 'no:cacheprovider', '-rs', str(tests)]
    return subprocess.run(
        [sys.executable, '-c', f'{path}import pytest; sys.exit(pytest.main({words!r}))'],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        # `colcon test` hands its own options on by these.
        env={name: value for name, value in os.environ.items() if name != 'PYTEST_ADDOPTS'},
    )


def test_file_that_lacks_a_library_takes_no_other_with_it(tmp_path: Path) -> None:
    done = run(tmp_path, test_lacking=LACKING, test_working=WORKING)
    assert '1 passed' in done.stdout, done.stdout
    assert 'left out: test_lacking.py needs no_such_library' in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize('text', [LACKING, SKIPPED], ids=['left out', 'skipped'])
def test_run_that_executes_nothing_fails(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PYTEST_ADDOPTS', f'--junit-xml={tmp_path}/of_colcon.xml')
    done = run(tmp_path, test_it=text)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert 'no test was executed' in done.stdout
    assert not (tmp_path / 'of_colcon.xml').exists()


def test_no_file_skips_itself_while_it_is_imported() -> None:
    for path in sorted((ROOT / 'test').rglob('*.py')):
        top = [
            statement
            for statement in ast.parse(path.read_text('utf-8')).body
            if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
        ]
        called = {
            ast.unparse(node.func)
            for statement in top
            for node in ast.walk(statement)
            if isinstance(node, ast.Call)
        }
        assert not called & {'pytest.importorskip', 'pytest.skip'}, path


def test_no_two_test_files_have_one_name() -> None:
    """Without packages pytest tells them apart by their names alone."""
    names = [path.name for path in (ROOT / 'test').rglob('test_*.py')]
    assert sorted({name for name in names if names.count(name) > 1}) == []
