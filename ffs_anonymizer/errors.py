"""The exceptions of the package: every one of them means that there is no image to hand out."""


class AnonymizerError(Exception):
    """Base of all errors that the package raises on purpose."""


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
