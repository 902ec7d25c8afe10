"""Which painter a frame goes to: that of its generator's device, or the host's."""

from __future__ import annotations

from collections.abc import Sequence

from ffs_anonymizer.painting.composite import Patch
from ffs_anonymizer.painting.generator import Generator, joined
from ffs_anonymizer.painting.gpu_painter import painter_of
from ffs_anonymizer.painting.host_painter import HostPainter
from ffs_anonymizer.painting.job import Job, Painter
import numpy as np
from numpy.typing import NDArray


class Painters:
    """
    Paint each frame where it is fastest.

    A device blends the patches of a frame in one go, and knows one generator; faces of two are put
    together on the host.

    :param generators: by their codes.
    """

    def __init__(self, generators: Sequence[Generator]) -> None:
        generators = joined(generators)
        self._host = HostPainter(generators)
        self.devices: list[Painter | None] = [painter_of(generator) for generator in generators]
        on_cpu = all(generator.model.device.kind == 'cpu' for generator in generators)
        # On a CPU the first frame would wait for the others to be looked at, which takes far
        # longer than one larger call of the generator saves.
        self.gains_by_joining = not on_cpu and not any(self.devices)

    def paint(
        self, images_bgr: Sequence[NDArray[np.uint8]], jobs: Sequence[Job]
    ) -> list[list[Patch]]:
        """
        Return the patches of each frame.

        :raises ModelError: a network fails or returns what is no picture.
        """
        painters = [self._painter(job) for job in jobs]
        results: dict[int, list[Patch]] = {}
        for painter in dict.fromkeys(painters):
            own = [i for i, other in enumerate(painters) if other is painter]
            painted = painter.paint([images_bgr[i] for i in own], [jobs[i] for i in own])
            results.update(zip(own, painted, strict=True))
        return [results[i] for i in range(len(jobs))]

    def close(self) -> None:
        """Give the devices' memory back."""
        for painter in self.devices:
            if painter is not None:
                painter.close()

    def _painter(self, job: Job) -> Painter:
        used = set(job.generators.tolist())
        device = self.devices[used.pop()] if len(used) == 1 else None
        return device or self._host
