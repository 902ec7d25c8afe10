"""The detector's training, read from top to bottom: settings in, checkpoints and pictures out."""

from __future__ import annotations

from contextlib import closing
import copy
import math
from pathlib import Path
import time
from typing import Any

import cv2
from ffs_anonymizer.datasets.pictures import CLASSES, HEAD, load_pictures, PackedPictures
from ffs_anonymizer.datasets.prefetch import Batches, batches_ahead, batches_of_workers
from ffs_anonymizer.datasets.scenes import Boxes, Scenes
from ffs_anonymizer.datasets.sheet import save_tiles
from ffs_anonymizer.errors import MediaError, ModelError, SettingsError
from ffs_anonymizer.regions.detections import FACE
from ffs_anonymizer.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ffs_anonymizer.training.detector.losses import boxes_of, detector_loss, flatten, make_cells
from ffs_anonymizer.training.detector.network import (
    DetectorNetwork,
    make_detector,
    with_classes,
)
from ffs_anonymizer.training.run import (
    choose_device,
    follow,
    interruptible,
    progress_at,
    rate_at,
    refuse_other_settings,
)
from ffs_anonymizer.training.settings import DetectorTrainSettings, from_mapping
import numpy as np
from numpy.typing import NDArray
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
import yaml

SHOWN = 12
SHOWN_SCORE = 0.3


def train(settings: DetectorTrainSettings, *, quiet: bool = False) -> Path:
    """
    Train a detector, from where the run's folder says that it stopped, and return its checkpoint.

    :param settings: all of them; printed and saved beside the result.
    :param quiet: show no progress bar.
    :raises AnonymizerError: the data or a checkpoint is unfit, or nothing can be written.
    """
    # Resolve everything, show it, save it
    if not settings.data or not settings.out:
        raise SettingsError('data and out: got nothing, expected a folder each')
    if settings.size_px % 32:
        raise SettingsError(f'size_px: got {settings.size_px}, expected a multiple of 32')
    device = choose_device(settings.device)
    out = Path(settings.out)
    checkpoint_path = out / 'last.pt'
    resumed = load_checkpoint(checkpoint_path, 'detector') if checkpoint_path.exists() else None
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
    pictures = load_pictures(Path(settings.data))
    numbers, held_out = pictures.split()
    classes = settings.class_names()
    for name in classes:
        refuse_nothing_to_learn(pictures, numbers, name, settings)
    scenes = Scenes(
        pictures, numbers, settings.size_px, settings.drawn_share, classes, settings.heads_share
    )
    shown_from = held_out if len(held_out) else numbers
    shown = np.empty((SHOWN, settings.size_px, settings.size_px, 3), np.uint8)
    shown_boxes, _ = Scenes(
        pictures, shown_from, settings.size_px, 0.3, classes, settings.heads_share
    ).draw_batch(20_000, 0, shown)
    step, seconds_before = 0, 0.0
    if resumed is not None:
        step, seconds_before = resumed['step'], resumed.get('seconds', 0.0)
    is_over = progress_at(step, seconds_before, settings) >= 1.0
    drawn = draw_ahead(scenes, settings, range(step, step if is_over else settings.steps))

    # Network, optimizer and what they start from
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    channels_last: Any = torch.channels_last
    detector = make_detector(settings.network, len(classes))
    if settings.init_from and resumed is None:
        start = load_checkpoint(Path(settings.init_from), 'detector')
        was = from_mapping(start['settings'], DetectorTrainSettings).class_names()
        weights = with_classes(start['ema'], was, classes, detector.state_dict())
        load_weights(detector, weights, settings.init_from)
    detector = detector.to(device, memory_format=channels_last)
    average = copy.deepcopy(detector).requires_grad_(False).eval()
    steps = torch.optim.AdamW(
        detector.parameters(), settings.rate, weight_decay=settings.weight_decay
    )
    images = 0
    if resumed is not None:
        load_weights(detector, resumed['detector'], str(checkpoint_path))
        load_weights(average, resumed['ema'], str(checkpoint_path))
        steps.load_state_dict(resumed['detector_steps'])
        images = resumed['images']

    started, images_before = time.monotonic(), images

    def seconds() -> float:
        return seconds_before + time.monotonic() - started

    def state() -> Checkpoint:
        return {
            'settings': settings.as_dict(),
            'step': step,
            'images': images,
            'seconds': seconds(),
            'detector': detector.state_dict(),
            'ema': average.state_dict(),
            'detector_steps': steps.state_dict(),
        }

    # Steps
    cells = make_cells(settings.size_px, settings.size_px, device)
    writer = SummaryWriter(str(out / 'scalars'), purge_step=step)
    bar = tqdm(total=settings.steps, initial=step, unit='step', disable=quiet, mininterval=10)
    detector.train()
    with closing(drawn), interruptible() as interrupted, bar:
        for images_bgr, (objects, ignored) in drawn:
            progress = progress_at(step, seconds(), settings)
            for group in steps.param_groups:
                group['lr'] = settings.rate * rate_at(step, progress, settings)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.half):
                answers = detector(as_input(images_bgr, device).to(memory_format=channels_last))
            terms = detector_loss(
                answers,
                cells,
                torch.from_numpy(objects).to(device),
                torch.from_numpy(ignored).to(device),
                settings.weight_box,
            )
            steps.zero_grad(set_to_none=True)
            terms['total'].backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            steps.step()
            keep = 0.5 ** (settings.batch / settings.ema_images)
            follow(average, detector, keep, step, average_buffers=True)
            step += 1
            images += settings.batch
            bar.update()

            # What is seen of it
            last = progress_at(step, seconds(), settings) >= 1.0 or interrupted()
            if step % settings.log_every == 0 or last:
                speed = (images - images_before) / (time.monotonic() - started)
                values = {name: float(value.detach()) for name, value in terms.items()}
                if not all(math.isfinite(value) for value in values.values()):
                    raise ModelError(f'step {step}: got {values}, expected finite losses')
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
                writer.add_scalar('images_s', speed, step)
                told = {name: f'{value:.3f}' for name, value in values.items()}
                bar.set_postfix(images=images, images_s=f'{speed:.1f}', **told, refresh=False)
            if step % settings.grid_every == 0 or last:
                write_grid(out / 'grids' / f'{step:07d}.png', average, shown, shown_boxes, device)
            if step % settings.save_every == 0 or last:
                save_checkpoint(checkpoint_path, state())
            if last:
                break
    writer.close()
    if not quiet:
        speed = (images - images_before) / max(time.monotonic() - started, 1e-9)
        print(f'{checkpoint_path}: step {step}, {images} images seen, {speed:.1f} images/s')
    return checkpoint_path


