"""Where a network runs, in fields."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """
    Say where a network runs.

    :param kind: `cpu`, `cuda` (ONNX Runtime's) or `tensorrt`.
    :param name: of the GPU; empty where the kind says all.
    :param notes: why it was taken and how it computes, for people.
    """

    kind: str
    name: str = ''
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> Device:
        """Return the same with more to say."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def __str__(self) -> str:
        """Return all of it, as logs and diagnostics show it."""
        where = self.name or self.kind
        return f'{where} ({", ".join(self.notes)})' if self.notes else where
