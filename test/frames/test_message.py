from types import SimpleNamespace

from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import message as image
import numpy as np
import pytest
from support.messages import compressed_message, noise_message, scene


def test_decode_tells_the_two_messages_apart():
    raw = noise_message('rgb8', 4, 3)
    assert (image.decode(raw).image_bgr == image.decode_image(raw).image_bgr).all()
    compressed = compressed_message('.png', scene())
    assert (image.decode(compressed).image_bgr == scene()).all()


def test_black_like_tells_the_two_messages_apart():
    assert image.black_like(noise_message('nv12', 2, 2)) == bytes([16, 16, 16, 16, 128, 128])
    compressed = compressed_message('.png', scene())
    black = image.decode(SimpleNamespace(format='png', data=image.black_like(compressed)))
    assert not black.image_bgr.any()
    lost = SimpleNamespace(format='png', data=b'')
    assert image.black_like(lost, (9, 7)) != b''
    with pytest.raises(ImageError, match='no kind or size'):
        image.black_like(lost)


def test_a_photo_there_and_back_in_every_encoding():
    data = pytest.importorskip('skimage.data')
    photo = data.astronaut()[0:160, 150:310, ::-1]
    for encoding in image.ENCODINGS:
        blank = noise_message(encoding, 160, 160)
        frame = image.decode(blank)
        frame.image_bgr[:] = photo
        written = SimpleNamespace(**vars(blank))
        written.data = frame.encode(np.array([[0, 0, 160, 160]], np.int32))
        shown = image.decode(written).image_bgr.astype(int)
        grey = encoding in ('mono8', 'mono16', '8UC1')
        expected = photo @ [0.114, 0.587, 0.299] if grey else photo
        error = np.abs(shown - (expected[..., None] if grey else expected))
        # Bayer and shared chroma lose detail, not brightness.
        assert np.median(error) <= 3, encoding


def test_jpeg_helpers_are_offered():
    data = compressed_message('.jpg', scene()).data
    assert image.jpeg_quality(data) == 95
    assert image.jpeg_sampling(data) == '420'
