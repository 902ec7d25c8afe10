from pathlib import Path
import re

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.baseline import DeepPrivacyGenerator
from ffs_anonymizer.evaluation.cost import costs, measure, to_markdown
from ffs_anonymizer.training.generator.alignment import TEMPLATE
from ffs_anonymizer.training.generator.fold import fold
from ffs_anonymizer.training.generator.network import (
    ARCHITECTURES,
    beneath,
    CHANCE,
    Chooser,
    CODE_CHANNELS,
    CODE_SIDE,
    composite,
    double,
    halved,
    LATENT,
    likeness,
    make_network,
    meet,
    packed,
    place,
    turned,
    unpacked,
)
from ffs_anonymizer.training.generator.onnx_file import chooser_probe, probe
import pytest
import torch


@pytest.mark.parametrize('name', sorted(ARCHITECTURES))
def test_paints_a_crop_of_the_same_size_within_range(name: str) -> None:
    painted = make_network(name).generator(*probe(64, 2).values())
    assert painted.shape == (2, 3, 64, 64)
    assert painted.abs().max() <= 1


def test_latent_and_points_change_the_face() -> None:
    torch.manual_seed(0)
    network = make_network('ffs-tiny').generator.eval()
    inputs = probe(64, 2)
    with torch.no_grad():
        painted = network(*inputs.values())
        other = network(*{**inputs, 'latent': -inputs['latent']}.values())
        moved = network(*{**inputs, 'points': inputs['points'] + 8}.values())
    hole = inputs['mask'].expand_as(painted) == 0
    assert (painted - other)[hole].abs().max() > 1e-4
    assert (painted - moved)[hole].abs().max() > 1e-4


def test_a_face_as_latent_comes_back_as_it_was() -> None:
    code = torch.rand(2, CODE_CHANNELS, CODE_SIDE, CODE_SIDE) * 2 - 1
    template = torch.tensor(TEMPLATE)[None]
    points = template + 0.05 * torch.randn(2, 5, 2)
    latent = packed(code, points)
    assert latent.shape == (2, LATENT)
    back, placed = unpacked(latent, template)
    assert torch.equal(back, code)
    assert torch.allclose(placed, points, atol=1e-6)


def test_a_code_says_nothing_of_light_and_colours() -> None:
    encoder = make_network('ffs-tiny').encoder.eval()
    face = torch.rand(2, 3, 64, 64) - 0.5
    with torch.no_grad():
        code = encoder(face)
        assert torch.allclose(
            encoder(0.5 * face + torch.tensor([0.1, 0.0, -0.2])[:, None, None]), code, atol=1e-4
        )
        assert (encoder(face.flip(-1)) - code).abs().max() > 1e-3


def chooser(count: int = 50) -> Chooser:
    torch.manual_seed(0)
    matcher = make_network('ffs-tiny').matcher
    torch.nn.init.normal_(matcher.exit.weight, std=1.0)
    return Chooser(matcher, 0.5 * torch.randn(count, LATENT), torch.rand(count, 3)).eval()


def test_chance_and_surroundings_choose_a_face_of_the_gallery() -> None:
    choose, inputs = chooser(200), chooser_probe(64, 40)
    with torch.no_grad():
        faces = choose(*inputs.values())
        assert torch.equal(faces, choose(*inputs.values()))
        other = choose(*{**inputs, 'chance': -inputs['chance']}.values())
    gallery = choose.latents.float()
    assert all((gallery == face).all(1).any() for face in faces)
    assert len(faces.unique(dim=0)) > 10
    assert (faces != other).any(1).float().mean() > 0.8


def test_what_fits_best_is_chosen_most() -> None:
    choose, inputs = chooser(), chooser_probe(64, 1)
    many = {name: value.expand(500, *value.shape[1:]) for name, value in inputs.items()}
    many['chance'] = torch.randn(500, CHANCE)
    with torch.no_grad():
        seen = [inputs[k] for k in ('condition', 'mask', 'points')]
        wanted, _ = choose.matcher(*seen)
        choose.turns.zero_()
        faces = choose(*many.values())
        order = likeness(wanted, choose.traits)[0].argsort(descending=True)
    chosen = [(choose.latents[i].float() == faces).all(1).sum() for i in order.tolist()]
    assert sum(chosen[:10]) > 2 * sum(chosen[-10:])


def test_what_is_not_known_fits_as_well_as_anything() -> None:
    nan = float('nan')
    wanted = torch.tensor([[1.0, 0.5, 0.5], [nan, nan, nan]])
    faces = torch.tensor([[1.0, 0.5, 0.5], [0.0, 0.5, 0.5], [nan, 0.5, 0.5]])
    fits = likeness(wanted, faces)
    assert fits[0, 0] == fits[0, 2] == 0
    assert fits[0, 1] < -2
    assert (fits[1] == 0).all()
    choose = Chooser(make_network('ffs-tiny').matcher, torch.zeros(3, LATENT), faces)
    assert choose.weights[2, 0] == 0 < choose.weights[2, 1]


def test_a_face_is_chosen_that_is_turned_as_the_head_is() -> None:
    choose, inputs = chooser(400), chooser_probe(64, 60)
    heads = torch.linspace(-0.1, 0.1, 60)
    choose.matcher.forward = lambda *_: (torch.full((60, 3), 0.5), heads)  # type: ignore[method-assign]
    with torch.no_grad():
        _, points = unpacked(choose(*inputs.values()), torch.tensor(TEMPLATE)[None])
    assert (turned(points) - heads).abs().max() < 0.06


