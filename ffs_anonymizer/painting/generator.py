"""From crops to the faces of nobody."""

from __future__ import annotations

from pathlib import Path
import time

from ffs_anonymizer.backend import Backend, multiplies_bytes, open_model
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.models.manifest import (
    crop_scale_of,
    DEFAULT_FOR_CPU,
    default_generator,
    is_generator,
)
from ffs_anonymizer.painting.budget import Cost
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.painting.gpu_painter import painter_of
from ffs_anonymizer.painting.inputs import feeds_of
from ffs_anonymizer.painting.job import Job, Painter
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray

MEASURED_BATCH = 4
MEASURED_RUNS = 5


class Generator:
    """
    Invent faces for crops with one network.

    Any ONNX of DeepPrivacy2's and FastFaceSwapper's contract fits: `condition` [N, 3, S, S] and
    `mask` [N, 1, S, S] in, perhaps `latent` [N, Z] (which face) and `points` [N, 5, 2] (where it
    goes), `inpainted` [N, 3, S, S] out.

    :param size_px: S.
    :param crop_scale: side of a crop over the longer side of its region, as the model was trained.
    :param concurrency: threads that will call it at once.
    :param licence: of the weights, by their manifest; empty where there is none.
    :param painter: what crops, generates and pastes in one go, where the device can.
    :param cost: what a call takes on this device, kept up to date once it was measured.
    :raises ModelError: there is no model, or it does not keep the contract.
    """

    def __init__(self, settings: Settings, *, concurrency: int = 1) -> None:
        self.model = _open(settings, concurrency)
        manifest = self.model.manifest
        self.size_px = _check_contract(self.model)
        self.licence = manifest.licence if manifest is not None else ''
        self.crop_scale = settings.generator.crop_scale or crop_scale_of(manifest)
        if self.crop_scale < 1:
            raise SettingsError(f'generator.crop_scale: got {self.crop_scale}, expected 0 or >= 1')
        self.max_batch = settings.generator.max_batch
        self.cost: Cost | None = None
        # The length of its latents, 0 where it takes none
        shapes = {spec.name: spec.shape for spec in self.model.inputs}
        self.latent_length = int(shapes['latent'][1]) if 'latent' in shapes else 0
        self.painter: Painter | None = painter_of(self.model) if len(shapes) == 2 else None

    def paint(self, image_bgr: NDArray[np.uint8], job: Job) -> list[NDArray[np.uint8]]:
        """
        Crop, generate and paste on the device; there must be a painter.

        :param image_bgr: (H, W, 3) uint8, only read.
        :param job: crops of the model's size, and patches.
        :returns: (h, w, 3) uint8, the new content of each patch's outer rectangle, to keep.
        :raises ModelError: the device fails, or the network returns what is no picture.
        """
        assert self.painter is not None
        start_s = time.perf_counter()
        with self.model.turn():
            # The painter's next call, perhaps of another thread, writes where these lie.
            windows = [window.copy() for window in self.painter.paint(image_bgr, job)]
        self._correct_cost(len(job.squares_xys_px), start_s)
        return windows

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
        self._correct_cost(len(crops), start_s)
        return faces

    def _correct_cost(self, faces: int, start_s: float) -> None:
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
        if self.painter is not None:
            self.painter.close()
        self.model.close()


def _open(settings: Settings, concurrency: int) -> Backend:
    own = settings.generator.model_path
    path = Path(own) if own else default_generator()
    if path is None:
        raise ModelError(
            'no face generator: got no generator.model_path, and this version has no weights '
            'of its own; name an ONNX file, or choose blur, mosaic or solid'
        )
    threads = settings.threads
    model = open_model(path, device=settings.device, threads=threads, concurrency=concurrency)
    in_integers = default_generator(DEFAULT_FOR_CPU)
    on_cpu = model.name == 'onnxruntime' and model.device.kind == 'cpu'
    if own or in_integers is None or not on_cpu or not multiplies_bytes():
        return model
    device = model.device
    model.close()
    model = open_model(in_integers, device='cpu', threads=threads, concurrency=concurrency)
    model.device = device.noted('in 8 bits')
    return model


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
