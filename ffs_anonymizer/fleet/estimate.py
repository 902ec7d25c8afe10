"""What a fleet's recordings would amount to on this machine, from a sample of a few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ffs_anonymizer.bag import estimate as of_bags
from ffs_anonymizer.bag.plan import BagJob, BagPlan
from ffs_anonymizer.errors import AnonymizerError, MediaError
from ffs_anonymizer.fleet.plan import FleetPlan, size_of
from ffs_anonymizer.jobs.estimate import Estimate, SAMPLE_S, spread
from ffs_anonymizer.jobs.remote import RemotePath
from ffs_anonymizer.media import estimate as of_media
from ffs_anonymizer.media.files import MediaJob, MediaPlan

# In places that lie evenly over all; what is known of them counts for the others by their bytes.
_MOST_BAGS = 4


def estimate(plan: FleetPlan, *, sample_s: float = SAMPLE_S) -> Estimate:
    """
    Anonymize a sample of a fleet's recordings, and throw it away.

    :param sample_s: how long, of bags and of the rest.
    :raises AnonymizerError: the inputs lie elsewhere, or none of a sample can be read.
    """
    if any(isinstance(task.job.source, RemotePath) for task in plan.tasks):
        raise MediaError('inputs that lie elsewhere are not sampled')
    bags = [task.job for task in plan.tasks if isinstance(task.job, BagJob)]
    media = [(task.name, task.job) for task in plan.tasks if isinstance(task.job, MediaJob)]
    total = Estimate(0, 0.0, 0.0, 0)
    if bags:
        total += _of_bags(bags, sample_s)
    if media:
        # Their own names are those of files, which may be the same in many folders.
        files = tuple(
            replace(file, name=name) for name, job in media for file in MediaPlan.of(job).files
        )
        total += of_media.estimate(media[0][1], MediaPlan(files, files), sample_s=sample_s)
    return total


def _of_bags(jobs: Sequence[BagJob], sample_s: float) -> Estimate:
    sampled = spread(jobs, _MOST_BAGS)
    found, size_bytes = Estimate(0, 0.0, 0.0, 0), 0
    errors = []
    for job in sampled:
        one = _of_bag(job, sample_s / len(sampled))
        if isinstance(one, AnonymizerError):
            errors.append(one)
        else:
            found += one
            size_bytes += size_of(job.source)
    if len(errors) == len(sampled):
        raise errors[0]
    share = sum(size_of(job.source) for job in jobs) / max(size_bytes, 1)
    return Estimate(
        round(found.frames * share), found.seconds * share, found.size_bytes * share, found.sampled
    )


def _of_bag(job: BagJob, sample_s: float) -> Estimate | AnonymizerError:
    try:
        return of_bags.estimate(BagPlan(job), sample_s=sample_s)
    except AnonymizerError as error:
        return error
