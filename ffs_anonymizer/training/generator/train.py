"""The training recipe, read from top to bottom: settings in, checkpoints and grids out."""

from __future__ import annotations

import copy
import math
from pathlib import Path
import time
from typing import Any

import cv2
from ffs_anonymizer.datasets.faces import Batch, batches, draw_batch, load_packed, PackedFaces
from ffs_anonymizer.datasets.packing import tile_images
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ffs_anonymizer.training.generator.critic import Critic
from ffs_anonymizer.training.generator.distil import load_teacher
from ffs_anonymizer.training.generator.features import make_features
from ffs_anonymizer.training.generator.identity_loss import load_stranger
from ffs_anonymizer.training.generator.losses import (
    augment,
    critic_hinge,
    feature_distance,
    generator_hinge,
    inner_border,
    pixel_distance,
)
from ffs_anonymizer.training.generator.network import (
    composite,
    Generator,
    make_generator,
    transplant,
)
from ffs_anonymizer.training.run import (
    choose_device,
    follow,
    interruptible,
    rate_at,
    refuse_other_settings,
)
from ffs_anonymizer.training.settings import TrainSettings
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
import yaml

GRID_FACES = 24


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
    numbers, held_out = faces.split()
    if len(numbers) == 0:
        raise MediaError(f'{settings.data}: got no face to train on, all are held out; add photos')
    held_out = held_out if len(held_out) else numbers

    # Networks, optimizers and what they start from
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    channels_last: Any = torch.channels_last
    generator = make_generator(settings.network).to(device, memory_format=channels_last)
    critic = Critic(settings.critic_channels).to(device, memory_format=channels_last)
    features = make_features(settings.features).to(device, memory_format=channels_last)
    if settings.init_from and resumed is None:
        start_from(Path(settings.init_from), generator, critic)
    average = copy.deepcopy(generator).requires_grad_(False)
    if resumed is None:
        calibration = fixed_batch(faces, numbers, settings, seed=settings.seed, count=128)
        features.calibrate(torch.from_numpy(calibration.image).to(device))
    frozen = freeze(generator, settings.freeze)
    teacher = None
    learning = [p for p in generator.parameters() if p.requires_grad]
    if settings.teacher:
        teacher = load_teacher(Path(settings.teacher), generator, settings.size_px).to(device)
        learning += list(teacher.adapters.parameters())
    stranger = None
    if settings.recognizer:
        if not np.isfinite(faces.points_px).all((1, 2)).any():
            raise MediaError(
                f'{settings.data}: got no eyes, nose and mouths, which the recognizer needs; '
                'build the data set with --landmarks-model'
            )
        stranger = load_stranger(Path(settings.recognizer)).to(device)
    generator_steps = torch.optim.Adam(
        learning,
        settings.rate_generator,
        betas=(0.0, 0.99),
    )
    critic_steps = torch.optim.Adam(
        critic.heads.parameters(), settings.rate_critic, betas=(0.0, 0.99)
    )
    step = images = 0
    if resumed is not None:
        load_weights(generator, resumed['generator'], str(checkpoint_path))
        load_weights(average, resumed['ema'], str(checkpoint_path))
        load_weights(critic, resumed['critic'], str(checkpoint_path))
        load_weights(features.scales, resumed['scales'], str(checkpoint_path))
        if teacher is not None:
            load_weights(teacher.adapters, resumed['adapters'], str(checkpoint_path))
        generator_steps.load_state_dict(resumed['generator_steps'])
        critic_steps.load_state_dict(resumed['critic_steps'])
        step, images = resumed['step'], resumed['images']

    def state() -> Checkpoint:
        return {
            'settings': settings.as_dict(),
            'step': step,
            'images': images,
            'generator': generator.state_dict(),
            'ema': average.state_dict(),
            'critic': critic.state_dict(),
            'scales': features.scales.state_dict(),
            'adapters': {} if teacher is None else teacher.adapters.state_dict(),
            'generator_steps': generator_steps.state_dict(),
            'critic_steps': critic_steps.state_dict(),
        }

    # Steps
    grid_batch = held_out_batch(faces, held_out, settings, GRID_FACES)
    settling = [
        fixed_batch(faces, numbers, settings, seed=settings.seed + 1 + i, count=32)
        for i in range(4)
    ]
    writer = SummaryWriter(str(out / 'scalars'), purge_step=step)
    drawn = batches(
        faces,
        numbers,
        seed=settings.seed,
        steps=range(step, settings.steps),
        batch=settings.batch,
        size_px=settings.size_px,
        crop_scale=settings.crop_scale,
    )
    bar = tqdm(total=settings.steps, initial=step, unit='step', disable=quiet, mininterval=10)
    started, images_before = time.monotonic(), images
    with interruptible() as interrupted, bar:
        for batch in drawn:
            generator.train()
            for module in frozen:
                module.eval()
            condition, mask, image = (
                torch.from_numpy(a).to(device).to(memory_format=channels_last)
                for a in (batch.condition, batch.mask, batch.image)
            )
            rate = rate_at(step, settings)
            for group in generator_steps.param_groups:
                group['lr'] = settings.rate_generator * rate
            for group in critic_steps.param_groups:
                group['lr'] = settings.rate_critic * rate
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                levels = generator.features(condition, mask)
                painted = generator.paint(levels[-1], condition, mask)
            chance = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            filled = composite(painted, image, mask)
            (real, fake), seen_mask = augment((image, filled), mask, chance, settings.look_px)
            with (
                torch.no_grad(),
                torch.autocast(device.type, torch.bfloat16, enabled=settings.half),
            ):
                real_taps = features(real)
            fake_taps = features(fake)
            adversarial = step >= settings.critic_from and settings.weight_critic > 0
            scalars: dict[str, torch.Tensor] = {}

            # The critic learns
            if adversarial:
                critic.heads.requires_grad_(True)
                both = [
                    torch.cat([r.float(), f.detach().float()])
                    for r, f in zip(real_taps, fake_taps, strict=True)
                ]
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                    logits = critic(both, torch.cat([seen_mask, seen_mask]))
                n = len(mask)
                real_logits = [one[:n].float() for one in logits]
                fake_logits = [one[n:].float() for one in logits]
                loss = critic_hinge(real_logits, fake_logits, seen_mask)
                critic_steps.zero_grad(set_to_none=True)
                loss.backward()
                critic_steps.step()
                critic.heads.requires_grad_(False)
                scalars['critic'] = loss
                scalars['logit_real'] = torch.stack([one.mean() for one in real_logits]).mean()
                scalars['logit_fake'] = torch.stack([one.mean() for one in fake_logits]).mean()

            # The generator learns
            total = painted.new_zeros(())
            if adversarial:
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                    logits = critic(fake_taps, seen_mask)
                scalars['adversarial'] = generator_hinge([o.float() for o in logits], seen_mask)
                total = total + settings.weight_critic * scalars['adversarial']
            scalars['features'] = feature_distance(
                [tap.float() for tap in real_taps], fake_taps, seen_mask
            )
            scalars['hole'] = pixel_distance(painted, image, 1.0 - mask)
            scalars['border'] = pixel_distance(painted, image, inner_border(mask))
            scalars['ring'] = pixel_distance(painted, image, mask)
            total = total + settings.weight_features * scalars['features']
            total = total + settings.weight_hole * scalars['hole']
            total = total + settings.weight_border * scalars['border']
            total = total + settings.weight_ring * scalars['ring']
            if teacher is not None:
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                    scalars['distil'] = teacher(levels, painted, condition, mask)
                total = total + settings.weight_distil * scalars['distil']
            if stranger is not None:
                points_px = torch.from_numpy(batch.points_px)
                moved = torch.randn(points_px.shape, generator=chance) * mask.shape[-1] / 80
                points_px = (points_px + moved).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                    scalars['stranger'] = stranger(filled, image, points_px)
                total = total + settings.weight_stranger * scalars['stranger']
            generator_steps.zero_grad(set_to_none=True)
            total.backward()
            generator_steps.step()
            follow(average, generator, 0.5 ** (len(mask) / settings.ema_images), step)
            step += 1
            images += len(mask)
            bar.update()

            # What is seen of it
            last = step == settings.steps or interrupted()
            if step % settings.log_every == 0 or last:
                speed = (images - images_before) / (time.monotonic() - started)
                values = {name: float(value.detach()) for name, value in scalars.items()}
                if not all(math.isfinite(value) for value in values.values()):
                    raise ModelError(f'step {step}: got {values}, expected finite losses')
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.add_scalar('images_s', speed, step)
                shown = {name: f'{value:.3f}' for name, value in values.items()}
                bar.set_postfix(images=images, images_s=f'{speed:.1f}', **shown, refresh=False)
            if step % settings.grid_every == 0 or last:
                settled = settle(average, settling, device)
                write_grid(out / 'grids' / f'{step:07d}.png', settled, grid_batch, device)
            if step % settings.save_every == 0 or last:
                save_checkpoint(checkpoint_path, state())
            if last:
                break
    drawn.close()
    writer.close()
    if not quiet:
        speed = (images - images_before) / max(time.monotonic() - started, 1e-9)
        print(f'{checkpoint_path}: step {step}, {images} images seen, {speed:.1f} images/s')
    return checkpoint_path


