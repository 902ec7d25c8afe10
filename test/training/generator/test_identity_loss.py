from collections.abc import Callable
from pathlib import Path

import cv2
from ffs_anonymizer.datasets.faces import INDEX, PHOTOS, POINT_COLUMNS
from ffs_anonymizer.errors import MediaError, ModelError
from ffs_anonymizer.evaluation.judges import ALIGNED_POINTS_PX, similarity
from ffs_anonymizer.training.checkpoint import load_checkpoint
from ffs_anonymizer.training.generator.identity_loss import align, Identity, load_identity
from ffs_anonymizer.training.generator.train import train
from ffs_anonymizer.training.settings import TrainSettings
import numpy as np
import pytest
import torch

POINTS = torch.tensor([[50.0, 60.0], [75.0, 58.0], [64.0, 72.0], [54.0, 86.0], [74.0, 85.0]])


class Colours(torch.nn.Module):  # type: ignore[misc]
    """Take the mean colour of a face for the person."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


@pytest.fixture(scope='module')
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('recognizer') / 'colours.pt2'
    free = {'x': {0: torch.export.Dim('n', min=1, max=64)}}
    example = (torch.zeros(2, 3, 112, 112),)
    torch.export.save(torch.export.export(Colours(), example, dynamic_shapes=free), str(path))
    return path


def people(count: int) -> torch.Tensor:
    """Return people whose colours lie on a circle, neighbours alike."""
    angles = torch.arange(count)[:, None] / count + torch.arange(3) / 3
    colours = 0.5 + 0.4 * torch.cos(angles * 2 * torch.pi)
    return colours[:, :, None, None].expand(-1, -1, 128, 128).clone()


def test_faces_are_aligned_as_the_judge_aligns_them() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((128, 128, 3), np.float32), (0, 0), 2)
    turned = POINTS.double().numpy() + rng.normal(0, 3, (5, 2))
    wanted = cv2.warpAffine(
        image,
        similarity(turned, ALIGNED_POINTS_PX),
        (112, 112),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    got = align(
        torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(turned)[None].float()
    )
    assert np.abs(got[0].permute(1, 2, 0).numpy() - wanted).max() < 0.02


def test_own_faces_are_to_be_the_same_and_drawn_ones_others() -> None:
    originals = people(8)
    points = POINTS.expand(8, -1, -1)
    term = Identity(Colours())
    term.calibrate(originals, points)
    same = originals.clone().requires_grad_(True)
    alike = term(same, originals, points, points, 8)
    assert float(alike.own.detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(alike.drawn.detach()) == 0.0
    opposite = term(originals.roll(4, 0), originals, points, points, 8)
    assert float(opposite.own) == pytest.approx(2.0, abs=0.05)
    drawn = term(originals, originals, points, points, 0)
    assert float(drawn.own) == 0.0
    assert float(drawn.drawn) > 0.8  # each is the person that was there
    one = term(originals[:1].expand(8, -1, -1, -1), originals.roll(4, 0), points, points, 4)
    assert float(one.drawn) > 0.8  # all are one person
    loss = term(same * 0.5 + originals.roll(2, 0), originals, points, points, 4)
    (loss.own + loss.drawn).backward()
    assert same.grad is not None
    assert float(same.grad[:4].abs().sum()) > 0
    assert float(same.grad[4:].abs().sum()) > 0


def test_faces_without_points_do_not_count_as_own() -> None:
    originals = people(4)
    points = POINTS.repeat(4, 1, 1)
    unknown = points.clone()
    unknown[1:] = float('nan')
    term = Identity(Colours())
    term.calibrate(originals, points)
    generated = originals.roll(2, 0)
    generated[0] = originals[0]
    assert float(term(generated, originals, points, unknown, 4).own) == pytest.approx(0, abs=1e-5)
    assert float(term(generated, originals, points, points, 4).own) > 0.5


def test_unfit_recognizers_are_refused(tmp_path: Path, recognizer: Path) -> None:
    assert isinstance(load_identity(str(recognizer)), Identity)
    with pytest.raises(ModelError, match='cannot be used as a recognizer'):
        load_identity(str(tmp_path / 'none.pt2'))
    (tmp_path / 'broken.pt2').write_bytes(b'no program')
    with pytest.raises(ModelError, match='cannot be used as a recognizer'):
        load_identity(str(tmp_path / 'broken.pt2'))
    whole = torch.export.export(torch.nn.Identity(), (torch.zeros(2, 3, 112, 112),))
    torch.export.save(whole, str(tmp_path / 'fixed.pt2'))
    with pytest.raises(ModelError):
        load_identity(str(tmp_path / 'fixed.pt2'))


def test_a_run_with_a_recognizer_needs_points_and_uses_them(
    tiny_settings: Callable[..., TrainSettings], packed: Path, tmp_path: Path, recognizer: Path
) -> None:
    settings = {'recognizer': str(recognizer), 'steps': 2}
    with pytest.raises(MediaError, match='--landmarks-model'):
        train(tiny_settings(packed, tmp_path / 'without', **settings), quiet=True)
    placed = tmp_path / 'placed'
    placed.mkdir()
    (placed / PHOTOS).symlink_to(packed / PHOTOS)
    head, *rows = (packed / INDEX).read_text().splitlines()
    assert head.endswith(','.join(POINT_COLUMNS))
    points = '66,68,94,68,80,84,66,104,94,104'
    (placed / INDEX).write_text(
        '\n'.join([head, *(row.rstrip(',') + f',{points}' for row in rows)]) + '\n'
    )
    done = train(tiny_settings(placed, tmp_path / 'with', **settings), quiet=True)
    plain = train(tiny_settings(packed, tmp_path / 'plain', steps=2), quiet=True)
    ours, theirs = load_checkpoint(done)['generator'], load_checkpoint(plain)['generator']
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
