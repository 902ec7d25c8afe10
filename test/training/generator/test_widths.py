from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.evaluation.cost import measure
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import architecture, make_network
from ffs_anonymizer.training.generator.widths import cost, make_table, to_text
import pytest

SMALL = (32, 64, 128, 192, 256)


def test_without_a_word_a_level_has_multiples_of_32_from_a_quarter() -> None:
    table = make_table('', SMALL)
    assert table.levels[:3] == ((32,), (32, 64), (32, 64, 96, 128))
    assert table.levels[3] == (64, 96, 128, 160, 192)
    assert (table.narrowest, table.widest) == ((32, 32, 32, 64, 64), SMALL)
    assert len(table) == len({*table}) == 1 * 2 * 4 * 5 * 7
    assert make_table(' ', (8, 40)).levels == ((8,), (32, 40))


def test_a_table_that_is_given() -> None:
    table = make_table('4 8,4,8', (8, 8))
    assert table.levels == ((4,), (4, 8))
    assert [*table] == [(4, 4), (4, 8)]
    assert table.drawn(lambda low, high: low) == (4, 4)
    assert table.drawn(lambda low, high: high - 0.01) == (4, 8)


@pytest.mark.parametrize('text', ['8', '8 8 8', '8 x', '8 -4', '0 8', '8 4,,8', '8 9', '8 4.5'])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r'widths: got .* each of 2 levels.* up to 8,8'):
        make_table(text, (8, 8))


def test_the_cost_is_that_of_the_network() -> None:
    usual = architecture('ffs-tiny')
    channels = (4, 8, 12)
    network = make_network('ffs-tiny', to_text(channels)).generator
    assert cost(usual, channels, 32) == measure(fold(network), 32)
    assert cost(usual, channels, 32)[1] < cost(usual, usual.channels, 32)[1]


@pytest.mark.parametrize(
    'text', ['8,8', '8,8,16,16', '8,8,x', '8,8,0', '8,8,-1', '8,8,5000', '1.5,8,8']
)
def test_channels_that_a_network_cannot_have_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r'channels: got .* expected 3 numbers from 1 to 4096'):
        make_network('ffs-tiny', text)


def test_channels_are_those_that_are_asked_for() -> None:
    assert architecture('ffs-tiny', '4, 8,12').channels == (4, 8, 12)
    assert architecture('ffs-tiny', '') == architecture('ffs-tiny')
    assert make_network('ffs-tiny', '4,8,12').generator.exit.in_channels == 4
