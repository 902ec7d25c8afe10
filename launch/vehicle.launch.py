"""
Start a camera driver, the anonymizer and a recorder together: an example to adapt.

The middleware's settings hold for all three; what is recorded is anonymized topics alone. Without
a camera driver (`driver_package:=''`) it takes the topics that are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

_ARGUMENTS = {
    'driver_package': ('usb_cam', 'Of the camera driver; empty: it is started elsewhere'),
    'driver_executable': ('usb_cam_node_exe', 'Of the camera driver'),
    'camera': ('front', 'Namespace of the camera'),
    'image_topics': ('/front/image_raw', 'Topics to anonymize'),
    'params_file': ('', 'Parameter file of the anonymizer; empty: that of the package'),
    'output': ('', 'Recording to make; empty: nothing is recorded'),
    'record_regex': ('^/anonymized/', 'Topics to record; the default takes outputs alone'),
}


def generate_launch_description() -> LaunchDescription:
    """Return all three with their arguments."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in _ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_vehicle)])


def _vehicle(context: LaunchContext) -> list[Any]:
    values = {name: LaunchConfiguration(name).perform(context) for name in _ARGUMENTS}
    if values['output'] and Path(values['output']).exists():
        raise RuntimeError(f'output: {values["output"]} exists; choose another name')
    anonymizer = {'image_topics': values['image_topics']}
    if values['params_file']:
        anonymizer['params_file'] = values['params_file']
    # First, since it sets the environment of all that follow.
    started: list[Any] = [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(Path(__file__).with_name('anonymizer.launch.py'))),
            launch_arguments=anonymizer.items(),
        )
    ]
    if values['driver_package']:
        started.append(
            Node(
                package=values['driver_package'],
                executable=values['driver_executable'],
                namespace=values['camera'],
                output='screen',
            )
        )
    if values['output']:
        started.append(
            ExecuteProcess(
                cmd=[
                    *('ros2', 'bag', 'record', '-o', values['output']),
                    *('-e', values['record_regex']),
                ],
                output='screen',
                # Closing a large recording takes longer than the five seconds it would be given.
                sigterm_timeout='60',
                sigkill_timeout='60',
            )
        )
    return started