def test_points_become_spots() -> None:
    points = torch.tensor([[[10.5, 20.5], [50.5, 20.5], [30.5, 30.5], [15.5, 45.5], [45.5, 45.5]]])
    eyes, nose, mouth = place(points, 64)[0]
    assert eyes[20, 10] == eyes[20, 50] == nose[30, 30] == mouth[45, 15] == 1
    assert eyes[30, 30] < 1e-3
    assert place(torch.full((1, 5, 2), -1e4), 64).max() == 0


def test_detail_begins_with_what_the_small_network_paints() -> None:
    torch.manual_seed(0)
    small, large = make_network('ffs-tiny').eval(), make_network('ffs-tiny-detailed').eval()
    large.load_state_dict(beneath(small.state_dict(), large))
    inputs = probe(64, 2)
    condition, mask = halved(inputs['condition'], inputs['mask'])
    with torch.no_grad():
        painted = large.generator(*inputs.values())
        base = small.generator(condition, mask, inputs['latent'], inputs['points'] / 2)
        hole = inputs['mask'].expand_as(painted) == 0
        assert (painted - meet(double(base), *list(inputs.values())[:2]))[hole].abs().max() < 2e-3
        large.generator.exit.bias += 0.1
        assert (large.generator(*inputs.values()) - painted)[hole].mean() > 0.05


def test_halving_drops_what_a_dropped_pixel_contributes_to() -> None:
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 3:5, 3:6] = 0
    condition, kept = halved(torch.ones(1, 3, 8, 8) * mask, mask)
    dropped = torch.zeros(4, 4)
    dropped[1:3, 1:3] = 1
    assert torch.equal(1 - kept[0, 0], dropped)
    assert torch.equal(condition, kept.expand(1, 3, 4, 4))


@pytest.mark.parametrize('name', sorted(ARCHITECTURES))
def test_channels_are_multiples_of_32(name: str) -> None:
    if not name.startswith('ffs-tiny'):
        assert all(c % 32 == 0 for c in ARCHITECTURES[name].channels)


def test_unknown_network_is_refused() -> None:
    with pytest.raises(ModelError, match="network: got 'x', expected one of ffs-128"):
        make_network('x')


def test_counts_by_hand() -> None:
    convolution = torch.nn.Conv2d(4, 5, 3, padding=1)

    class One(torch.nn.Module):
        """One convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, condition: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.convolution(torch.cat([condition, mask], 1))

    assert measure(One(), 8, inputs=2) == (4 * 5 * 9 + 5, 4 * 5 * 9 * 64)


def test_the_baseline_costs_what_is_published() -> None:
    parameters, macs = measure(DeepPrivacyGenerator(), 128, inputs=2)
    assert parameters == pytest.approx(42.57e6, rel=0.01)
    assert macs == pytest.approx(61.5e9, rel=0.01)


def test_the_docs_tell_what_each_network_costs() -> None:
    told = (Path(__file__).parents[3] / 'docs' / 'training.md').read_text(encoding='utf-8')
    for row in costs()[:-1]:
        _, name, rest = to_markdown([row]).splitlines()[-1].split('|', 2)
        assert re.search(rf'^\|{name.rstrip()}(,[^|]*)? \|{re.escape(rest)}$', told, re.MULTILINE)


def test_folded_network_paints_the_same() -> None:
    torch.manual_seed(0)
    network = make_network('ffs-tiny').generator
    inputs = probe(64, 4)
    for _ in range(3):
        moved = inputs['condition'] + torch.randn_like(inputs['condition'])
        network(*{**inputs, 'condition': moved}.values())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    network.eval()
    folded = fold(network)
    assert not any('BatchNorm' in type(m).__name__ for m in folded.modules())
    with torch.no_grad():
        difference = (folded(*inputs.values()) - network(*inputs.values())).abs().max()
    assert difference < 1e-5


def test_composite_takes_the_hole_from_the_painting() -> None:
    painted, image = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), -1.0)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert composite(painted, image, mask)[0, 0].tolist() == [[-1.0, 0.5], [0.5, -1.0]]


def test_a_step_at_the_border_is_taken_out() -> None:
    mask = probe(64, 2)['mask']
    truth = torch.full((2, 3, 64, 64), 0.2)
    painted = truth + torch.tensor([-0.3, 0.1, 0.4])[:, None, None]
    met = meet(painted, truth * mask, mask)
    assert torch.allclose(met[:, :, 16, 16:48], truth[:, :, 16, 16:48], atol=0.1)
    assert torch.allclose(met[:, :, :14], truth[:, :, :14], atol=0.01)
    step = (met[:, :, 1:] - met[:, :, :-1]).abs()
    assert step.max() < 0.1
    assert torch.equal(meet(truth, truth * mask, mask), truth)


def test_what_lies_in_the_hole_changes_nothing() -> None:
    condition, mask = list(probe(64, 2).values())[:2]
    painted = torch.zeros_like(condition)
    noise = torch.rand_like(condition) * (1 - mask)
    assert torch.equal(meet(painted, condition, mask), meet(painted, condition + noise, mask))
    nothing = torch.zeros_like(mask)
    assert torch.equal(meet(painted, condition, nothing), painted)
