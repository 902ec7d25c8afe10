"""What is opened once: the networks of all roles on one device, shared by whoever needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import threading
from typing import Union

from ffs_anonymizer.backend import Backend, gains_by_bytes, open_model
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.models.roster import CHOOSERS, DETECTORS, GENERATORS, LARGER, Role, roster
from ffs_anonymizer.painting.chooser import Chooser
from ffs_anonymizer.painting.generator import Generator, joined
from ffs_anonymizer.painting.painters import Painters
from ffs_anonymizer.regions.detector import Network
from ffs_anonymizer.settings.runtime import Settings


@dataclass(frozen=True)
class Running:
    """
    Say which file plays a role, and where.

    :param sha256: of the bytes that were loaded, in hexadecimal.
    :param library: that runs it.
    :param licence: of the weights, by their manifest; empty where there is none.
    """

    role: str
    file: str
    sha256: str
    library: str
    device: Device
    licence: str

    def __str__(self) -> str:
        """Return what logs and diagnostics show."""
        return f'{self.file} sha256:{self.sha256[:12]} in {self.library} on {self.device}'


_PAINTERS = (*GENERATORS, LARGER)
_Opened = Union[Network, Generator, Chooser]


class Networks:
    """
    Hold open networks, until `close`.

    Any number of threads and recipes may share one. What new settings need beside what is open is
    opened then; nothing is ever exchanged.

    :param settings: what is to be opened at once, on which device, with how many threads.
    :param concurrency: threads that will call them at once.
    :param searches: how many of these search a frame at once; 0: all.
    :raises ModelError: a model is missing or unfit.
    """

    def __init__(self, settings: Settings, *, concurrency: int = 1, searches: int = 0) -> None:
        self.concurrency = concurrency
        # Looks at a frame scale better over the cores than the layers of a network do alone.
        is_alone = (searches or concurrency) == 1
        self.lanes = 2 if is_alone and (settings.threads or cores()) > 1 else 1
        self._device, self._threads = settings.device, settings.threads
        self._lock = threading.Lock()
        self._opened: dict[tuple[object, ...], _Opened] = {}
        self._painters: dict[tuple[Generator, ...], Painters] = {}
        try:
            self.of(settings)
        except AnonymizerError:
            self.close()
            raise

    def __enter__(self) -> Networks:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def of(
        self, settings: Settings
    ) -> tuple[tuple[Network, ...], tuple[Generator, ...], Painters]:
        """
        Return the detectors, the generators and the painter that settings need.

        :raises ModelError: one is missing or unfit.
        """
        roles = roster(settings)
        with self._lock:
            found: list[_Opened] = []
            choosers: dict[Path | None, Chooser] = {}
            for role in roles:
                found.append(self._open(role, settings, choosers.get(role.chooser)))
                if isinstance(found[-1], Chooser):
                    choosers[role.path] = found[-1]
            detectors = tuple(network for network in found if isinstance(network, Network))
            generators = [network for network in found if isinstance(network, Generator)]
            if roles[-1].name == LARGER:
                generators[0].join(generators.pop())
            key = joined(generators)
            if key not in self._painters:
                self._painters[key] = Painters(generators)
            return detectors, tuple(generators), self._painters[key]

    def describe(self) -> tuple[Running, ...]:
        """Return what runs where, in the order in which it was opened."""
        return tuple(
            Running(
                str(key[0]),
                network.model.path.name,
                network.model.sha256,
                network.model.name,
                network.model.device,
                network.model.manifest.licence if network.model.manifest is not None else '',
            )
            for key, network in self._opened.items()
        )

    def words(self) -> dict[str, str]:
        """Return what runs where by role, for logs and diagnostics."""
        lines = {}
        for running in self.describe():
            lines[running.role] = str(running)
            if running.licence:
                lines[f"{running.role}'s licence"] = running.licence
        return lines

    def close(self) -> None:
        """Give all memory back; the object is of no use afterwards."""
        with self._lock:
            for painters in self._painters.values():
                painters.close()
            for model in {id(n.model): n.model for n in self._opened.values()}.values():
                model.close()
            self._painters, self._opened = {}, {}

    def _open(self, role: Role, settings: Settings, chooser: Chooser | None) -> _Opened:
        options = settings.generator.crop_scale, settings.generator.max_batch
        key = role.name, role.path, *(options if role.name in _PAINTERS else ())
        if key in self._opened:
            return self._opened[key]
        shared = self._shared(role)
        if shared is not None:
            self._opened[key] = Network(shared, DETECTORS.index(role.name))
            return self._opened[key]
        model = open_model(
            role.path, device=self._device, threads=self._threads, concurrency=self.concurrency
        )
        on_cpu = model.name == 'onnxruntime' and model.device.kind == 'cpu'
        if role.on_cpu is not None and on_cpu and gains_by_bytes():
            device = model.device
            model.close()
            model = open_model(
                role.on_cpu, device='cpu', threads=self._threads, concurrency=self.concurrency
            )
            model.device = device.noted('in 8 bits')
        if role.name in _PAINTERS:
            self._opened[key] = Generator(
                model, crop_scale=options[0], max_batch=options[1], chooser=chooser
            )
        elif role.name in CHOOSERS:
            self._opened[key] = Chooser(model)
        else:
            self._opened[key] = Network(model, DETECTORS.index(role.name))
        return self._opened[key]

    def _shared(self, role: Role) -> Backend | None:
        """Return the model of another detector of the same file, which then runs once for both."""
        for (name, path, *_), network in self._opened.items():
            are_detectors = {name, role.name} <= {*DETECTORS}
            if are_detectors and _place(Path(str(path))) == _place(role.path):
                return network.model
        return None


def _place(path: Path) -> Path:
    """Return where a file lies under its own name: a link has a manifest of its own."""
    return path.parent.resolve() / path.name
