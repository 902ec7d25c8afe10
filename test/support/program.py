"""The program `ffs_anonymizer` as users run it: in a process of its own."""

from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[2]


def loaded_by(statements: str, libraries: set[str]) -> set[str]:
    """Return which of these libraries a new interpreter has loaded after some statements."""
    script = f'import sys; {statements}; print(*({libraries!r} & sys.modules.keys()))'
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def run_program(*words: object, **options: object) -> 'subprocess.CompletedProcess[str]':
    """Run it with these words and return its exit code and what it said."""
    command = [sys.executable, '-m', 'ffs_anonymizer', *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, **options
    )
