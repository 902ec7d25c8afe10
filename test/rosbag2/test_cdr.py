"""Test reading and changing serialized images in place."""

import struct

from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.rosbag2 import cdr
import pytest


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'abc', 'abcd'])
@pytest.mark.parametrize('padding', [b'', b'\xee', b'\xee\xee\xee'])
def test_cdr_of_images_in_both_byte_orders(order, frame_id, padding):
    message = bytearray(b'\0\1\0\0' if order == '<' else b'\0\0\0\0')

    def number(letter, value):
        size = struct.calcsize(letter)
        message.extend(b'\xee' * (-(len(message) - 4) % size))
        message.extend(struct.pack(order + letter, value))

    def text(value):
        number('I', len(value) + 1)
        message.extend(value.encode() + b'\0')

    number('i', 5)
    number('I', 7)
    text(frame_id)
    head = bytes(message)
    number('I', 2)
    number('I', 3)
    text('mono8')
    number('B', 1)
    number('I', 4)
    number('I', 8)
    data = bytes(range(8))
    payload = bytes(message) + data + padding

    image = cdr.parse_image(payload)

    assert image.stamp_ns == 5_000_000_007
    assert (image.height, image.width, image.encoding) == (2, 3, 'mono8')
    assert (image.is_bigendian, image.step, bytes(image.data)) == (1, 4, data)
    assert image.with_data(data[::-1]) == payload.replace(data, data[::-1])
    shorter = cdr.parse_image(image.with_data(data[1:]))
    assert (shorter.width, bytes(shorter.data)) == (3, data[1:])
    for end in range(4, len(payload) - len(padding)):
        with pytest.raises(ImageError, match='got a message|got .* bytes, expected'):
            cdr.parse_image(payload[:end])
    with pytest.raises(ImageError, match='bytes after the image data'):
        cdr.parse_image(payload + b'more')

    message = bytearray(head)
    text('jpeg')
    start = bytes(message)
    number('I', 3)
    compressed = cdr.parse_compressed_image(bytes(message) + b'abc' + padding)
    assert (compressed.format, bytes(compressed.data)) == ('jpeg', b'abc')
    message = bytearray(start)
    number('I', 5)
    assert compressed.with_data(memoryview(b'vwxyz')) == bytes(message) + b'vwxyz'
