from ffs_anonymizer.training.detector.losses import (
    ask,
    boxes_of,
    CELLS_AN_OBJECT,
    detector_loss,
    flatten,
    make_cells,
    overlap,
)
from ffs_anonymizer.training.detector.network import make_detector, STRIDES
import pytest
import torch

CELLS = make_cells(128, 128, torch.device('cpu'))
NONE = torch.zeros(1, 0, 5)


def of_class(k: int, *boxes: tuple[float, ...]) -> torch.Tensor:
    """Return the objects of one picture, (1, G, 5)."""
    return torch.tensor([[*box, k] for box in boxes]).float()[None]


def raw_of(box: tuple[float, ...], cell: int) -> torch.Tensor:
    """Return what a cell has to say for a box."""
    x0, y0, x1, y1 = box
    stride = CELLS.strides_px[cell]
    centre = (torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2]) - CELLS.centres_px[cell]) / stride
    return torch.cat([centre, torch.log(torch.tensor([x1 - x0, y1 - y0]) / stride)])


def test_cells_stand_in_the_order_of_the_answers() -> None:
    assert len(CELLS.strides_px) == sum((128 // s) ** 2 for s in STRIDES)
    assert CELLS.centres_px[:2].tolist() == [[4, 4], [12, 4]]
    answers = [torch.arange(5.0 * (128 // s) ** 2).view(1, 5, 128 // s, -1) for s in STRIDES]
    assert flatten(answers).shape == (1, len(CELLS.strides_px), 5)
    assert flatten(answers)[0, 1, 0] == answers[0][0, 0, 0, 1]


def test_boxes_are_read_as_they_were_written() -> None:
    box = (10.0, 20.0, 50.0, 30.0)
    for cell in (0, 40, 300, 330):
        raw = torch.zeros(len(CELLS.strides_px), 4)
        raw[cell] = raw_of(box, cell)
        torch.testing.assert_close(boxes_of(raw, CELLS)[cell], torch.tensor(box))


@pytest.mark.parametrize(
    ('other', 'iou'),
    [((0, 0, 10, 10), 1.0), ((5, 0, 15, 10), 1 / 3), ((20, 20, 30, 30), 0.0)],
)
def test_overlap(other: tuple[float, ...], iou: float) -> None:
    got, worse = overlap(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([other]).float())
    assert float(got) == pytest.approx(iou, abs=1e-5)
    assert float(worse) <= iou + 1e-5


@pytest.mark.parametrize('box', [(60.0, 62.0, 72.0, 66.0), (40, 50, 80, 60), (4, 20, 124, 100)])
def test_every_plate_of_any_size_is_asked_for_around_its_middle(box: tuple[float, ...]) -> None:
    blank = torch.full((1, len(CELLS.strides_px), 1), 0.01)
    boxes = torch.zeros(1, len(CELLS.strides_px), 4)
    asked = ask(blank, boxes, CELLS, of_class(0, box), NONE)
    found = asked.scores[0, :, 0] > 0
    assert 1 <= int(found.sum()) <= CELLS_AN_OBJECT
    assert float(asked.scores.max()) == pytest.approx(1.0)
    assert (asked.boxes_px[0, found] == torch.tensor(box)).all()
    away = (CELLS.centres_px[found] - torch.tensor([box[:2], box[2:]]).float().mean(0)).abs()
    assert (away <= CELLS.strides_px[found, None] * 0.85 + 0.3 * 120).all()


def test_the_cell_that_does_it_best_is_asked_for_most() -> None:
    box = (40.0, 50.0, 80.0, 60.0)
    scores = torch.full((1, len(CELLS.strides_px), 1), 0.1)
    boxes = torch.zeros(1, len(CELLS.strides_px), 4)
    best = 16 * 6 + 7  # stride 8, centre (60, 52)
    boxes[0, best], scores[0, best] = torch.tensor(box), 0.9
    assert int(ask(scores, boxes, CELLS, of_class(0, box), NONE).scores.argmax()) == best


def test_objects_ask_for_the_score_of_their_own_class() -> None:
    face, plate = (20.0, 20.0, 40.0, 45.0), (70.0, 80.0, 110.0, 90.0)
    objects = torch.cat([of_class(1, face), of_class(0, plate)], 1)
    scores = torch.full((1, len(CELLS.strides_px), 2), 0.1)
    boxes = torch.zeros(1, len(CELLS.strides_px), 4)
    asked = ask(scores, boxes, CELLS, objects, NONE)
    for k, box in ((0, plate), (1, face)):
        alone = ask(scores[..., :1], boxes, CELLS, of_class(0, box), NONE)
        torch.testing.assert_close(asked.scores[..., k], alone.scores[..., 0])
        found = alone.scores[0, :, 0] > 0
        assert (asked.boxes_px[0, found] == torch.tensor(box)).all()
    assert not ((asked.scores > 0).sum(2) > 1).any()


def test_of_classes_that_nobody_looked_for_nothing_is_asked_but_what_is_known() -> None:
    scores = torch.full((1, len(CELLS.strides_px), 2), 0.1)
    boxes = torch.zeros(1, len(CELLS.strides_px), 4)
    face = of_class(1, (20.0, 20.0, 40.0, 45.0))
    asked = ask(scores, boxes, CELLS, face, of_class(1, (0.0, 0.0, 128.0, 128.0)))
    assert (asked.counted[..., 0] == 1).all()
    assert ((asked.counted[..., 1] == 1) == (asked.scores[..., 1] > 0)).all()
    assert (asked.scores[..., 1] > 0).any()
    unsure = ask(scores, boxes, CELLS, face, of_class(-1, (0.0, 0.0, 128.0, 128.0)))
    assert (unsure.counted[..., 0] == 0).all()


def test_nothing_is_asked_where_a_plate_is_to_be_ignored() -> None:
    scores = torch.full((1, len(CELLS.strides_px), 1), 0.1)
    low, high = torch.tensor([40.0, 40.0]), torch.tensor([80.0, 60.0])
    ignored = of_class(0, (*low.tolist(), *high.tolist()))
    asked = ask(scores, torch.zeros(1, len(CELLS.strides_px), 4), CELLS, NONE, ignored)
    inside = (CELLS.centres_px > low).all(1) & (CELLS.centres_px < high).all(1)
    assert (asked.counted[0, inside] == 0).all()
    assert (asked.scores == 0).all()
    assert asked.counted[0, 0, 0] == 1


def test_what_a_picture_is_asked_does_not_depend_on_those_beside_it() -> None:
    torch.manual_seed(1)
    scores = torch.rand(3, len(CELLS.strides_px), 1)
    boxes = torch.rand(3, len(CELLS.strides_px), 2) * 100
    boxes = torch.cat([boxes, boxes + 20], 2)
    plates = of_class(0, (10, 10, 40, 20), (60, 60, 110, 75), (62, 63, 108, 77))[0]
    together = torch.zeros(3, 3, 5)
    together[1, :1], together[2] = plates[:1], plates
    ignored = torch.zeros(3, 1, 5)
    ignored[1, 0] = plates[1]
    asked = ask(scores, boxes, CELLS, together, ignored)
    for i in range(3):
        own = slice(i, i + 1)
        alone = ask(scores[own], boxes[own], CELLS, together[own, : i * i], ignored[own, : i % 2])
        torch.testing.assert_close(asked.scores[own], alone.scores)
        torch.testing.assert_close(asked.counted[own], alone.counted)
        found = alone.scores[..., 0] > 0
        assert found.any() == (i > 0)
        assert (asked.boxes_px[own][found] == alone.boxes_px[found]).all()


def test_the_loss_falls_to_a_perfect_answer_and_has_a_slope_without_plates() -> None:
    box = (40.0, 50.0, 80.0, 60.0)
    wanted = of_class(0, box)
    perfect = torch.full((1, len(CELLS.strides_px), 5), 0.0)
    for cell in range(len(CELLS.strides_px)):
        perfect[0, cell, 1:] = raw_of(box, cell)
    asked = ask(
        torch.full((1, len(CELLS.strides_px), 1), 0.5),
        wanted[..., :4].expand(1, len(CELLS.strides_px), 4),
        CELLS,
        wanted,
        NONE,
    )
    perfect[0, :, 0] = torch.logit(asked.scores[0, :, 0], eps=1e-4)
    maps, start = [], 0
    for stride in STRIDES:
        side = 128 // stride
        maps.append(
            perfect[:, start : start + side * side].permute(0, 2, 1).reshape(1, 5, side, side)
        )
        start += side * side
    good = detector_loss(maps, CELLS, wanted, NONE, 1.0)
    torch.manual_seed(0)
    detector = make_detector('plates-tiny')
    image = torch.rand(1, 3, 128, 128) * 255
    bad = detector_loss(detector(image), CELLS, wanted, NONE, 1.0)
    assert float(good['box']) < 1e-3
    assert float(good['total']) < float(bad['total'].detach()) / 2
    empty = detector_loss(detector(image), CELLS, NONE, NONE, 1.0)
    empty['total'].backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
