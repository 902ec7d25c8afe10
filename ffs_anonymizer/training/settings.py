"""Every setting of a training run: name, type, range and meaning, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ffs_anonymizer import plain_yaml
from ffs_anonymizer.errors import SettingsError

S = TypeVar('S', bound='RunSettings')
ALL, MATCHING, STEADYING, SHARING = 'all', 'matching', 'steadying', 'sharing'


def setting(
    default: Any, meaning: str, low: float | None = None, high: float | None = None
) -> Any:
    """
    Declare one setting.

    :param default: its value where nothing else is said; its type is the setting's type.
    :param meaning: one line, with the unit.
    :param low: the least value allowed.
    :param high: the greatest value allowed.
    """
    return field(default=default, metadata={'meaning': meaning, 'low': low, 'high': high})


@dataclass(frozen=True)
class RunSettings:
    """Hold what every training run is told."""

    data: str = setting('', 'folder made by `data build`')
    out: str = setting('', 'folder of the run: checkpoints, pictures, scalars, settings')
    steps: int = setting(10000, 'steps to train in all', 1)
    minutes: float = setting(
        0.0, 'time to train in all; the rates fall in time for its end; 0 = no limit', 0.0
    )
    seed: int = setting(0, 'of weights, batches and augmentation', 0)
    device: str = setting('auto', 'auto, cpu or cuda')
    threads: int = setting(2, 'CPU threads of torch', 1, 512)
    warm_steps: int = setting(200, 'steps over which the rates rise', 0)
    decay_from: float = setting(0.7, 'share of the run after which rates fall to 0', 0.0, 1.0)
    log_every: int = setting(50, 'steps between scalars', 1)
    grid_every: int = setting(1000, 'steps between pictures', 1)
    save_every: int = setting(500, 'steps between checkpoints', 1)

    def __post_init__(self) -> None:
        """Check every value against its range."""
        for f in fields(self):
            value, low, high = getattr(self, f.name), f.metadata['low'], f.metadata['high']
            below = low is not None and value < low
            if below or (high is not None and value > high):
                raise SettingsError(f'{f.name}: got {value}, expected {low} to {high}')

    def as_dict(self) -> dict[str, Any]:
        """Return name to value."""
        return asdict(self)


@dataclass(frozen=True)
class TrainSettings(RunSettings):
    """Hold the settings of a generator's training."""

    network: str = setting('ffs-128-small', 'key of the table of architectures')
    channels: str = setting(
        '', "widths of the generator's levels, commas between; empty: the network's own"
    )
    learns: str = setting(
        ALL,
        'all; matching: what sort of face fits where; steadying: the same face whatever the '
        'edges of the hole; sharing: what the teacher paints, in all widths at once',
    )
    size_px: int = setting(128, 'S, side of the crops', 16, 512)
    region_scale: float = setting(1.2, 'side of a region over that of its box', 1.0, 3.0)
    crop_scale: float = setting(1.3, 'side of a crop over its region, the longer side', 1.0, 4.0)
    batch: int = setting(8, 'faces a step', 2, 4096)
    half: bool = setting(True, 'bfloat16 where it is safe; slow on CPUs without it')
    rate_generator: float = setting(1.5e-3, 'learning rate of all but the critic', 0.0, 1.0)
    rate_critic: float = setting(2e-4, 'learning rate of the critic', 0.0, 1.0)
    ema_images: int = setting(4000, 'images over which averaged weights forget half', 1)
    drawn_share: float = setting(
        0.25, 'share of a batch that wears the face of somebody else who fits', 0.0, 0.9
    )
    drawn_from: int = setting(1000, 'step from which faces of others are worn', 0)
    code_noise: float = setting(0.05, 'spread of what is added to a code', 0.0, 2.0)
    points_share: float = setting(
        0.5, 'share of a batch with its own points; the others get mean ones', 0.0, 1.0
    )
    points_noise_px: float = setting(0.7, 'spread of what is added to own points', 0.0, 32.0)
    weight_critic: float = setting(0.0, 'of the adversarial term', 0.0)
    critic_from: float = setting(
        0.2, 'share of the run from which the adversarial term counts', 0.0, 1.0
    )
    critic_full: float = setting(
        0.5, 'share of the run from which it counts in full; it rises until then', 0.0, 1.0
    )
    weight_features: float = setting(4.0, 'of the feature distance in the hole', 0.0)
    features_from: int = setting(1000, 'step from which the feature distance counts', 0)
    features_every: int = setting(2, 'steps between those in which features are looked at', 1)
    weight_hole: float = setting(3.0, 'of the pixel distance in the hole', 0.0)
    weight_gradient: float = setting(4.0, 'of the distance of steps between pixels there', 0.0)
    weight_detail: float = setting(0.0, 'of how much more or less detail is painted', 0.0)
    focus: float = setting(
        3.0, 'how much more eyes and mouth count among the own faces than the rest', 0.0
    )
    weight_border: float = setting(4.0, 'of the pixel distance just inside the border', 0.0)
    weight_ring: float = setting(3.0, 'of the pixel distance outside the hole', 0.0)
    weight_tone: float = setting(2.0, "of the distance of the faces' mean colours", 0.0)
    weight_points: float = setting(0.2, 'of the distance of guessed from own points', 0.0)
    weight_match: float = setting(0.1, 'of telling what sort of face surroundings want', 0.0)
    look_px: int = setting(
        104, 'side of the window, drawn anew each step, that critic and features see', 16, 512
    )
    look_zoom: int = setting(1, 'how many times larger they see it: finer detail counts', 1, 4)
    critic_channels: int = setting(96, 'channels inside each head of the critic', 8, 1024)
    features: str = setting('efficientnet', 'feature network: efficientnet, or random (tests)')
    init_from: str = setting('', 'checkpoint whose weights a new run starts from')
    freeze: str = setting('', 'prefixes of layers to keep as they are, commas between')
    teacher: str = setting('', 'checkpoint of a larger network to distil from')
    steadied_share: float = setting(
        0.6, 'steadying: how far averaged weights go from the teacher to the learned', 0.0, 1.0
    )
    weight_distil: float = setting(
        1.0, 'of the distance to the teacher, outputs and features', 0.0
    )
    widths: str = setting(
        '',
        'sharing: widths that each level may have, commas between, levels apart by spaces; '
        "empty: multiples of 32 from a quarter of the teacher's",
    )

    def __post_init__(self) -> None:
        """Check every value against its range, and the words."""
        super().__post_init__()
        kinds = (ALL, MATCHING, STEADYING, SHARING)
        if self.learns not in kinds:
            raise SettingsError(f'learns: got {self.learns!r}, expected {", ".join(kinds)}')


