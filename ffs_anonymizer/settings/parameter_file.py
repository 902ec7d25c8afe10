"""The settings as a file: ROS parameter files and plain YAML, and the Markdown table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import fnmatch
from pathlib import Path
from typing import Any

from ffs_anonymizer import plain_yaml
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.settings.declaration import Parameter
from ffs_anonymizer.settings.runtime import flatten, from_mapping, PARAMETERS, Settings
import yaml

NODE_NAME = 'anonymizer'
ROS_NAMES = ('use_sim_time', 'qos_overrides', 'start_type_description_service')


def load(path: Path) -> Settings:
    """
    Read settings from a ROS parameter file, or from plain YAML.

    Of a ROS file the sections count whose last name matches `anonymizer`, in their order; names
    that belong to rclpy are passed over.

    :raises SettingsError: the file cannot be read, or a setting is wrong; the text names the file.
    """
    try:
        content = plain_yaml.parse(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise SettingsError(f'cannot read the settings file {path}: {error}') from error
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise SettingsError(f'{path}: got a {type(content).__name__}, expected names with values')
    named = list(_ros_sections(content, ''))
    one_node = {name for name, _ in named if '*' not in name}
    if len(one_node) > 1:
        raise SettingsError(
            f'{path}: got sections for {", ".join(sorted(one_node))}, expected those of one node; '
            'give each node a file of its own'
        )
    sections = [section for _, section in named]
    if not sections and 'ros__parameters' in str(content):
        raise SettingsError(f'{path}: got no section for the node, expected /** or {NODE_NAME}')
    values = {
        name: value
        for section in sections or [content]
        for name, value in flatten(section)
        if name.split('.')[0] not in ROS_NAMES
    }
    try:
        return from_mapping(values)
    except SettingsError as error:
        raise SettingsError(f'{path}: {error}') from error


def _ros_sections(
    content: Mapping[str, Any], name: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in content.items():
        if key == 'ros__parameters':
            if fnmatch.fnmatchcase(NODE_NAME, name.rpartition('/')[2]):
                yield name, value or {}
        elif isinstance(value, Mapping):
            yield from _ros_sections(value, f'{name}/{str(key).lstrip("/")}')


def to_yaml(settings: Settings) -> str:
    """Return a ROS parameter file that holds every setting, each under its meaning."""
    lines = ['/**:', '  ros__parameters:']
    values = settings.flat()
    open_group = ''
    for parameter in PARAMETERS:
        group, _, name = parameter.name.rpartition('.')
        if group != open_group:
            lines.append(f'    {group}:')
            open_group = group
        indent = '      ' if group else '    '
        lines.append(f'{indent}# {parameter.meaning}{_limits(parameter)}')
        value = values[parameter.name]
        plain = list(value) if isinstance(value, tuple) else value
        text = (
            yaml.safe_dump(plain, default_flow_style=True, width=1000).replace('\n...', '').strip()
        )
        lines.append(f'{indent}{name}: {text}')
    return '\n'.join(lines) + '\n'


def _limits(parameter: Parameter) -> str:
    if parameter.choices:
        return f' One of: {", ".join(parameter.choices)}.'
    if parameter.bounds is not None:
        low, high = parameter.bounds
        return f' From {low:g} to {high:g} {parameter.unit}'.rstrip() + '.'
    return ''


def to_markdown() -> str:
    """Return the table of all settings as it stands in docs/parameters.md."""
    lines = ['| name | type | default | meaning | live |', '|---|---|---|---|---|']
    for parameter in PARAMETERS:
        default = (
            list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        )
        lines.append(
            f'| `{parameter.name}` | {parameter.type_name} | `{default!r}` '
            f'| {parameter.meaning}{_limits(parameter)} | {"yes" if parameter.live else ""} |'
        )
    return '\n'.join(lines) + '\n'
