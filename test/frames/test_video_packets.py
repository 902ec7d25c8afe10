from __future__ import annotations

from ffs_anonymizer.errors import ImageError, SettingsError
from ffs_anonymizer.frames import video_codecs
from ffs_anonymizer.frames.video_packets import (
    check_codecs,
    codec_of,
    is_keyframe,
    PacketDecoder,
    PacketEncoder,
    Transcoder,
)
from ffs_anonymizer.settings.runtime import VIDEO_DECODERS, VIDEO_ENCODERS
import numpy as np
import pytest
from support.video_packets import moving, stream

CODECS = ('h264', 'hevc')


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('h264', 'h264'),
        ('H264', 'h264'),
        ('libx264', 'h264'),
        ('h264_nvenc', 'h264'),
        ('h264;yuv420p;bgr8;bgr8', 'h264'),
        ('h265', 'hevc'),
        ('hevc', 'hevc'),
        ('libx265', 'hevc'),
        ('hevc_nvenc;nv12;bgr8', 'hevc'),
    ],
)
def test_codec_of(name: str, expected: str) -> None:
    assert codec_of(name) == expected


@pytest.mark.parametrize('name', ['', 'vp9', 'av1', 'mjpeg', 'yuv420p;h264'])
def test_other_codecs_are_refused(name: str) -> None:
    with pytest.raises(ImageError, match=r'expected h264 or h265 \(hevc\)'):
        codec_of(name)


@pytest.mark.parametrize('codec', CODECS)
def test_keyframes_are_told_by_their_bytes(codec: str) -> None:
    packets = stream(moving(11), codec, gop=5)
    assert [is_keyframe(packet, codec) for packet in packets] == [at % 5 == 0 for at in range(11)]
    assert not is_keyframe(b'', codec)
    assert not is_keyframe(b'\0\0\1', codec)


@pytest.mark.parametrize('codec', CODECS)
def test_stream_goes_round_picture_by_picture(codec: str) -> None:
    pictures = moving(12)
    decoder, encoder, again = PacketDecoder(codec), PacketEncoder(codec), PacketDecoder(codec)
    packets = stream(pictures, codec, gop=5)
    for at, packet in enumerate(packets):
        picture = decoder.decode(packet)
        frame = picture.samples.decode()
        assert frame.image_bgr.shape == pictures[at].shape
        assert np.abs(frame.image_bgr.astype(int) - pictures[at]).mean() < 4
        frame.image_bgr[40:56, 8:24] = (0, 0, 255)
        data = frame.encode(np.array([[8, 40, 24, 56]], np.int32))
        made = encoder.encode(picture, data)
        assert is_keyframe(made, codec) is (at % 5 == 0)
        seen = again.decode(made).samples.decode().image_bgr.astype(int)
        assert np.abs(seen - frame.image_bgr).mean() < 5
        # Nothing of what was painted over is left, whatever the packet refers to.
        assert np.abs(seen[44:52, 12:20] - (0, 0, 255)).mean() < 16


def test_colours_are_said_again() -> None:
    bt709 = {'x264-params': 'colorprim=bt709:transfer=bt709:colormatrix=bt709:bframes=0'}
    (packet,) = stream(moving(1), 'h264', **bt709)
    picture = PacketDecoder('h264').decode(packet)
    assert picture.colours[1:] == (1, 1, 1)
    made = PacketEncoder('h264').encode(picture, picture.samples.data)
    assert PacketDecoder('h264').decode(made).colours[1:] == (1, 1, 1)


@pytest.mark.parametrize('codec', CODECS)
def test_viewer_can_begin_at_each_keyframe(codec: str) -> None:
    decoder, encoder = PacketDecoder(codec), PacketEncoder(codec)
    made = []
    for packet in stream(moving(10), codec, gop=5):
        picture = decoder.decode(packet)
        made.append(encoder.encode(picture, picture.samples.data))
    late = PacketDecoder(codec)
    for packet in made[5:]:
        late.decode(packet)


