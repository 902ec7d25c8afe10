from ffs_anonymizer.training.generator.losses import (
    critic_hinge,
    detail_distance,
    feature_distance,
    generator_hinge,
    gradient_distance,
    hole_mean,
    inner_border,
    pixel_distance,
    tone_distance,
    trait_distance,
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


def test_steps_between_pixels_are_compared_and_not_their_level() -> None:
    chance = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 32, 32, generator=chance)
    everywhere = torch.ones(2, 1, 32, 32)
    assert gradient_distance(image + 0.25, image, everywhere) < 1e-6
    stripes = image.clone()
    stripes[..., ::2] += 0.5
    assert gradient_distance(stripes, image, everywhere) == pytest.approx(0.5, rel=0.05)
    assert gradient_distance(stripes, image, torch.zeros(2, 1, 32, 32)) == 0


def test_traits_that_are_not_known_are_not_asked_for() -> None:
    nan = float('nan')
    traits = torch.tensor([[1.0, nan, 0.0], [nan, nan, nan]])
    right = torch.tensor([[20.0, 5.0, -20.0], [3.0, 3.0, 3.0]], requires_grad=True)
    loss = trait_distance(right, traits)
    loss.backward()
    assert float(loss.detach()) < 1e-6
    assert right.grad is not None
    assert right.grad[1].abs().max() == 0 == right.grad[0, 1]
    assert float(trait_distance(-right.detach(), traits)) == pytest.approx(20.0)
    assert float(trait_distance(right.detach(), torch.full((2, 3), nan))) == 0


def test_detail_counts_by_its_amount_and_not_by_its_place() -> None:
    chance = torch.Generator().manual_seed(0)
    photo = torch.randn(2, 3, 48, 48, generator=chance) * 0.2
    elsewhere = torch.randn(2, 3, 48, 48, generator=chance) * 0.2
    counts = torch.zeros(2, 1, 48, 48)
    counts[..., 12:36, 12:36] = 1.0
    smooth, harsh = photo * 0.25, photo * 4.0
    assert detail_distance(photo, photo, counts) == 0
    moved = detail_distance(elsewhere, photo, counts)
    for wrong in (smooth, harsh):
        assert detail_distance(wrong, photo, counts) > 3 * moved
    painted = smooth.requires_grad_(True)
    detail_distance(painted, photo, counts).backward()
    assert (painted.grad * painted).sum() < 0
