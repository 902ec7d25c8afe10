"""Scenes that a detector learns from: parts of photos, plates and heads put in, weather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
from ffs_anonymizer.datasets.heads import crowd, put_head, TRIES
from ffs_anonymizer.datasets.pictures import (
    CLASSES,
    DISTRACTOR,
    HEAD,
    IGNORED,
    PackedPictures,
    PLATE,
)
from ffs_anonymizer.regions import detections
import numpy as np
from numpy.typing import NDArray

MIN_OBJECT_PX = 5.0
SEEN_SHARE = 0.55
# Heights of most objects and of the large ones, by class; what is larger than these, the runtime
# finds in a smaller picture.
HEIGHTS_PX = (((6.0, 64.0), (40.0, 200.0)), ((6.5, 64.0), (40.0, 130.0)))
# Share of what is put in as a head that is none, and of heads with all that is around them.
DECOY_SHARE, WHOLE_SHARE = 0.2, 0.15
# x0, y0, x1, y1 in pixels, and the class.
Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class DrawnScene:
    """
    Hold one picture to learn from.

    :param image_bgr: (S, S, 3) uint8.
    :param objects: (N, 5) float32 x0, y0, x1, y1 in pixels and class, to be found.
    :param ignored: (M, 5) float32 where nothing is asked of a class, or of any for IGNORED:
        what is too small or cut off too far, and parts that were not looked through for it.
    """

    image_bgr: NDArray[np.uint8]
    objects: Boxes
    ignored: Boxes


class Scenes:
    """
    Draw scenes from a data set.

    :param numbers: the photos to draw from.
    :param size_px: S, side of the scenes.
    :param drawn_share: how many scenes get drawn plates.
    :param classes: of CLASSES, those to be found, in the order in which scenes number them.
    :param heads_share: how many scenes get heads, of which a plate detector learns what is none.
    """

    def __init__(
        self,
        pictures: PackedPictures,
        numbers: NDArray[np.int64],
        size_px: int,
        drawn_share: float,
        classes: Sequence[str] = (CLASSES[detections.PLATE],),
        heads_share: float = 0.0,
    ) -> None:
        self.pictures = pictures
        self.numbers = numbers
        self.size_px = size_px
        self.cumulated = np.cumsum(pictures.chances(numbers))
        self.plates = pictures.numbers(PLATE)
        self.distractors = pictures.numbers(DISTRACTOR)
        self.heads = pictures.numbers(HEAD)
        sizes = pictures.sizes_wh[self.plates].astype(np.float64)
        self.aspects = sizes[:, 0] / np.maximum(sizes[:, 1], 1)
        self.drawn_share = drawn_share if len(self.plates) else 0.0
        self.heads_share = heads_share if len(self.heads) else 0.0
        self.wanted = [CLASSES.index(name) for name in classes]
        # Decoys come from photos whose faces are known
        self.searched = numbers[pictures.labelled[numbers, detections.FACE]]

    def draw(self, chance: np.random.Generator) -> DrawnScene:
        """
        Return one scene.

        :param chance: where all that is random comes from.
        """
        size = self.size_px
        image = np.empty((size, size, 3), np.uint8)
        image[:] = chance.integers(0, 160)
        at_x = at_y = size
        if chance.random() < 0.4:
            at_x, at_y = (int(size * chance.uniform(0.3, 0.7)) for _ in range(2))
        objects: list[Boxes] = []
        ignored: list[Boxes] = []
        unlabelled: list[Boxes] = []
        for x0, x1 in ((0, at_x), (at_x, size)):
            for y0, y1 in ((0, at_y), (at_y, size)):
                if x1 > x0 and y1 > y0:
                    number, seen, cut_off = self.cut(image[y0:y1, x0:x1], chance)
                    corner = np.array([x0, y0, x0, y0, 0], np.float32)
                    objects += [box + corner for box in seen]
                    ignored += [box + corner for box in cut_off]
                    missing = np.flatnonzero(~self.pictures.labelled[number])
                    unlabelled += [np.array([x0, y0, x1, y1, k], np.float32) for k in missing]
        if chance.random() < self.heads_share:
            self.put_heads(image, objects, ignored, chance)

        # Light first: plates are made to throw it back
        dark = chance.random() < 0.25
        image = np.asarray(cv2.LUT(image, light(chance, dark=dark)), np.uint8)
        if dark:
            for box in objects:
                if box[4] == detections.PLATE and chance.random() < 0.6:
                    brighten(image, box[:4], chance.uniform(1.2, 3.0))
            glare(image, chance)
        if chance.random() < self.drawn_share:
            self.put_plates(image, objects, ignored, chance, dark=dark)
        if len(self.distractors) and chance.random() < 0.5:
            self.put_distractors(image, objects, ignored, chance)
        image = weather(image, chance, dark=dark)
        return DrawnScene(image, self.numbered(objects), self.numbered([*ignored, *unlabelled]))

    def numbered(self, boxes: list[Boxes]) -> Boxes:
        """Return the boxes of the classes to be found, and of any, by their order: (N, 5)."""
        found = np.array(boxes, np.float32).reshape(-1, 5)
        kept = [found[found[:, 4] == IGNORED]]
        for number, k in enumerate(self.wanted):
            some = found[found[:, 4] == k]
            some[:, 4] = number
            kept.append(some)
        return np.concatenate(kept)

    def draw_batch(
        self, seed: int, step: int, images_bgr: NDArray[np.uint8]
    ) -> tuple[Boxes, Boxes]:
        """
        Draw the scenes of one step; the same seed and step give the same scenes.

        :param images_bgr: (N, S, S, 3), filled with them.
        :returns: (N, G, 5) objects to be found and (N, M, 5) where nothing is asked, rows of
            zeros where a scene has fewer.
        """
        chance = np.random.default_rng((seed, step))
        objects: list[Boxes] = []
        ignored: list[Boxes] = []
        for image in images_bgr:
            scene = self.draw(chance)
            image[:] = scene.image_bgr
            objects.append(scene.objects)
            ignored.append(scene.ignored)
        return padded(objects), padded(ignored)

    def cut(
        self, target: NDArray[np.uint8], chance: np.random.Generator
    ) -> tuple[int, list[Boxes], list[Boxes]]:
        """
        Fill a rectangle with a part of a photo; return its number, what is seen and is cut off.

        :param target: (h, w, 3), changed in place.
        :param chance: where all that is random comes from.
        """
        high, wide = target.shape[:2]
        k = int(np.searchsorted(self.cumulated, chance.random() * self.cumulated[-1]))
        number = int(self.numbers[min(k, len(self.numbers) - 1)])
        photo, boxes = self.pictures.image(number), self.pictures.boxes(number)
        height, width = photo.shape[:2]
        classes = self.pictures.classes_of(number)

        # How large, and where
        anchors = np.flatnonzero(np.isin(classes, self.wanted))
        anchor, kind = None, IGNORED
        if len(anchors):
            chosen = int(anchors[chance.integers(len(anchors))])
            anchor, kind = boxes[chosen], int(classes[chosen])
        if anchor is not None and chance.random() < 0.82:
            least, most = HEIGHTS_PX[kind][0 if chance.random() < 0.8 else 1]
            wanted = np.exp(chance.uniform(np.log(least), np.log(most)))
            box_w, box_h = np.maximum(anchor[2:] - anchor[:2], 2)
            scale = min(wanted / box_h, 1.15 * wide / box_w)
        else:
            anchor, scale = None, chance.uniform(0.3, 1.3)
        scale = float(
            np.clip(scale, chance.uniform(0.6, 1.0) * min(wide / width, high / height), 2.4)
        )
        stretch = np.exp(chance.normal(0, 0.07))
        scale_xy = np.array([scale * stretch, scale / stretch])
        room = np.array([wide, high]) / scale_xy  # of the target, in pixels of the photo
        least_at = np.minimum(0.0, np.array([width, height]) - room)
        most_at = np.maximum(0.0, np.array([width, height]) - room)
        corner = chance.uniform(least_at, most_at)
        if anchor is not None:
            slack = room - (anchor[2:] - anchor[:2])
            share = chance.uniform(-0.04, 1.04, 2) if chance.random() < 0.3 else chance.random(2)
            corner = np.clip(anchor[:2] - slack * share, least_at, most_at)

        # The part
        x0, y0 = (int(v) for v in np.floor(np.maximum(corner, 0)))
        x1, y1 = (int(v) for v in np.ceil(np.minimum(corner + room, [width, height])))
        size = np.maximum(np.rint((np.array([x1, y1]) - [x0, y0]) * scale_xy).astype(int), 1)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        part = cv2.resize(
            photo[y0:y1, x0:x1], (int(size[0]), int(size[1])), interpolation=interpolation
        )
        to_x, to_y = (int(max(round(v), 0)) for v in (np.array([x0, y0]) - corner) * scale_xy)
        part = part[: high - to_y, : wide - to_x]
        target[to_y : to_y + part.shape[0], to_x : to_x + part.shape[1]] = part
        moved = (
            (boxes - np.tile([x0, y0], 2)) * np.tile(scale_xy, 2) + np.tile([to_x, to_y], 2)
        ).astype(np.float32)
        if chance.random() < 0.5:
            target[:] = target[:, ::-1].copy()
            moved[:, [0, 2]] = wide - moved[:, [2, 0]]

        seen: list[Boxes] = []
        cut_off: list[Boxes] = []
        for box, k in zip(moved, classes.tolist(), strict=True):
            visible = np.clip(box, 0, [wide, high, wide, high]).astype(np.float32)
            share = np.prod(np.clip(visible[2:] - visible[:2], 0, None)) / max(
                np.prod(box[2:] - box[:2]), 1e-6
            )
            if share <= 0:
                continue
            whole = share > SEEN_SHARE and visible[3] - visible[1] >= MIN_OBJECT_PX
            is_asked = whole and k != IGNORED
            (seen if is_asked else cut_off).append(np.append(visible, np.float32(k)))
        return number, seen, cut_off

    def put_heads(
        self,
        image: NDArray[np.uint8],
        objects: list[Boxes],
        ignored: list[Boxes],
        chance: np.random.Generator,
    ) -> None:
        """
        Put heads where nothing is, one or many, and things of their shape that are none.

        :param image: (S, S, 3), changed in place.
        :param objects: not to be covered; faces are added.
        :param ignored: not to be covered.
        :param chance: where all that is random comes from.
        """
        kind, size = chance.random(), self.size_px
        least, most = HEIGHTS_PX[detections.FACE][0 if chance.random() < 0.7 else 1]
        if kind < 0.75:
            count = int(chance.integers(1, 3) if kind < 0.3 else chance.integers(3, 9))
            heights = np.exp(chance.uniform(np.log(least), np.log(most), count))
            places = chance.uniform(0, size, (count, TRIES, 2))
        else:
            places, heights = crowd(
                size, np.exp(chance.uniform(np.log(least), np.log(most))), chance
            )
        for tried, high in zip(places, heights.tolist(), strict=True):
            number = int(self.heads[chance.integers(len(self.heads))])
            head, box = self.pictures.image(number), self.pictures.boxes(number)[0]
            is_decoy, is_whole = chance.random() < DECOY_SHARE, chance.random() < WHOLE_SHARE
            if is_decoy:
                other = self.decoy(head, chance)
                if other is None:
                    continue
                head = other
            elif is_whole:
                head = np.dstack([head[..., :3], np.full(head.shape[:2], 255, np.uint8)])
            put = put_head(image, head, box, high, tried, [*objects, *ignored], chance)
            if put is not None and not is_decoy:
                is_asked = put[3] - put[1] >= MIN_OBJECT_PX
                (objects if is_asked else ignored).append(
                    np.append(put, np.float32(detections.FACE))
                )

    def decoy(
        self, head: NDArray[np.uint8], chance: np.random.Generator
    ) -> NDArray[np.uint8] | None:
        """
        Return a part of a photo without a face in the shape of a head, None where none was found.

        :param head: (h, w, 4), whose shape it gets.
        :param chance: where all that is random comes from.
        """
        if not len(self.searched):
            return None
        number = int(self.searched[chance.integers(len(self.searched))])
        photo = self.pictures.image(number)
        side = int(min(chance.integers(24, 200), *photo.shape[:2]))
        x = int(chance.integers(0, photo.shape[1] - side + 1))
        y = int(chance.integers(0, photo.shape[0] - side + 1))
        boxes = self.pictures.boxes(number)
        if ((boxes[:, :2] < [x + side, y + side]) & (boxes[:, 2:] > [x, y])).all(1).any():
            return None
        part = cv2.resize(photo[y : y + side, x : x + side], head.shape[1::-1])
        return np.dstack([part, head[..., 3]])

    def put_plates(
        self,
        image: NDArray[np.uint8],
        objects: list[Boxes],
        ignored: list[Boxes],
        chance: np.random.Generator,
        *,
        dark: bool,
    ) -> None:
        """
        Put drawn plates where photographed ones are, or anywhere; image and objects are changed.

        :param image: (S, S, 3).
        :param objects: boxes that are to be found.
        :param ignored: boxes that are not to be asked for.
        :param chance: where all that is random comes from.
        :param dark: whether it is night.
        """
        glow = 1.8 if dark and chance.random() < 0.7 else 1.0
        for i, box in enumerate(objects):
            is_plate = box[4] == detections.PLATE
            if not is_plate or box[3] - box[1] < 8 or chance.random() > 0.45:
                continue
            aspect = (box[2] - box[0]) / (box[3] - box[1])
            alike = np.flatnonzero(np.abs(np.log(self.aspects / aspect)) < 0.3)
            if len(alike):
                number = int(self.plates[alike[chance.integers(len(alike))]])
                centre, size = (box[:2] + box[2:4]) / 2, (box[2:4] - box[:2]) * 1.06
                put = paste(image, self.pictures.image(number), centre, size, chance, glow=glow)
                objects[i] = box if put is None else np.append(put, box[4])
        for _ in range(int(chance.integers(0, 4))):
            number = int(self.plates[chance.integers(len(self.plates))])
            drawn = self.pictures.image(number)
            least, most = HEIGHTS_PX[detections.PLATE][0 if chance.random() < 0.8 else 1]
            high = float(np.exp(chance.uniform(np.log(least), np.log(most))))
            narrow = chance.uniform(0.55, 1.0) if chance.random() < 0.35 else 1.0
            size = np.array([high * narrow * drawn.shape[1] / drawn.shape[0], high], np.float64)
            put = self.put_free(image, drawn, size, [*objects, *ignored], chance, glow=glow)
            if put is not None:
                objects.append(np.append(put, np.float32(detections.PLATE)))

    def put_distractors(
        self,
        image: NDArray[np.uint8],
        objects: list[Boxes],
        ignored: list[Boxes],
        chance: np.random.Generator,
    ) -> None:
        """
        Put signs, lettering and the like beside the objects, in place.

        :param image: (S, S, 3).
        :param objects: not to be covered.
        :param ignored: not to be covered.
        :param chance: where all that is random comes from.
        """
        for _ in range(int(chance.integers(1, 4))):
            number = int(self.distractors[chance.integers(len(self.distractors))])
            drawn = self.pictures.image(number)
            high = float(np.exp(chance.uniform(np.log(7.0), np.log(110.0))))
            size = np.array([high * drawn.shape[1] / drawn.shape[0], high], np.float64)
            self.put_free(image, drawn, size, [*objects, *ignored], chance, glow=1.0)

    def put_free(
        self,
        image: NDArray[np.uint8],
        drawn: NDArray[np.uint8],
        size: NDArray[np.floating[Any]],
        taken: list[Boxes],
        chance: np.random.Generator,
        *,
        glow: float,
    ) -> Boxes | None:
        """
        Paste a picture where nothing is; return its box, None where no place was found.

        :param image: changed in place.
        :param drawn: (h, w, 4).
        :param size: width and height that it is to have.
        :param taken: boxes to keep clear of.
        :param chance: where all that is random comes from.
        :param glow: how much light it throws back.
        """
        side = self.size_px
        half = size / 2
        for _ in range(4):
            centre = chance.uniform(np.minimum(half, side / 2), np.maximum(side - half, side / 2))
            low, high = centre - half * 1.25 - 3, centre + half * 1.25 + 3
            if all((b[:2] > high).any() or (b[2:4] < low).any() for b in taken):
                return paste(image, drawn, centre, size, chance, glow=glow)
        return None


def paste(
    image: NDArray[np.uint8],
    drawn: NDArray[np.uint8],
    centre: NDArray[np.floating[Any]],
    size: NDArray[np.floating[Any]],
    chance: np.random.Generator,
    *,
    glow: float,
) -> Boxes | None:
    """
    Put a drawn picture into a scene: turned, in perspective, in the light around it, blurred.

    :param image: (S, S, 3) uint8, changed in place.
    :param drawn: (h, w, 4) uint8 BGRA.
    :param centre: x, y.
    :param size: width and height.
    :param chance: where all that is random comes from.
    :param glow: how much light it throws back.
    :returns: (4,) its box, None where less than half of it is in the picture.
    """
    side = image.shape[0]
    wide, high = (float(v) for v in size)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64) / 2 * [wide, high]
    yaw = chance.normal(0, 0.07)
    corners[:, 1] *= 1 + yaw * np.sign(corners[:, 0])
    corners[:, 0] *= 1 + chance.normal(0, 0.03) * np.sign(corners[:, 1])
    corners[:, 0] += chance.normal(0, 0.1) * corners[:, 1]
    corners[:, 1] += np.clip(chance.normal(0, 0.05), -0.15, 0.15) * corners[:, 0]
    angle = chance.normal(0, 0.05)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = corners @ turn + centre
    low = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0)
    end = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, side)
    if (end - low < 4).any():
        return None
    (x0, y0), (x1, y1) = (int(v) for v in low), (int(v) for v in end)

    # Averaged down first, so that nothing is skipped when it is warped
    shrink = min(1.0, 1.6 * max(high / drawn.shape[0], wide / drawn.shape[1]))
    if shrink < 0.9:
        drawn = np.asarray(
            cv2.resize(drawn, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8
        )
    height, width = drawn.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (corners - low).astype(np.float32))
    warped = cv2.warpPerspective(drawn, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    sigma = chance.uniform(0, 0.9) if chance.random() < 0.6 else 0.0
    if sigma > 0.25:
        warped = cv2.GaussianBlur(warped, (0, 0), sigma)
    alpha = warped[..., 3:].astype(np.float32) / 255

    # In the light of what is around
    under = image[y0:y1, x0:x1]
    mean = under.reshape(-1, 3).mean(0)
    lit = np.clip(mean.mean() * chance.uniform(0.75, 1.6) * glow + chance.uniform(10, 55), 25, 245)
    tint = 1 + 0.3 * (mean / max(mean.mean(), 1) - 1)
    colour = warped[..., :3].astype(np.float32) * (lit / 215 * tint).astype(np.float32)
    if chance.random() < 0.4:
        left, right = (float(v) for v in chance.uniform(0.65, 1.15, 2))
        shade = np.linspace(left, right, colour.shape[1])
        colour *= shade[None, :, None].astype(np.float32)
    if chance.random() < 0.12:  # a shadow's edge
        cut = int(chance.uniform(0.1, 0.9) * colour.shape[0])
        colour[:cut] *= chance.uniform(0.35, 0.8)
    image[y0:y1, x0:x1] = np.clip(under * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)
    box = np.concatenate([corners.min(0), corners.max(0)])
    seen = np.clip(box, 0, side)
    if np.prod(seen[2:] - seen[:2]) < SEEN_SHARE * np.prod(box[2:] - box[:2]):
        return None
    return np.asarray(seen, np.float32)


def light(chance: np.random.Generator, *, dark: bool) -> NDArray[np.uint8]:
    """
    Return a table for cv2.LUT that changes light and colour, (1, 256, 3).

    :param chance: where all that is random comes from.
    :param dark: night.
    """
    level = np.linspace(0, 1, 256)[:, None]
    if dark:
        cast = np.array(
            [chance.uniform(0.7, 1.1), chance.uniform(0.85, 1.05), chance.uniform(0.9, 1.3)]
        )
        table = level ** chance.uniform(1.1, 2.2) * chance.uniform(0.35, 0.95) * cast
    else:
        cast = chance.uniform(0.88, 1.12, 3)
        table = level ** chance.uniform(0.65, 1.5) * chance.uniform(0.7, 1.3) * cast
        if chance.random() < 0.15:  # haze
            share = chance.uniform(0.1, 0.5)
            table = table * (1 - share) + share * chance.uniform(0.6, 0.95)
        table = table + chance.uniform(-0.07, 0.07)
    return np.asarray(np.rint(np.clip(table, 0, 1) * 255)[None], np.uint8)


def brighten(image: NDArray[np.uint8], box: Boxes, gain: float) -> None:
    """Let a plate throw back the light of a lamp, in place."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    part = image[max(y0, 0) : y1, max(x0, 0) : x1]
    part[:] = np.clip(part * gain + 8, 0, 255).astype(np.uint8)