@pytest.mark.parametrize('codec', CODECS)
def test_packets_before_the_first_keyframe_have_no_picture(codec: str) -> None:
    decoder = PacketDecoder(codec)
    packets = stream(moving(8), codec, gop=5)
    for packet in packets[1:5]:
        with pytest.raises(ImageError, match='no keyframe has come yet'):
            decoder.decode(packet)
    assert [decoder.decode(packet).keyframes for packet in packets[5:]] == [1, 1, 1]


@pytest.mark.parametrize('codec', CODECS)
def test_damage_lasts_until_the_next_keyframe(codec: str) -> None:
    decoder = PacketDecoder(codec)
    packets = stream(moving(11), codec, gop=5)
    decoder.decode(packets[0])
    with pytest.raises(ImageError):
        decoder.decode(b'')
    for packet in packets[1:5]:
        with pytest.raises(ImageError, match='no keyframe has come yet'):
            decoder.decode(packet)
    assert decoder.decode(packets[5]).keyframes == 2


@pytest.mark.parametrize('codec', CODECS)
@pytest.mark.parametrize('data', [b'\0\0\0\1', bytes(200), b'\0\0\1\x65' + bytes(60)])
def test_rubbish_is_refused(codec: str, data: bytes) -> None:
    with pytest.raises(ImageError):
        PacketDecoder(codec).decode(data)


