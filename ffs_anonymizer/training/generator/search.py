"""Channel search, read from top to bottom: a teacher in, a narrower generator out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffs_anonymizer.datasets.faces import load_packed
from ffs_anonymizer.datasets.sampler import Batch
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ffs_anonymizer.training.generator.candidates import (
    Candidate,
    front,
    read_candidates,
    to_markdown,
    upcoming,
    write_candidates,
)
from ffs_anonymizer.training.generator.export import settled
from ffs_anonymizer.training.generator.losses import pixel_distance
from ffs_anonymizer.training.generator.network import (
    architecture,
    composite,
    FaceNetwork,
    GeneratorArchitecture,
    GeneratorNetwork,
    make_network,
)
from ffs_anonymizer.training.generator.search_plot import draw
from ffs_anonymizer.training.generator.sharing import narrowed
from ffs_anonymizer.training.generator.train import (
    FIXED_STEP,
    sampler_of,
    spread_out,
    taking_statistics,
    train,
    with_points,
    worn,
)
from ffs_anonymizer.training.generator.widths import Channels, cost, make_table, Table, to_text
from ffs_anonymizer.training.run import choose_device, progress_at
from ffs_anonymizer.training.settings import ALL, from_mapping, SHARING, TrainSettings
import numpy as np
import torch

MOST = 400
CALIBRATED = 256
JUDGED = 64
SHOWN = 10
TAKEN_OVER = ('network', 'channels', 'size_px', 'region_scale', 'crop_scale')
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """
    Say what is searched.

    :param settings: of the run that trains the shared weights.
    :param out: the folder of all results.
    :param usual: how wide and how deep the teacher is.
    :param table: the widths to choose from.
    :param budget_macs: the most multiply-accumulates for one face.
    :param most: how many candidates are judged at most.
    """

    settings: TrainSettings
    out: Path
    usual: GeneratorArchitecture
    table: Table
    budget_macs: int
    most: int

    def cost(self, channels: Channels) -> tuple[int, int]:
        """Return parameters and multiply-accumulates of some widths."""
        return cost(self.usual, channels, self.settings.size_px)

    def is_affordable(self, channels: Channels) -> bool:
        """Tell whether some widths are within the budget."""
        return self.cost(channels)[1] <= self.budget_macs

    def __str__(self) -> str:
        """Return what is told before it begins."""
        least, most = (self.cost(c)[1] / 1e9 for c in (self.table.narrowest, self.table.widest))
        return (
            f'{len(self.table)} networks of {least:.3f} to {most:.3f} GMAC a face, '
            f'{min(len(self.table), self.most)} of them to judge, budget '
            f'{self.budget_macs / 1e9:.3f} (the teacher: '
            f'{self.cost(self.usual.channels)[1] / 1e9:.3f})'
        )


def make_plan(
    teacher: Path,
    out: Path,
    values: Mapping[str, Any],
    *,
    gmac: float | None = None,
    most: int = MOST,
) -> Plan:
    """
    Return what is searched, before anything is trained.

    :param teacher: checkpoint of a trained generator.
    :param out: the folder of all results.
    :param values: settings of the training, among them `data` and `widths`.
    :param gmac: the budget, in 1e9 multiply-accumulates a face; None: halfway between
        the narrowest and the widest.
    :param most: how many candidates are judged at most.
    :raises ModelError: the teacher is missing or unfit.
    :raises SettingsError: nothing can be chosen, or nothing is within the budget.
    """
    theirs = from_mapping(load_checkpoint(teacher)['settings'], TrainSettings)
    settings = from_mapping(
        {
            **{name: getattr(theirs, name) for name in TAKEN_OVER},
            **values,
            'learns': SHARING,
            'teacher': str(teacher),
            'out': str(out / 'shared'),
        },
        TrainSettings,
    )
    usual = architecture(theirs.network, theirs.channels)
    table = make_table(settings.widths, usual.channels)
    ends = [cost(usual, c, settings.size_px)[1] for c in (table.narrowest, table.widest)]
    budget_macs = sum(ends) // 2 if gmac is None else round(gmac * 1e9)
    plan = Plan(settings, out, usual, table, budget_macs, most)
    if usual.detail:
        raise ModelError(
            f'{teacher}: got a network with a level of detail, expected the one below it'
        )
    if len(table) < 2 or most < 2:
        raise SettingsError(
            f'widths: got {len(table)} network and {most} to judge, expected 2 and more; give '
            'more than one width for some levels'
        )
    if budget_macs < ends[0]:
        raise SettingsError(
            f'budget: got {budget_macs / 1e9:.3f} GMAC a face, which none of {len(table)} '
            f'networks meets: the narrowest needs {ends[0] / 1e9:.3f}; give a larger '
            'budget or narrower widths'
        )
    return plan


def search(plan: Plan, *, plot: bool = True, quiet: bool = False) -> Path | None:
    """
    Train, judge and choose, from where it was stopped; return the checkpoint that was chosen.

    Written are shared/ (the run), candidates.csv, candidates.png, faces.png and last.pt.

    :param plan: what is searched.
    :param plot: draw candidates.png.
    :param quiet: print nothing.
    :returns: None where the training was interrupted.
    :raises AnonymizerError: the data or a checkpoint is unfit, or nothing can be written.
    """
    settings = plan.settings
    if not quiet:
        print(plan)

    # One set of weights for all widths
    shared_path = train(settings, quiet=quiet)
    shared = load_checkpoint(shared_path)
    if progress_at(shared['step'], shared.get('seconds', 0.0), settings) < 1.0:
        return None
    device = choose_device(settings.device)
    wide = make_network(settings.network, settings.channels)
    load_weights(wide, shared['ema'], str(shared_path))
    wide = wide.eval().to(device)

    # How far each of them is from the teacher
    earlier, _, teacher = settled(Path(settings.teacher), Path(settings.data))
    judge = Judge(teacher.to(device), settings, device)
    table_path = plan.out / 'candidates.csv'
    known = read_candidates(table_path, shared['images'])
    judged = judge_all(plan, judge, wide.generator, known, quiet=quiet)
    try:
        found = write_candidates(table_path, judged, shared['images'])
    except OSError as error:
        raise ModelError(f'{table_path}: cannot be written: {error}') from error

    # The best that can be afforded
    affordable = [c for c in front(found) if c.macs <= plan.budget_macs]
    chosen = affordable[-1]
    network = with_generator(wide, judge.prepared(wide.generator, chosen.channels))
    path = plan.out / 'last.pt'
    save_checkpoint(path, chosen_checkpoint(plan, chosen.channels, network, earlier, shared))
    shown = [judge.prepared(wide.generator, c) for c in (plan.table.widest, chosen.channels)]
    judge.show(plan.out / 'faces.png', [teacher.generator, *shown])
    if plot:
        whole = plan.cost(plan.usual.channels)[1]
        title = f'{settings.network}: {len(found)} of {len(plan.table)} networks judged'
        draw(plan.out / 'candidates.png', title, found, chosen, plan.budget_macs, whole)
    if not quiet:
        print(to_markdown(front(found)), end='')
        print(
            f'{path}: channels={to_text(chosen.channels)}, {chosen.macs / 1e9:.3f} GMAC a face, '
            f'{chosen.distance:.2f} levels from the teacher'
        )
    return path


def judge_all(
    plan: Plan,
    judge: Judge,
    generator: GeneratorNetwork,
    known: list[Candidate],
    *,
    quiet: bool,
) -> Iterator[Candidate]:
    """
    Judge one network after the other, those that are known first.

    :param generator: of the shared weights.
    :param known: judged earlier.
    :param quiet: show no progress bar.
    """
    from tqdm import tqdm

    yield from known
    found = list(known)
    total = min(len(plan.table), plan.most)
    with tqdm(total=total, initial=len(found), unit='network', disable=quiet or None) as bar:
        while True:
            channels = upcoming(plan.table, found, plan.is_affordable, plan.most)
            if channels is None:
                return
            parameters, macs = plan.cost(channels)
            distance = judge(judge.prepared(generator, channels))
            found.append(Candidate(channels, macs, parameters, distance))
            yield found[-1]
            bar.update()


class Judge:
    """
    Hold crops of people whom nobody was trained on, and what the teacher paints there.

    Faces of others are worn, at the places that the surroundings tell, as at run time.

    :param teacher: settled.
    :param settings: of the training.
    :param device: where all is painted.
    """

    def __init__(
        self, teacher: FaceNetwork, settings: TrainSettings, device: torch.device
    ) -> None:
        """Draw the crops, and let the teacher paint."""
        faces = load_packed(Path(settings.data))
        numbers, held_out = with_points(faces)
        held_out = held_out if len(held_out) else numbers
        sampler = sampler_of(faces, numbers, settings, device)
        drawn = [
            sampler.draw(JUDGED, seed=settings.seed, step=FIXED_STEP + i)
            for i in range(CALIBRATED // JUDGED)
        ]
        others = sampler_of(faces, held_out, settings, device)
        plain = spread_out(others, len(held_out), JUDGED)
        with torch.no_grad():
            self.calibration = [given(teacher, batch) for batch in drawn]
            self.given = given(teacher, plain)
            self.wanted = paint(teacher.generator, self.given)

    def prepared(self, generator: GeneratorNetwork, channels: Channels) -> GeneratorNetwork:
        """
        Return a narrower generator with statistics of its own.

        :param generator: of the shared weights.
        :param channels: its widths.
        """
        narrow = narrowed(generator, channels)
        with taking_statistics(narrow, but=[narrow.pose]):
            for seen in self.calibration:
                paint(narrow, seen)
        return narrow

    def __call__(self, generator: GeneratorNetwork) -> float:
        """
        Return the mean difference from the teacher's painting in the hole, of 255 levels.

        :param generator: in evaluation mode.
        """
        with torch.no_grad():
            painted = paint(generator, self.given)
            return 127.5 * float(pixel_distance(painted, self.wanted, 1.0 - self.given[1]))

    def show(self, path: Path, generators: list[GeneratorNetwork]) -> None:
        """
        Write one line of faces for each generator, below what all of them see.

        :param path: a PNG.
        :param generators: in evaluation mode.
        """
        condition, mask, *others = (each[:SHOWN] for each in self.given)
        with torch.no_grad():
            painted = [paint(g, (condition, mask, *others)) for g in generators]
        rows = [condition, *(composite(each, condition, mask) for each in painted)]
        pictures = torch.cat(rows).permute(0, 2, 3, 1).cpu().numpy()[..., ::-1]
        tiles = np.rint((pictures.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        save_tiles(path, tiles, columns=len(condition))


def given(network: FaceNetwork, batch: Batch) -> Given:
    """
    Return what features() of a generator take: each row wears the face of the one before.

    :param network: tells the faces, and where they go.
    """
    points = network.generator.pose(batch.condition, batch.mask, batch.mean_points_px)
    return batch.condition, batch.mask, worn(network, batch).roll(1, 0), points


def paint(generator: GeneratorNetwork, seen: Given) -> torch.Tensor:
    """
    Return the crops repainted, (N, 3, S, S) in [-1, 1].

    :param seen: what given() returned.
    """
    _, painted = generator.repaint(*seen)
    return painted.clamp(-1.0, 1.0)


def with_generator(network: FaceNetwork, generator: GeneratorNetwork) -> FaceNetwork:
    """
    Return the networks that are trained together, with another generator.

    :param network: whose encoder and matcher are taken.
    :param generator: its own.
    """
    whole = FaceNetwork(generator.architecture)
    whole.generator, whole.encoder, whole.matcher = generator, network.encoder, network.matcher
    whole.eval()
    return whole


def chosen_checkpoint(
    plan: Plan,
    channels: Channels,
    network: FaceNetwork,
    earlier: Checkpoint,
    shared: Checkpoint,
) -> Checkpoint:
    """
    Return a checkpoint that export and init_from take.

    :param channels: of the generator.
    :param network: its weights.
    :param earlier: the teacher's, whose settings and critic it keeps.
    :param shared: that of the shared weights.
    """
    theirs = from_mapping(earlier['settings'], TrainSettings)
    settings = replace(
        theirs,
        data=plan.settings.data,
        out=str(plan.out),
        channels=to_text(channels),
        learns=ALL,
        init_from='',
        teacher='',
    )
    weights = network.cpu().state_dict()
    return {
        'settings': settings.as_dict(),
        'step': earlier['step'] + shared['step'],
        'images': earlier['images'] + shared['images'],
        'generator': weights,
        'ema': weights,
        'critic': earlier.get('critic', {}),
    }
