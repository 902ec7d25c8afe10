"""Which node a ROS parameter file is for; a file for another node would mean the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
import re
from typing import Any

from ffs_anonymizer import plain_yaml
from ffs_anonymizer.errors import SettingsError


def check_parameter_file(path: Path, node: str) -> None:
    """
    Refuse a file that says nothing to a node, which would start with the defaults: no zones.

    :param node: its fully qualified name.
    :raises SettingsError: the file is missing or no YAML, or has no section for the node.
    """
    try:
        content = plain_yaml.parse(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise SettingsError(f'cannot read the parameter file {path}: {error}') from error
    keys = list(_keys(content, '')) if isinstance(content, Mapping) else []
    if not any(is_for(key, node) for key in keys):
        got = ', '.join(keys) or 'no section with ros__parameters'
        raise SettingsError(
            f'{path}: got {got}, expected a section for the node {node}; name it {node} or /**'
        )


def is_for(key: str, node: str) -> bool:
    """
    Tell whether a section of a parameter file is for a node, as rcl does.

    :param key: names joined by slashes, where `*` is any one name and `**` any number of them.
    :param node: its fully qualified name.
    """
    parts = [part for part in key.split('/') if part]
    pattern = ''.join(
        r'(/\w+)*' if part == '**' else '/' + re.escape(part).replace(r'\*', r'\w+')
        for part in parts
    )
    return re.fullmatch(pattern, node) is not None


def _keys(content: Mapping[Any, Any], name: str) -> Iterator[str]:
    for key, value in content.items():
        if key == 'ros__parameters':
            yield name or '/'
        elif isinstance(value, Mapping):
            yield from _keys(value, f'{name}/{str(key).strip("/")}')
