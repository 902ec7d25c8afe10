"""What a fleet's worker is given, with settings that find faces quickly."""

from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.fleet.plan import FleetPlan, FleetTask
from ffs_anonymizer.jobs.remote import location
from ffs_anonymizer.media.files import MediaJob
from ffs_anonymizer.settings.runtime import Settings

SETTINGS = Settings().updated(
    {'face.method': 'solid', 'detector.scale': 1.0, 'detector.plate_model_path': 'none'}
)


def task_of(source: str, output: str) -> FleetTask:
    nowhere = {'source': Path(), 'target': Path(), 'settings': SETTINGS}
    plan = FleetPlan.of(source, location(output), bag=BagJob(**nowhere), media=MediaJob(**nowhere))
    (task,) = plan.tasks
    return task
