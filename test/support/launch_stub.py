"""So much of launch and launch_ros that a launch file can be run where ROS is not installed."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


class LaunchContext:
    """Hold the arguments of a launch."""

    def __init__(self) -> None:
        self.launch_configurations: dict[str, str] = {}


class Entity:
    """Remember what it was made of."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments = arguments
        self.options = options


class LaunchDescription:
    """Hold what is started."""

    def __init__(self, entities: list[Any]) -> None:
        self.entities = entities


class LaunchConfiguration:
    """Stand for an argument."""

    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: LaunchContext) -> str:
        return context.launch_configurations[self.name]


_NAMES = {
    'launch': {'LaunchContext': LaunchContext, 'LaunchDescription': LaunchDescription},
    'launch.actions': (
        'DeclareLaunchArgument EmitEvent ExecuteProcess IncludeLaunchDescription LogInfo '
        'OpaqueFunction '
        'RegisterEventHandler SetEnvironmentVariable TimerAction'
    ),
    'launch.event_handlers': 'OnProcessExit OnProcessIO',
    'launch.events': 'Shutdown matches_action',
    'launch.events.process': 'ProcessIO SignalProcess',
    'launch.launch_description_sources': 'PythonLaunchDescriptionSource',
    'launch.substitutions': 'EnvironmentVariable PathJoinSubstitution',
    'launch_ros': '',
    'launch_ros.actions': 'Node',
    'launch_ros.parameter_descriptions': 'ParameterValue',
    'launch_ros.substitutions': 'FindPackageShare',
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the launch files import these until the test ends."""
    for name, content in _NAMES.items():
        module = ModuleType(name)
        if isinstance(content, str):
            content = {word: type(word, (Entity,), {}) for word in content.split()}
        if name == 'launch.substitutions':
            content['LaunchConfiguration'] = LaunchConfiguration
        for word, value in content.items():
            setattr(module, word, value)
        monkeypatch.setitem(sys.modules, name, module)