def start_from(path: Path, generator: Generator, critic: Critic) -> None:
    """
    Load the weights of another run: the same network, or one with fewer levels to grow from.

    :param path: its checkpoint.
    :param generator: what to load into.
    :param critic: takes the other critic's weights where they fit.
    """
    values = load_checkpoint(path)
    source = make_generator(str(values['settings']['network']))
    load_weights(source, values['ema'], str(path))
    transplant(source, generator)
    theirs = values.get('critic', {})
    own = critic.state_dict()
    if {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}:
        critic.load_state_dict(theirs)


def freeze(generator: Generator, prefixes: str) -> list[nn.Module]:
    """
    Keep layers as they are and return them, for their norms to stay in evaluation mode.

    :param generator: the network.
    :param prefixes: names or beginnings of names of layers, commas between.
    """
    frozen: list[nn.Module] = []
    for prefix in filter(None, (p.strip() for p in prefixes.split(','))):
        found = [m for n, m in generator.named_modules() if n == prefix]
        if not found:
            names = ', '.join(name for name, _ in generator.named_children())
            raise SettingsError(f'freeze: got {prefix!r}, expected some of {names}')
        for module in found:
            module.requires_grad_(False)
        frozen += found
    if not any(p.requires_grad for p in generator.parameters()):
        raise SettingsError(f'freeze: got {prefixes!r}, which leaves nothing to train')
    return frozen


