from collections.abc import Callable
from pathlib import Path
import threading

import cv2
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import load_checkpoint, save_checkpoint
from ffs_anonymizer.training.generator.train import train
from ffs_anonymizer.training.run import progress_at, rate_at
from ffs_anonymizer.training.settings import from_mapping, TrainSettings
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
import torch

Settled = Callable[..., TrainSettings]


@pytest.fixture(scope='module')
def whole(tiny_settings: Settled, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_settings(packed, tmp_path_factory.mktemp('whole')), quiet=True)


def test_a_run_leaves_checkpoint_grid_scalars_and_settings(whole: Path) -> None:
    checkpoint = load_checkpoint(whole)
    assert (checkpoint['step'], checkpoint['images']) == (4, 16)
    grid = cv2.imread(str(whole.parent / 'grids' / '0000004.png'))
    assert grid is not None
    assert grid.shape[0] == 6 * 32  # seen, in the own face, in three others, the photo
    assert list((whole.parent / 'scalars').iterdir())
    assert 'network: ffs-tiny' in (whole.parent / 'settings.yaml').read_text()


def test_an_interrupted_run_ends_bit_for_bit_as_a_whole_one(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    train(tiny_settings(packed, tmp_path, steps=2, decay_from=1.0), quiet=True)
    resumed = train(tiny_settings(packed, tmp_path, decay_from=1.0), quiet=True)
    alone = train(tiny_settings(packed, tmp_path / 'alone', decay_from=1.0), quiet=True)
    ours, theirs = load_checkpoint(resumed), load_checkpoint(alone)
    assert ours['step'] == theirs['step'] == 4
    for part in ('generator', 'ema', 'critic', 'scales'):
        for name, value in ours[part].items():
            assert torch.equal(value, theirs[part][name]), f'{part} {name}'
    moments = zip(
        ours['generator_steps']['state'].values(),
        theirs['generator_steps']['state'].values(),
        strict=True,
    )
    assert all(torch.equal(a['exp_avg_sq'], b['exp_avg_sq']) for a, b in moments)


def test_weights_change_and_frozen_ones_do_not(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    tuned = train(
        tiny_settings(
            packed,
            tmp_path,
            init_from=str(whole),
            freeze='generator.entry,generator.down',
            steps=2,
        ),
        quiet=True,
    )
    before, after = load_checkpoint(whole)['ema'], load_checkpoint(tuned)['generator']
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {n for n in before if n.startswith(('generator.entry.', 'generator.down.'))} <= same
    assert 'generator.exit.weight' not in same


def test_detail_is_learned_above_a_network_that_stays(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    chosen = tiny_settings(
        packed,
        tmp_path,
        network='ffs-tiny-detailed',
        init_from=str(whole),
        freeze='generator.base,encoder,matcher',
        steps=2,
    )
    before = load_checkpoint(whole)['ema']
    after = load_checkpoint(train(chosen, quiet=True))['generator']
    assert after['generator.exit.weight'].abs().max() > 0
    for name, weights in before.items():
        moved = name.replace('generator.', 'generator.base.', 1)
        assert torch.equal(after[moved], weights), name


def test_matching_learns_alone(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    chosen = tiny_settings(packed, tmp_path, init_from=str(whole), learns='matching', steps=2)
    after = load_checkpoint(train(chosen, quiet=True))['generator']
    changed = {n for n, v in load_checkpoint(whole)['ema'].items() if not torch.equal(v, after[n])}
    assert changed
    assert all(name.startswith('matcher.') for name in changed)


def test_other_settings_than_those_of_the_run_are_refused(
    tiny_settings: Settled, whole: Path, packed: Path
) -> None:
    with pytest.raises(SettingsError, match=r'batch: got 8, was 4'):
        train(tiny_settings(packed, whole.parent, batch=8), quiet=True)


@pytest.mark.parametrize(
    ('changes', 'error', 'text'),
    [
        ({'network': 'ffs-128-small', 'init': True}, ModelError, 'weights of another network'),
        ({'init_from': 'none.pt'}, ModelError, 'got no such file, expected a checkpoint'),
        (
            {'freeze': 'nose'},
            SettingsError,
            "freeze: got 'nose', expected some of generator.pose",
        ),
        ({'device': 'tpu'}, SettingsError, "device: got 'tpu'"),
        ({'features': 'vgg'}, SettingsError, "features: got 'vgg'"),
        (
            {'learns': 'much'},
            SettingsError,
            "learns: got 'much', expected all, matching, steadying",
        ),
        ({'data': ''}, SettingsError, 'data and out: got nothing'),
        ({'data': 'none'}, MediaError, 'none: not a packed data set'),
    ],
)
def test_unfit_runs_are_refused(
    tiny_settings: Settled,
    whole: Path,
    packed: Path,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    text: str,
) -> None:
    changes = dict(changes)
    if changes.pop('init', False):
        changes['init_from'] = str(whole)
    with pytest.raises(error, match=text):
        train(tiny_settings(packed, tmp_path, **changes), quiet=True)


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a.pt').write_bytes(b'no checkpoint')
    with pytest.raises(ModelError, match=r'a\.pt: cannot be read as a checkpoint \(\w+\), exp'):
        load_checkpoint(tmp_path / 'a.pt')
    torch.save({'weights': 1}, tmp_path / 'b.pt')
    with pytest.raises(ModelError, match=r'b\.pt: not a checkpoint of ffs_anonymizer'):
        load_checkpoint(tmp_path / 'b.pt')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full here')
def test_a_full_disk_leaves_the_last_good_checkpoint(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / 'last.pt'
    good = load_checkpoint(whole)
    save_checkpoint(path, good)
    (tmp_path / 'last.pt.partial').symlink_to('/dev/full')
    with pytest.raises(ModelError, match='the checkpoint before it is kept'):
        save_checkpoint(path, good)
    assert load_checkpoint(path)['step'] == 4
    assert [p.name for p in tmp_path.iterdir()] == ['last.pt']


@pytest.mark.parametrize(
    ('step', 'rate'), [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0), (75, 0.5), (99, 0.02)]
)
def test_rate_rises_stays_and_falls(step: int, rate: float) -> None:
    chosen = from_mapping({'steps': 100, 'warm_steps': 10, 'decay_from': 0.5}, TrainSettings)
    assert rate_at(step, step / 100, chosen) == pytest.approx(rate)


def test_a_run_ends_and_its_rates_fall_in_time() -> None:
    chosen = from_mapping({'steps': 100, 'minutes': 2.0, 'decay_from': 0.5}, TrainSettings)
    assert progress_at(30, 30.0, chosen) == 0.3
    assert progress_at(30, 90.0, chosen) == 0.75
    assert progress_at(30, 300.0, chosen) == 1.0
    assert rate_at(500, progress_at(30, 90.0, chosen), chosen) == pytest.approx(0.5)


def test_time_is_counted_over_all_sessions_of_a_run(
    tiny_settings: Settled, packed: Path, tmp_path: Path
) -> None:
    chosen = tiny_settings(packed, tmp_path, steps=10_000, minutes=0.05, save_every=1000)
    before = load_checkpoint(train(chosen, quiet=True))
    assert 1 <= before['step'] < 10_000
    assert before['seconds'] >= 3.0
    again = load_checkpoint(train(chosen, quiet=True))
    assert (again['step'], again['seconds']) == (before['step'], before['seconds'])


def test_what_is_not_asked_for_in_each_step_is_logged_all_the_same(
    tiny_settings: Settled, packed: Path, tmp_path: Path
) -> None:
    train(tiny_settings(packed, tmp_path, features_every=2, log_every=2), quiet=True)
    log = EventAccumulator(str(tmp_path / 'scalars')).Reload()
    assert {'features', 'adversarial', 'critic', 'hole'} <= set(log.Tags()['scalars'])


def test_a_run_of_before_times_were_kept_goes_on(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    earlier = load_checkpoint(whole)
    del earlier['seconds']
    save_checkpoint(tmp_path / 'last.pt', earlier)
    again = load_checkpoint(train(tiny_settings(packed, tmp_path, steps=5), quiet=True))
    assert again['step'] == 5
    assert again['seconds'] > 0


def test_training_runs_outside_the_main_thread(
    tiny_settings: Settled, packed: Path, tmp_path: Path
) -> None:
    done: list[Path] = []
    thread = threading.Thread(
        target=lambda: done.append(train(tiny_settings(packed, tmp_path, steps=1), quiet=True))
    )
    thread.start()
    thread.join()
    assert done == [tmp_path / 'last.pt']


def test_a_small_network_learns_from_a_large_one(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    chosen = tiny_settings(packed, tmp_path, network='ffs-128-small', teacher=str(whole), steps=1)
    taught = load_checkpoint(train(chosen, quiet=True))
    theirs = load_checkpoint(whole)['ema']
    for name, value in taught['generator'].items():
        if name.startswith(('encoder.', 'matcher.', 'generator.pose.')):
            assert torch.equal(value, theirs[name]), name
    assert [tuple(v.shape) for n, v in taught['adapters'].items() if n.endswith('weight')] == [
        (16, 128, 1, 1),
        (8, 64, 1, 1),
        (8, 32, 1, 1),
    ]
    unfit = tiny_settings(packed, tmp_path / 'unfit', teacher=str(whole), size_px=64)
    with pytest.raises(ModelError, match='got a teacher for crops of 32 px, expected 64'):
        train(unfit, quiet=True)
