"""From crops to the faces of nobody."""

from __future__ import annotations

from collections.abc import Container, Sequence
import time
from typing import TYPE_CHECKING

from ffs_anonymizer.backend import Backend
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.models.manifest import crop_scale_of, is_generator
from ffs_anonymizer.painting.budget import Cost
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.painting.inputs import feeds_of
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ffs_anonymizer.painting.chooser import Chooser

MEASURED_BATCH = 4
MEASURED_RUNS = 5
# How far over or under the limit between two generators a track stays with the one it had.
HELD = 1.06


class Generator:
    """
    Invent faces for crops with one network.

    Any ONNX of DeepPrivacy2's and FastFaceSwapper's contract fits: `condition` [N, 3, S, S] and
    `mask` [N, 1, S, S] in, perhaps `latent` [N, Z] (which face) and `points` [N, 5, 2] (where it
    goes), `inpainted` [N, 3, S, S] out.

    :param crop_scale: side of a crop over the longer side of its region; 0: as the model was
        trained.
    :param max_batch: most crops in one call.
    :param chooser: what chooses its latents; None: they are standard normal.
    :param size_px: S.
    :param latent_length: Z, 0 where it takes no latents.
    :param cost: what a call takes on this device, kept up to date once it was measured.
    :param larger: paints the same faces with more detail, for large crops; None: nothing does.
    :raises ModelError: the network does not keep the contract.
    :raises SettingsError: the crop is smaller than the region.
    """

    def __init__(
        self,
        model: Backend,
        *,
        crop_scale: float = 0.0,
        max_batch: int = 16,
        chooser: Chooser | None = None,
    ) -> None:
        self.model = model
        self.size_px = _check_contract(model)
        self.crop_scale = crop_scale or crop_scale_of(model.manifest)
        if self.crop_scale < 1:
            raise SettingsError(f'generator.crop_scale: got {self.crop_scale}, expected 0 or >= 1')
        self.max_batch = max_batch
        self.cost: Cost | None = None
        shapes = {spec.name: spec.shape for spec in model.inputs}
        self.latent_length = int(shapes['latent'][1]) if 'latent' in shapes else 0
        self.larger: Generator | None = None
        self.chooser = chooser
        if chooser is not None:
            got, expected = chooser.latent_length, self.latent_length
            if got != expected:
                raise ModelError(
                    f'{chooser.model.path}: got latents of {got} numbers, expected {expected} '
                    f'as {model.path.name} takes them; export both again'
                )

    def join(self, larger: Generator) -> None:
        """
        Let another generator paint large crops.

        :param larger: takes the same latents.
        :raises ModelError: it takes others, or is not larger.
        """
        got = larger.latent_length, larger.size_px
        if got[0] != self.latent_length or got[1] <= self.size_px:
            raise ModelError(
                f'{larger.model.path}: got latents of {got[0]} numbers and crops of {got[1]} px, '
                f'expected {self.latent_length} and over {self.size_px} beside '
                f'{self.model.path.name}'
            )
        self.larger = larger

    def generate(
        self,
        crops: Crops,
        *,
        latents: NDArray[np.float32] | None = None,
        points_px: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """
        Invent a face for each crop.

        :param crops: N crops of the model's size.
        :param latents: (N, Z) float32, which face each shows, where the model takes that.
        :param points_px: (N, 5, 2) float32, where eyes, nose and mouth corners go, in pixels of
            the crops, where the model takes that; None takes the mean places.
        :returns: (N, S, S, 3) uint8 BGR.
        :raises ModelError: the network fails or returns what is no picture.
        """
        start_s = time.perf_counter()
        whole = feeds_of(self.model.inputs, crops, latents=latents, points_px=points_px)
        faces = np.empty((len(crops), self.size_px, self.size_px, 3), np.uint8)
        for start in range(0, len(crops), self.max_batch):
            batch = slice(start, start + self.max_batch)
            feeds = {name: value[batch] for name, value in whole.items()}
            inpainted = self.model.infer(feeds)['inpainted']
            expected = feeds['condition'].shape
            if inpainted.shape != expected:
                raise ModelError(
                    f'{self.model.path}: got faces of shape {inpainted.shape}, expected {expected}'
                )
            if not np.isfinite(inpainted).all():
                raise ModelError(f'{self.model.path}: got faces with values that are not finite')
            levels = np.rint((np.clip(inpainted, -1, 1) + 1) * 127.5).astype(np.uint8)
            faces[batch] = levels.transpose(0, 2, 3, 1)[..., ::-1]
        self.took(len(crops), start_s)
        return faces

    def took(self, faces: int, start_s: float) -> None:
        """
        Correct the cost by what a call just took.

        :param start_s: when it began, by time.perf_counter().
        """
        if self.cost is not None and faces:
            self.cost = self.cost.corrected(faces, (time.perf_counter() - start_s) * 1e3)

    def measure(self) -> None:
        """Measure what a call takes on this device, on crops of nothing."""
        self.cost = None
        took_ms = {}
        for n in (1, MEASURED_BATCH):
            square = (self.size_px, self.size_px)
            nothing = Crops(
                np.zeros((n, 3, *square), np.float32),
                np.ones((n, 1, *square), np.float32),
                np.zeros((n, 3), np.int32),
            )
            runs = []
            for _ in range(MEASURED_RUNS):
                start_s = time.perf_counter()
                self.generate(nothing)
                runs.append((time.perf_counter() - start_s) * 1e3)
            took_ms[n] = float(np.median(runs))
        self.cost = Cost.fitted(took_ms[1], took_ms[MEASURED_BATCH], MEASURED_BATCH)

    def close(self) -> None:
        """Give the network back."""
        self.model.close()


def joined(generators: Sequence[Generator]) -> tuple[Generator, ...]:
    """
    Return generators by what `who_paints` tells: as they are, then those that paint large faces.

    :param generators: by their codes.
    """
    return *generators, *(each.larger for each in generators if each.larger is not None)


def who_paints(
    rects_xyxy_px: NDArray[np.int32],
    methods: NDArray[np.int8],
    generators: Sequence[Generator],
    *,
    larger: bool,
    track_ids: NDArray[np.int64],
    before: Container[tuple[int, int]],
) -> NDArray[np.int8]:
    """
    Return which generator paints each region, (N,), by its place in `joined`; -1 where none does.

    A crop goes to the generator whose picture is nearer to it in size, as a ratio. A track stays
    with the one that painted it as long as that is nearly so.

    :param rects_xyxy_px: (N, 4) int32, where each region covers completely.
    :param methods: (N,) int8, codes of methods.NAMES: first those of the generators.
    :param generators: by their codes.
    :param larger: whether those that paint large faces may.
    :param track_ids: (N,) int64, of the regions.
    :param before: who painted which track in the frame before.
    """
    result = np.where(methods < len(generators), methods, -1).astype(np.int8)
    longer = (rects_xyxy_px[:, 2:] - rects_xyxy_px[:, :2]).max(axis=1)
    with_larger = [(code, each) for code, each in enumerate(generators) if each.larger]
    for place, (code, generator) in enumerate(with_larger if larger else [], len(generators)):
        assert generator.larger is not None
        limit_px = np.sqrt(generator.size_px * generator.larger.size_px)
        for i in np.nonzero(methods == code)[0].tolist():
            track = int(track_ids[i])
            held = HELD if (code, track) in before else 1.0
            held /= HELD if (place, track) in before else 1.0
            if longer[i] * generator.crop_scale > limit_px * held:
                result[i] = place
    return result


def _check_contract(model: Backend) -> int:
    """Return S of a network that keeps the contract."""
    inputs = {spec.name: spec.shape for spec in model.inputs}
    outputs = {spec.name: spec.shape for spec in model.outputs}
    condition, mask = inputs.get('condition', ()), inputs.get('mask', ())
    size = condition[-1] if condition else -1
    fits = (
        is_generator(inputs)
        and 'inpainted' in outputs
        and condition[1:] == (3, size, size)
        and mask[1:] == (1, size, size)
        and size > 0
        and condition[0] == -1
        and len(inputs.get('latent', (-1, 1))) == 2
        and inputs.get('latent', (-1, 1))[1] > 0
        and inputs.get('points', (-1, 5, 2))[1:] == (5, 2)
    )
    if not fits:
        raise ModelError(
            f'{model.path}: got the inputs {inputs} and outputs {outputs}, expected condition '
            '[N, 3, S, S] and mask [N, 1, S, S] with N free and S fixed, perhaps latent [N, Z] '
            'and points [N, 5, 2], and inpainted'
        )
    return size
