from collections.abc import Callable
import copy
from pathlib import Path

from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import load_checkpoint
from ffs_anonymizer.training.generator.distil import load_teacher
from ffs_anonymizer.training.generator.network import GeneratorNetwork, make_network
from ffs_anonymizer.training.generator.onnx_file import probe
from ffs_anonymizer.training.generator.sharing import (
    groups,
    narrowed,
    share_start,
    Shared,
    sort_channels,
)
from ffs_anonymizer.training.generator.train import train
from ffs_anonymizer.training.settings import TrainSettings
import pytest
import torch
from torch import nn

Settled = Callable[..., TrainSettings]
WIDTHS = '4,8 4,8 8,12,16'


def trained_like(name: str = 'ffs-tiny') -> GeneratorNetwork:
    torch.manual_seed(3)
    generator = make_network(name).generator
    assert isinstance(generator, GeneratorNetwork)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.uniform_(values, -0.5, 0.5)
    return generator.eval()


def inputs(generator: GeneratorNetwork) -> tuple[torch.Tensor, ...]:
    condition, mask, latent, points = probe(32).values()
    with torch.no_grad():
        return condition, mask, latent, generator.pose(condition, mask, points)


def painted(generator: GeneratorNetwork, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        return generator.paint(generator.features(*seen), *seen[:2])


@pytest.mark.parametrize('name', ['ffs-tiny', 'ffs-128-small'])
def test_sorted_channels_paint_the_same(name: str) -> None:
    generator = trained_like(name)
    ordered = copy.deepcopy(generator)
    sort_channels(ordered)
    seen = inputs(generator)
    assert torch.allclose(painted(ordered, seen), painted(generator, seen), atol=1e-5)
    pairs = zip(generator.parameters(), ordered.parameters(), strict=True)
    assert any(not torch.equal(before, after) for before, after in pairs)
    for group in groups(ordered):
        read = [getattr(layer, 'conv', layer).weight for layer in group.readers]
        importance = torch.stack([weight.abs().sum((0, 2, 3)) for weight in read]).sum(0)
        assert (importance.diff() <= 1e-4).all()


def test_every_convolution_writes_and_reads_sorted_channels() -> None:
    generator = trained_like()
    painting = [
        m for n, m in generator.named_modules() if isinstance(m, nn.Conv2d) and 'pose' not in n
    ]
    written, read = (
        {
            id(getattr(layer, 'conv', layer))
            for group in groups(generator)
            for layer in layers(group)
        }
        for layers in (lambda g: g.writers, lambda g: g.readers)
    )
    assert written == {id(m) for m in painting} - {id(generator.exit)}
    first = {id(generator.entry.conv), id(generator.worn)}
    assert read == {id(m) for m in painting} - first


def test_full_widths_are_the_teacher() -> None:
    generator = trained_like()
    seen = inputs(generator)
    with torch.no_grad():
        levels, picture = Shared(generator)((8, 8, 16), *seen)
    assert torch.equal(picture, painted(generator, seen))
    assert [level.shape[1] for level in levels] == [16, 8, 8, 8]


@pytest.mark.parametrize('channels', [(4, 8, 12), (8, 4, 16), (1, 1, 1)])
def test_a_narrow_one_is_painted_by_the_first_of_the_weights(channels: tuple[int, ...]) -> None:
    generator = trained_like()
    seen = inputs(generator)
    with torch.no_grad():
        _, picture = Shared(generator)(channels, *seen)
    narrow = narrowed(generator, channels)
    assert narrow.architecture.channels == channels
    assert torch.equal(painted(narrow, seen), picture)
    assert not torch.allclose(picture, painted(generator, seen), atol=1e-2)
    assert torch.equal(
        narrow.last.conv.weight, generator.last.conv.weight[: channels[0], : channels[0]]
    )


def test_what_a_narrow_one_learns_the_others_share() -> None:
    generator = trained_like().train()
    seen = inputs(generator)
    _, picture = Shared(generator)((4, 8, 8), *seen)
    picture.square().mean().backward()
    gradient = generator.last.conv.weight.grad
    assert gradient[:4, :4].abs().min() > 0
    assert gradient[4:].abs().max() == gradient[:, 4:].abs().max() == 0


@pytest.fixture(scope='module')
def whole(tiny_settings: Settled, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_settings(packed, tmp_path_factory.mktemp('whole')), quiet=True)


def test_it_starts_with_no_distance_at_full_width(whole: Path) -> None:
    student = make_network('ffs-tiny')
    teacher = load_teacher(whole, student, 32)
    share_start(teacher, student.generator, 'x')
    student.eval()
    seen = inputs(student.generator)
    with torch.no_grad():
        theirs, picture = teacher.paints(*seen)
        levels, ours = Shared(student.generator)((8, 8, 16), *seen)
        assert torch.equal(ours, picture)
        assert teacher.distance(levels, theirs) == 0
        levels, _ = Shared(student.generator)((4, 8, 16), *seen)
        assert 0 < teacher.distance(levels, theirs) < 2


def test_a_shared_run_goes_on_to_the_bit(
    tiny_settings: Settled, whole: Path, packed: Path, tmp_path: Path
) -> None:
    changes = {'learns': 'sharing', 'teacher': str(whole), 'widths': WIDTHS, 'decay_from': 1.0}
    train(tiny_settings(packed, tmp_path, steps=2, **changes), quiet=True)
    resumed = load_checkpoint(train(tiny_settings(packed, tmp_path, **changes), quiet=True))
    alone = load_checkpoint(
        train(tiny_settings(packed, tmp_path / 'alone', **changes), quiet=True)
    )
    for kind in ('generator', 'ema', 'adapters'):
        assert all(torch.equal(resumed[kind][name], alone[kind][name]) for name in alone[kind])
    before = load_checkpoint(whole)['ema']
    kept = ('encoder.', 'matcher.', 'generator.pose.')
    same = {n for n in before if torch.equal(before[n], alone['ema'][n])}
    assert {n for n in before if n.startswith(kept)} <= same
    assert 'generator.last.conv.weight' not in same
    assert (tmp_path / 'grids' / '0000004.png').is_file()


@pytest.mark.parametrize(
    ('changes', 'error', 'text'),
    [
        ({'teacher': ''}, SettingsError, 'teacher: got nothing, expected the checkpoint that sh'),
        ({'teacher': 'none.pt'}, ModelError, r'none\.pt: got no such file'),
        ({'network': 'ffs-128-small', 'widths': ''}, ModelError, 'weights of another network'),
        ({'widths': '4 8 32'}, SettingsError, "widths: got '4 8 32', expected some for each of 3"),
    ],
)
def test_unfit_shared_runs_are_refused(
    tiny_settings: Settled,
    whole: Path,
    packed: Path,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    text: str,
) -> None:
    usual = {'learns': 'sharing', 'teacher': str(whole), 'widths': WIDTHS}
    with pytest.raises(error, match=text):
        train(tiny_settings(packed, tmp_path, **{**usual, **changes}), quiet=True)
