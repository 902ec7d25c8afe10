from collections.abc import Callable
import csv
from itertools import product
import json
import os
from pathlib import Path
import signal

import cv2
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import load_checkpoint
from ffs_anonymizer.training.generator import search as search_module
from ffs_anonymizer.training.generator.export import export, settled
from ffs_anonymizer.training.generator.network import architecture
from ffs_anonymizer.training.generator.search import (
    Judge,
    make_plan,
    paint,
    Plan,
    search,
)
from ffs_anonymizer.training.generator.sharing import Shared
from ffs_anonymizer.training.generator.train import train
from ffs_anonymizer.training.generator.widths import cost
from ffs_anonymizer.training.settings import from_mapping, TrainSettings
import pytest
import torch

Settled = Callable[..., TrainSettings]
CPU = torch.device('cpu')
# Of four networks two are within it.
GMAC = sorted(
    cost(architecture('ffs-tiny'), channels, 32)[1] / 1e9
    for channels in product((4, 8), (8,), (8, 16))
)[1]
TINY = {'batch': 4, 'steps': 3, 'threads': 1, 'half': False, 'device': 'cpu'}


@pytest.fixture(scope='module')
def teacher(
    tiny_settings: Settled, packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return train(tiny_settings(packed, tmp_path_factory.mktemp('teacher')), quiet=True)


def plan_of(teacher: Path, packed: Path, out: Path, gmac: float | None = None, **values) -> Plan:
    given_values = {'data': str(packed), 'widths': '4,8 8 8,16', **TINY, **values}
    most = given_values.pop('most', 400)
    return make_plan(teacher, out, given_values, gmac=gmac, most=most)


@pytest.fixture(scope='module')
def found(teacher: Path, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = search(
        plan_of(teacher, packed, tmp_path_factory.mktemp('found'), GMAC + 1e-9), quiet=True
    )
    assert path is not None
    return path


def rows_of(found: Path) -> list[dict[str, str]]:
    with (found.parent / 'candidates.csv').open(newline='') as file:
        return [*csv.DictReader(file)]


def test_a_search_judges_the_table_and_keeps_the_budget(found: Path) -> None:
    rows = rows_of(found)
    assert {row['channels'] for row in rows} == {'4,8,8', '4,8,16', '8,8,8', '8,8,16'}
    affordable = [row for row in rows if float(row['gmac']) <= GMAC + 1e-9]
    assert len(affordable) == 2
    nearest = min(affordable, key=lambda row: float(row['distance']))
    assert load_checkpoint(found)['settings']['channels'] == nearest['channels']
    for name in ('candidates.png', 'faces.png'):
        assert cv2.imread(str(found.parent / name)) is not None


def test_a_candidate_is_judged_as_it_is_painted(found: Path, teacher: Path, packed: Path) -> None:
    plan = plan_of(teacher, packed, found.parent, GMAC + 1e-9)
    _, _, settled_teacher = settled(teacher, packed)
    judge = Judge(settled_teacher, plan.settings, CPU)
    wide = search_module.make_network('ffs-tiny').eval()
    wide.load_state_dict(load_checkpoint(found.parent / 'shared' / 'last.pt')['ema'])

    # The checkpoint paints what the shared weights paint in its widths, with its statistics
    chosen = load_checkpoint(found)
    settings = from_mapping(chosen['settings'], TrainSettings)
    narrow = search_module.make_network(settings.network, settings.channels).eval()
    narrow.load_state_dict(chosen['ema'])
    channels = narrow.generator.architecture.channels
    for name, value in narrow.generator.named_buffers():
        shared = wide.generator.get_buffer(name)
        if value.ndim == 1:
            shared[: len(value)] = value
    with torch.no_grad():
        _, picture = Shared(wide.generator)(channels, *judge.given)
        painted = paint(narrow.generator, judge.given)
    assert torch.allclose(painted, picture.clamp(-1, 1), atol=1e-6)
    row = next(row for row in rows_of(found) if row['channels'] == settings.channels)
    assert judge(narrow.generator) == pytest.approx(float(row['distance']), abs=1e-3)

    # The statistics are part of it
    norms = [n for n, _ in narrow.generator.named_buffers() if n.endswith('running_mean')]
    narrow.generator.get_buffer(norms[-1]).add_(1.0)
    assert judge(narrow.generator) != pytest.approx(float(row['distance']), abs=0.1)


def test_the_teacher_is_not_far_from_itself(teacher: Path, packed: Path, tmp_path: Path) -> None:
    plan = plan_of(teacher, packed, tmp_path)
    _, _, network = settled(teacher, packed)
    judge = Judge(network, plan.settings, CPU)
    assert judge(network.generator) == 0
    assert judge(search_module.make_network('ffs-tiny').eval().generator) > 1


def test_what_was_found_is_trained_and_exported(
    found: Path, tiny_settings: Settled, packed: Path, tmp_path: Path
) -> None:
    channels = load_checkpoint(found)['settings']['channels']
    with pytest.raises(ModelError, match='name the network, and its channels'):
        train(tiny_settings(packed, tmp_path / 'wide', init_from=str(found)), quiet=True)
    tuned = train(
        tiny_settings(
            packed, tmp_path / 'tuned', init_from=str(found), channels=channels, steps=1
        ),
        quiet=True,
    )
    for path in (found, tuned):
        done = export(path, tmp_path / path.parent.name, gallery='person*', name='narrow')
        manifest = json.loads(done.fp32.with_suffix('.json').read_text())
        levels = [*manifest['metrics']['channels'].values()]
        assert ','.join(map(str, levels)) == channels
        card = done.fp32.with_suffix('.md').read_text()
        assert f'channels {", ".join(map(str, levels))}' in card
        assert f'channels: {channels}\n' in card
    with pytest.raises(ModelError, match='got weights, but no run to go on with'):
        train(from_mapping(load_checkpoint(found)['settings'], TrainSettings), quiet=True)


def test_a_narrow_teacher_teaches(
    found: Path, tiny_settings: Settled, packed: Path, tmp_path: Path
) -> None:
    assert train(tiny_settings(packed, tmp_path, teacher=str(found), steps=1), quiet=True).exists()
    again = make_plan(found, tmp_path / 'again', {'data': str(packed), 'widths': '2,4 4,8 4,8'})
    channels = load_checkpoint(found)['settings']['channels']
    assert ','.join(map(str, again.usual.channels)) == channels


def test_another_budget_judges_nothing_anew(
    found: Path, teacher: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError('it was judged before')

    before = rows_of(found)
    monkeypatch.setattr(Judge, '__call__', refuse)
    assert search(plan_of(teacher, packed, found.parent, 1.0), plot=False, quiet=True) == found
    assert rows_of(found) == before
    nearest = min(before, key=lambda row: float(row['distance']))
    assert load_checkpoint(found)['settings']['channels'] == nearest['channels']


def test_an_interrupted_search_goes_on(
    found: Path, teacher: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(teacher, packed, tmp_path, GMAC + 1e-9)
    judges = search_module.Judge

    # In the training
    with monkeypatch.context() as patch:
        sharing = 'ffs_anonymizer.training.generator.sharing.Sharing.__call__'
        from ffs_anonymizer.training.generator.sharing import Sharing

        learns = Sharing.__call__

        def interrupted(*args: object) -> object:
            os.kill(os.getpid(), signal.SIGINT)
            return learns(*args)

        patch.setattr(sharing, interrupted)
        assert search(plan, quiet=True) is None
    assert load_checkpoint(tmp_path / 'shared' / 'last.pt')['step'] == 1
    assert not (tmp_path / 'candidates.csv').exists()

    # While it judges
    class Stopping(judges):
        """Two, and no more."""

        def __call__(self, generator: object) -> float:
            if len(rows_of(tmp_path / 'x')) == 2:
                raise KeyboardInterrupt
            return super().__call__(generator)

    with monkeypatch.context() as patch:
        patch.setattr(search_module, 'Judge', Stopping)
        with pytest.raises(KeyboardInterrupt):
            search(plan, quiet=True)
    assert len(rows_of(tmp_path / 'x')) == 2
    assert not (tmp_path / 'last.pt').exists()

    path = search(plan, plot=False, quiet=True)
    assert path is not None
    assert sorted(row['channels'] for row in rows_of(path)) == sorted(
        row['channels'] for row in rows_of(found)
    )


def test_a_large_table_is_judged_in_part(teacher: Path, packed: Path, tmp_path: Path) -> None:
    plan = plan_of(teacher, packed, tmp_path, widths='2,4,8 2,4,8 4,8,16', most=6, steps=1)
    path = search(plan, plot=False, quiet=True)
    assert path is not None
    rows = rows_of(path)
    assert len(rows) == len({row['channels'] for row in rows}) == 6
    assert all(float(row['gmac']) * 1e9 <= plan.budget_macs for row in rows)


@pytest.mark.parametrize(
    ('changes', 'error', 'text'),
    [
        ({'gmac': 1e-6}, SettingsError, 'got 0.000 GMAC a face, which none of 4 networks meets'),
        ({'widths': '4 4'}, SettingsError, 'widths: got .4 4., expected some for each of 3'),
        ({'widths': '4 4 4'}, SettingsError, 'got 1 network and 400 to judge, expected 2'),
        ({'widths': '4,16 4 4'}, SettingsError, 'up to 8,8,16'),
        ({'most': 1}, SettingsError, 'got 4 network and 1 to judge, expected 2 and more'),
        ({'colour': 1}, SettingsError, 'unknown settings colour'),
        ({'network': 'ffs-tiny-detailed'}, ModelError, 'level of detail'),
    ],
)
def test_unfit_searches_are_refused_before_anything_is_trained(
    teacher: Path,
    packed: Path,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    text: str,
) -> None:
    if 'network' in changes:
        values = torch.load(teacher, weights_only=True)
        values['settings'].update(changes)
        teacher = tmp_path / 'detailed.pt'
        torch.save(values, teacher)
        changes = {}
    with pytest.raises(error, match=text):
        plan_of(teacher, packed, tmp_path / 'out', **changes)
    assert not (tmp_path / 'out').exists()


def test_a_search_without_teacher_or_data_is_refused(
    teacher: Path, packed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r'none\.pt: got no such file, expected a checkpoint'):
        plan_of(tmp_path / 'none.pt', packed, tmp_path)
    with pytest.raises(MediaError, match='none: not a packed data set'):
        search(plan_of(teacher, Path('none'), tmp_path), quiet=True)


def test_rows_wear_the_face_of_the_one_before(teacher: Path, packed: Path, tmp_path: Path) -> None:
    _, _, network = settled(teacher, packed)
    judge = Judge(network, plan_of(teacher, packed, tmp_path).settings, CPU)
    condition, mask, latents, points = judge.given
    assert len(condition) == len(mask) == len(latents) == len(points) > 1
    assert (latents[0] != latents[1]).any()
