from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
from ffs_anonymizer.evaluation.cost import measure
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import (
    ARCHITECTURES,
    composite,
    make_generator,
    meet,
    transplant,
)
from ffs_anonymizer.training.generator.onnx_file import probe
import pytest
import torch


@pytest.mark.parametrize('name', ['ffs-tiny', 'ffs-128-small', 'ffs-128-lean'])
def test_paints_a_crop_of_the_same_size_within_range(name: str) -> None:
    condition, mask = probe(64, 2)
    painted = make_generator(name)(condition, mask)
    assert painted.shape == (2, 3, 64, 64)
    assert painted.abs().max() <= 1


@pytest.mark.parametrize('name', sorted(ARCHITECTURES))
def test_channels_are_multiples_of_32(name: str) -> None:
    if name != 'ffs-tiny':
        assert all(c % 32 == 0 for c in ARCHITECTURES[name].channels)


def test_unknown_network_is_refused() -> None:
    with pytest.raises(ModelError, match="network: got 'x', expected one of ffs-128"):
        make_generator('x')


def test_counts_by_hand() -> None:
    convolution = torch.nn.Conv2d(4, 5, 3, padding=1)

    class One(torch.nn.Module):
        """One convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, condition: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.convolution(torch.cat([condition, mask], 1))

    assert measure(One(), 8) == (4 * 5 * 9 + 5, 4 * 5 * 9 * 64)


def test_the_baseline_costs_what_is_published() -> None:
    parameters, macs = measure(DeepPrivacyGenerator(), 128)
    assert parameters == pytest.approx(42.57e6, rel=0.01)
    assert macs == pytest.approx(61.5e9, rel=0.01)


def test_the_gpu_model_costs_what_is_planned() -> None:
    parameters, _ = measure(make_generator('ffs-128'), 128)
    assert parameters == pytest.approx(10.5e6, rel=0.02)


def test_folded_network_paints_the_same() -> None:
    torch.manual_seed(0)
    generator = make_generator('ffs-tiny')
    condition, mask = probe(64, 4)
    for _ in range(3):
        generator(condition + torch.randn_like(condition), mask)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    generator.eval()
    folded = fold(generator)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        difference = (folded(condition, mask) - generator(condition, mask)).abs().max()
    assert difference < 1e-5


def test_grown_network_keeps_the_lower_levels() -> None:
    small, large = make_generator('ffs-64-small'), make_generator('ffs-128-small')
    transplant(small, large)
    assert torch.equal(small.down[0].conv.weight, large.down[1].conv.weight)
    assert torch.equal(small.up[2].conv.weight, large.up[2].conv.weight)
    with pytest.raises(ModelError, match='weights of another network'):
        transplant(large, small)
    with pytest.raises(ModelError, match='weights of another network'):
        transplant(make_generator('ffs-tiny'), large)


def test_composite_takes_the_hole_from_the_painting() -> None:
    painted, image = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), -1.0)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert composite(painted, image, mask)[0, 0].tolist() == [[-1.0, 0.5], [0.5, -1.0]]


def test_a_step_at_the_border_is_taken_out() -> None:
    _, mask = probe(64, 2)
    truth = torch.full((2, 3, 64, 64), 0.2)
    painted = truth + torch.tensor([-0.3, 0.1, 0.4])[:, None, None]
    met = meet(painted, truth * mask, mask)
    assert torch.allclose(met[:, :, 16, 16:48], truth[:, :, 16, 16:48], atol=0.1)
    assert torch.allclose(met[:, :, :14], truth[:, :, :14], atol=0.01)
    step = (met[:, :, 1:] - met[:, :, :-1]).abs()
    assert step.max() < 0.1
    assert torch.equal(meet(truth, truth * mask, mask), truth)


def test_what_lies_in_the_hole_changes_nothing() -> None:
    condition, mask = probe(64, 2)
    painted = torch.zeros_like(condition)
    noise = torch.rand_like(condition) * (1 - mask)
    assert torch.equal(meet(painted, condition, mask), meet(painted, condition + noise, mask))
    nothing = torch.zeros_like(mask)
    assert torch.equal(meet(painted, condition, nothing), painted)
