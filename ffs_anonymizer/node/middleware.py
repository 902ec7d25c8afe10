"""What large frames need of the middleware and of the allocator; to be set before rclpy.init."""

from __future__ import annotations

import os
from pathlib import Path

from ffs_anonymizer import allocator

# The second name is that of Fast DDS 3.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
_PROFILE = Path('config', 'fastdds.xml')


def profile_path() -> Path | None:
    """Return the Fast DDS profile that comes with the package; None where it was not installed."""
    package = Path(__file__).resolve().parents[1]
    folders = [
        package.parent,  # a checkout, or a link to it
        *(folder / 'share' / package.name for folder in package.parents),
    ]
    return next((folder / _PROFILE for folder in folders if (folder / _PROFILE).is_file()), None)


def environment() -> dict[str, str]:
    """
    Return what a launch file sets for all that it starts, camera drivers too.

    Without it most raw images above 640x480 are lost, or cost three times the CPU.
    """
    profile = profile_path()
    profiles = {} if profile is None else dict.fromkeys(PROFILE_VARIABLES, str(profile))
    return {**profiles, **allocator.ENVIRONMENT}


def use_large_frames() -> Path | None:
    """
    Let Fast DDS pass whole camera frames and the allocator keep their memory.

    A profile that the user has chosen stays.

    :returns: the profile that is in use now; None if the package's own was not found.
    """
    allocator.keep_memory(one_arena=True)
    for name in PROFILE_VARIABLES:
        if os.environ.get(name):
            return Path(os.environ[name])
    profile = profile_path()
    if profile is not None:
        for name in PROFILE_VARIABLES:
            os.environ[name] = str(profile)
    return profile
