"""The first image of each topic, looked at before any work is done."""

from __future__ import annotations

import contextlib

from ffs_anonymizer.bag.measured import may_show_persons
from ffs_anonymizer.bag.plan import BagPlan
from ffs_anonymizer.bag.selection import Action, depth_error, is_searched, picture_error, WAY_OUT
from ffs_anonymizer.errors import AnonymizerError, BagError, ImageError
from ffs_anonymizer.frames.message import ENCODINGS, is_depth, KINDS, sniff
from ffs_anonymizer.frames.video_packets import check_codecs, codec_of
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.reader import decompressed
from ffs_anonymizer.rosbag2.storage import Message
from ffs_anonymizer.settings.runtime import VideoSettings

MOST_BYTES = 1 << 28


def check_first_images(plan: BagPlan) -> None:
    """
    Tell now what the run would stop at later, as far as the fields of messages say it.

    Nothing is decoded. Topics that have no message within the first `MOST_BYTES` are left to the
    run, and so are a bag whose files are compressed as a whole, and a run that does not stop.

    :raises BagError: an image is none that can be anonymized, or the bag is damaged.
    :raises SettingsError: the encoder or decoder of its videos does not work.
    """
    reader, job = plan.reader, plan.job
    video = job.settings.video
    has_videos = any(type_name in cdr.VIDEO_TYPES for _, type_name in plan.chosen)
    if has_videos and video != VideoSettings():
        check_codecs(video.encoder, video.decoder)
    if reader.metadata.compression_mode == 'file' or job.on_error != 'stop':
        return
    empty = {(t.name, t.type_name) for t in plan.topics if t.message_count == 0}
    searched = {
        (t.name, t.type_name)
        for t in plan.topics
        if plan.actions[t.name, t.type_name] is Action.COPY and is_searched(t)
    }
    waiting, depth, hidden, others = (plan.chosen | searched) - empty, [], [], []
    with contextlib.closing(reader.items()) as items:
        for item in items:
            if not waiting or reader.read_bytes > MOST_BYTES:
                break
            if not isinstance(item, Message):
                continue
            key = (item.topic.name, item.topic.type_name)
            too_early = job.start_ns is not None and item.log_ns < job.start_ns
            too_late = job.end_ns is not None and item.log_ns > job.end_ns
            if key not in waiting or too_early or too_late:
                continue
            waiting.remove(key)
            try:
                action = plan.actions[key]
                if plan.shows_picture(item):
                    hidden.append(key)
                elif action is Action.CLOUD:
                    _check_cloud(plan, item)
                elif action is Action.ANONYMIZE and _is_depth_image(
                    item, is_compressed=reader.messages_compressed
                ):
                    depth.append(key[0])
            except AnonymizerError as error:
                others.append(f'{key[0]}, message recorded at {item.log_ns} ns: {error}')
    if hidden:
        raise picture_error(hidden)
    if depth:
        raise depth_error(depth)
    if others:
        raise BagError(f'these topics cannot be anonymized: {"; ".join(others)}; {WAY_OUT}')


def _check_cloud(plan: BagPlan, message: Message) -> None:
    """
    Look whether a cloud can be anonymized.

    :raises AnonymizerError: it has colours, but is no picture and has no camera.
    """
    links = plan.sensors.links(message.topic.name, message.topic.type_name)
    data = bytes(message.data)
    payload = decompressed(data) if plan.reader.messages_compressed else data
    cloud = cdr.parse_point_cloud(payload)
    if may_show_persons(cloud) and not links:
        plan.sensors.decode(cloud, message.topic.name)


def _is_depth_image(message: Message, *, is_compressed: bool) -> bool:
    """
    Return whether an image holds measurements.

    :raises AnonymizerError: it can be seen to be neither that nor a picture.
    """
    payload = decompressed(message.data) if is_compressed else bytes(message.data)
    image = cdr.parse(message.topic.type_name, payload)
    if isinstance(image, cdr.CdrPacket):
        codec_of(image.format)
        return False
    if isinstance(image, cdr.CdrImage):
        is_measured = is_depth(image.encoding, message.topic.name)
        if not is_measured and image.encoding not in ENCODINGS:
            raise ImageError(
                f'got encoding {image.encoding!r}, expected one of {", ".join(ENCODINGS)}'
            )
        return is_measured
    head = bytes(image.data[:32])
    # One without data may stand at the beginning of any topic.
    is_measured = is_depth(image.format, message.topic.name)
    if not is_measured and head and sniff(head) not in KINDS:
        raise ImageError(
            f'got data of the format {image.format!r} that begins with {head[:8].hex(" ")}, '
            'expected a JPEG, PNG, WebP, TIFF or BMP file'
        )
    return is_measured
