from ffs_anonymizer.training.generator.alignment import align, oval, similarity, TEMPLATE
import pytest
import torch

FACE = torch.tensor([[0.3, 0.4], [0.5, 0.38], [0.42, 0.5], [0.34, 0.6], [0.5, 0.59]])


def test_a_similarity_brings_points_there_and_back() -> None:
    turned = torch.stack([0.5 - 2 * FACE[:, 1], 0.1 + 2 * FACE[:, 0]], -1)
    both = torch.stack([FACE, FACE + 3])
    moved = similarity(both, torch.stack([turned, FACE]))
    assert torch.allclose(moved.of(both), torch.stack([turned, FACE]), atol=1e-5)
    assert torch.allclose(moved.inverse().of(moved.of(both)), both, atol=1e-5)


def test_other_shapes_are_met_in_the_least_squares() -> None:
    source, target = FACE[None], torch.tensor(TEMPLATE)[None]
    moved = similarity(source, target)
    least = (moved.of(source) - target).square().sum()
    for i in range(4):
        for step in (-1e-3, 1e-3):
            other = type(moved)(*(v + step * (i == j) for j, v in enumerate(moved)))
            assert (other.of(source) - target).square().sum() >= least


def test_aligned_faces_have_their_points_where_it_is_told() -> None:
    image = torch.zeros(1, 1, 128, 128)
    at = (FACE * 128).round().long()
    for x, y in at.tolist():
        image[..., y - 2 : y + 3, x - 2 : x + 3] = 1
    points = (at.float() + 0.5)[None] / 128
    face, own = align(image.expand(-1, 3, -1, -1), points)
    assert face.shape == (1, 3, 64, 64)
    for x, y in (own[0] * 64).tolist():
        assert face[0, 0, int(y), int(x)] == pytest.approx(1)
    assert face.mean() < 0.3


def test_what_is_worn_is_the_middle_with_a_soft_edge() -> None:
    worn = oval(16)[0, 0]
    assert worn[8, 8] == 1
    assert worn[0, 0] == worn[15, 0] == 0
    assert ((worn > 0.05) & (worn < 0.95)).any()
