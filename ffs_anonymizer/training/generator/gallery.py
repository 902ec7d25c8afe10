"""The faces that are worn: codes of people who do not exist, and the network that chooses one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from ffs_anonymizer.datasets.faces import PackedFaces
from ffs_anonymizer.datasets.sampler import Batch, MIRRORED_POINTS, Sampler
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.training.generator.alignment import align
from ffs_anonymizer.training.generator.network import (
    Chooser,
    FaceNetwork,
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
KEPT = 0.35
_BROAD_PX = 8


def make_chooser(
    network: FaceNetwork, sampler: Sampler, numbers: Sequence[int], *, error: str
) -> Chooser:
    """
    Return a chooser among the faces of photos and their mirror images.

    What is worn in any light must have no strong one of its own, and nothing before it: the faces
    whose broad light and dark are the most unlike the usual ones are left out, and those that are
    turned far away.

    :param network: settled.
    :param sampler: of the photos.
    :param numbers: which of its photos.
    :param error: whose faces were looked for, told where none is left.
    :raises MediaError: no face is left.
    """
    latents, keys, broad = [], [], []
    with torch.no_grad():
        for batch in _batches(sampler, numbers):
            face, points = align(batch.image, batch.points_px / batch.image.shape[-1])
            other = points.clone()[:, MIRRORED_POINTS]
            other[..., 0] = 1.0 - other[..., 0]
            for each, at in ((face, points), (face.flip(-1), other)):
                ahead = turned(at).abs() < MOST_TURNED
                latents.append(packed(network.encoder(each), at)[ahead])
                keys.append(network.matcher.key(each)[ahead])
                light = network.encoder.evened(each)[ahead].mean(1, keepdim=True)
                small = functional.interpolate(light, size=_BROAD_PX, mode='area').flatten(1)
                broad.append(functional.normalize(small, dim=1))
        if not sum(map(len, latents)):
            raise MediaError(f'{error}: got no face with known points that looks ahead')
        patterns = torch.cat(broad)
        usual = patterns @ patterns.mean(0)
        best = usual.argsort(descending=True)[: max(1, round(KEPT * len(usual)))]
    best = best.sort().values
    chooser = Chooser(
        network.matcher, network.generator.pose, torch.cat(latents)[best], torch.cat(keys)[best]
    )
    return chooser.requires_grad_(False).eval()  # type: ignore[no-any-return]


def of_nobody(faces: PackedFaces, patterns: str) -> NDArray[np.int64]:
    """
    Return the photos to train on whose names say that nobody has their face.

    :param faces: the data set.
    :param patterns: of names, with * and ?, commas between; ! before one leaves out who matches.
    """
    given = [pattern.strip() for pattern in patterns.split(',') if pattern.strip()]
    unwanted = [pattern[1:] for pattern in given if pattern.startswith('!')]
    wanted = [pattern for pattern in given if not pattern.startswith('!')]
    numbers, _ = with_points(faces)
    names = (faces.identities[i] for i in numbers.tolist())
    matching = [_matches(name, wanted) and not _matches(name, unwanted) for name in names]
    return np.asarray(numbers[np.array(matching, bool)], np.int64)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _batches(sampler: Sampler, numbers: Sequence[int]) -> Iterator[Batch]:
    for start in range(0, len(numbers), _BATCH):
        yield sampler.plain(np.array(numbers[start : start + _BATCH], np.int64))