def refuse_nothing_to_learn(
    pictures: PackedPictures,
    numbers: NDArray[np.int64],
    name: str,
    settings: DetectorTrainSettings,
) -> None:
    """
    Refuse a data set that does not show what a class is, or not what is none.

    :param numbers: of the photos to train on.
    :param name: of the class.
    """
    index = CLASSES.index(name)
    has_heads = index == FACE and len(pictures.numbers(HEAD)) > 0
    shown = (has_heads and settings.heads_share > 0) or any(
        index in pictures.classes_of(int(i)) for i in numbers
    )
    if not shown:
        way_out = 'set heads_share over 0' if has_heads else 'add photos'
        raise MediaError(
            f'{settings.data}: got no {name} to train on, none is there or all are held out; '
            f'{way_out}'
        )
    if not pictures.labelled[numbers, index].any():
        raise MediaError(
            f'{settings.data}: got no photo to train on that was looked through for a {name}, so '
            f'nothing says what is none; tell it in the column `labelled` of --boxes'
        )


def draw_ahead(
    scenes: Scenes, settings: DetectorTrainSettings, steps: range
) -> Batches[tuple[Boxes, Boxes]]:
    """
    Return the scenes of steps, drawn ahead by as many workers as the settings say.

    :param scenes: where from.
    :param steps: which.
    """
    shape = (settings.batch, settings.size_px, settings.size_px, 3)

    def draw(step: int, images_bgr: NDArray[np.uint8]) -> tuple[Boxes, Boxes]:
        return scenes.draw_batch(settings.seed, step, images_bgr)

    if settings.workers < 2:
        return batches_ahead(draw, steps, shape)
    return batches_of_workers(draw, steps, shape, settings.workers)


def as_input(images_bgr: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return scenes as the network sees them, (N, 3, S, S) BGR from 0 to 255."""
    return torch.from_numpy(images_bgr).to(device).permute(0, 3, 1, 2).float()


def write_grid(
    path: Path,
    detector: DetectorNetwork,
    images_bgr: NDArray[np.uint8],
    known: Boxes,
    device: torch.device,
) -> None:
    """
    Write scenes with what is in them in green and what is found in red.

    :param path: a PNG.
    :param detector: in evaluation mode.
    :param images_bgr: (N, S, S, 3), never trained on.
    :param known: (N, G, 5) boxes in pixels and class.
    :param device: where the network is.
    """
    with torch.no_grad():
        flat = flatten(detector(as_input(images_bgr, device)))
        side = images_bgr.shape[1]
        boxes = boxes_of(flat[..., -4:], make_cells(side, side, device)).cpu().numpy()
        scores = flat[..., :-4].amax(2).sigmoid().cpu().numpy()
    tiles = images_bgr.copy()
    for tile, objects, found, score in zip(tiles, known, boxes, scores, strict=True):
        for box in objects[:, :4]:
            x0, y0, x1, y1 = (round(float(v)) for v in box)
            cv2.rectangle(tile, (x0, y0), (x1, y1), (0, 255, 0), 1)
        for box in found[score >= SHOWN_SCORE]:
            x0, y0, x1, y1 = (round(float(v)) for v in box)
            cv2.rectangle(tile, (x0, y0), (x1, y1), (0, 0, 255), 1)
    save_tiles(path, tiles, columns=4)
