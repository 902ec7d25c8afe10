"""Whether two source trees make the same pictures of the same inputs, to the bit: a script."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import importlib.util
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import cv2
import numpy as np

METHODS = ('blur', 'mosaic', 'solid', 'generate')
SIZE_WH = (320, 240)
FRAMES = 8
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
RAW, JPEG, WORDS = '/cam/raw', '/cam/jpeg', '/words'
TIMEOUT_S = 300
# One thread, so that no sum is added up in another order.
FIXED = ('--device', 'cpu', '--threads', '1')

Outputs = dict[str, bytes]


# -- inputs


def astronaut_bgr() -> np.ndarray:
    """Return the portrait of Eileen Collins by NASA (public domain) that scikit-image brings."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def drawn_bgr(seed: int) -> np.ndarray:
    """Return ovals with eyes and a mouth before noise of several scales."""
    rng = np.random.default_rng(seed)
    noise = [
        cv2.resize(rng.normal(0, 18, (n, n, 3)).astype(np.float32), SIZE_WH) for n in (4, 16, 64)
    ]
    image = np.clip(sum(noise) + 110, 0, 255).astype(np.uint8)
    for x in (80, 220):
        skin = tuple(int(v) for v in rng.integers(120, 230, 3))
        cv2.ellipse(image, (x, 110), (34, 48), 0, 0, 360, skin, -1)
        for eye in (x - 14, x + 14):
            cv2.circle(image, (eye, 100), 5, (30, 30, 30), -1)
        cv2.ellipse(image, (x, 136), (14, 6), 0, 0, 180, (40, 40, 160), -1)
    return image


def views() -> Iterator[np.ndarray]:
    """Yield what a camera sees that pans and zooms over the astronaut, SIZE_WH each."""
    photo = astronaut_bgr()
    for i in range(FRAMES):
        share = i / (FRAMES - 1)
        scale = SIZE_WH[0] / (512 - 250 * share)
        x, y = 256 - 30 * share, 180 - 40 * share
        shift = np.array(
            [[scale, 0, SIZE_WH[0] / 2 - x * scale], [0, scale, SIZE_WH[1] / 2 - y * scale]]
        )
        yield cv2.warpAffine(photo, shift, SIZE_WH, borderMode=cv2.BORDER_REFLECT)


def write_one_photo(folder: Path) -> Path:
    """Write a drawn photo, for a quick look."""
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / 'drawn.png'), drawn_bgr(0))
    return folder


def write_photos(folder: Path) -> Path:
    """Write five photos: a drawn one, and the astronaut whole, turned by EXIF, and many times."""
    write_one_photo(folder)
    photo = astronaut_bgr()
    cv2.imwrite(str(folder / 'often.bmp'), np.tile(cv2.resize(photo, (200, 200)), (2, 3, 1)))
    cv2.imwrite(str(folder / 'whole.png'), photo)
    cv2.imwrite(str(folder / 'whole.webp'), photo, (cv2.IMWRITE_WEBP_QUALITY, 95))
    data = cv2.imencode('.jpg', cv2.rotate(photo, cv2.ROTATE_90_COUNTERCLOCKWISE))[1].tobytes()
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    (folder / 'turned.jpg').write_bytes(data[:2] + segment + data[2:])
    return folder


def write_clip(folder: Path) -> Path:
    """Write a clip of the views, three times over."""
    import av

    folder.mkdir(parents=True)
    path = folder / 'clip.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'crf': '12', 'threads': '1'})
        stream.width, stream.height, stream.pix_fmt = *SIZE_WH, 'yuv420p'
        for picture in [*views()] * 3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='bgr24')))
        container.mux(stream.encode())
    return path


