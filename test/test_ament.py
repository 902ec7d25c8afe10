"""The ROS 2 linters, where a ROS 2 installation brings them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKED = [str(ROOT / name) for name in ('ffs_anonymizer', 'launch', 'test', 'setup.py')]


def test_flake8(tmp_path):
    main = pytest.importorskip('ament_flake8.main')
    config = tmp_path / 'flake8.ini'
    # The rules of ament_flake8, but for the spaces that the formatter puts into long slices, and
    # for modules whose last names are those of Python's own.
    rules = (Path(main.__file__).parent / 'configuration' / 'ament_flake8.ini').read_text()
    config.write_text(rules.replace('extend-ignore = ', 'extend-ignore = E203,A005,'))
    code, errors = main.main_with_errors(argv=['--config', str(config), *CHECKED])
    assert code == 0, '\n'.join(errors)


def test_pep257():
    main = pytest.importorskip('ament_pep257.main')
    assert main.main(argv=[str(ROOT / 'ffs_anonymizer'), str(ROOT / 'launch')]) == 0
