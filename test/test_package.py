from __future__ import annotations

from pathlib import Path
import re
import xml.etree.ElementTree as ElementTree

import ffs_anonymizer

ROOT = Path(__file__).resolve().parents[1]


def test_version_and_licence_are_the_same_everywhere() -> None:
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    assert package.findtext('version') == ffs_anonymizer.__version__
    assert re.findall(r"version='([^']*)'", setup) == [ffs_anonymizer.__version__]
    assert package.findtext('license') == 'Apache-2.0'
    assert re.findall(r"license='([^']*)'", setup) == ['Apache-2.0']


def test_ament_finds_the_package() -> None:
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    name = package.findtext('name')
    assert name == 'ffs_anonymizer'
    assert (ROOT / 'resource' / name).is_file()
    assert package.findtext('export/build_type') == 'ament_python'
    assert f'$base/lib/{name}' in (ROOT / 'setup.cfg').read_text(encoding='utf-8')


def test_every_file_of_the_package_is_installed() -> None:
    declared = (ROOT / 'setup.py').read_text(encoding='utf-8')
    for path in (ROOT / 'ffs_anonymizer').rglob('*'):
        if path.is_dir() and path.name != '__pycache__':
            assert (path / '__init__.py').is_file(), f'{path} is left out by find_packages'
        elif path.is_file() and path.suffix not in ('.py', '.pyc'):
            kinds = (f"'{path.name}'", f"*{path.suffix}'")
            assert any(kind in declared for kind in kinds), f'{path} is in no package_data'


def test_each_dependency_stands_where_it_is_needed() -> None:
    """What the runtime imports of ROS is declared for it, what tests alone import is not."""
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    runtime = {item.text for kind in ('depend', 'exec_depend') for item in package.iter(kind)}
    tests = {item.text for item in package.iter('test_depend')}
    sources = ''.join(
        path.read_text('utf-8')
        for folder in ('ffs_anonymizer', 'launch')
        for path in (ROOT / folder).rglob('*.py')
    )
    imported = set(re.findall(r'^ *(?:from|import) (\w+)', sources, re.M))
    messages = {name for name in imported if name.endswith(('_msgs', '_interfaces', '_srvs'))}
    assert messages <= runtime
    assert 'cv_bridge' not in runtime
    assert {'cv_bridge', 'python3-pil', 'python3-pytest'} <= tests
    tried = ''.join(path.read_text('utf-8') for path in (ROOT / 'test').rglob('*.py'))
    names = set(re.findall(r'^ *(?:from|import) (\w+_msgs)', tried, re.M))
    assert names <= runtime | tests
    assert 'python3-onnxruntime-pip' in runtime
    assert 'ament_xmllint' not in tests
