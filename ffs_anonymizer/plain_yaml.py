"""YAML that somebody wrote: names and values, whatever else the format allows."""

from __future__ import annotations

from typing import Any

from ffs_anonymizer.errors import SettingsError
import yaml

_LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
# Dates, numbers and nestings that Python cannot hold, and what the library trips over.
NO_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError, AttributeError)


def parse(text: str) -> Any:
    """
    Return what a text says.

    Aliases are refused, as rcl refuses them: a few lines of them are gigabytes, or have no end.

    :raises SettingsError: it is no YAML; the text is one line.
    """
    try:
        events = yaml.parse(text, _LOADER)
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise SettingsError('got an alias (*), expected each value to be written out')
        return yaml.load(text, _LOADER)
    except NO_YAML as error:
        raise SettingsError(f'got no YAML: {" ".join(str(error).split())}') from error
