"""Zones: rectangles of streams that are always covered, or in which detections are left alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import fnmatch
from functools import lru_cache

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detections import Detections, Regions
import numpy as np
from numpy.typing import NDArray

# Each mask takes about 0.1 ms of every frame, measured on one core.
MOST_ZONES = 1000


@dataclass(frozen=True)
class Zone:
    """
    Hold a rectangle of some streams.

    :param streams: a stream's name, or a glob.
    :param xyxy_px: x0, y0, x1, y1 in pixels, right and bottom exclusive.
    """

    streams: str
    xyxy_px: tuple[float, float, float, float]

    @classmethod
    def parse(cls, text: str) -> Zone:
        """
        Read `<stream or glob> x0 y0 x1 y1`.

        :raises SettingsError: the text is something else.
        """
        words = text.split()
        try:
            x0, y0, x1, y1 = (float(word) for word in words[-4:])
        except ValueError:
            x0 = y0 = x1 = y1 = 0.0
        if len(words) != 5 or not (x0 < x1 and y0 < y1):
            raise SettingsError(
                f'zone: got {text!r}, expected `<topic or glob> x0 y0 x1 y1` with x0 < x1, y0 < y1'
            )
        return cls(words[0], (x0, y0, x1, y1))

    def fits_any(self, streams: Iterable[str]) -> bool:
        """Tell whether it lies in one of these streams."""
        return any(fnmatch.fnmatchcase(stream, self.streams) for stream in streams)


@dataclass(frozen=True)
class Zones:
    """
    Hold the rectangles of one stream.

    :param masked_xyxy_px: (M, 4) float32, always covered.
    :param ignored_xyxy_px: (K, 4) float32, in which detections are left alone.
    """

    masked_xyxy_px: NDArray[np.float32]
    ignored_xyxy_px: NDArray[np.float32]

    def masks(self, size_wh: tuple[int, int]) -> Regions:
        """Return the parts of the masked ones that lie in a frame, as regions."""
        xyxy_px = boxes.clip(self.masked_xyxy_px, size_wh)
        return Regions.of_zones(xyxy_px[boxes.filled(xyxy_px)])

    def left_over(self, detections: Detections) -> Detections:
        """Return the detections whose centres lie in no ignored one."""
        centre = (detections.xyxy_px[:, :2] + detections.xyxy_px[:, 2:]) / 2
        kept = np.ones(len(detections), np.bool_)
        for zone in self.ignored_xyxy_px:
            kept &= ~np.all((centre >= zone[:2]) & (centre < zone[2:]), axis=1)
        return detections.take(kept)


@lru_cache(maxsize=4096)
def resolve(
    mask_zones: tuple[str, ...], ignore_zones: tuple[str, ...], names: tuple[str, ...]
) -> Zones:
    """
    Return the zones of one stream; the same question costs nothing the second time.

    :param mask_zones: as the setting of that name.
    :param ignore_zones: as the setting of that name.
    :param names: what zones may call the stream.
    :raises SettingsError: a zone cannot be read, or there are too many.
    """
    return Zones(
        _rectangles('mask_zones', mask_zones, names),
        _rectangles('ignore_zones', ignore_zones, names),
    )


def _rectangles(
    setting: str, texts: tuple[str, ...], names: tuple[str, ...]
) -> NDArray[np.float32]:
    if len(texts) > MOST_ZONES:
        raise SettingsError(
            f'{setting}: got {len(texts)} zones, expected at most {MOST_ZONES}; each takes '
            'about 0.1 ms of every frame: join those that touch'
        )
    zones = [Zone.parse(text) for text in texts]
    fitting = [zone.xyxy_px for zone in zones if zone.fits_any(names)]
    return np.array(fitting, np.float32).reshape(-1, 4)
