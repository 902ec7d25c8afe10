from pathlib import Path

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.settings.parameter_file import load, to_markdown, to_yaml
from ffs_anonymizer.settings.runtime import find_parameter, from_mapping, PARAMETERS, Settings
import pytest
import yaml

CONFIG = Path(__file__).parents[2] / 'config' / 'anonymizer.param.yaml'


def test_shipped_config_is_the_declared_defaults():
    assert CONFIG.read_text() == to_yaml(Settings())
    assert load(CONFIG) == Settings()


@pytest.mark.parametrize(
    ('text', 'name', 'value'),
    [
        ('', 'threads', 0),
        ('{}', 'threads', 0),
        ('threads: 2', 'threads', 2),
        ('detector: {scale: 2}', 'detector.scale', 2.0),
        ('detector.scale: 2', 'detector.scale', 2.0),
        ('anonymizer: {ros__parameters: {threads: 2}}', 'threads', 2),
        ('/**: {ros__parameters: {threads: 2}}', 'threads', 2),
        ('/front/anonymizer: {ros__parameters: {threads: 2}}', 'threads', 2),
        ('/front: {anonymizer: {ros__parameters: {threads: 2}}}', 'threads', 2),
        (
            '{camera: {ros__parameters: {rate: 3}}, /**: {ros__parameters: {threads: 2}}}',
            'threads',
            2,
        ),
        ('/**: {ros__parameters: {use_sim_time: true, threads: 2}}', 'threads', 2),
    ],
)
def test_load_takes_ros_and_plain_files(tmp_path, text, name, value):
    path = tmp_path / 'settings.yaml'
    path.write_text(text)
    assert load(path).flat()[name] == value


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('threads: [', r'cannot read the settings file .*settings.yaml'),
        ('- 1', r'got a list, expected names with values'),
        (
            '/**: {ros__parameters: {treads: 2}}',
            r'settings.yaml: unknown setting .treads.: did you',
        ),
        ('camera: {ros__parameters: {rate: 3}}', r'no section for the node'),
        (
            '/front/anonymizer: {ros__parameters: {threads: 1}}\n'
            'rear: {anonymizer: {ros__parameters: {threads: 2}}}',
            r'got sections for /front/anonymizer, /rear/anonymizer, expected those of one node',
        ),
    ],
)
def test_load_refuses(tmp_path, text, message):
    path = tmp_path / 'settings.yaml'
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load(path)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(SettingsError, match='cannot read the settings file .*nowhere.yaml'):
        load(tmp_path / 'nowhere.yaml')


def test_to_yaml_keeps_changed_values():
    changed = Settings().updated({'mask_zones': ['* 0 0 1 1'], 'face.threshold': 0.5})
    assert from_mapping(yaml.safe_load(to_yaml(changed))['/**']['ros__parameters']) == changed


def test_every_parameter_has_a_row():
    table = to_markdown()
    for parameter in PARAMETERS:
        assert f'| `{parameter.name}` |' in table
        assert find_parameter(parameter.name) is parameter
