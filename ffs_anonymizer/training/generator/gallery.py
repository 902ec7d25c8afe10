"""The faces that are worn: codes of people who do not exist, and the network that chooses one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import csv
from fnmatch import fnmatchcase
from pathlib import Path

from ffs_anonymizer.datasets.faces import PackedFaces, TRAIT_COLUMNS
from ffs_anonymizer.datasets.sampler import Batch, MIRRORED_POINTS, Sampler
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.training.generator.alignment import align
from ffs_anonymizer.training.generator.network import (
    Chooser,
    FaceNetwork,
    Matcher,
    packed,
    turned,
)
from ffs_anonymizer.training.generator.train import with_points
import numpy as np
from numpy.typing import NDArray
import torch
from torch.nn import functional

_BATCH = 32
MOST_TURNED = 0.45
EVENLY_LIT = 0.35
_BROAD_PX = 8


def make_chooser(
    network: FaceNetwork,
    matcher: Matcher,
    sampler: Sampler,
    *,
    kept: float,
    error: str,
) -> tuple[Chooser, list[int]]:
    """
    Return a chooser among the faces of photos and their mirror images, and who of them stayed.

    What is worn in any light must have no strong one of its own, and nothing before it: the faces
    whose broad light and dark are the most unlike the usual ones may be left out, and those that
    are turned far away are.

    :param network: settled; it reads the faces.
    :param matcher: settled; it looks at surroundings.
    :param sampler: of the photos.
    :param kept: the share of the faces that stays, the most evenly lit ones.
    :param error: whose faces were looked for, told where none is left.
    :returns: the chooser, and the numbers of photos in the sampler.
    :raises MediaError: no face is left.
    """
    latents, traits, broad, rows = [], [], [], []
    with torch.no_grad():
        for start, batch in _batches(sampler):
            face, points = align(batch.image, batch.points_px / batch.image.shape[-1])
            other = points.clone()[:, MIRRORED_POINTS]
            other[..., 0] = 1.0 - other[..., 0]
            for each, at in ((face, points), (face.flip(-1), other)):
                ahead = turned(at).abs() < MOST_TURNED
                latents.append(packed(network.encoder(each), at)[ahead])
                traits.append(batch.traits[ahead])
                rows.append(start + torch.nonzero(ahead)[:, 0])
                light = network.encoder.evened(each)[ahead].mean(1, keepdim=True)
                small = functional.interpolate(light, size=_BROAD_PX, mode='area').flatten(1)
                broad.append(functional.normalize(small, dim=1))
        if not sum(map(len, latents)):
            raise MediaError(f'{error}: got no face with known points that looks ahead')
        patterns = torch.cat(broad)
        usual = patterns @ patterns.mean(0)
        best = usual.argsort(descending=True)[: max(1, round(kept * len(usual)))]
    best = best.sort().values
    chooser = Chooser(matcher, torch.cat(latents)[best], torch.cat(traits)[best])
    return chooser.requires_grad_(False).eval(), torch.cat(rows)[best].unique().tolist()


def of_nobody(faces: PackedFaces, patterns: str) -> NDArray[np.int64]:
    """
    Return the photos to train on whose names say that nobody has their face.

    :param faces: the data set.
    :param patterns: of names, with * and ?, commas between; ! before one leaves out who matches.
        Or a .csv file with the names in its column `identity`, as `export` writes one.
    :raises MediaError: the file cannot be read.
    """
    numbers, _ = with_points(faces)
    names = [faces.identities[i] for i in numbers]
    if is_table(patterns):
        listed = _names_in(Path(patterns))
        matching = [n in listed for n in names]
    else:
        given = [pattern.strip() for pattern in patterns.split(',') if pattern.strip()]
        unwanted = [pattern[1:] for pattern in given if pattern.startswith('!')]
        wanted = [pattern for pattern in given if not pattern.startswith('!')]
        matching = [_matches(n, wanted) and not _matches(n, unwanted) for n in names]
    return np.asarray(numbers[np.array(matching, bool)], np.int64)


def is_table(patterns: str) -> bool:
    """Tell a table of names from patterns of them."""
    return patterns.endswith('.csv')


def write_gallery(path: Path, faces: PackedFaces, numbers: Sequence[int]) -> None:
    """
    Write whose faces are worn, and what is known of them.

    :param path: a .csv.
    :param faces: the data set.
    :param numbers: of their photos.
    """
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['identity', *TRAIT_COLUMNS])
        for i in numbers:
            traits = ['' if np.isnan(value) else f'{value:.2f}' for value in faces.traits[i]]
            writer.writerow([faces.identities[i], *traits])


def _names_in(path: Path) -> set[str]:
    try:
        with path.open(newline='', encoding='utf-8') as file:
            return {row['identity'] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise MediaError(
            f'{path}: cannot be read as a gallery ({error}), expected a table with the column '
            'identity'
        ) from error


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _batches(sampler: Sampler) -> Iterator[tuple[int, Batch]]:
    count = len(sampler.boxes)
    for start in range(0, count, _BATCH):
        yield start, sampler.plain(np.arange(start, min(start + _BATCH, count)))
