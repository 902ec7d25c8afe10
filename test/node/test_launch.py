from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any
import xml.etree.ElementTree as ElementTree

from ffs_anonymizer.node import middleware
import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    assert [path.name for path in LAUNCH_FILES] == ['anonymizer.launch.py', 'replay.launch.py']


def test_replay_waits_for_what_the_node_says() -> None:
    ready = constants(ROOT / 'launch' / 'replay.launch.py')['READY']
    assert ready.decode() == constants(ROOT / 'ffs_anonymizer' / 'node' / 'service.py')['READY']


def test_xml_and_python_take_the_same_arguments() -> None:
    root = ElementTree.parse(ROOT / 'launch' / 'anonymizer.launch.xml').getroot()
    names = {element.attrib['name'] for element in root.iter('arg')}
    tree = ast.parse((ROOT / 'launch' / 'anonymizer.launch.py').read_text(encoding='utf-8'))
    declared = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == 'DeclareLaunchArgument'
        and isinstance(call.args[0], ast.Constant)
    }
    assert declared == names | {'image_topics'}


def test_xml_and_python_set_the_same_environment() -> None:
    root = ElementTree.parse(ROOT / 'launch' / 'anonymizer.launch.xml').getroot()
    assert {
        element.attrib['name']: element.attrib['value'] for element in root.iter('set_env')
    } == {
        name: f'$(env {name} {value})'.replace(str(ROOT), '$(find-pkg-share ffs_anonymizer)')
        for name, value in middleware.environment().items()
    }


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_set_the_environment_of_the_package(path: Path) -> None:
    names = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text('utf-8')))
        if isinstance(node, ast.Call)
    }
    assert {'middleware.environment', 'SetEnvironmentVariable'} <= names


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ('text', 'expected'),
    [('', []), ('/a', ['/a']), ('/a,/b', ['/a', '/b']), ("['/a', /b]", ['/a', '/b'])],
)
def test_topics_are_read_from_one_argument(path: Path, text: str, expected: list[str]) -> None:
    pytest.importorskip('launch_ros')
    assert load(path)._names(text) == expected


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_description_is_made(path: Path) -> None:
    pytest.importorskip('launch_ros')
    assert load(path).generate_launch_description().entities


def test_replay_never_overwrites(tmp_path: Path) -> None:
    launch = pytest.importorskip('launch')
    pytest.importorskip('launch_ros')
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'out').mkdir()
    context = launch.LaunchContext()
    context.launch_configurations.update(
        {
            **dict.fromkeys(('image_topics', 'record_regex', 'rate', 'storage', 'delay'), ''),
            'bag': str(tmp_path / 'bag'),
            'output': str(tmp_path / 'out'),
        }
    )
    with pytest.raises(RuntimeError, match='exists; choose another name'):
        load(ROOT / 'launch' / 'replay.launch.py')._replay(context)
