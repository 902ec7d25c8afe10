"""What each cell of the detector is asked for, and how far it is from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffs_anonymizer.training.detector.network import STRIDES
import torch
from torch.nn import functional

# Which objects each stride is asked for, by the root of their area in pixels; they overlap.
SIZES_PX = {8: (0.0, 44.0), 16: (28.0, 104.0), 32: (68.0, 1e9)}
CELLS_AN_OBJECT = 5


@dataclass(frozen=True)
class Cells:
    """
    Hold the cells of all strides one after the other.

    :param centres_px: (P, 2) x, y.
    :param strides_px: (P,).
    """

    centres_px: torch.Tensor
    strides_px: torch.Tensor


@dataclass(frozen=True)
class Asked:
    """
    Say what the cells of one picture are asked for.

    :param scores: (P,) 1 for an object's best cell, less for its others, 0 elsewhere.
    :param counted: (P,) 0 where nothing is asked.
    :param boxes_px: (P, 4), meaningful where the score is over 0.
    """

    scores: torch.Tensor
    counted: torch.Tensor
    boxes_px: torch.Tensor


def make_cells(height_px: int, width_px: int, device: torch.device) -> Cells:
    """
    Return the cells of a picture.

    :param height_px: a multiple of 32.
    :param width_px: a multiple of 32.
    :param device: where to.
    """
    centres, strides = [], []
    for stride in STRIDES:
        y = (torch.arange(height_px // stride, device=device) + 0.5) * stride
        x = (torch.arange(width_px // stride, device=device) + 0.5) * stride
        grid = torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1], -1).reshape(-1, 2)
        centres.append(grid)
        strides.append(grid.new_full((len(grid),), float(stride)))
    return Cells(torch.cat(centres), torch.cat(strides))


def flatten(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the answers of all strides as (N, P, classes + 4)."""
    return torch.cat([one.permute(0, 2, 3, 1).flatten(1, 2) for one in answers], 1)


def boxes_of(raw: torch.Tensor, cells: Cells) -> torch.Tensor:
    """
    Return the boxes that cells name.

    :param raw: (..., P, 4) offsets of the centre and logarithms of the size, in strides.
    :param cells: the P cells.
    :returns: (..., P, 4) x0, y0, x1, y1 in pixels.
    """
    stride = cells.strides_px[:, None]
    centre = cells.centres_px + raw[..., :2] * stride
    half = raw[..., 2:].clamp(-4.0, 6.0).exp() * stride / 2
    return torch.cat([centre - half, centre + half], -1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the overlap of boxes, intersection over union, and that less what is wrong with them.

    :param a: (..., 4).
    :param b: (..., 4), broadcast to a.
    :returns: IoU, and EIoU (Zhang et al. 2021, arXiv:2101.08158), which has a slope where the
        boxes do not meet.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    iou = shared / (size_a.prod(-1) + size_b.prod(-1) - shared + 1e-6)
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    away = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    wrong = away / (around.square().sum(-1) + 1e-6)
    wrong = wrong + ((size_a - size_b).square() / (around.square() + 1e-6)).sum(-1)
    return iou, iou - wrong


def ask(
    scores: torch.Tensor,
    boxes_px: torch.Tensor,
    cells: Cells,
    objects_px: torch.Tensor,
    ignored_px: torch.Tensor,
) -> Asked:
    """
    Choose the cells that are to find each object: those that already do it best.

    As task-aligned assignment does (Feng et al. 2021, arXiv:2108.07755), but only among the cells
    around the middle of an object and of a stride that suits its size, with a share for nearness
    to the middle, so that a network that knows nothing yet starts well.

    :param scores: (P,) in [0, 1], the network's own.
    :param boxes_px: (P, 4), the network's own.
    :param cells: the P cells.
    :param objects_px: (G, 4).
    :param ignored_px: (M, 4), where nothing is asked.
    """
    count = len(cells.strides_px)
    asked = scores.new_zeros(count)
    counted = scores.new_ones(count)
    wanted = boxes_px.new_zeros(count, 4)
    stride = cells.strides_px
    x, y = cells.centres_px.unbind(1)
    for box in ignored_px:
        within = (x > box[0] - stride) & (x < box[2] + stride)
        counted[within & (y > box[1] - stride) & (y < box[3] + stride)] = 0.0
    if not len(objects_px):
        return Asked(asked, counted, wanted)

    # The cells that may be asked, (G, P)
    centre = (objects_px[:, :2] + objects_px[:, 2:]) / 2
    size = objects_px[:, 2:] - objects_px[:, :2]
    root = size.prod(1).sqrt()[:, None]
    least = torch.empty_like(stride)
    most = torch.empty_like(stride)
    for step, (low, high) in SIZES_PX.items():
        least[stride == step], most[stride == step] = low, high
    away = (cells.centres_px[None] - centre[:, None]).abs()
    reach = torch.maximum(0.3 * size[:, None], 0.85 * stride[None, :, None])
    may = (away <= reach).all(2) & (root >= least) & (root < most)

    # The best of them
    iou, _ = overlap(boxes_px[None], objects_px[:, None])
    near = torch.exp(-(away / (size[:, None] + stride[None, :, None])).square().sum(2) * 4)
    worth = (scores[None].sqrt() * iou.square() + 0.02 * near) * may
    best = worth.topk(min(CELLS_AN_OBJECT, count), 1)
    chosen = torch.zeros_like(worth).scatter_(1, best.indices, best.values)
    share = chosen / chosen.amax(1, keepdim=True).clamp(min=1e-9)
    value, owner = chosen.max(0)
    found = value > 0
    asked[found] = share[owner[found], found.nonzero()[:, 0]]
    counted[found] = 1.0
    wanted[found] = objects_px[owner[found]]
    return Asked(asked, counted, wanted)


def detector_loss(
    answers: Sequence[torch.Tensor],
    cells: Cells,
    objects_px: Sequence[torch.Tensor],
    ignored_px: Sequence[torch.Tensor],
    weight_box: float,
) -> dict[str, torch.Tensor]:
    """
    Return the terms of the loss of a batch: total, score, box, and the mean IoU of the boxes.

    The score is a binary cross entropy against a soft 1, so that it is a probability.

    :param answers: of the network with one class.
    :param cells: of its pictures.
    :param objects_px: of each picture (G, 4).
    :param ignored_px: of each picture (M, 4).
    :param weight_box: of the boxes' term.
    """
    flat = flatten(answers).float()
    logits, boxes = flat[..., 0], boxes_of(flat[..., 1:], cells)
    with torch.no_grad():
        asked = [
            ask(s, b, cells, objects, ignored)
            for s, b, objects, ignored in zip(
                logits.sigmoid(), boxes, objects_px, ignored_px, strict=True
            )
        ]
    scores = torch.stack([one.scores for one in asked])
    counted = torch.stack([one.counted for one in asked])
    found = scores > 0
    total = scores.sum().clamp(min=1.0)
    score = functional.binary_cross_entropy_with_logits(logits, scores, reduction='none')
    score = (score * counted).sum() / total
    wanted = torch.stack([one.boxes_px for one in asked])[found]
    iou, eiou = overlap(boxes[found], wanted)
    box = ((1.0 - eiou) * scores[found]).sum() / total
    return {
        'total': score + weight_box * box,
        'score': score,
        'box': box,
        'iou': iou.detach().mean() if len(iou) else iou.new_zeros(()),
    }