def test_cut_packets_are_refused() -> None:
    """Of H.265, FFmpeg fills in what is missing and says nothing; that picture is searched too."""
    packets = stream(moving(6), 'h264')
    decoder = PacketDecoder('h264')
    decoder.decode(packets[0])
    with pytest.raises(ImageError):
        decoder.decode(packets[1][: len(packets[1]) // 2])


def test_stream_with_b_frames_is_refused() -> None:
    reordered = {'tune': 'film', 'preset': 'medium', 'bf': '2', 'x264-params': 'b-adapt=0'}
    decoder = PacketDecoder('h264')
    for packet in stream(moving(9), gop=9, **reordered):
        with pytest.raises(ImageError, match='B-frames|no keyframe'):
            decoder.decode(packet)


def test_keyframe_that_is_left_out_is_made_up_for() -> None:
    decoder, encoder = PacketDecoder('h264'), PacketEncoder('h264')
    made = []
    for at, packet in enumerate(stream(moving(10), gop=5)):
        picture = decoder.decode(packet)
        if at != 5:
            made.append(is_keyframe(encoder.encode(picture, picture.samples.data), 'h264'))
    assert made == [True, False, False, False, False, True, False, False, False]


def test_size_may_change_at_a_keyframe() -> None:
    decoder, encoder, again = PacketDecoder('h264'), PacketEncoder('h264'), PacketDecoder('h264')
    packets = stream(moving(3)) + stream(moving(3, 128, 96))
    sizes = []
    for packet in packets:
        picture = decoder.decode(packet)
        seen = again.decode(encoder.encode(picture, picture.samples.data))
        sizes.append((seen.samples.width, seen.samples.height))
    assert sizes == [(96, 64)] * 3 + [(128, 96)] * 3


@pytest.mark.parametrize('codec', CODECS)
def test_frames_become_packets_with_keyframes_where_they_were(codec: str) -> None:
    """Also where decoding is ahead of encoding, and where nothing is touched."""
    transcoder, viewer = Transcoder(), PacketDecoder(codec)
    packets = stream(moving(11), codec, gop=5)
    frames = [transcoder.decode(packet, codec) for packet in packets]
    made = []
    for frame in frames:
        frame.image_bgr[40:56, 8:24] = (0, 0, 255)
        made.append(frame.encode(np.array([[8, 40, 24, 56]], np.int32)))
    assert [is_keyframe(data, codec) for data in made] == [at % 5 == 0 for at in range(11)]
    shown = [viewer.decode(data).samples.decode().image_bgr for data in made]
    assert all(np.abs(seen[44:52, 12:20] - (0.0, 0, 255)).mean() < 16 for seen in shown)
    untouched = transcoder.decode(packets[0], codec).encode(np.empty((0, 4), np.int32))
    assert untouched != packets[0]
    assert viewer.decode(untouched).keyframes == 4


def test_codec_may_change() -> None:
    transcoder = Transcoder()
    for codec in ('h264', 'hevc'):
        data = transcoder.decode(stream(moving(2), codec)[0], codec).encode(
            np.empty((0, 4), np.int32)
        )
        assert PacketDecoder(codec).decode(data).samples.width == 96
    with pytest.raises(ImageError, match='expected h264'):
        transcoder.decode(b'', 'vp9')


def test_every_setting_has_its_codecs() -> None:
    assert tuple(video_codecs.ENCODERS) == VIDEO_ENCODERS
    assert tuple(video_codecs.DECODERS) == VIDEO_DECODERS
    for kinds in (video_codecs.ENCODERS, video_codecs.DECODERS):
        assert all(tuple(kind) == video_codecs.CODECS for kind in kinds.values())
    names = {kind: encoders['hevc'].name for kind, encoders in video_codecs.ENCODERS.items()}
    assert names == {'software': 'libx265', 'nvenc': 'hevc_nvenc', 'v4l2m2m': 'hevc_v4l2m2m'}
    assert video_codecs.DECODERS['nvdec']['h264'].name == 'h264_cuvid'


def test_software_works_everywhere() -> None:
    assert check_codecs('software', 'software') == []


@pytest.mark.parametrize(('encoder', 'decoder'), [('none', 'software'), ('software', 'none')])
def test_codecs_that_ffmpeg_lacks_are_refused(
    monkeypatch: pytest.MonkeyPatch, encoder: str, decoder: str
) -> None:
    missing = {codec: video_codecs.Encoder(f'{codec}_none', {}) for codec in CODECS}
    monkeypatch.setitem(video_codecs.ENCODERS, 'none', missing)
    readers = {codec: video_codecs.Decoder(f'{codec}_none') for codec in CODECS}
    monkeypatch.setitem(video_codecs.DECODERS, 'none', readers)
    with pytest.raises(SettingsError, match='no h264_none; hevc: this FFmpeg has no hevc_none'):
        check_codecs(encoder, decoder)


@pytest.mark.parametrize(
    ('encoder', 'decoder', 'name'),
    [
        ('nvenc', 'software', 'h264_nvenc'),
        ('v4l2m2m', 'software', 'hevc_v4l2m2m'),
        ('software', 'nvdec', 'hevc_cuvid'),
        ('software', 'v4l2m2m', 'h264_v4l2m2m'),
    ],
)
def test_devices_that_are_not_there_are_refused(encoder: str, decoder: str, name: str) -> None:
    try:
        check_codecs(encoder, decoder)
    except SettingsError as error:
        text = str(error)
    else:
        pytest.skip('there is such a device here')
    assert f'video.encoder: {encoder} with video.decoder: {decoder} does not work here' in text
    assert name in text
    assert text.endswith('choose software')


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'tune': 'psnr', 'x264-params': 'annexb=1:repeat-headers=1'}, 'gave 0 packets'),
        ({'x264-params': 'annexb=1:repeat-headers=0:scenecut=0'}, 'h264'),
    ],
)
def test_encoders_that_open_but_do_not_serve_are_found(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], reason: str
) -> None:
    good = video_codecs.ENCODERS['software']
    bad = video_codecs.Encoder('libx264', {**good['h264'].options, **options})
    monkeypatch.setitem(video_codecs.ENCODERS, 'bad', {**good, 'h264': bad})
    reasons = check_codecs('bad', 'software')
    assert [text.partition(':')[0] for text in reasons] == ['h264']
    assert reason in reasons[0]


@pytest.mark.parametrize('codec', CODECS)
def test_mark_behind_a_picture_changes_nothing(codec: str) -> None:
    end = video_codecs.DECODERS['nvdec'][codec].end
    plain, marked = PacketDecoder(codec), PacketDecoder(codec)
    for packet in stream(moving(6), codec, gop=3):
        assert marked.decode(packet + end) == plain.decode(packet)
