"""What in the settings lets more be seen than the defaults would; said as long as it lasts."""

from __future__ import annotations

from collections.abc import Iterator

from ffs_anonymizer.regions.zones import Zone
from ffs_anonymizer.settings.runtime import ClassSettings, NO_PLATES, Settings

# Of a detection's score; the detectors give most upright faces more.
HIGH_THRESHOLD = 0.5
SMALL_REGION_SCALE = 1.1
SMALL_DETECTOR_SCALE = 0.5
LARGE_DETECTOR_SCALE = 2.0
SHORT_GAP_MS = 100.0
MANY_CELLS = 8


def weakenings(settings: Settings, topic: str, size_wh: tuple[int, int] | None) -> list[str]:
    """
    Return what weakens the protection of one camera, a sentence each.

    :param size_wh: of its frames, where one has been seen.
    """
    return [
        *_of_class(settings.face, 'face'),
        *_of_class(settings.plate, 'plate'),
        *_of_models(settings),
        *_of_tracking(settings),
        *_of_zones(settings, topic, size_wh),
    ]


def _of_models(settings: Settings) -> Iterator[str]:
    if settings.detector.plate_model_path == NO_PLATES:
        yield f'detector.plate_model_path is {NO_PLATES}: no plate is ever replaced'


def _of_class(settings: ClassSettings, name: str) -> Iterator[str]:
    if settings.threshold >= 1.0:
        yield f'{name}.threshold is {settings.threshold:g}: no {name} is ever replaced'
    elif settings.threshold > HIGH_THRESHOLD:
        yield (
            f'{name}.threshold is {settings.threshold:g}: {name}s of a lower score stay visible'
        )
    if settings.region_scale < SMALL_REGION_SCALE:
        yield (
            f'{name}.region_scale is {settings.region_scale:g}: the edges of {name}s stay visible'
        )


def _of_tracking(settings: Settings) -> Iterator[str]:
    gap_ms = settings.tracker.max_gap_ms
    if gap_ms < SHORT_GAP_MS:
        yield f'tracker.max_gap_ms is {gap_ms:g}: a face missed in one frame is seen in it'
    if settings.detector.scale < SMALL_DETECTOR_SCALE:
        yield f'detector.scale is {settings.detector.scale:g}: small faces are not found'
    elif settings.detector.scale > LARGE_DETECTOR_SCALE:
        yield (
            f'detector.scale is {settings.detector.scale:g}: a search takes '
            f'{settings.detector.scale**2:.0f} times as long as at 1, so frames may be dropped '
            '(`detect` of the diagnostics is the time now)'
        )
    if settings.obscure.cells > MANY_CELLS:
        yield (
            f'obscure.cells is {settings.obscure.cells}: blurred and mosaic faces may be '
            'recognised'
        )
    if settings.generator.pose:
        yield 'generator.pose is true: eyes, nose and mouth of drawn faces lie where they were'
    if settings.snapshot_folder:
        yield 'snapshot_folder is set: ~/snapshot writes pictures with their faces there'
    if settings.generator.on_error == 'fallback':
        yield 'generator.on_error is fallback: where the generator fails, frames still leave'


def _of_zones(settings: Settings, topic: str, size_wh: tuple[int, int] | None) -> Iterator[str]:
    zones = [Zone.parse(text) for text in settings.ignore_zones]
    fitting = [zone for zone in zones if zone.fits_any([topic])]
    if not fitting:
        return
    many = 'zone leaves the faces in it' if len(fitting) == 1 else 'zones leave the faces in them'
    covered = ''
    if size_wh is not None:
        largest = max(_share(zone.xyxy_px, size_wh) for zone in fitting)
        covered = f'; the largest takes {100 * largest:.0f} % of the picture'
    yield f'{len(fitting)} ignore {many} as they are{covered}'


def _share(xyxy_px: tuple[float, float, float, float], size_wh: tuple[int, int]) -> float:
    width, height = size_wh
    x0, y0, x1, y1 = xyxy_px
    inside_w = max(0.0, min(x1, width) - max(x0, 0.0))
    inside_h = max(0.0, min(y1, height) - max(y0, 0.0))
    return inside_w * inside_h / (width * height)
