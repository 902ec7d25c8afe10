"""Anonymize faces and licence plates in ROS 2 camera streams and recordings."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.networks import Networks
    from ffs_anonymizer.settings.runtime import Settings

__version__ = '0.1.0'
__all__ = ['Networks', 'Recipe', 'Settings']

# Imported by their first use: whoever wants the version alone waits for no library.
_HOMES = {
    'Networks': 'ffs_anonymizer.networks',
    'Recipe': 'ffs_anonymizer.anonymizer',
    'Settings': 'ffs_anonymizer.settings.runtime',
}


def __getattr__(name: str) -> object:
    """Return one of the names of the Python API."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOMES[name]), name)