def write_bag(folder: Path) -> Path:
    """Write a bag with a raw and a JPEG topic, and one without pictures."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores

    store = get_typestore(Stores.ROS2_JAZZY)
    image, compressed, string, header, stamp = (
        store.types[name]
        for name in (
            'sensor_msgs/msg/Image',
            'sensor_msgs/msg/CompressedImage',
            'std_msgs/msg/String',
            'std_msgs/msg/Header',
            'builtin_interfaces/msg/Time',
        )
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(topic, kind.__msgtype__, typestore=store)
            for topic, kind in ((RAW, image), (JPEG, compressed), (WORDS, string))
        }

        def put(topic: str, time_ns: int, message: Any) -> None:
            data = store.serialize_cdr(message, message.__msgtype__)
            writer.write(connections[topic], time_ns, data)

        for i, picture in enumerate(views()):
            time_ns = START_NS + i * STEP_NS
            head = header(stamp(*divmod(time_ns, 10**9)), 'cam')
            jpeg = cv2.imencode('.jpg', picture)[1].ravel()
            height, width = picture.shape[:2]
            put(RAW, time_ns, image(head, height, width, 'bgr8', 0, 3 * width, picture.ravel()))
            put(JPEG, time_ns, compressed(head, 'bgr8; jpeg compressed bgr8', jpeg))
            put(WORDS, time_ns, string(f'frame {i}'))
    return folder


# -- runs


def environment(tree: Path) -> dict[str, str]:
    """Return the variables that let a process import a tree and nothing else of the package."""
    return {**os.environ, 'PYTHONPATH': str(tree), 'PYTHONDONTWRITEBYTECODE': '1'}


def refuse_another(tree: Path, folder: Path) -> None:
    """
    Look whether the package is imported from a tree.

    :raises SystemExit: it is not.
    """
    words = [sys.executable, '-c', 'import ffs_anonymizer; print(ffs_anonymizer.__file__)']
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=folder, env=environment(tree)
    )
    if not done.stdout.startswith(f'{tree}{os.sep}'):
        raise SystemExit(
            f'{tree}: got the package from {done.stdout.strip() or done.stderr.strip()}, '
            'expected it from there'
        )


def run_program(tree: Path, command: str, source: Path, target: Path, method: str) -> Outputs:
    """Run a command of the program; return what it said, by 'exit', where it failed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, '-m', 'ffs_anonymizer', command, '-i', source, '-o', target]
    words += ['--method', f'face={method}', *FIXED, '--disable-progress-output']
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        check=False,
        cwd=target.parent,
        env=environment(tree),
        timeout=TIMEOUT_S,
    )
    if not done.returncode:
        return {}
    said = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or [b'']
    return {'exit': b'%d: %s' % (done.returncode, said[-1])}


def photos_of(tree: Path, source: Path, folder: Path, method: str) -> Outputs:
    """Return the files that `media` writes for a folder of photos."""
    target = folder / 'photos'
    outputs = run_program(tree, 'media', source, target, method)
    files = sorted(path for path in target.rglob('*') if path.is_file())
    return outputs | {path.name: path.read_bytes() for path in files}


def clip_of(tree: Path, source: Path, folder: Path, method: str) -> Outputs:
    """Return the frames of the clip that `media` writes, as YUV."""
    import av

    target = folder / 'clip.mp4'
    outputs = run_program(tree, 'media', source, target, method)
    if target.is_file():
        with av.open(str(target)) as container:
            for i, frame in enumerate(container.decode(video=0)):
                outputs[f'frame {i}'] = frame.to_ndarray().tobytes()
    return outputs


def bag_of(tree: Path, source: Path, folder: Path, method: str) -> Outputs:
    """Return the messages of the bag that `bag` writes: pictures, and all others as they are."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import get_typestore, Stores

    store = get_typestore(Stores.ROS2_JAZZY)
    target = folder / 'bag'
    outputs = run_program(tree, 'bag', source, target, method)
    if not target.is_dir():
        return outputs
    with Reader(target) as reader:
        for i, (connection, time_ns, data) in enumerate(reader.messages()):
            name = f'{connection.topic} {time_ns - START_NS} {i}'
            if connection.topic != WORDS:
                message = store.deserialize_cdr(data, connection.msgtype)
                data = message.data.tobytes()
            outputs[name] = bytes(data)
    return outputs


def entry_point(tree: Path) -> str:
    """Return the module of a tree's node, as its setup.py names it."""
    found = re.search(r'anonymizer_node = ([\w.]+):main', (tree / 'setup.py').read_text('utf-8'))
    if found is None:
        raise SystemExit(f'{tree}: got a setup.py without anonymizer_node')
    return found[1]