@dataclass(frozen=True)
class DetectorTrainSettings(RunSettings):
    """Hold the settings of a detector's training."""

    network: str = setting('plates', 'key of the table of architectures')
    size_px: int = setting(416, 'side of the scenes, a multiple of 32', 64, 1024)
    batch: int = setting(8, 'scenes a step', 1, 4096)
    rate: float = setting(2e-3, 'learning rate', 0.0, 1.0)
    weight_decay: float = setting(1e-3, 'of the weights', 0.0, 1.0)
    ema_images: int = setting(3000, 'images over which averaged weights forget half', 1)
    classes: str = setting('plate', 'what it finds, in this order: plate, face; commas between')
    drawn_share: float = setting(0.55, 'share of the scenes with drawn plates', 0.0, 1.0)
    heads_share: float = setting(
        0.5, 'share of the scenes with heads put in; a plate detector learns to pass', 0.0, 1.0
    )
    weight_box: float = setting(2.0, 'of the distance of the boxes', 0.0)
    half: bool = setting(False, 'bfloat16 where it is safe; slow on CPUs without it')
    workers: int = setting(
        1, 'processes that draw scenes; 1 draws them in a thread; the scenes are the same', 0, 256
    )
    init_from: str = setting('', 'checkpoint whose weights a new run starts from')

    def __post_init__(self) -> None:
        """Check every value against its range, and the words."""
        super().__post_init__()
        names = self.class_names()
        if len({*names}) != len(names) or not {'face', 'plate'} >= {*names}:
            raise SettingsError(f'classes: got {self.classes!r}, expected plate, face or both')

    def class_names(self) -> tuple[str, ...]:
        """Return what it finds, in the order of the network's scores."""
        return tuple(name.strip() for name in self.classes.split(','))


def from_mapping(values: Mapping[str, Any], kind: type[S]) -> S:
    """
    Make settings of names and values, refusing unknown names and wrong types.

    :param values: texts are read as YAML where the setting is no text.
    :param kind: of settings.
    """
    known = {f.name: f.default for f in fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SettingsError(
            f'unknown settings {", ".join(unknown)}; expected some of {", ".join(known)}'
        )
    return kind(**{name: _typed(name, v, known[name]) for name, v in values.items()})


def load_settings(path: Path) -> dict[str, Any]:
    """
    Read a YAML file of settings.

    :param path: the file, one name to value.
    """
    try:
        values = plain_yaml.parse(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise SettingsError(f'{path}: cannot be read: {error}') from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f'{path}: got {type(values).__name__}, expected names and values')
    return values


def parse_overrides(texts: list[str]) -> dict[str, Any]:
    """
    Read settings given as name=value.

    :param texts: from the command line.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition('=')
        if not equals:
            raise SettingsError(f'got {text!r}, expected name=value')
        values[name.strip()] = plain_yaml.parse(value) if value.strip() else ''
    return values


def _typed(name: str, value: Any, default: Any) -> Any:
    """Return the value in the type of its default."""
    kind = type(default)
    if kind is str:
        return '' if value is None else str(value)
    if isinstance(value, str):
        value = plain_yaml.parse(value)
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float, str)):
        raise SettingsError(f'{name}: got {value!r}, expected {kind.__name__}')
    try:
        converted = kind(value)
    except ValueError as error:
        raise SettingsError(f'{name}: got {value!r}, expected {kind.__name__}') from error
    if kind is int and float(value) != converted:
        raise SettingsError(f'{name}: got {value!r}, expected a whole number')
    return converted
