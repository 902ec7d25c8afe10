from ffs_anonymizer.datasets.sampler import Chance
from ffs_anonymizer.training.generator.augmentation import augment, magnified, relight, soften
import pytest
import torch

CPU = torch.device('cpu')


def test_augment_changes_all_alike_and_passes_gradients() -> None:
    x = torch.rand(3, 3, 16, 16, requires_grad=True)
    mask = torch.ones(1, 1, 16, 16).expand(3, 1, 16, 16)
    (once, again), (seen,) = augment((x, x), (mask,), Chance(0, CPU), 12)
    assert once.shape == (3, 3, 12, 12)
    assert seen.shape == (3, 1, 12, 12)
    assert torch.equal(once, again)
    once.sum().backward()
    assert x.grad is not None
    (whole,), _ = augment((x,), (mask,), Chance(0, CPU), 99)
    assert whole.shape == x.shape
    assert not torch.allclose(whole, x)


def test_magnified_images_are_the_same_pictures() -> None:
    x = torch.linspace(-1, 1, 8).expand(2, 3, 8, 8)
    large = magnified(x, 2)
    assert large.shape == (2, 3, 16, 16)
    inner = torch.nn.functional.avg_pool2d(large, 2)[..., 1:-1]
    assert torch.allclose(inner, x[..., 1:-1], atol=1e-6)
    assert magnified(x, 1) is x


def test_faces_in_other_light_stay_in_range_and_keep_their_lines() -> None:
    faces = torch.full((64, 3, 16, 16), -0.2)
    faces[..., 8] = 0.6
    lit = relight(faces, Chance(0, CPU))
    assert lit.abs().max() <= 1
    assert (lit[..., 8] > lit[..., 7]).float().mean() > 0.95
    means = lit.mean((1, 2, 3))
    assert means.std() > 0.1
    left, right = lit[..., :4].mean((1, 2, 3)), lit[..., -4:].mean((1, 2, 3))
    assert (left - right).abs().max() > 0.1
    assert torch.equal(lit, relight(faces, Chance(0, CPU)))


def test_some_images_are_out_of_focus_and_none_changes_its_mean() -> None:
    images = torch.rand(64, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    soft = soften(images, Chance(1, CPU))
    changed = (soft != images).flatten(1).any(1)
    assert 5 < changed.sum() < 40
    assert float(soft.mean()) == pytest.approx(float(images.mean()), abs=0.02)
    assert soft[changed].std() < 0.9 * images[changed].std()
