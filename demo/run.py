"""
Show and check the whole: a recording through the live node, and through the bag tool.

What it leaves in the output folder: the recording, what the node made of it, what the bag tool
made of it, a picture of before and after, and a table. It exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import cv2
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.frames.message import decode, decode_image
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.crops import cut_square, enclosing_squares, resize_square
from ffs_anonymizer.regions.boxes import iou
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
import recording
from recording import FRONT, IMAGE_TOPICS, INFO_TOPICS, TYPESTORE
from rosbags.rosbag2 import Reader

Messages = dict[str, list[bytes]]

PREFIX = '/anonymized'
READY = 'ready: models are loaded'
# Faces are blurred, so that the detector can be asked afterwards: it must not be sure of a face
# where one was.
BLUR = ('--method', 'blur')
CHECKED_EVERY = 4
FACE_SCORE = 0.5
SAME_PLACE_IOU = 0.3
BAG = 'anonymized_bag'
FILM_FRAMES = 8
FILM_PX = 160
FILM_SCALE = 1.9
FILM_MARGIN_PX = 12
PROGRAMS = Path(sys.executable).parent


@dataclass
class Row:
    """Hold what became of one topic on one way, as it stands in the table."""

    way: str
    topic: str
    frames_in: int
    frames_out: int
    dropped: str = '-'
    failed: str = '-'
    regions: str = '-'
    latency_ms: str = '-'
    seconds: str = '-'

    def cells(self) -> list[str]:
        """Return the row's cells."""
        return [str(value) for value in vars(self).values()]


@dataclass
class Findings:
    """Collect the rows of the table, and what is wrong."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: bool, problem: str) -> None:
        """Note a problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)

    def table(self) -> str:
        """Return all rows as Markdown."""
        head = 'way | topic | in | out | dropped | failed | regions | latency p50/p95 | seconds'
        lines = [head, ' | '.join(['---'] * 9), *(' | '.join(row.cells()) for row in self.rows)]
        return '\n'.join(f'| {line} |' for line in lines)


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', type=Path, default=Path('demo_out'))
    output: Path = parser.parse_args().output
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    findings = Findings()
    source = output / 'recording'
    recording.write(source)
    messages = read(source)
    print(f'{source}: {sum(map(len, messages.values()))} messages', flush=True)

    live(output, messages, findings)
    offline(output, messages, findings)
    check_faces(messages, read(output / BAG), findings)
    draw(output / 'before_after.png', messages, read(output / BAG))
    draw_film(output / 'film.png', messages)

    verdict = [f'- WRONG: {problem}' for problem in findings.problems] or ['All checks passed.']
    text = '\n'.join(['# Demo', '', findings.table(), '', *verdict, ''])
    (output / 'summary.md').write_text(text, encoding='utf-8')
    print(text)
    return 1 if findings.problems else 0


def read(path: Path) -> Messages:
    """Return the serialized messages of a recording by topic."""
    messages: Messages = {}
    with Reader(path) as reader:
        for connection, _, data in reader.messages():
            messages.setdefault(connection.topic, []).append(bytes(data))
    return messages


def message(topic: str, data: bytes) -> Any:
    """Deserialize a message of one of the recording's image topics."""
    kind = 'Image' if topic.endswith(FRONT) else 'CompressedImage'
    return TYPESTORE.deserialize_cdr(data, f'sensor_msgs/msg/{kind}')


def form(image: Any) -> tuple[object, ...]:
    """Return all of an image message but its pixels."""
    names = ('height', 'width', 'encoding', 'is_bigendian', 'step', 'format')
    stamp = image.header.stamp
    return (
        stamp.sec,
        stamp.nanosec,
        image.header.frame_id,
        *(getattr(image, name, None) for name in names),
    )


