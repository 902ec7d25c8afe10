"""What one setting is: its name, type, default, range, unit and meaning, and how it is checked."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Union

from ffs_anonymizer.errors import SettingsError

Value = Union[bool, int, float, str, 'tuple[str, ...]', 'tuple[int, ...]']


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


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = '',
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """Return the field of a settings group that declares one setting."""
    parameter = Parameter('', default, meaning, unit, bounds, choices, live)
    return field(default=default, metadata={'parameter': parameter})


def declared(group: object, prefix: str = '') -> Iterator[Parameter]:
    """Yield the settings of a group and of those in it, by dotted names, with their values."""
    for item in dataclasses.fields(group):  # type: ignore[arg-type]
        value = getattr(group, item.name)
        if dataclasses.is_dataclass(value):
            yield from declared(value, f'{prefix}{item.name}.')
        else:
            parameter: Parameter = item.metadata['parameter']
            yield dataclasses.replace(parameter, name=prefix + item.name, default=value)
