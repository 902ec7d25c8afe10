from pathlib import Path

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.training.settings import (
    from_mapping,
    load_settings,
    parse_overrides,
    TrainSettings,
)
import pytest

CONFIG = Path(__file__).resolve().parents[2] / 'config' / 'training.yaml'


def test_shipped_config_is_valid() -> None:
    assert from_mapping(load_settings(CONFIG), TrainSettings).network == 'ffs-128-small'


def test_nothing_said_means_the_defaults() -> None:
    assert from_mapping({}, TrainSettings) == TrainSettings()


def test_texts_take_the_type_of_the_setting() -> None:
    values = parse_overrides(['steps=7', 'rate_critic=1e-3', 'half=false', 'freeze=', 'out=3'])
    settings = from_mapping(values, TrainSettings)
    assert (settings.steps, settings.rate_critic, settings.half) == (7, 1e-3, False)
    assert (settings.freeze, settings.out) == ('', '3')


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ({'step': 3}, 'unknown settings step; expected some of data, out'),
        ({'steps': 0}, 'steps: got 0, expected 1'),
        ({'steps': 1.5}, 'steps: got 1.5, expected a whole number'),
        ({'steps': 'many'}, "steps: got 'many', expected int"),
        ({'steps': True}, 'steps: got True, expected int'),
        ({'half': 3}, 'half: got 3, expected bool'),
        ({'decay_from': 2.0}, 'decay_from: got 2.0'),
        ({'batch': None}, 'batch: got None'),
    ],
)
def test_wrong_values_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        from_mapping(values, TrainSettings)


def test_wrong_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="got 'steps', expected name=value"):
        parse_overrides(['steps'])
    with pytest.raises(SettingsError, match='cannot be read'):
        load_settings(tmp_path / 'none.yaml')
    (tmp_path / 'list.yaml').write_text('- 1\n')
    with pytest.raises(SettingsError, match='got list, expected names and values'):
        load_settings(tmp_path / 'list.yaml')
