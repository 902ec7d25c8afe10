"""A model's file as it was read: its bytes, their hash, and the manifest that was checked."""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
from pathlib import Path

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import load_manifest, Manifest


@dataclass(frozen=True)
class ModelFile:
    """
    Hold the bytes that are loaded, which are those that were hashed and checked.

    :param sha256: of the bytes, in hexadecimal.
    :param manifest: None where there is none beside the file.
    """

    path: Path
    content: bytes
    sha256: str
    manifest: Manifest | None


def check_file(path: Path) -> None:
    """
    Look whether a model's file is there.

    :raises ModelError: it is not.
    """
    if not path.is_file():
        raise ModelError(f'model file {path}: got nothing there, expected an ONNX file')


def read_model(path: Path) -> ModelFile:
    """
    Read a model's file once.

    :raises ModelError: it is not there, or its manifest is malformed or of another file.
    """
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f'{path}: cannot be read: {error}') from error
    sha256 = hashlib.sha256(content).hexdigest()
    return ModelFile(path, content, sha256, load_manifest(path, sha256))
