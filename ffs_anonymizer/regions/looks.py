"""Where and how large a detector looks at a frame, so that faces of every size are seen."""

from __future__ import annotations

from dataclasses import dataclass
import itertools
import math

# A network takes about 390 bytes for each pixel that it sees, what the runtime keeps included.
MOST_PIXELS = 3_800_000
# Parts of a frame overlap so far: what is larger is seen whole by the next, coarser looks.
OVERLAP_PX = 256
COARSER = 4
# The last look takes the whole frame in, so small that a face that fills it is an ordinary one,
# with a border, so that one that reaches beyond it is, too.
LAST_SIDE_PX = 160
LAST_BORDER_PX = 40


# In a smaller picture, a network that looks again sees too little to tell what is there.
LEAST_SIDE_PX = 64


@dataclass(frozen=True)
class Look:
    """
    Say what a network is to see of a frame.

    :param xyxy_px: the part of the frame, whole pixels.
    :param seen_wh: its size where the network sees it.
    :param at_px: left and top of it in the network's input.
    :param canvas_wh: size of the network's input.
    :param level: 0 for the finest; looks of one level together see the whole frame.
    """

    xyxy_px: tuple[int, int, int, int]
    seen_wh: tuple[int, int]
    at_px: tuple[int, int]
    canvas_wh: tuple[int, int]
    level: int = 0

    @property
    def scale_wh(self) -> tuple[float, float]:
        """Return how large the part is seen, across and down."""
        x0, y0, x1, y1 = self.xyxy_px
        return self.seen_wh[0] / (x1 - x0), self.seen_wh[1] / (y1 - y0)


def looks_at(
    size_wh: tuple[int, int],
    scale: float,
    stride: int,
    *,
    fixed_wh: tuple[int, int] = (-1, -1),
    looks_again: bool = False,
) -> tuple[Look, ...]:
    """
    Return the looks that find faces of every size in a frame, the finest ones first.

    :param size_wh: of the frame in pixels.
    :param scale: size at which the finest ones see it.
    :param stride: the network's input is a multiple of it.
    :param fixed_wh: the input of a network that takes one size alone; it sees all, once.
    :param looks_again: whether the network needs a coarser look at what others see at once, and is
        not asked for what fills the frame.
    """
    width, height = size_wh
    whole = (0, 0, width, height)
    if min(fixed_wh) > 0:
        scale = min(fixed_wh[0] / width, fixed_wh[1] / height)
        return (Look(whole, _scaled(size_wh, scale), (0, 0), fixed_wh),)
    looks: list[Look] = []
    for level in itertools.count():
        columns, rows = _parts(size_wh, scale)
        for (y0, y1), (x0, x1) in itertools.product(rows, columns):
            seen = _scaled((x1 - x0, y1 - y0), scale)
            part = (x0, y0, x1, y1)
            looks.append(Look(part, seen, (0, 0), _canvas(seen, stride), level))
        tells = min(size_wh) * scale >= COARSER * LEAST_SIDE_PX
        if len(columns) * len(rows) == 1 and not (looks_again and level == 0 and tells):
            break
        scale /= COARSER
    last = LAST_SIDE_PX / max(size_wh)
    if last < scale and not looks_again:
        seen = _scaled(size_wh, last)
        framed = seen[0] + 2 * LAST_BORDER_PX, seen[1] + 2 * LAST_BORDER_PX
        at_px = (LAST_BORDER_PX, LAST_BORDER_PX)
        looks.append(Look(whole, seen, at_px, _canvas(framed, stride), level + 1))
    return tuple(looks)


def _scaled(size_wh: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(round(size_wh[0] * scale), 1), max(round(size_wh[1] * scale), 1)


def _canvas(seen_wh: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-seen_wh[0] // stride) * stride, -(-seen_wh[1] // stride) * stride


_Spans = list[tuple[int, int]]


def _parts(size_wh: tuple[int, int], scale: float) -> tuple[_Spans, _Spans]:
    """Return columns and rows of the fewest pixels together that fit the memory, all alike."""
    overlap = math.ceil(OVERLAP_PX / scale)
    most = MOST_PIXELS / scale**2
    best = None
    for columns in itertools.count(1):
        side_w = _side(size_wh[0], columns, overlap)
        rows = next(
            (n for n in range(1, 1000) if side_w * _side(size_wh[1], n, overlap) <= most), 0
        )
        if rows:
            total = columns * rows * side_w * _side(size_wh[1], rows, overlap)
            if best is None or total < best[0]:
                best = total, columns, rows
        if best is not None and columns >= best[1] * best[2]:
            break
    assert best is not None
    return _spans(size_wh[0], best[1], overlap), _spans(size_wh[1], best[2], overlap)


def _side(length: int, count: int, overlap: int) -> int:
    return -(-(length + (count - 1) * overlap) // count)


def _spans(length: int, count: int, overlap: int) -> _Spans:
    side = _side(length, count, overlap)
    if count == 1:
        return [(0, length)]
    starts = [i * (length - side) // (count - 1) for i in range(count)]
    return [(start, start + side) for start in starts]