def fixed_batch(
    faces: PackedFaces,
    numbers: NDArray[np.int64],
    settings: TrainSettings,
    *,
    seed: int,
    count: int,
) -> Batch:
    """
    Return a batch that no training step draws.

    :param faces: the data set.
    :param numbers: the photos to draw from.
    :param settings: of the run.
    :param seed: which batch.
    :param count: how many faces.
    """
    return draw_batch(
        faces,
        numbers,
        seed=seed,
        step=2**31,
        batch=count,
        size_px=settings.size_px,
        crop_scale=settings.crop_scale,
    )


def held_out_batch(
    faces: PackedFaces, held_out: NDArray[np.int64], settings: TrainSettings, count: int
) -> Batch:
    """
    Return faces of people never trained on, the same whatever the run's seed.

    :param faces: the data set.
    :param held_out: the photos to draw from.
    :param settings: of the run.
    :param count: how many faces.
    """
    return fixed_batch(faces, held_out, settings, seed=20_000, count=count)


def settle(average: Generator, drawn: list[Batch], device: torch.device) -> Generator:
    """
    Return a copy of the averaged network with batch statistics of its own, ready to be used.

    :param average: its norms hold the statistics of the unaveraged network.
    :param drawn: batches to take the statistics from.
    :param device: where the network is.
    """
    with torch.no_grad():
        settled: Generator = copy.deepcopy(average).train()
        norms = [m for m in settled.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        for batch in drawn:
            condition, mask = torch.from_numpy(batch.condition), torch.from_numpy(batch.mask)
            settled(condition.to(device), mask.to(device))
        for norm in norms:
            norm.momentum = 0.1
        settled.eval()
        return settled


def write_grid(path: Path, generator: Generator, batch: Batch, device: torch.device) -> None:
    """
    Write what went in, what came out and what had been there, one column a face.

    :param path: a PNG.
    :param generator: in evaluation mode.
    :param batch: the faces.
    :param device: where the network is.
    """
    with torch.no_grad():
        condition, mask, image = (
            torch.from_numpy(a).to(device) for a in (batch.condition, batch.mask, batch.image)
        )
        filled = composite(generator(condition, mask), image, mask)
        shown = torch.stack([condition, filled, image]).permute(0, 1, 3, 4, 2).cpu().numpy()
        tiles = np.rint((shown.clip(-1, 1) + 1) * 127.5).astype(np.uint8)[..., ::-1]
        half = len(batch.image) // 2
        rows = [tiles[:, :half], tiles[:, half:]]
        sheet = tile_images(
            np.concatenate([r.reshape(-1, *r.shape[2:]) for r in rows]), columns=half
        )
        if not cv2.imwrite(str(path), sheet):
            raise ModelError(f'{path}: cannot be written')