def live_of(tree: Path, source: Path, folder: Path, method: str) -> Outputs:
    """Return what the node publishes for the views, one after the other, raw and JPEG."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import CompressedImage, Image

    parameters = {
        'image_topics': f'[{RAW}, {JPEG}/compressed]',
        'face.method': method,
        'device': 'cpu',
        'threads': '1',
    }
    words = [sys.executable, '-c', f'from {entry_point(tree)} import main; main()', '--ros-args']
    for name, value in parameters.items():
        words += ['-p', f'{name}:={value}']
    domain = 1 + os.getpid() % 100
    variables = {**environment(tree), 'ROS_DOMAIN_ID': str(domain)}
    log = folder / 'node.log'
    folder.mkdir(parents=True, exist_ok=True)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    executor = SingleThreadedExecutor(context=context)
    tester = rclpy.create_node('comparer', context=context)
    executor.add_node(tester)
    with log.open('wb') as file:
        node = subprocess.Popen(words, cwd=folder, env=variables, stdout=file, stderr=file)
    outputs: Outputs = {}
    received: list[Any] = []
    try:
        links = []
        for topic, kind in ((RAW, Image), (f'{JPEG}/compressed', CompressedImage)):
            publisher = tester.create_publisher(kind, topic, 10)
            tester.create_subscription(kind, f'/anonymized{topic}', received.append, 10)
            links.append((topic, kind, publisher))

        def wait_for(what: str, holds: Callable[[], object]) -> None:
            end_s = time.monotonic() + 60
            while not holds():
                executor.spin_once(timeout_sec=0.02)
                if node.poll() is not None or time.monotonic() > end_s:
                    raise TimeoutError(f'waited in vain until {what}')

        wait_for('the node subscribes', lambda: all(p.get_subscription_count() for *_, p in links))
        for i, picture in enumerate(views()):
            for topic, kind, publisher in links:
                message = kind()
                stamp = divmod(START_NS + i * STEP_NS, 10**9)
                message.header.stamp.sec, message.header.stamp.nanosec = stamp
                if kind is Image:
                    message.height, message.width = picture.shape[:2]
                    message.encoding, message.step = 'bgr8', 3 * picture.shape[1]
                    message.data = picture.tobytes()
                else:
                    message.format = 'bgr8; jpeg compressed bgr8'
                    message.data = cv2.imencode('.jpg', picture)[1].tobytes()
                received.clear()
                publisher.publish(message)
                wait_for(f'frame {i} of {topic} comes out', lambda: received)
                outputs[f'{topic} {i}'] = bytes(received[0].data)
    except TimeoutError as error:
        lines = log.read_text('utf-8', 'replace').strip().splitlines() or ['']
        outputs['exit'] = f'{error}: {lines[-1]}'.encode()
    finally:
        node.send_signal(signal.SIGINT)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        executor.shutdown()
        tester.destroy_node()
        context.try_shutdown()
    return outputs


# Each way in: what writes its input, and what a tree makes of it.
KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path, Path, Path, str], Outputs]]] = {
    'photo': (write_one_photo, photos_of),
    'photos': (write_photos, photos_of),
    'clip': (write_clip, clip_of),
    'bag': (write_bag, bag_of),
    'live': (lambda folder: folder, live_of),
}
DEFAULT_KINDS = ('photos', 'clip', 'bag', 'live')


# -- the comparison


def difference(old: bytes, new: bytes) -> str:
    """Say how two outputs differ: as pixels where they are image files, else as bytes."""
    arrays = [np.frombuffer(data, np.uint8) for data in (old, new)]
    pictures = [cv2.imdecode(a, cv2.IMREAD_UNCHANGED) if len(a) else None for a in arrays]
    what = 'bytes'
    if all(picture is not None for picture in pictures):
        arrays, what = pictures, 'pixels'
    first, second = arrays
    if first.shape != second.shape:
        return f'{what} of the shape {first.shape} became {second.shape}'
    gaps = np.abs(first.astype(np.int32) - second.astype(np.int32))
    if not gaps.any():
        return f'{len(old)} bytes became {len(new)}, of the same pixels'
    return f'{np.mean(gaps > 0):.2%} of {what} differ, by {gaps.max()} at most'


def compare(old: Outputs, new: Outputs) -> tuple[int, dict[str, str]]:
    """Return how many outputs are identical, and what is said of each other one."""
    told = {}
    for name in sorted(old.keys() | new.keys()):
        if name == 'exit' and old.get(name) != new.get(name):
            pair = [outputs.get(name, b'0: done').decode() for outputs in (old, new)]
            told[name] = f'{pair[0]!r} became {pair[1]!r}'
        elif name not in old or name not in new:
            told[name] = 'only in the ' + ('old' if name in old else 'new')
        elif old[name] != new[name]:
            told[name] = difference(old[name], new[name])
    return len(old.keys() | new.keys()) - len(told), told


def main(words: Sequence[str] | None = None) -> int:
    """Make the inputs, run both trees over them, and say which outputs are identical."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('old', type=Path, help='source tree, with setup.py')
    parser.add_argument('new', type=Path, help='source tree, with setup.py')
    parser.add_argument('--inputs', nargs='+', choices=KINDS, default=DEFAULT_KINDS)
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='leave all files there')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write what differs there too')
    args = parser.parse_args(words)
    trees = {'old': args.old.resolve(), 'new': args.new.resolve()}
    result: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep.resolve() if args.keep is not None else Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        for tree in trees.values():
            refuse_another(tree, root)
        for kind in args.inputs:
            if kind == 'live' and importlib.util.find_spec('rclpy') is None:
                print('live: left out, rclpy is not installed')
                continue
            write, outputs_of = KINDS[kind]
            source = write(root / 'inputs' / kind)
            for method in args.methods:
                made = {
                    name: outputs_of(tree, source, root / name / kind / method, method)
                    for name, tree in trees.items()
                }
                same, told = compare(made['old'], made['new'])
                failed = {name for name, outputs in made.items() if 'exit' in outputs}
                note = f', {" and ".join(sorted(failed))} failed' if failed else ''
                print(f'{kind:6} {method:8} {same} of {same + len(told)} identical{note}')
                for name, text in told.items():
                    print(f'       {name}: {text}', flush=True)
                result[f'{kind} {method}'] = {'identical': same, 'differ': told, 'note': note}
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return int(any(row['differ'] or row['note'] for row in result.values()))


if __name__ == '__main__':
    sys.exit(main())
