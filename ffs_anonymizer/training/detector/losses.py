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
    :param least_px: (P,) root of the area from which objects are asked of it.
    :param most_px: (P,) below which they are.
    """

    centres_px: torch.Tensor
    strides_px: torch.Tensor
    least_px: torch.Tensor
    most_px: torch.Tensor


@dataclass(frozen=True)
class Asked:
    """
    Say what the cells of pictures are asked for.

    :param scores: (N, P, C) 1 for an object's best cell and its class, less for its other cells,
        0 elsewhere.
    :param counted: (N, P, C) 0 where nothing is asked.
    :param boxes_px: (N, P, 4), meaningful where a score is over 0.
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
    centres, told = [], []
    for stride in STRIDES:
        y = (torch.arange(height_px // stride, device=device) + 0.5) * stride
        x = (torch.arange(width_px // stride, device=device) + 0.5) * stride
        grid = torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1], -1).reshape(-1, 2)
        centres.append(grid)
        told.append(grid.new_tensor([stride, *SIZES_PX[stride]]).expand(len(grid), 3))
    return Cells(torch.cat(centres), *torch.cat(told).unbind(1))


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
    objects: torch.Tensor,
    ignored: torch.Tensor,
) -> Asked:
    """
    Choose the cells that are to find each object: those that already do it best.

    As task-aligned assignment does (Feng et al. 2021, arXiv:2108.07755), but only among the cells
    around the middle of an object and of a stride that suits its size, with a share for nearness
    to the middle, so that a network that knows nothing yet starts well. All pictures at once, and
    without a look at a value, so that a GPU need not be waited for.

    :param scores: (N, P, C) in [0, 1], the network's own.
    :param boxes_px: (N, P, 4), the network's own.
    :param cells: the P cells.
    :param objects: (N, G, 5) boxes in pixels and class, rows of zeros where a picture has fewer.
    :param ignored: (N, M, 5), where nothing is asked of a class, of none where it is under 0; rows
        of zeros where a picture has fewer.
    """
    stride = cells.strides_px
    counted = torch.ones_like(scores)
    if ignored.shape[1]:
        low = ignored[:, :, None, :2] - stride[:, None]
        high = ignored[:, :, None, 2:4] + stride[:, None]
        within = ((cells.centres_px > low) & (cells.centres_px < high)).all(3)
        within &= is_box(ignored)[..., None]
        for k in range(scores.shape[2]):
            kinds = (ignored[..., 4] == k) | (ignored[..., 4] < 0)
            counted[..., k].masked_fill_((within & kinds[..., None]).any(1), 0.0)
    if not objects.shape[1]:
        return Asked(torch.zeros_like(scores), counted, torch.zeros_like(boxes_px))

    # The cells that may be asked, (N, G, P)
    objects_px, kinds = objects[..., :4], objects[..., 4].long()
    centre = (objects_px[..., :2] + objects_px[..., 2:]) / 2
    size = objects_px[..., 2:] - objects_px[..., :2]
    root = size.prod(2).sqrt()[..., None]
    away = (cells.centres_px - centre[:, :, None]).abs()
    reach = torch.maximum(0.3 * size[:, :, None], 0.85 * stride[:, None])
    may = (away <= reach).all(3) & (root >= cells.least_px) & (root < cells.most_px)
    may &= is_box(objects_px)[..., None]

    # The best of them
    iou, _ = overlap(boxes_px[:, None], objects_px[:, :, None])
    near = torch.exp(-(away / (size[:, :, None] + stride[:, None])).square().sum(3) * 4)
    own = scores.transpose(1, 2).gather(1, kinds[..., None].expand(-1, -1, scores.shape[1]))
    worth = (own.sqrt() * iou.square() + 0.02 * near) * may
    best = worth.topk(min(CELLS_AN_OBJECT, worth.shape[2]), 2)
    chosen = torch.zeros_like(worth).scatter_(2, best.indices, best.values)
    share = chosen / chosen.amax(2, keepdim=True).clamp(min=1e-9)
    value, owner = chosen.max(1)
    found = value > 0
    value = share.gather(1, owner[:, None])[:, 0] * found
    asked = torch.zeros_like(scores).scatter_(
        2, kinds.gather(1, owner)[..., None], value[..., None]
    )
    wanted = objects_px.gather(1, owner[..., None].expand(-1, -1, 4))
    return Asked(asked, torch.where(asked > 0, 1.0, counted), wanted)


def is_box(boxes_px: torch.Tensor) -> torch.Tensor:
    """Tell which boxes, the first four of each row, have an area, (N, G)."""
    return (boxes_px[..., 2:4] > boxes_px[..., :2]).all(-1)


def detector_loss(
    answers: Sequence[torch.Tensor],
    cells: Cells,
    objects: torch.Tensor,
    ignored: torch.Tensor,
    weight_box: float,
) -> dict[str, torch.Tensor]:
    """
    Return the terms of the loss of a batch: total, score, box, and the mean IoU of the boxes.

    The score is a binary cross entropy against a soft 1, so that it is a probability.

    :param answers: of the network.
    :param cells: of its pictures.
    :param objects: (N, G, 5) boxes in pixels and class, rows of zeros where a picture has fewer.
    :param ignored: (N, M, 5), the same, where nothing is asked of a class, or under 0 of any.
    :param weight_box: of the boxes' term.
    """
    flat = flatten(answers).float()
    logits, boxes = flat[..., :-4], boxes_of(flat[..., -4:], cells)
    with torch.no_grad():
        asked = ask(logits.sigmoid(), boxes, cells, objects, ignored)
        weights = asked.scores.amax(2)
    total = asked.scores.sum().clamp(min=1.0)
    score = functional.binary_cross_entropy_with_logits(logits, asked.scores, reduction='none')
    score = (score * asked.counted).sum() / total
    iou, eiou = overlap(boxes, asked.boxes_px)
    box = ((1.0 - eiou) * weights).sum() / total
    found = weights > 0
    return {
        'total': score + weight_box * box,
        'score': score,
        'box': box,
        'iou': (iou.detach() * found).sum() / found.sum().clamp(min=1),
    }
