"""What the tests of images and videos share."""

from support.media import damaged, detector, photo  # noqa: F401
