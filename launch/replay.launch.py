"""
Play a bag through the live node and record what it publishes, and nothing else.

This shows what a vehicle would have recorded, dropped frames included, which the node sums up at
its end; with `rate:=auto` the player waits for the node, and nothing is dropped. To convert
recordings use `ffs_anonymizer bag`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.node import middleware
from ffs_anonymizer.node.parameter_files import check_parameter_file
from ffs_anonymizer.node.replay import check_recording
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import matches_action, Shutdown
from launch.events.process import ProcessIO, SignalProcess
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare
import yaml

# What the node logs when its models are loaded.
READY = b'ready: models are loaded'
PLAYER = '/rosbag2_player'


def generate_launch_description() -> LaunchDescription:
    """Return player, node and recorder with their arguments."""
    default_params = PathJoinSubstitution(
        [FindPackageShare('ffs_anonymizer'), 'config', 'anonymizer.param.yaml']
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='Recording to play'),
            DeclareLaunchArgument('output', description='Recording to make; must not exist'),
            DeclareLaunchArgument(
                'params_file', default_value=default_params, description='ROS parameter file'
            ),
            DeclareLaunchArgument(
                'image_topics',
                default_value='',
                description='Topics to anonymize, `/front/image_raw,/rear/image_raw/compressed` '
                'or as a YAML list; empty: those of the parameter file',
            ),
            DeclareLaunchArgument(
                'record_regex',
                default_value='^/anonymized/',
                description='Topics to record; the default takes outputs of the node alone',
            ),
            DeclareLaunchArgument(
                'rate',
                default_value='1.0',
                description='Speed of the player; auto: it pauses while the node has enough to do',
            ),
            DeclareLaunchArgument(
                'storage', default_value='', description='mcap or sqlite3; empty: the default'
            ),
            DeclareLaunchArgument(
                'delay',
                default_value='5.0',
                description='Seconds for player, node and recorder to find each other',
            ),
            DeclareLaunchArgument(
                'drain',
                default_value='5.0',
                description='Seconds from the end of the player until the node may end',
            ),
            # What the user has set stays.
            *(
                SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=value))
                for name, value in middleware.environment().items()
            ),
            OpaqueFunction(function=_replay),
        ]
    )


def _replay(context: LaunchContext) -> list[Any]:
    values = {
        name: LaunchConfiguration(name).perform(context)
        for name in (
            *('bag', 'output', 'params_file', 'image_topics', 'record_regex', 'rate'),
            *('storage', 'delay'),
        )
    }
    if not Path(values['bag']).exists():
        raise RuntimeError(f'bag: got {values["bag"]}, expected a recording that exists')
    if Path(values['output']).exists():
        raise RuntimeError(f'output: {values["output"]} exists; choose another name')
    topics = _names(values['image_topics'])
    params_file = Path(values['params_file'])
    try:
        check_parameter_file(params_file, '/anonymizer')
        check_recording(Path(values['bag']), topics, params_file)
    except AnonymizerError as error:
        raise RuntimeError(str(error)) from error

    # The player waits for the recorder, so there is somebody to work for from the first frame.
    parameters: list[Any] = [
        values['params_file'],
        {'lazy': False, 'drop_old': False},
    ]
    if topics:
        parameters.append({'image_topics': topics})
    paced = values['rate'] == 'auto'
    node = Node(
        package='ffs_anonymizer',
        executable='anonymizer_node',
        name='anonymizer',
        parameters=parameters,
        arguments=['--finish', *(['--pace', PLAYER] if paced else [])],
        output='screen',
        # What waits is finished first.
        sigterm_timeout='60',
        sigkill_timeout='60',
    )
    storage = ['-s', values['storage']] if values['storage'] else []
    recorder = ExecuteProcess(
        cmd=[
            *('ros2', 'bag', 'record', '-o', values['output'], *storage),
            *('-e', values['record_regex']),
        ],
        output='screen',
        # Closing a large recording takes longer than the five seconds it would be given.
        sigterm_timeout='60',
        sigkill_timeout='60',
    )
    player = ExecuteProcess(
        cmd=[
            *('ros2', 'bag', 'play', values['bag'], '--rate', '1.0' if paced else values['rate']),
            *('--delay', values['delay'], '--disable-keyboard-controls'),
        ],
        output='screen',
    )
    started = []

    def play_when_ready(event: ProcessIO) -> list[Any] | None:
        if started or READY not in event.text:
            return None
        started.append(True)
        return [player]

    def end(reason: str) -> EmitEvent:
        return EmitEvent(event=Shutdown(reason=reason))

    finish = EmitEvent(
        event=SignalProcess(signal_number='SIGINT', process_matcher=matches_action(node))
    )
    return [
        RegisterEventHandler(
            OnProcessIO(target_action=node, on_stdout=play_when_ready, on_stderr=play_when_ready)
        ),
        RegisterEventHandler(
            OnProcessExit(
                target_action=node,
                on_exit=[TimerAction(period=1.0, actions=[end('node ended')])],
            )
        ),
        RegisterEventHandler(
            OnProcessExit(target_action=recorder, on_exit=[end('recorder ended')])
        ),
        RegisterEventHandler(
            OnProcessExit(
                target_action=player,
                on_exit=[
                    LogInfo(msg='player ended; waiting for the last frames'),
                    TimerAction(period=LaunchConfiguration('drain'), actions=[finish]),
                ],
            )
        ),
        recorder,
        node,
    ]


def _names(text: str) -> list[str]:
    """Read `a,b` or `[a, b]`."""
    listed = text if text.strip().startswith('[') else f'[{text}]'
    return [str(name) for name in yaml.safe_load(listed) or []]