def live(output: Path, messages: Messages, findings: Findings) -> None:
    """Play the recording through the node over DDS, and record its outputs."""
    # Alone on this machine, whatever else runs here.
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['ROS_LOG_DIR'] = str(output.resolve() / 'log')
    from replay import Player, Recorder, ros_node, wait_for

    config = output / 'anonymizer.param.yaml'
    topics = f'image_topics=[{", ".join(IMAGE_TOPICS)}]'
    call('ffs_anonymizer', 'params', '--set', topics, output=config)
    outputs = {PREFIX + topic for topic in (*IMAGE_TOPICS, *INFO_TOPICS)}
    start_s = time.monotonic()
    with ros_node('demo') as ros, running_node(config, output / 'node.log', findings) as log:
        recorder, player = Recorder(ros), Player(ros, output / 'recording')

        def listening() -> bool:
            recorder.look()
            heard = player.subscribed((*IMAGE_TOPICS, *INFO_TOPICS))
            return heard and outputs <= set(recorder.types)

        def accounted() -> bool:
            reports = [recorder.diagnostics.get(topic, {}) for topic in IMAGE_TOPICS]
            return all(
                int(report.get('frames in', 0)) == sent[topic] and report['frames waiting'] == '0'
                for topic, report in zip(IMAGE_TOPICS, reports, strict=True)
            )

        def recorded() -> bool:
            got = [topic for topic, _, _ in recorder.messages]
            return all(
                got.count(PREFIX + image) == got.count(PREFIX + info)
                and got.count(PREFIX + image) == int(recorder.diagnostics[image]['frames out'])
                for image, info in zip(IMAGE_TOPICS, INFO_TOPICS, strict=True)
            )

        try:
            wait_for('the node loads its models', lambda: READY in log.read_text('utf-8'))
            wait_for('node and recorder find their topics', listening)
            sent = player.play()
            wait_for('the node accounts for every frame', accounted)
            wait_for('all outputs arrive', recorded)
        except TimeoutError as error:
            findings.problems.append(f'live: {error}; the node said: {log.read_text("utf-8")}')
            return
    recorder.write(output / 'anonymized_live')
    check_live(messages, read(output / 'anonymized_live'), recorder, findings)
    for row in findings.rows:
        row.seconds = f'{time.monotonic() - start_s:.1f}'


@contextlib.contextmanager
def running_node(config: Path, log: Path, findings: Findings) -> Iterator[Path]:
    """Start the node as a user would, and stop it with Ctrl-C."""
    command = [str(PROGRAMS / 'anonymizer_node'), '--ros-args', '--params-file', str(config)]
    with log.open('w') as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        findings.expect(code == 0, f'the node ended with exit code {code}')


def check_live(
    before: Messages,
    after: Messages,
    recorder: Any,
    findings: Findings,
) -> None:
    """Check that each frame is accounted for and looks like the one that it was made of."""
    for topic in IMAGE_TOPICS:
        report = recorder.diagnostics[topic]
        counts = {
            name: int(report[f'frames {name}']) for name in ('in', 'out', 'dropped', 'failed')
        }
        latency = f'{report["latency p50 ms"]}/{report["latency p95 ms"]} ms'
        outputs = after.get(PREFIX + topic, [])
        findings.rows.append(
            Row(
                'live node',
                topic,
                counts['in'],
                len(outputs),
                str(counts['dropped']),
                str(counts['failed']),
                report['regions'],
                latency,
            )
        )
        done = counts['out'] + counts['dropped'] + counts['failed']
        findings.expect(counts['in'] == done, f'{topic}: {counts}: frames are unaccounted for')
        findings.expect(counts['failed'] == 0, f'{topic}: {report["last error"]}')
        findings.expect(len(outputs) > 0, f'{topic}: nothing came out')
        findings.expect(int(report['regions']) > 0, f'{topic}: no face was found')
        inputs = [form(message(topic, data)) for data in before[topic]]
        places = [
            inputs.index(found) if found in inputs else -1
            for found in (form(message(topic, data)) for data in outputs)
        ]
        findings.expect(-1 not in places, f'{topic}: a header or layout differs from its input')
        findings.expect(places == sorted({*places}), f'{topic}: a frame came twice or too late')
    for topic, image_topic in zip(INFO_TOPICS, IMAGE_TOPICS, strict=True):
        # Fast DDS pads what it sends to whole words.
        was, now = (
            [TYPESTORE.deserialize_cdr(data, 'sensor_msgs/msg/CameraInfo') for data in side]
            for side in (before[topic], after.get(PREFIX + topic, []))
        )
        # Each goes with its image, and is dropped with it.
        images = [message(image_topic, data) for data in after.get(PREFIX + image_topic, [])]
        stamps = [repr(image.header.stamp) for image in images]
        was = [info for info in was if repr(info.header.stamp) in stamps]
        findings.expect(
            list(map(repr, was)) == list(map(repr, now)),
            f'{topic}: {len(now)} of {len(was)} came, or came changed',
        )


