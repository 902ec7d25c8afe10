"""The exceptions of the package: every one of them means that there is no image to hand out."""

from __future__ import annotations


class AnonymizerError(Exception):
    """Base of all errors that the package raises on purpose."""

    @classmethod
    def of(cls, error: Exception, *, stage: str = '') -> AnonymizerError:
        """
        Return what went wrong with a frame as an error of the package, which it may be already.

        :param stage: of the recipe, where it is known.
        """
        if isinstance(error, AnonymizerError):
            return error
        where = f'{stage}: ' if stage else ''
        wrapped = cls(f'{where}got {type(error).__name__}: {error}; the frame has no image')
        wrapped.__cause__ = error
        return wrapped


class SettingsError(AnonymizerError):
    """A setting is unknown, of the wrong type or out of its range."""


class ImageError(AnonymizerError):
    """An image cannot be decoded, or not be encoded again."""


class ModelError(AnonymizerError):
    """A model is missing, unfit for its task, or returned something impossible."""


class BagError(AnonymizerError):
    """A recording cannot be read or written completely."""


class MediaError(AnonymizerError):
    """An image file or a video cannot be read or written completely."""


class OutputError(AnonymizerError):
    """An output exists already, lies where it must not, or cannot be written."""


class DetectionsError(AnonymizerError):
    """A list of detections cannot be read, or is of something else."""
