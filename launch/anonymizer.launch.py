"""Start the anonymizer on live cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node import middleware
from ffs_anonymizer.node.parameter_files import check_parameter_file
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
import yaml


def generate_launch_description() -> LaunchDescription:
    """Return the node with its arguments."""
    default_params = PathJoinSubstitution(
        [FindPackageShare('ffs_anonymizer'), 'config', 'anonymizer.param.yaml']
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'params_file', default_value=default_params, description='ROS parameter file'
            ),
            DeclareLaunchArgument(
                'image_topics',
                default_value='',
                description='Topics to anonymize, `/front/image_raw,/rear/image_raw/compressed` '
                'or as a YAML list; empty: those of the parameter file',
            ),
            DeclareLaunchArgument('namespace', default_value='', description='Of the node'),
            DeclareLaunchArgument('node_name', default_value='anonymizer', description='Its name'),
            DeclareLaunchArgument(
                'lifecycle',
                default_value='false',
                description='Start the managed node, which waits to be configured and activated',
            ),
            DeclareLaunchArgument(
                'log_level', default_value='info', description='debug ... fatal'
            ),
            DeclareLaunchArgument('use_sim_time', default_value='false', description='Use /clock'),
            # What the user has set stays.
            *(
                SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=value))
                for name, value in middleware.environment().items()
            ),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[Node]:
    names = ('params_file', 'image_topics', 'namespace', 'node_name', 'lifecycle')
    values = {name: LaunchConfiguration(name).perform(context) for name in names}
    pushed = context.launch_configurations.get('ros_namespace', '')
    _check(values['params_file'], pushed, values['namespace'], values['node_name'])
    parameters: list[Any] = [
        values['params_file'],
        {'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)},
    ]
    topics = _names(values['image_topics'])
    if topics:
        parameters.append({'image_topics': topics})
    managed = values['lifecycle'].lower() in ('true', '1')
    return [
        Node(
            package='ffs_anonymizer',
            executable='anonymizer_lifecycle_node' if managed else 'anonymizer_node',
            name=values['node_name'],
            namespace=values['namespace'],
            parameters=parameters,
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            output='screen',
        )
    ]


def _check(params_file: str, pushed: str, namespace: str, name: str) -> None:
    """Refuse a file that is missing or for another node, which would mean the defaults."""
    namespaces = [namespace] if namespace.startswith('/') else [pushed, namespace]
    parts = [part for text in (*namespaces, name) for part in text.split('/') if part]
    try:
        check_parameter_file(Path(params_file), '/' + '/'.join(parts))
    except SettingsError as error:
        raise RuntimeError(f'params_file: {error}') from error


def _names(text: str) -> list[str]:
    """Read `a,b` or `[a, b]`."""
    listed = text if text.strip().startswith('[') else f'[{text}]'
    return [str(name) for name in yaml.safe_load(listed) or []]
