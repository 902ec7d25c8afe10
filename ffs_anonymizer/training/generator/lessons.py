"""What one step of a training asks of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ffs_anonymizer.datasets.sampler import Batch, Chance
from ffs_anonymizer.training.checkpoint import Checkpoint, load_weights
from ffs_anonymizer.training.generator.alignment import align
from ffs_anonymizer.training.generator.augmentation import augment, magnified, relight, soften
from ffs_anonymizer.training.generator.critic import Critic
from ffs_anonymizer.training.generator.distil import Teacher
from ffs_anonymizer.training.generator.features import make_features
from ffs_anonymizer.training.generator.losses import (
    critic_hinge,
    detail_distance,
    feature_distance,
    generator_hinge,
    gradient_distance,
    inner_border,
    pixel_distance,
    tone_distance,
    trait_distance,
)
from ffs_anonymizer.training.generator.network import (
    composite,
    FaceNetwork,
    GUMBEL,
    likeness,
    packed,
    place,
    TURN_UNIT,
    turned,
)
from ffs_anonymizer.training.settings import TrainSettings
import torch

FOCUS_RADIUS = 9.0 / 128.0
HIDDEN = 0.5
HIDDEN_SIDES = (0.1, 0.5)
Terms = dict[str, tuple[float, torch.Tensor]]


@dataclass(eq=False)
class Lesson:
    """
    Say what a step asks for.

    :param settings: of the training.
    :param network: what learns.
    :param teacher: another network to follow, or none.
    :param device: where all of them are.
    """

    settings: TrainSettings
    network: FaceNetwork
    teacher: Teacher | None
    device: torch.device

    def __post_init__(self) -> None:
        """Say whose faces are worn."""
        settings = self.settings
        self.scalars: dict[str, torch.Tensor] = {}
        # The first rows wear their own face, the others that of somebody else of the batch
        self.share = max(settings.batch - round(settings.batch * settings.drawn_share), 1)
        self.rows = torch.arange(settings.batch, device=self.device)

    def begin(self, batch: Batch, start: Checkpoint | None) -> None:
        """
        Begin a run.

        :param batch: of photos.
        :param start: the run whose weights this one starts with, or none.
        """

    def state(self) -> Checkpoint:
        """Return what a checkpoint holds of it, beside the networks."""
        return {}

    def load(self, resumed: Checkpoint, whence: str) -> None:
        """
        Go on where a checkpoint was written.

        :param whence: named in the error.
        :raises ModelError: it does not fit.
        """

    def set_rate(self, factor: float) -> None:
        """Multiply the rates of optimizers of its own."""

    def shown(self, average: FaceNetwork) -> FaceNetwork:
        """
        Return what pictures of the run are painted by.

        :param average: in evaluation mode.
        """
        return average

    def __call__(self, batch: Batch, chance: Chance, step: int, progress: float) -> Terms:
        """
        Return what is asked for, name to weight and loss; what else learns takes its own step.

        :param batch: of the step.
        :param chance: of the step.
        :param step: from 0.
        :param progress: the share of the run that is over.
        """
        raise NotImplementedError

    def given_points(self, batch: Batch, chance: Chance) -> torch.Tensor:
        """
        Return points as they are given at run time, (N, 5, 2): some rows' own, and mean ones.

        :param batch: of the step.
        :param chance: of the step.
        """
        true = batch.points_px
        own = chance.happens(self.settings.points_share, len(batch), 1, 1)
        moved = true + chance.normal(*true.shape) * self.settings.points_noise_px
        return torch.where(own, moved, batch.mean_points_px)

    def matching(
        self, condition: torch.Tensor, points_px: torch.Tensor, batch: Batch, chance: Chance
    ) -> Terms:
        """
        Return what is asked of the matcher: traits, and how heads are turned.

        :param condition: (N, 3, S, S), what is around the holes.
        :param points_px: (N, 5, 2), as they are given.
        :param batch: of the step.
        :param chance: of the step.
        """
        weight = self.settings.weight_match
        mask = hidden(batch.mask, chance)
        seen = relight(condition, chance) * mask
        with autocast(self.settings, self.device):
            logits, turns = self.network.matcher.logits(seen, mask, points_px)
        off = (turns - turned(batch.points_px)) / TURN_UNIT
        return {
            'traits': (weight, trait_distance(logits, batch.traits)),
            'turns': (weight, off.square().mean()),
        }

    def worn_by(self, batch: Batch, chance: Chance) -> torch.Tensor:
        """
        Return whose face each row of a batch wears, (N,): its own, or that of another who fits.

        :param batch: its traits say who fits whom, where they are known.
        """
        fits = likeness(batch.traits, batch.traits)
        fits = fits + GUMBEL * chance.normal(*fits.shape)
        best = fits.fill_diagonal_(-torch.inf).argmax(1)
        return torch.where(self.rows < self.share, self.rows, best)


class Wearing(Lesson):
    """Ask for worn faces, for who fits where and for how heads are turned."""

    def __post_init__(self) -> None:
        """Make the critic, and the features that it and the feature distance look through."""
        super().__post_init__()
        settings, device = self.settings, self.device
        channels_last: Any = torch.channels_last
        critic, features = Critic(settings.critic_channels), make_features(settings.features)
        self.critic = critic.to(device, memory_format=channels_last)
        self.features = features.to(device, memory_format=channels_last)
        self.critic_steps = torch.optim.Adam(
            critic.heads.parameters(), settings.rate_critic, betas=(0.0, 0.99)
        )

    def begin(self, batch: Batch, start: Checkpoint | None) -> None:
        """
        Take the features' scales from photos, and another run's critic where it fits.

        :param batch: of photos.
        :param start: the run whose weights this one starts with, or none.
        """
        theirs = {} if start is None else start.get('critic', {})
        own = self.critic.state_dict()
        if {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}:
            self.critic.load_state_dict(theirs)
        self.features.calibrate(magnified(batch.image, self.settings.look_zoom))

    def state(self) -> Checkpoint:
        """Return what a checkpoint holds of it, beside the networks."""
        return {
            'critic': self.critic.state_dict(),
            'scales': self.features.scales.state_dict(),
            'critic_steps': self.critic_steps.state_dict(),
        }

    def load(self, resumed: Checkpoint, whence: str) -> None:
        """
        Go on where a checkpoint was written.

        :param whence: named in the error.
        :raises ModelError: it does not fit.
        """
        load_weights(self.critic, resumed['critic'], whence)
        load_weights(self.features.scales, resumed['scales'], whence)
        self.critic_steps.load_state_dict(resumed['critic_steps'])

    def set_rate(self, factor: float) -> None:
        """Multiply the critic's rate."""
        for group in self.critic_steps.param_groups:
            group['lr'] = self.settings.rate_critic * factor

    def __call__(self, batch: Batch, chance: Chance, step: int, progress: float) -> Terms:
        """
        Return what is asked for, name to weight and loss; the critic takes a step of its own.

        :param batch: of the step.
        :param chance: of the step.
        :param step: from 0.
        :param progress: the share of the run that is over.
        """
        settings, network, device = self.settings, self.network, self.device
        critic, features, teacher = self.critic, self.features, self.teacher
        channels_last: Any = torch.channels_last

        # Some are out of focus; what is worn is not
        image, condition, _ = softened(batch, chance)
        condition, mask, image = (
            each.to(memory_format=channels_last) for each in (condition, batch.mask, image)
        )

        # Where is the face, and whose would fit? That shall not hang on colours of backgrounds
        size = settings.size_px
        true = batch.points_px
        points = self.given_points(batch, chance)
        face, face_points = align(batch.image, true / size)
        terms: dict[str, tuple[float, torch.Tensor]] = {}
        with autocast(settings, device):
            seen = relight(condition, chance) * mask
            guessed = network.generator.pose(seen, mask, points)
        if teacher is None:
            off = (guessed - true) / (size / 64)  # squared, else rare turned heads are given up
            terms['points'] = settings.weight_points, off.square().mean()
            terms.update(self.matching(condition, points, batch, chance))

        with autocast(settings, device):
            code = network.encoder(relight(face, chance))
        own, wears, at = len(batch), self.rows, true + chance.normal(len(batch), 1, 2) * 0.4
        if step >= settings.drawn_from:
            own = self.share
            wears = self.worn_by(batch, chance)
            at = torch.where((self.rows < own)[:, None, None], at, guessed.detach())

        # It is painted
        noisy = code + chance.normal(*code.shape) * settings.code_noise
        latent = packed(noisy, face_points)[wears]
        with autocast(settings, device):
            levels, painted = network.generator.repaint(condition, mask, latent, at)
        filled = composite(painted, image, mask)
        focus = place(true, size, FOCUS_RADIUS)[:, ::2].amax(1, keepdim=True)
        counts = (1.0 - mask) * (1.0 + settings.focus * focus)

        # What critic and feature distance see of it
        looked = settings.weight_features > 0 and step >= settings.features_from
        looked = looked and step % settings.features_every == 0
        if looked:
            told = torch.cat([mask, place(at, size)], 1)
            (real, fake), (told, seen_counts) = augment(
                (image, filled), (told, counts), chance, settings.look_px
            )
            real, fake = (magnified(each, settings.look_zoom) for each in (real, fake))
            seen_mask = told[:, :1]
            with autocast(settings, device):
                with torch.no_grad():
                    real_taps = [tap.float() for tap in features(real)]
                fake_taps = [tap.float() for tap in features(fake)]

        # The critic learns
        adversarial = looked and settings.weight_critic > 0 and progress >= settings.critic_from
        if adversarial:
            critic.heads.requires_grad_(True)
            real_logits = critic(real_taps, told)
            fake_logits = critic([tap.detach() for tap in fake_taps], told)
            self.scalars['critic'] = critic_hinge(real_logits, fake_logits, seen_mask)
            self.critic_steps.zero_grad(set_to_none=True)
            self.scalars['critic'].backward()
            self.critic_steps.step()
            critic.heads.requires_grad_(False)

        # The networks learn
        if adversarial:
            logits = critic(fake_taps, told)
            rises = max(settings.critic_full - settings.critic_from, 1e-6)
            risen = min(1.0, (progress - settings.critic_from) / rises)
            weight = settings.weight_critic * settings.features_every * risen
            terms['adversarial'] = weight, generator_hinge(logits, seen_mask)
        if looked:
            distance = feature_distance(
                [tap[:own] for tap in real_taps],
                [tap[:own] for tap in fake_taps],
                1.0 - seen_counts[:own],
            )
            terms['features'] = (
                settings.weight_features * settings.features_every,
                distance,
            )
        mine = painted[:own], image[:own], counts[:own]
        terms['hole'] = settings.weight_hole, pixel_distance(*mine)
        terms['gradient'] = settings.weight_gradient, gradient_distance(*mine)
        if settings.weight_detail > 0:
            terms['detail'] = (
                settings.weight_detail,
                detail_distance(painted, image, counts),
            )
        border = pixel_distance(painted, image, inner_border(mask))
        terms['border'] = settings.weight_border, border
        terms['ring'] = settings.weight_ring, pixel_distance(painted, image, mask)
        tone = tone_distance(painted, image, batch.rects_xyxy_px)
        terms['tone'] = settings.weight_tone, tone
        if teacher is not None:
            with autocast(settings, device):
                distance = teacher(levels, painted, condition, mask, latent, at)
            terms['distil'] = settings.weight_distil, distance
        return terms


