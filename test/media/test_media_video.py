"""Test videos in, videos without faces out."""

from fractions import Fraction
import os
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import BLUR, damage, faces, files, media, pictures, TIMES_MS, write_video
from support.program import run_program
from support.recipes import Detector


@pytest.mark.parametrize(
    ('suffix', 'codec', 'pixels'),
    [
        ('.mp4', 'libx264', 'yuv420p'),
        ('.mov', 'mjpeg', 'yuvj420p'),
        ('.mkv', 'libx264', 'yuv422p'),
        ('.avi', 'mjpeg', 'yuvj422p'),
        ('.webm', 'libvpx-vp9', 'yuv420p'),
    ],
)
def test_a_video_keeps_all_but_its_faces(
    suffix: str,
    codec: str,
    pixels: str,
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    detector: Detector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_video(tmp_path / f'a{suffix}', face_bgr, codec=codec, pixels=pixels)
    output = tmp_path / f'b{suffix}'
    assert media('-i', source, '-o', output, '--crf', '10', *BLUR) == 0, capsys.readouterr().err
    before, after = pictures(source), pictures(output)
    assert len(before) == len(TIMES_MS)
    # AVI numbers its pictures; which number is the first is a reader's guess.
    starts = [side[0][0] if suffix == '.avi' else 0 for side in (before, after)]
    times = [[float(t - s) for t, _, _ in p] for p, s in zip((before, after), starts, strict=True)]
    assert times[1] == pytest.approx(times[0], abs=2e-3)
    for (_, was, _), (_, now, _) in zip(before, after, strict=True):
        assert (faces(detector, was), faces(detector, now)) == (1, 0)
        assert np.abs(now[:, :20].astype(int) - was[:, :20]).mean() < 4
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ['video']
    assert b'Elm Street' in source.read_bytes()
    assert b'Elm Street' not in output.read_bytes()
    assert files(tmp_path) == [source.name, output.name, f'{output.name}.privacy.json']


def test_a_video_is_written_upright(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Detector
) -> None:
    source = tmp_path / 'a.mp4'
    write_video(source, np.ascontiguousarray(np.rot90(face_bgr, -1)), rotation=90)
    assert pictures(source)[0][2] == 90
    assert media('-i', source, '-o', tmp_path / 'b.mp4', *BLUR) == 0
    _, first, rotation = pictures(tmp_path / 'b.mp4')[0]
    assert (first.shape, rotation) == (face_bgr.shape, 0)
    assert np.abs(first[:, :20].astype(int) - face_bgr[:, :20]).mean() < 5
    assert faces(detector, first) == 0


@pytest.mark.parametrize('height', [144, 143])
def test_any_size_is_kept(height: int, tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    source = tmp_path / 'a.mkv'
    odd = np.ascontiguousarray(face_bgr[:height, :191])
    write_video(source, odd, codec='ffv1', pixels='bgr0')
    assert media('-i', source, '-o', tmp_path / 'b.mkv') == 0
    _, first, _ = pictures(tmp_path / 'b.mkv')[0]
    assert first.shape == odd.shape
    assert np.abs(first[:, :20].astype(int) - odd[:, :20]).mean() < 5


def test_sound_is_copied_on_request_only(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    def sound(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    source = write_video(tmp_path / 'a.mp4', face_bgr, sound=True)
    assert media('-i', source, '-o', tmp_path / 'b.mp4', '--keep-audio') == 0
    assert media('-i', source, '-o', tmp_path / 'c.mp4') == 0
    assert len(sound(source)) > 0
    assert sound(tmp_path / 'b.mp4') == sound(source)
    with av.open(str(tmp_path / 'c.mp4')) as container:
        assert len(container.streams.audio) == 0


def test_a_frame_that_fails_stops_the_video(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert media('-i', damaged, '-o', damaged.parent / f'out{damaged.suffix}') == 1
    said = capsys.readouterr()
    time_s = 0.1 if damaged.suffix == '.avi' else 0.2
    assert f'{damaged.name}: the picture at {time_s:.3f} s cannot be decoded' in said.err
    assert 'with --on-error black this frame would be black' in said.err
    assert '0 of 1 files written' in said.out
    assert files(damaged.parent) == [damaged.name]


def test_a_frame_that_fails_is_black_on_request(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = damaged.parent / f'out{damaged.suffix}'
    assert media('-i', damaged, '-o', output, '--on-error', 'black') == 1
    said = capsys.readouterr()
    assert f'{damaged.name}: 1 frames could not be anonymized and are black' in said.err
    assert '1 of 1 files written' in said.out
    dark = [bool(image.max() < 40) for _, image, _ in pictures(output)]
    assert dark == [i == 3 for i in range(len(TIMES_MS))]
    if damaged.suffix == '.mkv':
        times_ms = [float(time_s * 1000) for time_s, _, _ in pictures(output)]
        assert times_ms == pytest.approx(TIMES_MS, abs=1)


@pytest.mark.parametrize(
    ('suffix', 'codec', 'pixels'), [('.avi', 'mjpeg', 'yuvj420p'), ('.mkv', 'ffv1', 'bgr0')]
)
def test_a_damaged_start_is_no_reason_to_give_up(
    suffix: str, codec: str, pixels: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    source, output = tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'
    write_video(source, face_bgr, codec=codec, pixels=pixels, options={'g': '1'})
    damage(source, 0)
    words = ('-i', source, '-o', output, *BLUR)
    assert media(*words, '--on-error', 'black') == 1
    after = pictures(output)
    assert [bool(image.max() < 40) for _, image, _ in after] == [True] + 7 * [False]
    if suffix == '.mkv':
        assert [time_s * 1000 for time_s, _, _ in after] == pytest.approx(TIMES_MS, abs=1)


def test_a_preview_of_a_video_that_fails_is_deleted(damaged: Path) -> None:
    output = damaged.parent / f'out{damaged.suffix}'
    assert media('-i', damaged, '-o', output, '--preview', *BLUR) == 1
    assert files(damaged.parent) == [damaged.name]
    assert media('-i', damaged, '-o', output, '--preview', '--on-error', 'black', *BLUR) == 1
    made = [output.name + suffix for suffix in ('', '.preview.jpg', '.privacy.json')]
    assert files(damaged.parent) == [damaged.name, *made]


def test_errors_of_ffmpeg_have_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'a.mkv'
    source.write_text('no video', encoding='utf-8')
    assert media('-i', source, '-o', tmp_path / 'b.mkv') == 1
    told = f'  {source}: Invalid data found when processing input\n'
    assert capsys.readouterr().err.endswith(told)


def test_of_two_video_tracks_one_is_left_out_and_told(
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    detector: Detector,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / 'in.mkv', face_bgr, streams=2)
    assert media('-i', tmp_path / 'in.mkv', '-o', tmp_path / 'out.mkv', *BLUR) == 1
    assert 'in.mkv: 1 further video tracks are left out' in capsys.readouterr().err
    with av.open(str(tmp_path / 'out.mkv')) as container:
        assert len(container.streams) == 1
    shown = [image for _, image, _ in pictures(tmp_path / 'out.mkv')]
    assert [faces(detector, image) for image in shown] == [0] * len(TIMES_MS)


def test_boxes_are_for_images(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / 'in.mkv', face_bgr)
    assert media('-i', tmp_path / 'in.mkv', '-o', tmp_path / 'o.mkv', '--boxes', tmp_path) == 1
    assert 'in.mkv: a video, for which there are no boxes' in capsys.readouterr().err
    assert files(tmp_path) == ['in.mkv']


def test_a_video_that_ends_early_is_told(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / 'cut.mp4'
    with av.open(str(source), 'w', options={'movflags': 'faststart'}) as container:
        video = container.add_stream('libx264', rate=30, options={'bf': '0'})
        video.height, video.width = face_bgr.shape[:2]
        for _ in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(face_bgr, 'bgr24')))
        container.mux(video.encode(None))
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    source.write_bytes(source.read_bytes()[: packets[5][0]])
    assert media('-i', source, '-o', tmp_path / 'out.mp4') == 1
    assert 'cut.mp4: ends early: its header counts 3 pictures more' in capsys.readouterr().err
    assert len(pictures(tmp_path / 'out.mp4')) == 5


def test_what_a_cut_video_holds_is_written_and_told(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(tmp_path / 'a.mkv', face_bgr, codec='ffv1', pixels='bgr0')
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    assert media('-i', source, '-o', tmp_path / 'b.mkv', *BLUR) == 1
    said = capsys.readouterr()
    assert 'a.mkv: ends early: its header says 0.533 s, what it holds ends at 0.' in said.err
    assert '1 of 1 files written' in said.out


@pytest.mark.parametrize('codec', ['libx264rgb', 'ffv1'])
def test_colours_of_rgb_are_right(codec: str, tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    pixels = {'libx264rgb': 'rgb24', 'ffv1': 'bgr0'}[codec]
    options = {'crf': '1'} if codec == 'libx264rgb' else {}
    patches = np.full((96, 96, 3), (200, 40, 60), np.uint8)
    patches[:, 32:64] = (30, 210, 120)
    patches[:, 64:] = (128, 128, 128)
    source = write_video(
        tmp_path / 'a.mkv', patches, codec=codec, pixels=pixels, options=options, times_ms=(0,)
    )
    assert media('-i', source, '-o', tmp_path / 'b.mkv', '--crf', '2') == 0
    with av.open(str(tmp_path / 'b.mkv')) as container:
        frame = next(container.decode(video=0))
        # No 0, which says that the planes are green, blue and red.
        assert (frame.format.name, frame.colorspace, frame.color_range) == ('yuv420p', 5, 1)
        shown = frame.to_ndarray(format='bgr24').astype(int)
    for x in (16, 48, 80):
        assert np.abs(shown[48, x] - patches[48, x]).max() <= 5


def write_gaps(path: Path, image_bgr: NDArray[np.uint8], slots: list[int], bf: str) -> None:
    """Write an AVI whose pictures lie in some of its slots."""
    with av.open(str(path), 'w') as container:
        video = container.add_stream('libx264', rate=25, options={'bf': bf})
        video.height, video.width = image_bgr.shape[:2]
        video.codec_context.time_base = Fraction(1, 25)
        for i, slot in enumerate(slots):
            frame = av.VideoFrame.from_ndarray(np.roll(image_bgr, 2 * i, axis=1), 'bgr24')
            frame.pts, frame.time_base = slot, video.codec_context.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


@pytest.mark.parametrize('bf', ['0', '2'])
def test_an_avi_with_dropped_frames_keeps_its_length(
    bf: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    slots = [0, 1, 2, 3, 20, 21, 22, 40]
    write_gaps(tmp_path / 'a.avi', face_bgr, slots, bf)
    assert media('-i', tmp_path / 'a.avi', '-o', tmp_path / 'b.avi', *BLUR) == 0
    lengths, places = [], []
    for name in ('a.avi', 'b.avi'):
        with av.open(str(tmp_path / name)) as container:
            lengths.append(container.duration)
            packets = [p.dts for p in container.demux(video=0) if p.size]
            places.append([dts - packets[0] for dts in packets])
    assert lengths[1] == lengths[0]
    assert places[1] == places[0]


def test_a_camera_that_hangs_on_its_side(
    tmp_path: Path, face_bgr: NDArray[np.uint8], detector: Detector
) -> None:
    turned = np.ascontiguousarray(np.rot90(face_bgr))
    source = write_video(tmp_path / 'a.mkv', turned, times_ms=(0, 33))
    rotation = ('--set', 'rotation=["*.mkv 90"]', '--write-detections', tmp_path / 'found')
    rotation += ('--set', 'feather=0.0')
    assert media('-i', source, '-o', tmp_path / 'b.mkv', *BLUR, *rotation) == 0
    for _, image, _ in pictures(tmp_path / 'b.mkv'):
        upright = np.ascontiguousarray(np.rot90(image, -1))
        assert faces(detector, upright) == 0
        assert np.abs(upright[:, :20].astype(int) - face_bgr[:, :20]).mean() < 12
    height, width = face_bgr.shape[:2]
    assert f'"size_wh": [{width}, {height}]' in (tmp_path / 'found').read_text('utf-8')


def test_what_lies_in_memory_changes_no_byte(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    source = write_video(tmp_path / 'a.mkv', face_bgr, times_ms=range(100, 1700, 50))
    made = []
    for fill in ('1', '85'):
        target = tmp_path / f'{fill}.mkv'
        words = ('-i', source, '-o', target, '--method', 'solid')
        done = run_program('media', *words, env={**os.environ, 'MALLOC_PERTURB_': fill})
        assert done.returncode == 0, done.stderr
        made.append(target.read_bytes())
    assert made[0] == made[1]
