"""What pictures hide, hidden in the clouds and depth images of the same scene."""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Any

from ffs_anonymizer.anonymizer import Anonymized, Recipe, Replaced
from ffs_anonymizer.clouds.cloud import Cloud, decode_cloud
from ffs_anonymizer.clouds.scene import Link, Scene
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.upright import rotation_of
from ffs_anonymizer.regions.detections import Regions
import numpy as np

# A cloud that cameras look into from anywhere, one whose points lie as the pixels of a picture,
# and a depth image that is registered to one.
CLOUD, REGISTERED, DEPTH = 'cloud', 'registered', 'depth'


def hide(
    recipe: Recipe,
    scene: Scene,
    msg: Any,
    links: Sequence[Link],
    *,
    kind: str,
    stamp_ns: int,
    in_place: bool = False,
) -> Anonymized:
    """
    Return a message's data without what the pictures of its cameras hide.

    :param scene: knows these pictures.
    :param msg: the fields of a PointCloud2 or of a depth image.
    :param links: its cameras; of a registered cloud, one.
    :param kind: CLOUD, REGISTERED or DEPTH.
    :param in_place: whether a cloud's data, where it can be written to, may be changed itself.
    :raises ImageError: the message cannot be read, or what is needed for it is not known.
    """
    settings = recipe.settings
    if kind != DEPTH and not len(msg.data):
        nothing = Replaced(np.empty((0, 4), np.int32), {})
        return Anonymized(Cloud(msg).data, Regions.empty(), nothing, {})
    if kind == REGISTERED:
        return _painted(recipe, scene, msg, links, stamp_ns, in_place)
    started_s = time.perf_counter()
    if kind == DEPTH:
        data, count = scene.hide_in_depth(msg, links, settings.depth.geometry, stamp_ns)
    else:
        data, count = scene.hide_in_cloud(
            msg, links, settings.cloud.geometry, stamp_ns, in_place=in_place
        )
    spent_ms = (time.perf_counter() - started_s) * 1e3
    replaced = Replaced(np.empty((0, 4), np.int32), {'hidden': count})
    return Anonymized(data, Regions.empty(), replaced, {'hide': spent_ms})


def _painted(
    recipe: Recipe, scene: Scene, msg: Any, links: Sequence[Link], stamp_ns: int, in_place: bool
) -> Anonymized:
    """Return a cloud in which the regions of its picture are replaced as in the picture."""
    if len(links) != 1:
        raise ImageError(
            f'got {len(links)} pictures for a registered cloud, expected the one whose pixels its '
            'points lie as (cloud.registered)'
        )
    image = links[0].image
    rotation = rotation_of(recipe.settings.rotation, image)
    geometry = recipe.settings.cloud.geometry
    frame = decode_cloud(msg, geometry, rotation=rotation, in_place=in_place)
    height, width = frame.image_bgr.shape[:2]
    regions = scene.regions_at(image, stamp_ns, (width, height))
    return recipe.put(frame, regions, stream=image)
