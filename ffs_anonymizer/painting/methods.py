"""What takes a region's place: codes, and the choice by class, size, score and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ffs_anonymizer.painting import budget
from ffs_anonymizer.painting.budget import Cost
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

# The generators come first, the best one foremost: a code below BLUR is its generator's index.
# Plates are drawn without a network.
NAMES = ('generate', 'generate (small)', 'blur', 'mosaic', 'solid', 'generate (plate)')
GENERATE, GENERATE_SMALL, BLUR, MOSAIC, SOLID, PLATE = range(len(NAMES))


def choose(
    regions: Regions,
    rects_xyxy_px: NDArray[np.int32],
    settings: Settings,
    *,
    costs: Sequence[Cost | None],
    before: Mapping[int, int],
) -> tuple[NDArray[np.int8], dict[int, int]]:
    """
    Return what takes the place of each region of a frame.

    :param rects_xyxy_px: (N, 4) int32, what each region covers.
    :param costs: of the generators, as far as they were measured.
    :param before: the budget's level of each track in the frame before.
    :returns: (N,) codes, and the levels by track; they are empty where there is no budget.
    """
    plate = settings.plate.method
    plate = NAMES[PLATE] if plate == 'generate' else plate
    methods = _codes((settings.face.method, plate, 'solid'))[regions.classes]
    other = fallbacks(regions.classes, settings)
    longer = (rects_xyxy_px[:, 2:] - rects_xyxy_px[:, :2]).max(axis=1)
    too_small = longer < settings.generator.min_region_px
    # A head on a traffic light is worse than a blurred one: only what is surely one is drawn
    surely = np.array([settings.face.generate_threshold, settings.plate.generate_threshold, 1.0])
    sure = regions.detected & (regions.best_scores >= surely[regions.classes])
    asked = np.isin(methods, (GENERATE, PLATE))
    methods = np.where(asked & (too_small | ~sure), other, methods)
    drawn = np.nonzero(methods == GENERATE)[0]
    if not settings.budget_ms or not len(drawn):
        return methods, {}
    ids = regions.track_ids[drawn].tolist()
    measured = [cost for cost in costs if cost is not None]
    levels = budget.levels(
        longer[drawn].astype(np.float64),
        measured,
        settings.budget_ms,
        before=np.array([before.get(i, -1) for i in ids], np.int64),
    )
    methods[drawn] = np.where(levels < len(measured), levels, other[drawn])
    return methods, dict(zip(ids, levels.tolist(), strict=True))


def fallbacks(classes: NDArray[np.int8], settings: Settings) -> NDArray[np.int8]:
    """Return what takes the place of what no face is drawn for, (N,) codes."""
    return _codes((settings.face.fallback, settings.plate.fallback, 'solid'))[classes]


def counts(methods: NDArray[np.int8]) -> dict[str, int]:
    """Return the number of regions by the name of what took their place."""
    codes, numbers = np.unique(methods, return_counts=True)
    return {NAMES[code]: n for code, n in zip(codes.tolist(), numbers.tolist(), strict=True)}


def _codes(words: Sequence[str]) -> NDArray[np.int8]:
    return np.array([NAMES.index(word) for word in words], np.int8)
