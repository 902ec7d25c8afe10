"""The program `ffs_anonymizer` as users run it: in a process of its own."""

from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parent.parent


def run_program(*words: object, **options: object) -> 'subprocess.CompletedProcess[str]':
    """Run it with these words and return its exit code and what it said."""
    command = [sys.executable, '-m', 'ffs_anonymizer', *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, **options
    )
