"""What is printed: names that others chose must not command the terminal, nor break lines."""

from __future__ import annotations

import re
import sys
from typing import TextIO

# Controls, what changes the direction of writing, and bytes of names that are no UTF-8.
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)


def printable(text: str) -> str:
    """Return a text on one line, with escapes for what terminals act upon."""
    return _UNSAFE.sub(_escape, text)


def say(text: str, *, file: TextIO | None = None) -> None:
    """
    Print lines now, whatever the stream is, and whatever names stand in them.

    :param file: None: standard output.
    """
    stream = file or sys.stdout
    lines = '\n'.join(map(printable, text.split('\n')))
    try:
        print(lines, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = stream.encoding or 'ascii'
        print(lines.encode(encoding, 'backslashreplace').decode(encoding), file=stream, flush=True)


def warn(text: str) -> None:
    """Print a warning on standard error, on one line."""
    say(f'warning: {printable(text)}', file=sys.stderr)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode('unicode_escape', 'surrogatepass').decode('ascii')
