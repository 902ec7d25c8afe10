"""The training recipe, read from top to bottom: settings in, checkpoints and grids out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
import copy
import math
from pathlib import Path
import time
from typing import Any

from ffs_anonymizer.allocator import keep_memory
from ffs_anonymizer.datasets.faces import load_packed, PackedFaces
from ffs_anonymizer.datasets.sampler import Batch, Chance, Sampler
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ffs_anonymizer.training.generator.alignment import align
from ffs_anonymizer.training.generator.distil import load_teacher, Teacher
from ffs_anonymizer.training.generator.lessons import Matching, Wearing
from ffs_anonymizer.training.generator.network import (
    beneath,
    composite,
    ConvNorm,
    DetailedGenerator,
    FaceNetwork,
    likeness,
    make_network,
    packed,
)
from ffs_anonymizer.training.generator.sharing import share_start, Sharing
from ffs_anonymizer.training.generator.steadying import Between, Steadying
from ffs_anonymizer.training.run import (
    choose_device,
    follow,
    interruptible,
    progress_at,
    rate_at,
    refuse_other_settings,
)
from ffs_anonymizer.training.settings import MATCHING, SHARING, STEADYING, TrainSettings
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
import yaml

GRID_FACES = 14
GRID_DRAWS = 3
FIXED_STEP = 999_983  # of batches that no step draws


def train(settings: TrainSettings, *, quiet: bool = False) -> Path:
    """
    Train a generator, from where the run's folder says that it stopped, and return its checkpoint.

    :param settings: all of them; printed and saved beside the result.
    :param quiet: show no progress bar.
    :raises AnonymizerError: the data or a checkpoint is unfit, or nothing can be written.
    """
    # Resolve everything, show it, save it
    if not settings.data or not settings.out:
        raise SettingsError('data and out: got nothing, expected a folder each')
    device = choose_device(settings.device)
    out = Path(settings.out)
    checkpoint_path = out / 'last.pt'
    resumed = load_checkpoint(checkpoint_path) if checkpoint_path.exists() else None
    if resumed is not None:
        refuse_other_settings(settings, resumed, checkpoint_path)
        if 'generator_steps' not in resumed:
            raise ModelError(
                f'{checkpoint_path}: got weights, but no run to go on with; start one in another '
                f'folder with init_from={checkpoint_path}'
            )
    try:
        (out / 'grids').mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(settings.as_dict(), sort_keys=False)
        (out / 'settings.yaml').write_text(text, encoding='utf-8')
    except OSError as error:
        raise ModelError(f'{out}: cannot be written: {error}') from error
    if not quiet:
        print(text, end='')

    # Data
    faces = load_packed(Path(settings.data))
    numbers, held_out = with_points(faces)
    if len(numbers) == 0:
        raise MediaError(
            f'{settings.data}: got no face to train on: none, all held out, or without eyes, nose '
            'and mouth; add photos, or build the data set with --landmarks-model'
        )
    held_out = held_out if len(held_out) else numbers
    sampler = sampler_of(faces, numbers, settings, device)
    shown = spread_out(sampler_of(faces, held_out, settings, device), len(held_out), GRID_FACES)

    # Networks, optimizers and what they start from
    keep_memory()
    torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(settings.seed)
    channels_last: Any = torch.channels_last
    network = make_network(settings.network, settings.channels)
    network = network.to(device, memory_format=channels_last)
    start = None
    if settings.init_from and resumed is None:
        start = load_checkpoint(Path(settings.init_from))
        load_weights(network, beneath(start['ema'], network), settings.init_from)
    teacher = None
    if settings.teacher:
        teacher = load_teacher(Path(settings.teacher), network, settings.size_px).to(device)
    between = None
    if settings.learns in (STEADYING, SHARING):
        between = start_as(teacher, network, settings)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    frozen = freeze(network, settings.freeze)
    if between is not None:
        frozen = [network]  # as its teacher, it goes by the statistics that it came with
    elif teacher is not None:
        frozen += [network.encoder, network.matcher, network.generator.pose]
    if settings.learns == MATCHING:
        frozen += [each.requires_grad_(False) for each in (network.encoder, network.generator)]
    learning = [p for p in network.parameters() if p.requires_grad]
    learning += [] if teacher is None else list(teacher.adapters.parameters())
    generator_steps = torch.optim.Adam(learning, settings.rate_generator, betas=(0.5, 0.99))
    kinds = {MATCHING: Matching, STEADYING: Steadying, SHARING: Sharing}
    kind = kinds.get(settings.learns, Wearing)
    lesson = kind(settings, network, teacher, device)
    step = images = 0
    seconds = 0.0
    if resumed is None:
        lesson.begin(sampler.draw(128, seed=settings.seed, step=FIXED_STEP), start)
    else:
        load_weights(network, resumed['generator'], str(checkpoint_path))
        load_weights(average, resumed['ema'], str(checkpoint_path))
        if teacher is not None:
            load_weights(teacher.adapters, resumed['adapters'], str(checkpoint_path))
        generator_steps.load_state_dict(resumed['generator_steps'])
        lesson.load(resumed, str(checkpoint_path))
        step, images, seconds = resumed['step'], resumed['images'], resumed.get('seconds', 0.0)

    def state() -> Checkpoint:
        return {
            'settings': settings.as_dict(),
            'step': step,
            'images': images,
            'seconds': seconds,
            'generator': network.state_dict(),
            'ema': average.state_dict(),
            'adapters': {} if teacher is None else teacher.adapters.state_dict(),
            'generator_steps': generator_steps.state_dict(),
            **lesson.state(),
        }

    # Steps
    writer = SummaryWriter(str(out / 'scalars'), purge_step=step)
    bar = tqdm(total=settings.steps, initial=step, unit='step', disable=quiet, mininterval=10)
    started, images_before, seconds_before = time.monotonic(), images, seconds
    progress = progress_at(step, seconds, settings)
    with interruptible() as interrupted, bar:
        while progress < 1.0:
            network.train()
            for module in frozen:
                module.eval()
            batch = sampler.draw(settings.batch, seed=settings.seed, step=step)
            chance = Chance(settings.seed * 1_000_003 + step + 1_000_000_007, device)
            rate = rate_at(step, progress, settings)
            for group in generator_steps.param_groups:
                group['lr'] = settings.rate_generator * rate
            lesson.set_rate(rate)

            terms = lesson(batch, chance, step, progress)
            total = torch.stack([weight * term for weight, term in terms.values()]).sum()
            generator_steps.zero_grad(set_to_none=True)
            total.backward()
            generator_steps.step()
            lesson.scalars.update({name: term for name, (_, term) in terms.items()})
            keep = 0.5 ** (len(batch) / settings.ema_images)
            if between is None:
                follow(average, network, keep, step, average_buffers=True)
            else:
                follow(average.generator, between.follow(network.generator), keep, step)
            step += 1
            images += len(batch)
            seconds = seconds_before + time.monotonic() - started
            progress = progress_at(step, seconds, settings)
            bar.update()

            # What is seen of it
            last = progress >= 1.0 or interrupted()
            if step % settings.log_every == 0 or last:
                speed = (images - images_before) / (time.monotonic() - started)
                values = {n: float(value.detach()) for n, value in lesson.scalars.items()}
                if not all(math.isfinite(value) for value in values.values()):
                    raise ModelError(f'step {step}: got {values}, expected finite losses')
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.add_scalar('images_s', speed, step)
                told_values = {name: f'{value:.3f}' for name, value in values.items()}
                bar.set_postfix(
                    images=images, images_s=f'{speed:.1f}', **told_values, refresh=False
                )
            if step % settings.grid_every == 0 or last:
                write_grid(out / 'grids' / f'{step:07d}.png', lesson.shown(average), shown)
            if step % settings.save_every == 0 or last:
                save_checkpoint(checkpoint_path, state())
            if last:
                break
    writer.close()
    if not quiet:
        speed = (images - images_before) / max(time.monotonic() - started, 1e-9)
        print(f'{checkpoint_path}: step {step}, {images} images seen, {speed:.1f} images/s')
    return checkpoint_path


def start_as(
    teacher: Teacher | None, network: FaceNetwork, settings: TrainSettings
) -> Between | None:
    """
    Make a network start as its teacher; where it is to be steadied, return what is between them.

    :param teacher: the same network, trained.
    :param network: changed in place; what paints learns, and where the points are if steadied.
    :raises SettingsError: there is no teacher.
    :raises ModelError: it is another network.
    """
    if teacher is None:
        raise SettingsError(
            f'teacher: got nothing, expected the checkpoint that {settings.learns} starts from'
        )
    if settings.learns == SHARING:
        share_start(teacher, network.generator, settings.teacher)
        return None
    load_weights(network.generator, teacher.teacher.state_dict(), settings.teacher)
    network.generator.requires_grad_(True)
    return Between(teacher.teacher, settings.steadied_share)


def sampler_of(
    faces: PackedFaces, numbers: NDArray[np.int64], settings: TrainSettings, device: torch.device
) -> Sampler:
    """
    Return what draws batches of photos as the settings say.

    :param numbers: the photos to draw from.
    :param device: where batches are wanted.
    """
    return Sampler(
        faces,
        numbers,
        size_px=settings.size_px,
        region_scale=settings.region_scale,
        crop_scale=settings.crop_scale,
        device=device,
    )


def spread_out(sampler: Sampler, of: int, count: int) -> Batch:
    """
    Return photos as they are, from all over the data set.

    :param sampler: of the photos.
    :param count: how many at most.
    """
    return sampler.plain(np.unique(np.linspace(0, of - 1, count).astype(np.int64)))


def freeze(network: FaceNetwork, prefixes: str) -> list[nn.Module]:
    """
    Keep layers as they are and return them, for their norms to stay in evaluation mode.

    :param prefixes: names or beginnings of names of layers, commas between.
    """
    frozen: list[nn.Module] = []
    for prefix in filter(None, (p.strip() for p in prefixes.split(','))):
        found = [m for n, m in network.named_modules() if n == prefix]
        if not found:
            names = ', '.join(f'generator.{n}' for n, _ in network.generator.named_children())
            raise SettingsError(f'freeze: got {prefix!r}, expected some of {names}')
        for module in found:
            module.requires_grad_(False)
        frozen += found
    if not any(p.requires_grad for p in network.parameters()):
        raise SettingsError(f'freeze: got {prefixes!r}, which leaves nothing to train')
    return frozen


def with_points(faces: PackedFaces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """
    Return the numbers of the photos to train on and of those held out, whose points are known.

    :param faces: the data set.
    """
    known = np.asarray(np.isfinite(faces.points_px).all((1, 2)))
    numbers, held_out = faces.split()
    return numbers[known[numbers]], held_out[known[held_out]]


def worn(network: FaceNetwork, batch: Batch) -> torch.Tensor:
    """
    Return the faces of a batch as latents, (N, LATENT).

    :param network: in evaluation mode.
    """
    face, points = align(batch.image, batch.points_px / batch.image.shape[-1])
    return packed(network.encoder(face), points)


def settle(average: FaceNetwork, batches: Iterable[Batch]) -> FaceNetwork:
    """
    Return a copy whose batch statistics are those of worn faces, ready to be used.

    :param average: its norms hold the statistics of the unaveraged network.
    :param batches: to take the statistics from; each wears the face of the next.
    """
    settled: FaceNetwork = copy.deepcopy(average).eval()
    below = []
    if isinstance(settled.generator, DetailedGenerator):  # all below the detail is as it came
        below = [settled.generator.base, settled.encoder, settled.matcher]
    with taking_statistics(settled, but=below):
        for batch in batches:
            latents = worn(settled, batch)
            settled.generator(
                batch.condition, batch.mask, latents.roll(1, 0), batch.mean_points_px
            )
            settled.matcher(batch.condition, batch.mask, batch.mean_points_px)
    return settled


@contextmanager
def taking_statistics(network: nn.Module, *, but: Iterable[nn.Module] = ()) -> Iterator[None]:
    """
    Have the norms of a network take the statistics of what it is given within a block, in place.

    :param network: in evaluation mode.
    :param but: parts of it whose norms stay as they are.
    """
    kept = {module for part in but for module in part.modules()}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m not in kept]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        yield
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


def retake(network: FaceNetwork, batches: Iterable[Batch]) -> None:
    """
    Give a generator the statistics that worn faces have, and let it paint what it painted.

    A steadied one learned with the statistics of its teacher, which are no longer its own.

    :param network: in evaluation mode; its norms are changed in place.
    :param batches: to take the statistics from; each wears the face of the next.
    """
    layers = [m for m in network.generator.modules() if isinstance(m, ConvNorm)]
    sums = [[torch.zeros(()), torch.zeros(())] for _ in layers]
    counts = [0 for _ in layers]

    def add(i: int, out: torch.Tensor) -> None:
        counts[i] += out.numel() // out.shape[1]
        for k, value in enumerate((out, out.square())):
            sums[i][k] = sums[i][k] + value.double().sum((0, 2, 3))

    with torch.no_grad():
        hooks = [
            layer.conv.register_forward_hook(lambda _m, _in, out, i=i: add(i, out))
            for i, layer in enumerate(layers)
        ]
        for batch in batches:
            latents = worn(network, batch)
            network.generator(
                batch.condition, batch.mask, latents.roll(1, 0), batch.mean_points_px
            )
        for hook in hooks:
            hook.remove()
        for layer, (total, squares), count in zip(layers, sums, counts, strict=True):
            norm = layer.norm
            mean = total / count
            var = squares / count - mean.square()
            old = (norm.running_var.double() + norm.eps).sqrt()
            norm.bias.add_(norm.weight * (mean - norm.running_mean) / old)
            norm.weight.mul_((var + norm.eps).sqrt() / old)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)


def write_grid(path: Path, average: FaceNetwork, batch: Batch) -> None:
    """
    Write one column a face: what is seen, in its own face, in faces of others that fit, the photo.

    The own face is at its own points; the others are where the surroundings say.

    :param path: a PNG.
    :param average: in evaluation mode.
    """
    condition, mask, image = batch.condition, batch.mask, batch.image
    with torch.no_grad():
        latents = worn(average, batch)
        _, own = average.generator.repaint(condition, mask, latents, batch.points_px)
        rows = [condition, own]
        wanted, _ = average.matcher(condition, mask, batch.mean_points_px)
        fits = likeness(wanted, batch.traits)
        best = fits.fill_diagonal_(-torch.inf).topk(min(GRID_DRAWS, len(batch) - 1), 1).indices
        points = batch.mean_points_px
        rows += [average.generator(condition, mask, latents[others], points) for others in best.T]
        rows[1:] = [composite(row, image, mask) for row in rows[1:]]
        shown = torch.cat([*rows, image]).permute(0, 2, 3, 1).float().cpu().numpy()
    tiles = np.rint((shown.clip(-1, 1) + 1) * 127.5).astype(np.uint8)[..., ::-1]
    save_tiles(path, tiles, columns=len(batch))
