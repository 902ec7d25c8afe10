"""Messages with the fields of sensor_msgs, without ROS, and slow descriptions of their layout."""

from types import SimpleNamespace

import cv2
import numpy as np

PACKED_BYTES = {
    'bgr8': 3,
    'rgb8': 3,
    'bgra8': 4,
    'rgba8': 4,
    'mono8': 1,
    'mono16': 2,
    '8UC1': 1,
    '8UC3': 3,
    '8UC4': 4,
    'bayer_rggb8': 1,
    'bayer_bggr8': 1,
    'bayer_gbrg8': 1,
    'bayer_grbg8': 1,
    'bgr16': 6,
    'rgb16': 6,
    'bgra16': 8,
    'rgba16': 8,
    'bayer_rggb16': 2,
    'bayer_bggr16': 2,
    'bayer_gbrg16': 2,
    'bayer_grbg16': 2,
}
UYVY = ('yuv422', 'uyvy')
YUYV = ('yuv422_yuy2', 'yuyv')
THREE_PLANES = ('i420', 'yv12')
NO_RECTS = np.empty((0, 4), np.int32)


def raw_message(encoding, width, height, *, padding=0, bigendian=0, data=None):
    """Return an Image with the smallest step plus padding, and zeros if no data is given."""
    if encoding in PACKED_BYTES:
        step, rows = width * PACKED_BYTES[encoding] + padding, height
    elif encoding in (*UYVY, *YUYV):
        step, rows = (width + 1) // 2 * 4 + padding, height
    elif encoding == 'nv24':
        step, rows = width + padding, 3 * height
    else:
        step, rows = (width + 1) // 2 * 2 + padding, height + (height + 1) // 2
    return SimpleNamespace(
        width=width,
        height=height,
        encoding=encoding,
        step=step,
        is_bigendian=bigendian,
        data=bytes(step * rows) if data is None else data,
    )


def noise_message(encoding, width, height, *, padding=0, bigendian=0, seed=0):
    """
    Return an Image in which every byte is random, padding and alpha too.

    Only samples of 16 bits are never so dark that the picture's shadows would be lifted.
    """
    msg = raw_message(encoding, width, height, padding=padding, bigendian=bigendian)
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, len(msg.data), np.uint8)
    if encoding.endswith('16'):
        noise[0 if bigendian else 1 :: 2] |= 0x10
    msg.data = noise.tobytes()
    return msg


def with_data(msg, data):
    """Return the message with other data."""
    return SimpleNamespace(**{**vars(msg), 'data': data})


def bytes_of_pixel(msg, x, y):
    """Return the indices of the bytes that a pixel is made of, shared ones included."""
    encoding, step = msg.encoding, msg.step
    if encoding in PACKED_BYTES:
        size = PACKED_BYTES[encoding]
        return [y * step + x * size + i for i in range(size)]
    if encoding in (*UYVY, *YUYV):
        chroma, luma = (0, 1) if encoding in UYVY else (1, 0)
        pair = y * step + x // 2 * 4
        return [y * step + 2 * x + luma, pair + chroma, pair + chroma + 2]
    plane = msg.height * step
    if encoding in THREE_PLANES:
        second = plane + (msg.height + 1) // 2 * step // 2
        at = y // 2 * step // 2 + x // 2
        return [y * step + x, plane + at, second + at]
    if encoding == 'nv24':
        pair = plane + y * 2 * step + 2 * x
    else:
        pair = plane + y // 2 * step + x // 2 * 2
    return [y * step + x, pair, pair + 1]


def bytes_of_rect(msg, rect):
    """Return the indices of the bytes that the pixels of a rectangle are made of."""
    x0, y0, x1, y1 = rect
    return sorted(
        {i for y in range(y0, y1) for x in range(x0, x1) for i in bytes_of_pixel(msg, x, y)}
    )


def padding_bytes(msg):
    """Return the indices of the bytes that are no part of a pixel, a pair or a block."""
    used = {
        i for y in range(msg.height) for x in range(msg.width) for i in bytes_of_pixel(msg, x, y)
    }
    if msg.encoding in (*UYVY, *YUYV) and msg.width % 2:
        used |= {y * msg.step + 2 * msg.width + i for y in range(msg.height) for i in (0, 1)}
    return sorted({*range(len(msg.data))} - used)


def icc_profile(extra=b'', tags=(b'XYZ ' + bytes(16),)):
    """Return the smallest bytes that are an ICC profile, with whatever follows its tags."""
    at = 132 + 12 * len(tags)
    table = len(tags).to_bytes(4, 'big')
    for i, tag in enumerate(tags):
        table += b'tag%d' % i + at.to_bytes(4, 'big') + len(tag).to_bytes(4, 'big')
        at += len(tag)
    size = at + len(extra)
    header = size.to_bytes(4, 'big') + bytes(32) + b'acsp' + bytes(88)
    return header + table + b''.join(tags) + extra


def scene(width=96, height=64):
    """Return a smooth BGR picture with an edge, of which no part is mid grey."""
    y, x = np.mgrid[:height, :width]
    blue, green, red = 40 + x * 150 // width, 30 + y * 180 // height, 200 - (x + y) * 60 // width
    picture = np.dstack([blue, green, red]).astype(np.uint8)
    picture[height // 3 :, width // 2 :] //= 2
    return picture


def compressed_message(extension, picture, options=(), *, name=None):
    """Return a CompressedImage that OpenCV encoded."""
    done, data = cv2.imencode(extension, picture, list(options))
    assert done
    return SimpleNamespace(format=name or extension[1:], data=data.tobytes())


def jpeg_segment(marker, body):
    """Return a segment of a JPEG file."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, 'big') + body


def insert_segment(data, marker, body):
    """Put a segment right behind the start of a JPEG file."""
    return data[:2] + jpeg_segment(marker, body) + data[2:]


def exif(orientation, order='MM', extra=b''):
    """Return the body of an Exif segment with an orientation and whatever follows."""
    byteorder = 'big' if order == 'MM' else 'little'

    def number(value, size):
        return value.to_bytes(size, byteorder)

    other = number(0x0100, 2) + number(4, 2) + number(1, 4) + number(64, 4)
    entry = number(0x0112, 2) + number(3, 2) + number(1, 4) + number(orientation, 2) + b'\0\0'
    tiff = order.encode() + number(42, 2) + number(8, 4) + number(2, 2) + other + entry
    return b'Exif\0\0' + tiff + number(0, 4) + extra