def offline(output: Path, before: Messages, findings: Findings) -> None:
    """Run the bag tool on the recording, and check what it wrote."""
    start_s = time.monotonic()
    source, target, lines = (output / name for name in ('recording', BAG, 'detections.jsonl'))
    words = ('bag', '-i', source, '-o', target, *BLUR, '--write-detections', lines)
    code = call('ffs_anonymizer', *words, output=output / 'bag.log')
    seconds = f'{time.monotonic() - start_s:.1f}'
    said = (output / 'bag.log').read_text(encoding='utf-8')
    findings.expect(code == 0, f'the bag tool ended with exit code {code}: {said}')
    if code:
        return
    after = read(target)
    regions = dict.fromkeys(IMAGE_TOPICS, 0)
    # Between the head and the end.
    for line in lines.read_text(encoding='utf-8').splitlines()[1:-1]:
        found = json.loads(line)
        regions[found['stream']] += len(found['regions'])
    findings.expect({*before} == {*after}, f'bag: got topics {[*after]}, expected {[*before]}')
    others = [0, 0]
    for topic, inputs in before.items():
        outputs = after.get(topic, [])
        if topic in IMAGE_TOPICS:
            row = Row('bag tool', topic, len(inputs), len(outputs), '0', '0', str(regions[topic]))
            row.seconds = seconds
            findings.rows.append(row)
            forms = [[form(message(topic, data)) for data in side] for side in (inputs, outputs)]
            findings.expect(forms[0] == forms[1], f'bag: {topic}: a header or layout differs')
            findings.expect(inputs != outputs, f'bag: {topic}: no image was changed')
        else:
            others = [others[0] + len(inputs), others[1] + len(outputs)]
            findings.expect(inputs == outputs, f'bag: {topic}: not the same bytes')
    findings.rows.append(
        Row('bag tool', 'all others, byte for byte', others[0], others[1], '0', '0')
    )


def check_faces(before: Messages, after: Messages, findings: Findings) -> None:
    """Check that the detector finds no face any more where there was one."""
    with Networks(Settings()) as networks:
        recipe = Recipe(networks, Settings())
        for topic in IMAGE_TOPICS:
            seen = left = 0
            pairs = list(zip(before[topic], after.get(topic, []), strict=False))[::CHECKED_EVERY]
            for pair in pairs:
                was, now = (
                    found.xyxy_px[found.scores >= FACE_SCORE]
                    for found in (recipe.detect(decode(message(topic, d))) for d in pair)
                )
                seen += len(was)
                left += int((iou(was, now) > SAME_PLACE_IOU).any(axis=1).sum())
            findings.expect(seen > 0, f'{topic}: no face in {len(pairs)} frames of the recording')
            findings.expect(left == 0, f'{topic}: {left} of {seen} faces are still found')


def draw(path: Path, before: Messages, after: Messages) -> None:
    """Draw one frame before, blurred and with generated faces."""
    i = len(before[FRONT]) // 8
    source = message(FRONT, before[FRONT][i])
    columns = [decode_image(m).image_bgr for m in (source, message(FRONT, after[FRONT][i]))]
    drawn = Settings().updated({'face.method': 'generate'})
    with Networks(drawn) as networks:
        generated = decode_image(source).image_bgr
        columns.append(Recipe(networks, drawn).anonymize_array(generated))
    cv2.imwrite(str(path), np.hstack(columns))


def draw_film(path: Path, before: Messages) -> None:
    """Draw one person in a moving camera, before and with the face that is generated for them."""
    settings = Settings().updated({'face.method': 'generate', 'detector.plate_model_path': 'none'})
    columns = []
    with Networks(settings) as networks:
        recipe, stream = Recipe(networks, settings), Stream((FRONT,))
        for data in before[FRONT]:
            source = message(FRONT, data)
            frame = decode_image(source)
            stamp_ns = source.header.stamp.sec * 10**9 + source.header.stamp.nanosec
            done, stream = recipe.anonymize(frame, stream, stamp_ns=stamp_ns)
            whole = done.regions.ungrown_xyxy_px[:, :2].min(1) >= FILM_MARGIN_PX
            if whole.any():
                box = done.regions.ungrown_xyxy_px[whole.argmax()]
                rect = np.rint(box).astype(np.int32)[None]
                (square,) = enclosing_squares(rect, FILM_SCALE)
                tiles = (decode_image(source).image_bgr, frame.image_bgr)
                columns.append([resize_square(cut_square(t, square), FILM_PX) for t in tiles])
    shown = np.linspace(0, len(columns) - 1, FILM_FRAMES).astype(int) if columns else []
    film = [np.vstack(columns[i]) for i in shown]
    cv2.imwrite(str(path), np.hstack(film) if film else np.zeros((1, 1, 3), np.uint8))


def call(program: str, *words: str | Path, output: Path) -> int:
    """Run one of the package's programs with what it says in a file; return its exit code."""
    with output.open('w', encoding='utf-8') as file:
        command = [PROGRAMS / program, *words]
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode


if __name__ == '__main__':
    sys.exit(main())
