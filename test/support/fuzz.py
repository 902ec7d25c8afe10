"""Damaged inputs of every parser: whole ones, cut, spliced and with bytes that lie."""

from collections.abc import Callable
import io

import cv2
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.frames.compressed import decode_file
from ffs_anonymizer.frames.containers import parse as parse_container
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.mcap import McapReader
from ffs_anonymizer.rosbag2.metadata import parse_text
from hypothesis import strategies as st
from mcap.writer import Writer
import numpy as np
from support.bags import compressed_cdr, jpeg, raw_cdr

MOST_PIXELS = 1 << 20
MOST_BYTES = 1 << 24
_SCENE = np.random.default_rng(3).integers(0, 255, (24, 32, 3), np.uint8)


def _file(suffix: str) -> bytes:
    return cv2.imencode(suffix, _SCENE)[1].tobytes()


def _mcap() -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, chunk_size=500)
    writer.start('ros2')
    schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
    channel = writer.register_channel('/a', 'cdr', schema)
    for i in range(6):
        writer.add_message(channel, i, bytes(200), i, i)
    writer.add_metadata('note', {'a': 'b'})
    writer.finish()
    return stream.getvalue()


def _read_mcap(data: bytes, folder) -> None:
    path = folder / 'fuzzed.mcap'
    path.write_bytes(data)
    reader = McapReader(path, {}, MOST_BYTES)
    try:
        reader.contents()
        for _ in reader.items(None, None):
            pass
    finally:
        reader.close()


def _decode_message(type_name: str) -> Callable[[bytes, object], object]:
    def take(data: bytes, folder: object) -> object:
        return decode(cdr.parse(type_name, data), most_pixels=MOST_PIXELS)

    return take


_YAML = (
    'rosbag2_bagfile_information:\n  version: 9\n  storage_identifier: mcap\n  duration:\n'
    '    nanoseconds: 5\n  starting_time:\n    nanoseconds_since_epoch: 1\n  message_count: 1\n'
    '  topics_with_message_count: []\n  compression_format: ""\n  compression_mode: ""\n'
    '  relative_file_paths: [a.mcap]\n  files: []\n'
)
# What parses, and a whole input of it.
PARSERS = {
    'JPEG': (lambda data, _: decode_file(data, most_pixels=MOST_PIXELS), _file('.jpg')),
    'PNG': (lambda data, _: decode_file(data, most_pixels=MOST_PIXELS), _file('.png')),
    'WebP': (lambda data, _: decode_file(data, most_pixels=MOST_PIXELS), _file('.webp')),
    'TIFF': (lambda data, _: decode_file(data, most_pixels=MOST_PIXELS), _file('.tiff')),
    'BMP': (lambda data, _: decode_file(data, most_pixels=MOST_PIXELS), _file('.bmp')),
    'containers': (lambda data, _: parse_container(data, most_pixels=MOST_PIXELS), _file('.jpg')),
    'Image': (_decode_message(cdr.IMAGE), raw_cdr(_SCENE)),
    'CompressedImage': (_decode_message(cdr.COMPRESSED_IMAGE), compressed_cdr(jpeg(_SCENE))),
    'mcap': (_read_mcap, _mcap()),
    'metadata.yaml': (
        lambda data, _: parse_text(data.decode('utf-8', 'replace'), 'metadata.yaml'),
        _YAML.encode(),
    ),
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Draw an input: bytes overwritten, taken out, repeated or put in, and perhaps a cut."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 24))
        piece = draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([b'\xff' * 8, bytes(8), b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f']),
                st.just(bytes(data[at : at + length])),
            )
        )
        end = at + draw(st.sampled_from([0, len(piece), length]))
        data[at:end] = piece
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def survives(name: str, data: bytes, folder: object) -> bool:
    """
    Tell whether an input was read; what cannot be read must be told as an AnonymizerError.

    Whatever else it raises passes through.
    """
    take, _ = PARSERS[name]
    try:
        take(data, folder)
    except AnonymizerError:
        return False
    return True
