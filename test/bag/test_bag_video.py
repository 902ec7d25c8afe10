"""Bags with H.264 and H.265 topics, and with foxglove's images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.frames import video_codecs
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.frames.video_packets import is_keyframe, PacketDecoder
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from rosbags.rosbag2 import Reader, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from support.bags import QUICK
from support.video_packets import stream

TYPES = get_typestore(Stores.ROS2_JAZZY)
DEFINITIONS = {
    'foxglove_msgs/msg/CompressedVideo': (
        'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format'
    ),
    'foxglove_msgs/msg/CompressedImage': (
        'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format'
    ),
    'foxglove_msgs/msg/RawImage': (
        'builtin_interfaces/Time timestamp\nstring frame_id\nuint32 width\nuint32 height\n'
        'string encoding\nuint32 step\nuint8[] data'
    ),
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': (
        'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n'
        'uint8 flags\nbool is_bigendian\nuint8[] data'
    ),
}
for name, text in DEFINITIONS.items():
    TYPES.register(get_types_from_msg(text, name))
VIDEO, COMPRESSED, RAW, FFMPEG = DEFINITIONS
GOP = 5
T0 = 1_700_000_000_000_000_000
STEP = 33_000_000


def kind(name: str) -> Any:
    return TYPES.types[name]


def stamp(at: int) -> Any:
    ns = T0 + at * STEP
    return kind('builtin_interfaces/msg/Time')(ns // 10**9, ns % 10**9)


def message(name: str, at: int, data: bytes, form: str, size_wh: tuple[int, int]) -> Any:
    pixels = np.frombuffer(data, np.uint8)
    if name == FFMPEG:
        header = kind('std_msgs/msg/Header')(stamp(at), 'front')
        flags = int(is_keyframe(data, 'hevc' if 'hevc' in form else 'h264'))
        return kind(name)(header, *size_wh, form, at * 3000, flags, False, pixels)
    if name == RAW:
        return kind(name)(stamp(at), 'front', *size_wh, form, size_wh[0] * 3, pixels)
    return kind(name)(stamp(at), 'front', pixels, form)


def faces(face_bgr: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    return [np.ascontiguousarray(np.roll(face_bgr, at, axis=1)) for at in range(count)]


def write(path: Path, name: str, items: list[bytes], form: str, size_wh: tuple[int, int]) -> None:
    with Writer(path, version=9) as writer:
        connection = writer.add_connection('/front', name, typestore=TYPES)
        for at, data in enumerate(items):
            whole = message(name, at, data, form, size_wh)
            writer.write(connection, T0 + at * STEP, TYPES.serialize_cdr(whole, name))


def read(path: Path, name: str) -> list[tuple[int, Any]]:
    with Reader(path) as reader:
        return [
            (log_ns, TYPES.deserialize_cdr(data, name)) for _, log_ns, data in reader.messages()
        ]


def fields(item: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(item).items() if name != 'data'}


@pytest.fixture(scope='module')
def detector() -> Iterator[Recipe]:
    settings = Settings().updated({'face.method': 'solid'})
    with Networks(settings) as networks:
        yield Recipe(networks, settings)


def found(detector: Recipe, image: NDArray[np.uint8]) -> int:
    return int((detector.detect(ArrayFrame(image.copy())).scores > 0.5).sum())


@pytest.mark.parametrize(
    ('name', 'codec', 'form'),
    [
        (VIDEO, 'h264', 'h264'),
        (VIDEO, 'hevc', 'h265'),
        (FFMPEG, 'h264', 'h264;yuv420p;bgr8;bgr8'),
        (FFMPEG, 'hevc', 'hevc'),
    ],
)
def test_video_goes_round_and_no_face_is_left(
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    detector: Recipe,
    name: str,
    codec: str,
    form: str,
) -> None:
    pictures = faces(face_bgr, 12)
    size_wh = (face_bgr.shape[1], face_bgr.shape[0])
    write(tmp_path / 'in', name, stream(pictures, codec, gop=GOP), form, size_wh)
    assert main(['bag', '-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), *QUICK]) == 0
    before, after = (read(path, name) for path in (tmp_path / 'in', tmp_path / 'out'))
    assert [log_ns for log_ns, _ in after] == [log_ns for log_ns, _ in before]
    assert [fields(item) for _, item in after] == [fields(item) for _, item in before]
    data = [[item.data.tobytes() for _, item in side] for side in (before, after)]
    keys = [[is_keyframe(packet, codec) for packet in side] for side in data]
    assert keys[0] == keys[1] == [at % GOP == 0 for at in range(12)]
    shown = []
    for side in data:
        decoder = PacketDecoder(codec)
        shown.append([decoder.decode(packet).samples.decode().image_bgr for packet in side])
    assert all(found(detector, image) for image in shown[0])
    assert not any(found(detector, image) for image in shown[1])
    # Where there is no face, it is the same picture.
    strip = [np.abs(a[:8].astype(int) - b[:8]).mean() for a, b in zip(*shown, strict=True)]
    assert max(strip) < 12


def test_packets_without_a_picture_are_left_out_and_told(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    packets = stream(faces(face_bgr, 13), gop=GOP)
    packets[7] = b''
    size_wh = (face_bgr.shape[1], face_bgr.shape[0])
    write(tmp_path / 'in', VIDEO, packets[2:], 'h264', size_wh)
    assert main(['bag', '-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), *QUICK]) == 1
    after = read(tmp_path / 'out', VIDEO)
    # Three before the first keyframe; the empty one, and two that refer to what it was.
    assert [(log_ns - T0) // STEP + 2 for log_ns, _ in after] == [5, 6, 10, 11, 12]
    said = capsys.readouterr().err
    assert '6 packets have no picture and are left out: no keyframe has come yet' in said


def test_frame_that_fails_is_black_and_the_stream_goes_on(
    tmp_path: Path, face_bgr: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ffs_anonymizer.bag import video
    from ffs_anonymizer.errors import ImageError

    decode = video.VideoImage.decode

    def fail(self: Any, *rotation: int) -> Any:
        if self.stamp_ns == T0 + 3 * STEP:
            raise ImageError('this one')
        return decode(self, *rotation)

    monkeypatch.setattr(video.VideoImage, 'decode', fail)
    size_wh = (face_bgr.shape[1], face_bgr.shape[0])
    write(tmp_path / 'in', VIDEO, stream(faces(face_bgr, 6), gop=GOP), 'h264', size_wh)
    words = ['bag', '-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), *QUICK]
    assert main([*words, '--on-error', 'black']) == 1
    decoder = PacketDecoder('h264')
    shown = [
        decoder.decode(item.data.tobytes()).samples.decode().image_bgr
        for _, item in read(tmp_path / 'out', VIDEO)
    ]
    assert [image.max() < 24 for image in shown] == [False, False, False, True, False, False]


def test_other_codec_is_refused_before_the_work(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / 'in', VIDEO, [b'data'], 'vp9', (8, 8))
    assert main(['bag', '-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), *QUICK]) == 1
    assert "got packets of 'vp9', expected h264 or h265" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['encoder', 'decoder'])
def test_device_that_is_not_there_is_refused_before_the_work(
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    none = {'h264': video_codecs.Decoder('h264_none'), 'hevc': video_codecs.Decoder('hevc_none')}
    monkeypatch.setitem(video_codecs.DECODERS, 'v4l2m2m', none)
    monkeypatch.setitem(video_codecs.ENCODERS, 'v4l2m2m', _without_encoders())
    pictures = faces(face_bgr, 1)
    write(tmp_path / 'in', VIDEO, stream(pictures, 'h264'), 'h264', pictures[0].shape[1::-1])
    order = ['bag', '-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), *QUICK]
    assert main([*order, '--set', f'video.{name}=v4l2m2m']) == 2
    assert 'this FFmpeg has no h264_none' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def _without_encoders() -> dict[str, video_codecs.Encoder]:
    return {codec: video_codecs.Encoder(f'{codec}_none', {}) for codec in video_codecs.CODECS}


@pytest.mark.parametrize('name', [COMPRESSED, RAW])
def test_images_of_foxglove(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Recipe, name: str
) -> None:
    size_wh = (face_bgr.shape[1], face_bgr.shape[0])
    pictures = faces(face_bgr, 2)
    jpeg = name == COMPRESSED
    items = [
        cv2.imencode('.jpg', picture)[1].tobytes() if jpeg else picture.tobytes()
        for picture in pictures
    ]
    write(tmp_path / 'in', name, items, 'jpeg' if jpeg else 'bgr8', size_wh)
    assert main(['bag', '-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), *QUICK]) == 0
    before, after = (read(path, name) for path in (tmp_path / 'in', tmp_path / 'out'))
    assert [fields(item) for _, item in after] == [fields(item) for _, item in before]
    for _, item in after:
        image = cv2.imdecode(item.data, cv2.IMREAD_COLOR) if jpeg else None
        if image is None:
            image = item.data.reshape(face_bgr.shape)
        assert not found(detector, image)