def glare(image: NDArray[np.uint8], chance: np.random.Generator) -> None:
    """Add lamps at night, in place."""
    side = image.shape[0]
    for _ in range(int(chance.integers(0, 4))):
        radius = int(side * chance.uniform(0.01, 0.09)) + 2
        x, y = (int(v) for v in chance.integers(0, side, 2))
        x0, y0, x1, y1 = (
            max(x - 3 * radius, 0),
            max(y - 3 * radius, 0),
            x + 3 * radius,
            y + 3 * radius,
        )
        part = image[y0:y1, x0:x1]
        rows, columns = np.ogrid[y0 - y : y0 - y + part.shape[0], x0 - x : x0 - x + part.shape[1]]
        falloff = np.exp(-(rows**2 + columns**2) / (1.2 * radius**2))[..., None]
        lamp = (
            chance.uniform(180, 255, 3) if chance.random() < 0.7 else np.array([40, 60, 255])
        ) * falloff
        part[:] = np.clip(part + lamp, 0, 255).astype(np.uint8)


def weather(
    image: NDArray[np.uint8], chance: np.random.Generator, *, dark: bool
) -> NDArray[np.uint8]:
    """
    Return a scene as a camera saw it: rain, blur, noise, grey, compressed.

    :param image: (S, S, 3).
    :param chance: where all that is random comes from.
    :param dark: night, which is noisier.
    """
    side = image.shape[0]
    if chance.random() < 0.08:
        rain = np.zeros((side, side), np.uint8)
        slant, length = chance.normal(0, 6), chance.uniform(6, 30)
        for x, y in chance.integers(0, side, (int(chance.integers(40, 250)), 2)):
            cv2.line(rain, (int(x), int(y)), (int(x + slant), int(y + length)), 255, 1)
        rain = (
            cv2.GaussianBlur(rain, (0, 0), 0.7)[..., None].astype(np.float32)
            / 255
            * chance.uniform(0.15, 0.5)
        )
        image = (image * (1 - rain) + 200 * rain).astype(np.uint8)
    kind = chance.random()
    if kind < 0.16:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), chance.uniform(0.4, 1.3)), np.uint8)
    elif kind < 0.26:
        length = int(chance.integers(3, 9))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        if chance.random() < 0.3:
            angle = chance.uniform(0, 180)
            matrix = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), angle, 1)
            kernel = cv2.warpAffine(kernel, matrix, (length, length))
        image = np.asarray(cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1e-6)), np.uint8)
    elif kind < 0.34:  # a cheap camera's sharpening
        image = np.asarray(
            cv2.addWeighted(image, 1.7, cv2.GaussianBlur(image, (0, 0), 1.2), -0.7, 0), np.uint8
        )
    if chance.random() < (0.7 if dark else 0.2):
        noise = np.empty((side, side, 3), np.int8)
        cv2.setRNGSeed(int(chance.integers(2**31)))
        cv2.randn(noise, 0, chance.uniform(1.5, 11 if dark else 7))
        image = np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    if chance.random() < 0.08:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, 2)
    if chance.random() < 0.35:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(chance.integers(25, 85))]
        image = np.asarray(
            cv2.imdecode(cv2.imencode('.jpg', image, quality)[1], cv2.IMREAD_COLOR), np.uint8
        )
    return np.ascontiguousarray(image)


def padded(boxes: list[Boxes]) -> Boxes:
    """Return the boxes of scenes as one array, (N, G, 5), rows of zeros at the ends."""
    together = np.zeros((len(boxes), max(map(len, boxes), default=0), 5), np.float32)
    for row, some in zip(together, boxes, strict=True):
        row[: len(some)] = some
    return together
