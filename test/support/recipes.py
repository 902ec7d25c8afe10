"""Recipes over networks that the tests close, and streams that remember for them."""

from __future__ import annotations

from contextlib import contextmanager

from ffs_anonymizer.anonymizer import Anonymized, Recipe
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.regions.detector import detect
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream


@contextmanager
def opened(settings: Settings, *, concurrency: int = 1):
    """Yield a recipe over networks of its own."""
    with Networks(settings, concurrency=concurrency) as networks:
        yield Recipe(networks, settings)


def with_settings(recipe: Recipe, **changes) -> Recipe:
    """Return a recipe with some settings changed, over the same networks."""
    named = {name.replace('__', '.'): value for name, value in changes.items()}
    return Recipe(recipe.networks, recipe.settings.updated(named))


class Memory:
    """Anonymize frames of streams by name, and remember between them what is to be remembered."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.streams: dict[str, Stream] = {}

    def anonymize(self, frame, *, stream='', **options) -> Anonymized:
        before = self.streams.get(stream, Stream((stream,)))
        result, self.streams[stream] = self.recipe.anonymize(frame, before, **options)
        return result


class Detector:
    """Find what settings say, in arrays."""

    def __init__(self, settings: Settings) -> None:
        # Of any method but generate, which would open a generator, too.
        self.settings = settings.updated({'face.method': 'blur'})
        self.networks = Networks(self.settings)

    def detect(self, image_bgr):
        return detect(image_bgr, self.networks.of(self.settings)[0], self.settings)

    def close(self) -> None:
        self.networks.close()
