"""Zones of images and videos, which go by the names of files and folders."""

from __future__ import annotations

from collections.abc import Iterable

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.frames.message import idle_rotations
from ffs_anonymizer.jobs.job import Tell
from ffs_anonymizer.media.files import MediaFile
from ffs_anonymizer.regions.zones import Zone
from ffs_anonymizer.settings.runtime import Settings

_LISTED_NAMES = 10


def check_zones(settings: Settings, files: Iterable[MediaFile], warn: Tell) -> None:
    """
    Look whether each zone lies in some file, and each rotation turns one.

    :param warn: is told of a zone that leaves alone what is not there, or a rotation of nothing.
    :raises SettingsError: one cannot be read, or a zone covers nothing of what is to be covered.
    """
    names = sorted({name for file in files for name in file.zone_names})
    zones = {'mask_zones': settings.mask_zones, 'ignore_zones': settings.ignore_zones}
    for setting, given in zones.items():
        for text in given:
            if Zone.parse(text).fits_any(names):
                continue
            told = _unused(setting, text, names)
            if setting == 'mask_zones':
                raise SettingsError(f'{told}; what it is to cover would stay visible')
            warn(told)
    for text in idle_rotations(settings.rotation, names):
        warn(_unused('rotation', text, names))


def _unused(setting: str, text: str, names: list[str]) -> str:
    return (
        f'{setting}: got {text!r}, which fits no image or video of this run; expected a name or '
        f'glob of: {", ".join(names[:_LISTED_NAMES])}{", ..." * (len(names) > _LISTED_NAMES)}'
    )