class Matching(Lesson):
    """Ask for nothing but what sort of face surroundings want."""

    def __call__(self, batch: Batch, chance: Chance, step: int, progress: float) -> Terms:
        """
        Return what is asked for, name to weight and loss.

        :param batch: of the step.
        :param chance: of the step.
        :param step: not looked at.
        :param progress: not looked at.
        """
        _, condition, _ = softened(batch, chance)
        return self.matching(condition, self.given_points(batch, chance), batch, chance)


def hidden(mask: torch.Tensor, chance: Chance) -> torch.Tensor:
    """
    Return masks of which half have lost one more rectangle, anywhere.

    :param mask: (N, 1, S, S), 1 = keep.
    """
    n, size = len(mask), mask.shape[-1]
    at = (torch.arange(size, device=mask.device, dtype=torch.float32) + 0.5) / size
    sides = chance.uniform(*HIDDEN_SIDES, n, 2) * chance.happens(HIDDEN, n, 1)
    first = chance.uniform(0.0, 1.0, n, 2) * (1.0 - sides)
    within = (at >= first[..., None]) & (at < (first + sides)[..., None])  # (N, 2, S)
    return mask * ~(within[:, 0, None, :] & within[:, 1, :, None])[:, None]


def softened(batch: Batch, chance: Chance) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Return images of which some are out of focus, their conditions, and the noise in these.

    :returns: (N, 3, S, S) each.
    """
    image = soften(batch.image, chance)
    noise = batch.condition - batch.image * batch.mask
    return image, (image * batch.mask + noise).clamp(-1.0, 1.0) * batch.mask, noise


def autocast(settings: TrainSettings, device: torch.device) -> Any:
    """
    Return the context in which torch computes in bfloat16 where that is safe.

    :param settings: whether it shall.
    :param device: where.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.half)
