"""Bags with a video, a packet a picture."""

from ffs_anonymizer.rosbag2 import cdr
from support.bags import compressed_cdr, Record, Spec, T0, write_bag

STEP = 33_000_000


def video_cdr(packet, at):
    """Serialize a foxglove CompressedVideo, whose fields are those of a CompressedImage moved."""
    whole = compressed_cdr(packet, stamp_ns=T0 + at * STEP, text='')
    read = cdr.parse_compressed_image(whole)
    head = whole[: read.data_start - 12]
    start = len(head) - 4
    size = (len(packet)).to_bytes(4, 'little')
    padding = bytes(-(start + 4 + len(packet)) % 4)
    return head + size + packet + padding + b'\x05\0\0\0h264\0'


def video_bag(folder, packets, **options):
    records = [
        Record('/front', T0 + at * STEP, T0, at, video_cdr(packet, at))
        for at, packet in enumerate(packets)
    ]
    return write_bag(folder, records, specs=[Spec('/front', cdr.FOXGLOVE_VIDEO)], **options)
