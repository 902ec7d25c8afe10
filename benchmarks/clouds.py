"""
Time what a camera costs with depth and a cloud beside its picture.

A head made for tests is taken as an image, as a depth image, as an organized cloud and as a cloud
in no rows, 640x480 each, in turn; the medians stand beside each other:

    PYTHONPATH=.:test python benchmarks/clouds.py [--frames 60]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import time
from types import SimpleNamespace
from typing import Any

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.clouds.cloud import decode_cloud
from ffs_anonymizer.clouds.scene import Link, Scene
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node.camera import Camera, Waiting
from ffs_anonymizer.node.measured import Measured
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
from support.clouds import (
    camera_info,
    cloud_message,
    FACE_XYXY_PX,
    head_scene,
    header,
    points_from,
    portrait,
)

LINKS = [Link.parse('/any /camera/image')]
STAMP_NS = 1


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--frames', type=int, default=60)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    settings = Settings().updated({'threads': args.threads})
    works = _works(Recipe(Networks(settings), settings))
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.frames):
        for name, work in works.items():
            started_s = time.perf_counter()
            work()
            spent[name].append((time.perf_counter() - started_s) * 1e3)
    image_ms = float(np.median(spent['image']))
    for name, times_ms in spent.items():
        median_ms = float(np.median(times_ms))
        print(f'{name:32} {median_ms:7.1f} ms  {median_ms / image_ms:5.2f} of the image')


def _works(recipe: Recipe) -> dict[str, Callable[[], Any]]:
    image, depth = head_scene(portrait(), FACE_XYXY_PX)
    picture = SimpleNamespace(
        width=640, height=480, encoding='bgr8', step=1920, is_bigendian=0, data=image.tobytes()
    )
    cloud = cloud_message(points_from(depth), image)
    flat = SimpleNamespace(
        **{**vars(cloud), 'height': 1, 'width': 640 * 480, 'row_step': len(cloud.data)},
        header=header(),
    )
    distances = SimpleNamespace(
        width=640,
        height=480,
        encoding='16UC1',
        step=1280,
        is_bigendian=0,
        data=(depth * 1000).astype('<u2').tobytes(),
    )
    scene = Scene(max_gap_ms=100)
    scene.add_info('/camera/camera_info', camera_info())
    done, _ = recipe.anonymize(decode(picture), Stream())
    scene.add_regions('/camera/image', STAMP_NS, (640, 480), done.regions)

    registered = Camera('/points', drop_old=False, kind='registered', links=LINKS)
    camera = Camera(LINKS[0].image, drop_old=False)
    measured = Measured(recipe.settings, [camera, registered])
    stamped = SimpleNamespace(**vars(cloud), header=header(stamp_ns=STAMP_NS))
    waiting = Waiting(stamped, 0.0)
    picture.header = header(stamp_ns=STAMP_NS)
    measured.learn(camera, Waiting(picture, 0.0), (640, 480), done.regions)

    def through_the_recipe(geometry: str) -> Any:
        frame = decode_cloud(cloud, geometry)
        return recipe.anonymize(frame, Stream())[0]

    return {
        'image': lambda: recipe.anonymize(decode(picture), Stream())[0],
        'organized cloud, keep': lambda: through_the_recipe('keep'),
        'organized cloud, flatten': lambda: through_the_recipe('flatten'),
        'organized cloud, drop': lambda: through_the_recipe('drop'),
        'registered cloud, flatten': lambda: measured.hide(recipe, registered, waiting),
        'depth image, flatten': lambda: scene.hide_in_depth(distances, LINKS, 'flatten', STAMP_NS),
        'cloud by its camera, flatten': lambda: scene.hide_in_cloud(
            flat, LINKS, 'flatten', STAMP_NS
        ),
    }


if __name__ == '__main__':
    main()
