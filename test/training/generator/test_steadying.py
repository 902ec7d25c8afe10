from collections.abc import Callable
from pathlib import Path

from ffs_anonymizer.datasets.sampler import Chance
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.training.checkpoint import load_checkpoint
from ffs_anonymizer.training.generator.export import export
from ffs_anonymizer.training.generator.network import make_network
from ffs_anonymizer.training.generator.steadying import banded, Between, grown, GROWN_PX
from ffs_anonymizer.training.generator.train import retake, sampler_of, train, with_points
from ffs_anonymizer.training.settings import from_mapping, TrainSettings
import pytest
import torch

Settled = Callable[..., TrainSettings]
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def whole(tiny_settings: Settled, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_settings(packed, tmp_path_factory.mktemp('whole')), quiet=True)


def holes(count: int) -> torch.Tensor:
    mask = torch.ones(count, 1, 40, 40)
    mask[..., 10:28, 12:30] = 0
    return mask


def test_holes_grow_by_a_few_pixels_at_each_side() -> None:
    mask = holes(64)
    larger = grown(mask, Chance(0, CPU))
    assert ((larger == 1) | (larger == 0)).all()
    assert (larger[mask == 0] == 0).all()
    rows, columns = (larger[:, 0].amin(dim) for dim in (2, 1))
    top, bottom = 10 - rows.argmin(1), (40 - rows.flip(1).argmin(1)) - 28
    left, right = 12 - columns.argmin(1), (40 - columns.flip(1).argmin(1)) - 30
    for by, most in zip((bottom, top, right, left), GROWN_PX, strict=True):
        assert (by.min(), by.max()) == (0, most - 1)


def test_holes_at_the_edge_of_the_crop_do_not_come_in_at_the_other() -> None:
    mask = torch.ones(32, 1, 40, 40)
    mask[..., 30:, 20:] = 0
    assert (grown(mask, Chance(0, CPU))[..., :20, :10] == 1).all()


def test_bands_lie_beside_the_hole_and_leave_it_as_it_is() -> None:
    mask = holes(200)
    image = torch.full((200, 3, 40, 40), 0.5)
    other = banded(image, mask, Chance(1, CPU))
    changed = (other != image).any(1)
    assert not changed[mask[:, 0] == 0].any()
    share = changed.flatten(1).any(1).float().mean()
    assert 0.55 < share < 0.75
    below = changed[:, 28, 12:30].any(1).float().mean()
    assert 0.35 < below < 0.6
    assert other.abs().max() <= 1


def test_a_steadied_run_starts_as_its_teacher_and_stays_between(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    teacher = load_checkpoint(whole)['ema']
    painting = [name for name in teacher if name.startswith('generator.')]
    for share in (0.0, 0.5):
        chosen = tiny_settings(
            packed,
            tmp_path / str(share),
            learns='steadying',
            teacher=str(whole),
            steadied_share=share,
        )
        steadied = load_checkpoint(train(chosen, quiet=True))
        assert all(
            torch.equal(steadied['ema'][name], teacher[name])
            for name in teacher
            if name not in painting
        )
        moved = [n for n in painting if not torch.allclose(steadied['ema'][n], teacher[n])]
        assert bool(moved) == (share > 0)
        learned = [n for n in painting if not torch.allclose(steadied['generator'][n], teacher[n])]
        assert learned
        norms = [n for n in painting if n.endswith(('running_mean', 'running_var'))]
        assert not set(norms) & set(learned)


def test_a_steadied_run_goes_on_to_the_bit(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    changes = {'learns': 'steadying', 'teacher': str(whole), 'decay_from': 1.0}
    train(tiny_settings(packed, tmp_path, steps=2, **changes), quiet=True)
    resumed = load_checkpoint(train(tiny_settings(packed, tmp_path, **changes), quiet=True))
    alone = load_checkpoint(
        train(tiny_settings(packed, tmp_path / 'alone', **changes), quiet=True)
    )
    for kind in ('generator', 'ema'):
        assert all(torch.equal(resumed[kind][name], alone[kind][name]) for name in alone[kind])


def test_it_loads_neither_critic_nor_features(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError('nobody asked for it')

    for name in ('Critic', 'make_features'):
        monkeypatch.setattr(f'ffs_anonymizer.training.generator.lessons.{name}', refuse)
    changes = {'learns': 'steadying', 'teacher': str(whole), 'steps': 1}
    done = load_checkpoint(train(tiny_settings(packed, tmp_path, **changes), quiet=True))
    assert not {'critic', 'critic_steps', 'scales'} & done.keys()


def test_it_needs_a_teacher(tiny_settings: Settled, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='teacher: got nothing'):
        train(tiny_settings(packed, tmp_path, learns='steadying'), quiet=True)


def test_weights_between_two_networks() -> None:
    networks = [make_network('ffs-tiny').generator for _ in range(2)]
    between = Between(networks[0], 0.25).follow(networks[1])
    for own, earlier, later in zip(
        between.parameters(), *(each.parameters() for each in networks), strict=True
    ):
        assert torch.allclose(own, 0.75 * earlier + 0.25 * later, atol=1e-6)


def test_statistics_taken_anew_change_nothing_that_is_painted(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    from ffs_anonymizer.datasets.faces import load_packed

    checkpoint = load_checkpoint(whole)
    settings = from_mapping(checkpoint['settings'], TrainSettings)
    network = make_network(settings.network).eval()
    network.load_state_dict(checkpoint['ema'])
    faces = load_packed(packed)
    sampler = sampler_of(faces, with_points(faces)[0], settings, CPU)
    batch = sampler.draw(16, seed=0, step=0)
    latents = torch.zeros(16, 2058)
    given = batch.condition, batch.mask, latents, batch.mean_points_px
    with torch.no_grad():
        before = network.generator(*given)
        means = [norm.clone() for norm in network.generator.buffers()]
        retake(network, [batch])
        after = network.generator(*given)
    assert torch.allclose(before, after, atol=1e-4)
    pairs = zip(means, network.generator.buffers(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_a_steadied_run_is_exported(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    chosen = tiny_settings(
        packed, tmp_path / 'run', learns='steadying', teacher=str(whole), steps=1
    )
    path = train(chosen, quiet=True)
    done = export(path, tmp_path / 'models', gallery='person*')
    assert done.fp32.exists()
