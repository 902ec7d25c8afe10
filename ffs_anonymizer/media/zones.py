"""Zones of images and videos, which go by the names of files and folders."""

from __future__ import annotations

from collections.abc import Iterable

from ffs_anonymizer.anonymizer import Zone
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.jobs.job import Tell
from ffs_anonymizer.media.files import MediaFile
from ffs_anonymizer.settings.runtime import Settings

_LISTED_NAMES = 10


def zoned(
    settings: Settings, files: Iterable[MediaFile], warn: Tell
) -> tuple[Settings, dict[str, str]]:
    """
    Return settings whose zones go by new names of streams, and that name for each file's name.

    An image has two names that a zone may call it by, a stream has one.

    :param warn: is told of a zone that leaves alone what is not there.
    :raises SettingsError: a zone cannot be read, or covers nothing of what is to be covered.
    """
    names = {file.name: file.zone_names for file in files}
    # No file has a NUL in its name.
    streams = {name: f'{zone_names[0]}\0,' for name, zone_names in names.items()}
    changes = {}
    zones = {'mask_zones': settings.mask_zones, 'ignore_zones': settings.ignore_zones}
    for setting, given in zones.items():
        texts = []
        for i, text in enumerate(given):
            zone = Zone.parse(text)
            fitting = [n for n in names if zone.fits_any(names[n])]
            if not fitting:
                told = _unused(setting, text, sorted({z for zs in names.values() for z in zs}))
                if setting == 'mask_zones':
                    raise SettingsError(f'{told}; what it is to cover would stay visible')
                warn(told)
            for name in fitting:
                streams[name] += f'{setting}{i},'
            texts.append(' '.join([f'*\0*,{setting}{i},*', *text.split()[1:]]))
        changes[setting] = texts
    return settings.updated(changes), streams


def _unused(setting: str, text: str, names: list[str]) -> str:
    return (
        f'{setting}: got {text!r}, which fits no image or video of this run; expected a name or '
        f'glob of: {", ".join(names[:_LISTED_NAMES])}{", ..." * (len(names) > _LISTED_NAMES)}'
    )
