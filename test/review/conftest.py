import av
from ffs_anonymizer.review.recording import open_recording
from ffs_anonymizer.settings.runtime import Settings
import pytest


@pytest.fixture
def film():
    """Return a function that writes pictures as a lossless film and opens it."""

    def write(path, images_bgr, rate=10):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('libx264', rate=rate, options={'qp': '0'})
            stream.height, stream.width = images_bgr[0].shape[:2]
            stream.pix_fmt = 'yuv444p'
            stream.gop_size = 4
            for image in images_bgr:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'bgr24')))
            container.mux(stream.encode(None))
        return open_recording(path, Settings())

    return write
