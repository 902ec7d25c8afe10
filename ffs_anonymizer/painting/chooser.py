"""Which face is worn: one of a gallery of nobody's, chosen once for a track and then held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ffs_anonymizer.backend import Backend
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import crop_scale_of, is_chooser
from ffs_anonymizer.painting.crops import Crops, cut_squares, enclosing_squares
from ffs_anonymizer.painting.generator import Generator
from ffs_anonymizer.painting.inputs import in_crops, latent_seeds, latents_of, points_of
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

MAX_BATCH = 16
ATTEMPTS = 6
# The latents that were chosen, by the chooser's SHA-256 and the track.
Faces = Mapping[tuple[str, int], NDArray[np.float32]]


class Chooser:
    """
    Choose latents that fit what is around holes, by chance.

    Any ONNX fits with `condition` [N, 3, S, S], `mask` [N, 1, S, S], `chance` [N, K] and `points`
    [N, 5, 2] in, `latent` [N, Z] out: what the generator beside it takes.

    :param crop_scale: side of its crops over the longer side of a region.
    :param size_px: S.
    :param chance_length: K.
    :param latent_length: Z.
    :raises ModelError: the network does not keep the contract.
    """

    def __init__(self, model: Backend) -> None:
        self.model = model
        inputs = {spec.name: spec.shape for spec in model.inputs}
        outputs = {spec.name: spec.shape for spec in model.outputs}
        size = inputs.get('condition', (-1,))[-1]
        chance, latent = inputs.get('chance', ()), outputs.get('latent', ())
        fits = (
            is_chooser(inputs)
            and inputs['condition'][1:] == (3, size, size)
            and inputs['mask'][1:] == (1, size, size)
            and inputs['points'][1:] == (5, 2)
            and len(chance) == len(latent) == 2
            and min(size, chance[1], latent[1]) > 0
        )
        if not fits:
            raise ModelError(
                f'{model.path}: got the inputs {inputs} and outputs {outputs}, expected condition '
                '[N, 3, S, S], mask [N, 1, S, S], chance [N, K] and points [N, 5, 2] with N free, '
                'and latent [N, Z]'
            )
        self.size_px, self.chance_length, self.latent_length = int(size), chance[1], latent[1]
        self.crop_scale = crop_scale_of(model.manifest)

    def choose(
        self,
        crops: Crops,
        *,
        seeds: NDArray[np.uint64],
        points_px: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """
        Return a latent for each crop, (N, Z) float32; the same crop and seed, the same one.

        :param crops: N crops of the size that the network takes.
        :param seeds: (N,), of latent_seeds().
        :param points_px: (N, 5, 2) float32, in pixels of the crops.
        :raises ModelError: the network fails or returns what is no latent.
        """
        feeds = {
            'condition': crops.condition,
            'mask': crops.mask,
            'chance': latents_of(seeds, self.chance_length),
            'points': np.ascontiguousarray(points_px, np.float32),
        }
        chosen = np.empty((len(crops), self.latent_length), np.float32)
        for start in range(0, len(crops), MAX_BATCH):
            batch = slice(start, start + MAX_BATCH)
            got = self.model.infer({name: value[batch] for name, value in feeds.items()})['latent']
            expected = chosen[batch].shape
            if got.shape != expected or not np.isfinite(got).all():
                raise ModelError(
                    f'{self.model.path}: got latents of shape {got.shape}, or values that are not '
                    f'finite, expected finite ones of shape {expected}'
                )
            chosen[batch] = got
        return chosen


def choose_faces(
    image_bgr: NDArray[np.uint8],
    regions: Regions,
    rects_xyxy_px: NDArray[np.int32],
    methods: NDArray[np.int8],
    settings: Settings,
    *,
    generators: Sequence[Generator],
    stream: str,
    before: Faces,
) -> tuple[tuple[NDArray[np.float32] | None, ...], Faces]:
    """
    Return the latent that each region wears, and what is to be remembered of the stream.

    A track keeps the face that was chosen when it was first drawn, whatever comes around it. No
    two people in sight wear the same one, as long as other faces fit.

    :param image_bgr: (H, W, 3) uint8, only read, and nothing of it inside any region.
    :param regions: N regions.
    :param rects_xyxy_px: (N, 4) int32, where each region covers completely.
    :param methods: (N,) int8, codes of methods.NAMES.
    :param generators: by their codes.
    :param stream: its name.
    :param before: what was remembered.
    :returns: for each region a latent (Z,), or None where its generator has no chooser or none
        draws it; and all latents of tracks that are still there.
    :raises ModelError: a chooser failed.
    """
    tracks = regions.track_ids.tolist()
    faces = {key: face for key, face in before.items() if key[1] in set(tracks)}
    latents: list[NDArray[np.float32] | None] = [None] * len(tracks)
    for code, generator in enumerate(generators):
        chooser = generator.chooser
        if chooser is None:
            continue
        own = np.nonzero(methods == code)[0]
        name = chooser.model.sha256
        new = np.array([i for i in own.tolist() if (name, tracks[i]) not in faces], np.intp)
        worn = {face.tobytes() for key, face in faces.items() if key[0] == name}
        for attempt in range(ATTEMPTS):
            if not len(new):
                break
            squares = enclosing_squares(rects_xyxy_px[new], chooser.crop_scale)
            crops = cut_squares(
                image_bgr, squares, holes_xyxy_px=rects_xyxy_px, size_px=chooser.size_px
            )
            seeds = latent_seeds(settings.generator.seed, stream, regions.track_ids[new])
            points = points_of(regions.take(new), pose=settings.generator.pose)
            chosen = chooser.choose(
                crops,
                seeds=seeds + np.uint64(attempt),
                points_px=in_crops(points, squares, chooser.size_px),
            )
            again = []
            for i, face in zip(new.tolist(), chosen, strict=True):
                if face.tobytes() in worn and attempt + 1 < ATTEMPTS:
                    again.append(i)
                else:
                    worn.add(face.tobytes())
                    faces[name, tracks[i]] = face
            new = np.array(again, np.intp)
        for i in own.tolist():
            latents[i] = faces[name, tracks[i]]
    return tuple(latents), faces
