"""The settings as a node's parameters: declared with their meaning, checked on each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.settings import declaration
from ffs_anonymizer.settings.parameter_file import ROS_NAMES
from ffs_anonymizer.settings.runtime import find_parameter, PARAMETERS, Settings
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

_TYPES = {
    'bool': Parameter.Type.BOOL,
    'integer': Parameter.Type.INTEGER,
    'double': Parameter.Type.DOUBLE,
    'string': Parameter.Type.STRING,
    'integer array': Parameter.Type.INTEGER_ARRAY,
    'string array': Parameter.Type.STRING_ARRAY,
}
_BY_NAME = {declared.name: declared for declared in PARAMETERS}


def settings_of(overrides: Mapping[str, Parameter]) -> Settings:
    """
    Build the settings from what was given in files, on the command line and by the constructor.

    :raises SettingsError: unknown name, wrong type or out of range.
    """
    changes = {}
    for name, override in overrides.items():
        if name.split('.')[0] in ROS_NAMES:
            continue
        declared = find_parameter(name)
        # rcl gives an empty list no type, and rclpy no value.
        empty = override.value is None and isinstance(declared.default, tuple)
        changes[name] = [] if empty else override.value
    return Settings().updated(changes)


def declare(
    node: Node, settings: Settings, on_change: Callable[[Mapping[str, object]], None]
) -> None:
    """
    Declare every setting, and watch for changes.

    :param on_change: takes the new values by name; what it raises as AnonymizerError refuses them.
    """
    values = settings.flat()
    for declared in PARAMETERS:
        value = values[declared.name]
        typed = Parameter(
            declared.name,
            _TYPES[declared.type_name],
            list(value) if isinstance(value, tuple) else value,
        )
        # Dynamic typing, for rclpy takes no integer for a double and no empty list at all; the
        # types are checked in settings/declaration.py. The value is set once more because
        # declaring guesses the type of an empty list.
        node.declare_parameter(
            declared.name,
            typed.value,
            ParameterDescriptor(dynamic_typing=True),
            ignore_override=True,
        )
        node.set_parameters([typed])
        node.set_descriptor(declared.name, _descriptor(declared))
    drifts = not hasattr(node, 'add_pre_set_parameters_callback')  # Humble
    if not drifts:
        node.add_pre_set_parameters_callback(_typed)

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {
            parameter.name: parameter.value
            for parameter in parameters
            if parameter.name.split('.')[0] not in ROS_NAMES
        }
        drifting = [name for name, value in changes.items() if drifts and _drifts(name, value)]
        if drifting:
            return _refused(f'{drifting[0]} is a double: write {changes[drifting[0]]}.0')
        try:
            if changes:
                on_change(changes)
        except AnonymizerError as error:
            return _refused(str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)


def _drifts(name: str, value: object) -> bool:
    declared = _BY_NAME.get(name)
    return declared is not None and declared.type_name == 'double' and type(value) is int


def _typed(parameters: list[Parameter]) -> list[Parameter]:
    """Give whole numbers for doubles and empty lists the type that was declared."""
    result = []
    for parameter in parameters:
        declared, value = _BY_NAME.get(parameter.name), parameter.value
        if _drifts(parameter.name, value):
            parameter = Parameter(parameter.name, Parameter.Type.DOUBLE, float(value))
        elif declared and isinstance(declared.default, tuple) and _is_empty(value):
            parameter = Parameter(parameter.name, _TYPES[declared.type_name], [])
        result.append(parameter)
    return result


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, '__len__') and len(value) == 0 and value != '')


def _descriptor(declared: declaration.Parameter) -> ParameterDescriptor:
    unit = f' Unit: {declared.unit}.' if declared.unit else ''
    descriptor = ParameterDescriptor(
        name=declared.name,
        type=_TYPES[declared.type_name].value,
        description=f'{declared.meaning}{unit}',
        read_only=not declared.live,
        dynamic_typing=True,
    )
    if declared.choices:
        descriptor.additional_constraints = f'one of: {", ".join(declared.choices)}'
    if declared.bounds is not None:
        low, high = declared.bounds
        if declared.type_name == 'double':
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif declared.type_name == 'integer':
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.additional_constraints = f'each from {low:g} to {high:g}'
    return descriptor
