from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import Any
import xml.etree.ElementTree as ElementTree

from ffs_anonymizer.rosbag2.storage import Topic
import pytest
from rosbags.rosbag2 import Writer
from rosbags.typesys import get_typestore, Stores
from support import launch_stub

ROOT = Path(__file__).resolve().parents[2]
TYPES = get_typestore(Stores.ROS2_HUMBLE)
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))


def constants(path: Path) -> dict[str, Any]:
    found = {}
    for item in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
            (target,) = item.targets
            assert isinstance(target, ast.Name)
            found[target.id] = item.value.value
    return found


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem.replace('.', '_'), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_launch_files() -> None:
    assert [path.name for path in LAUNCH_FILES] == [
        'anonymizer.launch.py',
        'replay.launch.py',
        'vehicle.launch.py',
    ]


def test_replay_waits_for_what_the_node_says() -> None:
    ready = constants(ROOT / 'launch' / 'replay.launch.py')['READY']
    assert ready.decode() == constants(ROOT / 'ffs_anonymizer' / 'node' / 'service.py')['READY']


def declared(path: Path) -> set[str]:
    return {
        call.args[0].value
        for call in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == 'DeclareLaunchArgument'
        and isinstance(call.args[0], ast.Constant)
    }


def test_xml_takes_every_argument_of_the_python_file_and_hands_it_on() -> None:
    root = ElementTree.parse(ROOT / 'launch' / 'anonymizer.launch.xml').getroot()
    (include,) = root.iter('include')
    assert include.attrib['file'].endswith('/launch/anonymizer.launch.py')
    handed = {arg.attrib['name']: arg.attrib['value'] for arg in include.iter('arg')}
    assert handed == {name: f'$(var {name})' for name in handed}
    names = {arg.attrib['name'] for arg in root.findall('arg')}
    assert names == handed.keys() == declared(ROOT / 'launch' / 'anonymizer.launch.py')
    assert 'image_topics' in names


@pytest.mark.parametrize('path', LAUNCH_FILES[:2], ids=lambda path: path.name)
def test_launch_files_set_the_environment_of_the_package(path: Path) -> None:
    names = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text('utf-8')))
        if isinstance(node, ast.Call)
    }
    assert {'middleware.environment', 'SetEnvironmentVariable'} <= names


# -- run with ROS's launch where it is installed, and with a stub of it elsewhere


@pytest.fixture
def launch_context(monkeypatch: pytest.MonkeyPatch) -> Any:
    if importlib.util.find_spec('launch_ros') is None:
        launch_stub.install(monkeypatch)
    return importlib.import_module('launch').LaunchContext()


@pytest.mark.parametrize('path', LAUNCH_FILES[:2], ids=lambda path: path.name)
@pytest.mark.parametrize(
    ('text', 'expected'),
    [('', []), ('/a', ['/a']), ('/a,/b', ['/a', '/b']), ("['/a', /b]", ['/a', '/b'])],
)
def test_topics_are_read_from_one_argument(
    launch_context: Any, path: Path, text: str, expected: list[str]
) -> None:
    assert load(path)._names(text) == expected


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_description_is_made(launch_context: Any, path: Path) -> None:
    assert load(path).generate_launch_description().entities


PARAMS = '/**:\n  ros__parameters: {image_topics: [/cam/image_raw]}\n'


@pytest.mark.parametrize(
    ('content', 'changes', 'text'),
    [
        (PARAMS, {}, ''),
        ('bus:\n  front:\n    ros__parameters: {}\n', {'ros_namespace': '/bus'}, ''),
        ('bus:\n  front:\n    ros__parameters: {}\n', {'namespace': '/bus'}, ''),
        ('bus:\n  front:\n    ros__parameters: {}\n', {}, 'got /bus/front, expected .* /front'),
        (None, {}, 'params_file: cannot read the parameter file'),
    ],
)
def test_parameter_file_is_checked_before_anything_starts(
    launch_context: Any,
    tmp_path: Path,
    content: str | None,
    changes: dict[str, str],
    text: str,
) -> None:
    path = tmp_path / 'params.yaml'
    if content is not None:
        path.write_text(content)
    values = dict.fromkeys(declared(ROOT / 'launch' / 'anonymizer.launch.py'), '')
    values |= {'params_file': str(path), 'node_name': 'front', **changes}
    launch_context.launch_configurations.update(values)
    file = load(ROOT / 'launch' / 'anonymizer.launch.py')
    if not text:
        assert len(file._node(launch_context)) == 1
        return
    with pytest.raises(RuntimeError, match=text):
        file._node(launch_context)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a recording with two topics and no messages."""
    topics = [
        Topic('/cam/image_raw', 'sensor_msgs/msg/Image'),
        Topic('/points', 'sensor_msgs/msg/PointCloud2'),
    ]
    path = tmp_path / 'bag'
    with Writer(path, version=9) as writer:
        for topic in topics:
            writer.add_connection(topic.name, topic.type_name, typestore=TYPES)
    return path


def replay(context: Any, recorded: Path, params: Path, **changes: str) -> list[Any]:
    params.write_text(PARAMS)
    values = dict.fromkeys(declared(ROOT / 'launch' / 'replay.launch.py'), '1')
    values |= {
        'bag': str(recorded),
        'output': str(recorded) + '_out',
        'params_file': str(params),
        'image_topics': '',
        'storage': '',
        **changes,
    }
    context.launch_configurations.update(values)
    result: list[Any] = load(ROOT / 'launch' / 'replay.launch.py')._replay(context)
    return result


def test_replay_starts_node_and_recorder(
    launch_context: Any, tmp_path: Path, recording: Path
) -> None:
    assert len(replay(launch_context, recording, tmp_path / 'params.yaml')) == 6


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'image_topics': '/cam/imgae_raw'}, 'did you mean /cam/image_raw?'),
        ({'image_topics': '/points'}, 'got sensor_msgs/msg/PointCloud2 in .*expected sensor_msgs'),
        ({'bag': '/no/such/bag'}, 'expected a recording that exists'),
        ({'params_file': '/no/such.yaml'}, 'cannot read the parameter file /no/such.yaml'),
    ],
)
def test_replay_of_what_is_not_there_is_refused(
    launch_context: Any, tmp_path: Path, recording: Path, changes: dict[str, str], text: str
) -> None:
    with pytest.raises(RuntimeError, match=text):
        replay(launch_context, recording, tmp_path / 'params.yaml', **changes)


def test_replay_never_overwrites(launch_context: Any, tmp_path: Path, recording: Path) -> None:
    with pytest.raises(RuntimeError, match='exists; choose another name'):
        replay(launch_context, recording, tmp_path / 'params.yaml', output=str(tmp_path))


@pytest.mark.parametrize(
    ('changes', 'count'),
    [({}, 2), ({'driver_package': ''}, 1), ({'output': '/no/such/bag'}, 3)],
)
def test_vehicle_starts_camera_anonymizer_and_recorder(
    launch_context: Any, changes: dict[str, str], count: int
) -> None:
    file = load(ROOT / 'launch' / 'vehicle.launch.py')
    values = {name: default for name, (default, _) in file._ARGUMENTS.items()}
    launch_context.launch_configurations.update({**values, **changes})
    assert len(file._vehicle(launch_context)) == count
    launch_context.launch_configurations['output'] = str(ROOT)
    with pytest.raises(RuntimeError, match='exists; choose another name'):
        file._vehicle(launch_context)
