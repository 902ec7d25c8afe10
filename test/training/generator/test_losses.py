from ffs_anonymizer.training.generator.losses import (
    augment,
    critic_hinge,
    feature_distance,
    generator_hinge,
    guess_distance,
    hole_mean,
    inner_border,
    pixel_distance,
    texture_distance,
    tone_distance,
)
import pytest
import torch


def half_mask(side: int = 8) -> torch.Tensor:
    mask = torch.ones(1, 1, side, side)
    mask[..., side // 2 :] = 0
    return mask


def test_hole_mean_looks_at_the_hole_alone() -> None:
    values = torch.ones(1, 2, 4, 4)
    values[..., :2] = 99
    assert hole_mean(values, half_mask()) == 1
    assert hole_mean(values, torch.ones(1, 1, 8, 8)) == 0


@pytest.mark.parametrize(('real', 'fake', 'loss'), [(1, -1, 0), (0, 0, 2), (2, -3, 0), (-1, 1, 4)])
def test_critic_hinge(real: float, fake: float, loss: float) -> None:
    logits = [torch.full((1, 1, 4, 4), v) for v in (float(real), float(fake))]
    assert critic_hinge(logits[:1], logits[1:], half_mask()) == loss
    assert generator_hinge(logits[1:], half_mask()) == -fake


def test_distances_of_the_same_are_zero_and_of_others_are_their_mean() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert pixel_distance(x, x, half_mask()) == 0
    assert pixel_distance(x, x + 0.5, half_mask()) == pytest.approx(0.5)
    assert pixel_distance(x, x + 0.5, torch.zeros(1, 1, 8, 8)) == 0
    assert feature_distance([x, x], [x + 1, x - 3], half_mask()) == pytest.approx(2.0)


def test_inner_border_is_in_the_hole_beside_what_is_kept() -> None:
    border = inner_border(half_mask(32))[0, 0, 16]
    assert border[:16].max() == 0
    assert (border[16:18] > 0).all()
    assert border[18:].max() == 0
    assert border[16] > border[17]


def test_augment_changes_all_alike_and_passes_gradients() -> None:
    x = torch.rand(3, 3, 16, 16, requires_grad=True)
    mask = half_mask(16).expand(3, 1, 16, 16)
    (once, again), (seen,) = augment((x, x), (mask,), torch.Generator().manual_seed(0), 12)
    assert once.shape == (3, 3, 12, 12)
    assert seen.shape == (3, 1, 12, 12)
    assert torch.equal(once, again)
    once.sum().backward()
    assert x.grad is not None
    (whole,), _ = augment((x,), (mask,), torch.Generator().manual_seed(0), 99)
    assert whole.shape == x.shape
    assert not torch.allclose(whole, x)


def test_tone_is_the_mean_colour_of_the_middle() -> None:
    image = torch.zeros(1, 3, 32, 32)
    rect = torch.tensor([[4.0, 4.0, 28.0, 28.0]])
    assert tone_distance(image, image, rect) == 0
    assert tone_distance(image + 0.25, image, rect) == pytest.approx(0.25)
    stripes = image.clone()
    stripes[..., ::2] += 0.5
    stripes[..., 1::2] -= 0.5
    assert tone_distance(stripes, image, rect) < 0.02
    outside = image.clone()
    outside[..., :4] = 1
    assert tone_distance(outside, image, rect) == 0


def test_texture_is_the_strength_of_detail_not_its_place() -> None:
    chance = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    image = torch.rand(2, 3, 32, 32, generator=chance)
    other = torch.rand(2, 3, 32, 32, generator=chance)
    flat = torch.full_like(image, 0.5)
    assert texture_distance(image, image, mask, 1) == 0
    assert texture_distance(other, image, mask, 0) < 0.3
    assert texture_distance(flat, image, mask, 0) > 2
    assert texture_distance(flat, image, mask, 2) > 1


def test_the_prior_is_asked_for_mean_and_spread() -> None:
    code = torch.tensor([[1.0, -1.0]])
    zeros = torch.zeros(1, 2)
    assert guess_distance(code, zeros, code) == 0
    assert guess_distance(zeros, zeros, code) == 0.5
    assert guess_distance(code, zeros - 1, code) < guess_distance(code, zeros, code)
