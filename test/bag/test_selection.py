"""Test what happens to each topic."""

import base64
import os
from types import SimpleNamespace

import cv2
from ffs_anonymizer.bag.selection import Action, contains_picture, is_picture, Selection
from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.storage import Attachment, Topic
from mcap.reader import make_reader
import numpy as np
import pytest
from support.bags import (
    ALL_NAMES,
    COMPRESSED,
    drive,
    IMAGE,
    images,
    jpeg,
    leftovers,
    MARKERS,
    NESTED,
    others,
    raw_cdr,
    read_bag,
    Record,
    run,
    Spec,
    SPECS,
    T0,
    VIDEO,
    write_bag,
    write_mcap,
)
import yaml
import zstandard


@pytest.mark.parametrize(
    'words',
    [
        ['--topics', '/cam/image'],
        ['-e', '/cam/im...'],
        ['--exclude-topics', '/cam/image/compressed'],
        ['-x', '.*/compressed'],
        ['--set', 'copy_topics=["*/compressed"]'],
    ],
)
def test_topics_that_are_not_chosen_are_copied(tmp_path, face_bgr, capsys, words):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records)

    assert run(source, tmp_path / 'out', *words) == 0

    result = read_bag(tmp_path / 'out').records
    name = '/cam/image/compressed'
    assert images(result, name) == images(records, name)
    assert images(result) != images(records)
    error = capsys.readouterr().err
    why = 'FACES' if words[0] in ('--topics', '-e') else 'PERSONS'
    (line,) = (line for line in error.splitlines() if 'COPIED AS THEY ARE' in line)
    assert f'THESE IMAGES ARE COPIED AS THEY ARE, {why} INCLUDED' in line
    assert line.endswith(f': {name}')


def test_a_topic_that_does_not_exist(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--topics', '/cam/imaeg', '/odd') == 1
    text = 'got /cam/imaeg, /odd, expected image topics of the bag: /cam/image, /cam/image/com'
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (
            ['-e', 'compressed'],
            "--regex: got 'compressed', expected what fits the whole name of one image topic of "
            'the bag or more, as `.*compressed` fits all names that end so: /cam/image, /cam/im',
        ),
        (['--topics', '/cam/image', '-e', '/odd'], "--regex: got '/odd', expected what"),
        (
            ['-x', 'depth'],
            "--exclude-regex: got 'depth', expected what fits the whole name of one topic of the "
            f'bag or more, as `.*compressed` fits all names that end so: {ALL_NAMES}\n',
        ),
        (
            ['--exclude-topics', '/odd', '/cam'],
            f'--exclude-topics: got /cam, expected topics of the bag: {ALL_NAMES}\n',
        ),
        (
            ['--drop-topics', '/cam/.*', '/map'],
            f'--drop-topics: got /cam/.*, expected topics of the bag: {ALL_NAMES}\n',
        ),
    ],
)
def test_names_and_expressions_that_fit_nothing(tmp_path, face_bgr, capsys, words, text):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', *words) == 1
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_copying_pictures_on_request_is_said_out_loud(tmp_path, face_bgr, capsys):
    depth = Spec('/front/compressedDepth', COMPRESSED)
    specs = [*SPECS, VIDEO, NESTED, MARKERS, depth]
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), specs=specs)

    words = ['-x', '/[^c].*', '--set', 'copy_topics=["*/nothing"]']
    assert run(source, tmp_path / 'out', '--dry-run', *words) == 0

    assert 'PERSONS INCLUDED, as you asked for: /front/ffmpeg, /seen\n' in capsys.readouterr().err


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_dropped_topics_leave_no_trace(tmp_path, face_bgr, capsys, storage, mode):
    specs = [*SPECS, VIDEO, Spec('/front/compressedDepth', COMPRESSED)]
    records = drive(face_bgr, 1)
    kept = [record for record in records if record.topic in ('/cam/image', '/map')]
    video = Record('/front/ffmpeg', T0 + 9, T0 + 9, 1, b'private')
    source = write_bag(tmp_path / 'in', [*records, video], specs=specs, storage=storage, mode=mode)
    dropped = [spec.name for spec in specs if spec.name not in ('/cam/image', '/map')]

    assert run(source, tmp_path / 'out', '--drop-topics', *dropped) == 0

    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ['/front/ffmpeg', VIDEO.type_name, '1', 'drop'] in lines
    assert ['/front/ffmpeg', 'drop', *'----'] in lines
    assert '/odd' not in printed.err
    result = read_bag(tmp_path / 'out')
    assert [r[:2] for r in result.records] == [r[:2] for r in kept]
    assert others(result.records)[0].data == records[0].data
    assert {*result.topics} == {'/cam/image', '/map'}
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    topics = info['rosbag2_bagfile_information']['topics_with_message_count']
    assert {t['topic_metadata']['name'] for t in topics} == {'/cam/image', '/map'}
    for path in (tmp_path / 'out').iterdir():
        data = path.read_bytes()
        plain = zstandard.ZstdDecompressor().decompress(data) if path.suffix == '.zstd' else data
        assert b'ffmpeg' not in plain
        assert b'Unheard' not in plain


def test_a_bag_of_which_all_is_dropped(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--drop-topics', *ALL_NAMES.split(', ')) == 1
    text = 'has no messages in the given time but those of dropped topics'
    assert text in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('mode', ['', 'FILE'])
def test_pictures_in_other_types_are_refused(tmp_path, face_bgr, capsys, mode):
    specs = [*SPECS, VIDEO, NESTED, MARKERS]
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), specs=specs, mode=mode)

    assert run(source, tmp_path / 'out') == 1

    error = capsys.readouterr().err
    assert '/front/ffmpeg (h264_msgs/msg/Packet)' in error
    assert ('/seen (my_msgs/msg/Seen)' in error) == (not mode)
    assert '; leave them out with --drop-topics, or, if they show no persons, copy them' in error
    assert '/markers' not in error
    assert leftovers(tmp_path) == []
    # The definition in a compressed file is seen only when it is opened.
    assert run(source, tmp_path / 'out', '--exclude-topics', '/front/ffmpeg') == 1
    assert '/seen (my_msgs/msg/Seen)' in capsys.readouterr().err
    assert leftovers(tmp_path) == []
    assert run(source, tmp_path / 'out', '--exclude-topics', '/front/ffmpeg', '/seen') == 0


CIRCLE = f'B b\n{"=" * 80}\nMSG: a_msgs/B\nC c\n{"=" * 80}\nMSG: a_msgs/C\nB b\n'


@pytest.mark.parametrize(
    ('type_name', 'definition', 'expected'),
    [
        ('a_msgs/msg/A', '', False),
        ('a_msgs/msg/A', 'uint8[] data # not a sensor_msgs/Image', False),
        ('a_msgs/msg/A', 'sensor_msgs/Image image', True),
        ('a_msgs/msg/A', 'sensor_msgs/CompressedImage[<=3] images', True),
        ('a_msgs/msg/A', 'sensor_msgs/CameraInfo info', False),
        (NESTED.type_name, NESTED.definition, True),
        (MARKERS.type_name, MARKERS.definition, False),
        ('a_msgs/msg/A', '#include "sensor_msgs/msg/Image.idl"', True),
        ('a_msgs/msg/A', 'struct A { sensor_msgs::msg::CompressedImage it; };', True),
        ('a_msgs/msg/A', CIRCLE, False),
    ],
)
def test_pictures_are_found_in_definitions(type_name, definition, expected):
    topic = Topic('/a', type_name, definition=definition.encode())
    assert contains_picture(topic) is expected
    action = Action.REFUSE if expected else Action.COPY
    assert Selection().action(topic) is action


def test_images_of_another_serialization_are_refused():
    topic = Topic('/a', IMAGE, serialization_format='protobuf')
    assert Selection().action(topic) is Action.REFUSE
    with pytest.raises(BagError, match=r'/a \(sensor_msgs/msg/Image\); leave them out'):
        Selection().check([SimpleNamespace(name='/a', type_name=IMAGE, topic=topic)])


@pytest.mark.parametrize(
    ('name', 'media_type', 'data', 'expected'),
    [
        ('a.txt', 'text/plain', b'', False),
        ('a.txt', 'text/plain', b'BMW', True),
        ('a.JPG', '', b'', True),
        ('a', 'image/png', b'', True),
        ('a', '', b'RIFF....WEBPVP8 ', True),
        ('a', '', b'RIFF....WAVEfmt ', False),
        ('a', '', b'....ftypisom', True),
    ],
)
def test_pictures_among_attachments(name, media_type, data, expected):
    assert is_picture(Attachment(name, media_type, 0, 0, data)) is expected


NAMED_OTHERWISE = f"""{'=' * 80}
IDL: my_vision/srv/DetectFaces
#include "sensor_msgs/msg/Image.idl"
module my_vision {{ module srv {{
struct DetectFaces_Request {{ sensor_msgs::msg::Image image; }};
}}; }};
"""
SERVICE_EVENT = (
    'service_msgs/ServiceEventInfo info\nDetect_Request[<=1] request\n'
    f'{"=" * 80}\nMSG: a_msgs/srv/Detect_Request\na_msgs/msg/Shot shot\n'
    f'{"=" * 80}\nMSG: a_msgs/msg/Shot\nsensor_msgs/CompressedImage picture\n'
)
OWN_IMAGE = 'uint32 height\nuint32 width\nstring encoding\nuint8[] data'
CLOUD = (
    'uint32 height\nuint32 width\nsensor_msgs/PointField[] fields\nuint32 row_step\nuint8[] data'
)


@pytest.mark.parametrize(
    ('type_name', 'encoding', 'definition', 'expected'),
    [
        ('my_vision/srv/DetectFaces_Event', 'ros2idl', NAMED_OTHERWISE, True),
        ('a_msgs/srv/Detect_Event', 'ros2msg', SERVICE_EVENT, True),
        ('a_msgs/msg/Own', 'ros2msg', OWN_IMAGE, True),
        ('a_msgs/msg/A', 'ros2msg', f'Own own\n{"=" * 80}\nMSG: a_msgs/Own\n{OWN_IMAGE}', True),
        ('a_msgs/msg/A', 'ros2msg', 'string format\nuint8[] data', True),
        ('a_msgs/msg/A', 'ros2msg', 'byte[] jpeg_data  # compressed', True),
        ('a_msgs/msg/A', 'ros2msg', 'uint8[100000] thumbnail', True),
        ('a_msgs/msg/A', 'ros2idl', 'struct A { \n sequence<octet> image_bytes; };', True),
        ('a_msgs/msg/CameraFrame', 'ros2msg', 'uint8[] data', True),
        ('a_msgs/msg/A', 'ros2msg', 'uint8[16] image_uuid', False),
        ('a_msgs/msg/A', 'ros2msg', 'string image_path\nuint8[] payload', False),
        ('a_msgs/msg/A', 'ros2msg', 'float32[] image_scores', False),
        ('a_msgs/msg/A', 'ros2msg', '# uint8[] jpeg', False),
        ('a_msgs/msg/Cloud', 'ros2msg', CLOUD, False),
        (
            'std_msgs/msg/UInt8MultiArray',
            'ros2msg',
            'MultiArrayLayout layout\nuint8[] data',
            False,
        ),
        ('own.Seen', 'protobuf', '\n\x1a.foxglove.CompressedImage\x12', True),
        ('own.Seen', 'protobuf', '\n\x1a.foxglove.PoseInFrame\x12', False),
        ('foxglove.CompressedImage', 'protobuf', '', True),
        ('foxglove.RawImage', 'flatbuffer', '', True),
    ],
)
def test_pictures_of_other_names_and_schemas(type_name, encoding, definition, expected):
    topic = Topic('/a', type_name, definition=definition.encode(), definition_encoding=encoding)
    assert Selection().action(topic) is (Action.REFUSE if expected else Action.COPY)


@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_messages_that_hold_pictures_are_refused_whatever_their_type(
    tmp_path, face_bgr, capsys, mode, storage
):
    wall = np.full_like(face_bgr, 90)
    carried = {
        'jpeg': jpeg(wall),
        'png': cv2.imencode('.png', wall)[1].tobytes(),
        'webp': cv2.imencode('.webp', wall)[1].tobytes(),
        'raw': raw_cdr(wall),
        'h264': b'\0\0\0\x01\x67\x64\0\x1f',
    }
    for name, data in carried.items():
        # Deep inside where nothing says what it is, and at the beginning of all else.
        for spec, before in (
            (Spec('/blob', 'nobody_msgs/msg/Unheard', definition=''), os.urandom(9000)),
            (Spec('/blob', 'std_msgs/msg/UInt8MultiArray'), os.urandom(30)),
            (Spec('/blob', 'nobody_msgs/msg/Unheard'), os.urandom(30)),
        ):
            records = [Record('/blob', T0, T0, 1, b'nothing'), Record('/blob', T0 + 1, T0, 2, b'')]
            records[1] = records[1]._replace(data=before + data)
            folder = tmp_path / f'{name}{spec.type_name[-5:]}{len(before)}{len(spec.definition)}'
            source = write_bag(folder, records, specs=[spec], mode=mode, storage=storage, splits=1)
            assert run(source, tmp_path / 'out') == 1
            error = capsys.readouterr().err
            assert (
                f'these topics can carry pictures that cannot be anonymized: {spec.name}' in error
            )
            assert not (tmp_path / 'out').exists()
    assert run(source, tmp_path / 'out', '--exclude-topics', '/blob') == 0
    assert read_bag(tmp_path / 'out').records[-1].data == records[-1].data


def test_types_without_definition_are_named(tmp_path, face_bgr, capsys):
    specs = [spec._replace(definition='') for spec in SPECS]
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), specs=specs)
    assert run(source, tmp_path / 'out') == 0
    (line,) = (x for x in capsys.readouterr().err.splitlines() if 'what their types hold' in x)
    assert line.endswith(': /odd (nobody_msgs/msg/Unheard)')


ATTACHMENTS = {
    'calibration.yaml': (b'fx: 1\n' * 1000, True),
    'notes.txt': ('Straße\n'.encode(), True),
    'log.bin': (b'\0\1\2', False),
    'broken.txt': (b'caf\xe9', False),
    'photo.txt': (jpeg(np.zeros((9, 9, 3), np.uint8)), False),
    'photo.b64': (base64.b64encode(os.urandom(900)), False),
    'photo.mime': (base64.encodebytes(os.urandom(900)), False),
    'photo.hex': (os.urandom(900).hex().encode(), False),
    'model.onnx': (b'ONNX' + os.urandom(90), False),
}


@pytest.mark.parametrize('keep', [(), ('photo.*', '*.bin', 'broken.txt', '*.onnx', 'secret')])
def test_attachments_and_records_pass_as_plain_text_or_by_name(tmp_path, face_bgr, capsys, keep):
    path = tmp_path / 'in.mcap'
    notes = [('vehicle', {'wheels': '4'}), ('secret', {'a': ATTACHMENTS['photo.b64'][0].decode()})]
    write_mcap(
        path,
        SPECS,
        drive(face_bgr, 1),
        attachments=[(1, 2, name, '', data) for name, (data, _) in ATTACHMENTS.items()],
        notes=notes,
    )
    words = ['--keep-attachments', *keep] if keep else []

    assert run(path, tmp_path / 'out', *words) == (0 if keep else 1)

    with (tmp_path / 'out' / 'out_0.mcap').open('rb') as stream:
        reader = make_reader(stream)
        kept = {item.name: item.data for item in reader.iter_attachments()}
        records = {note.name for note in reader.iter_metadata()}
    expected = {name: data for name, (data, passes) in ATTACHMENTS.items() if passes or keep}
    assert kept == expected
    assert ('vehicle' in records, 'secret' in records) == (True, bool(keep))
    errors = capsys.readouterr().err
    for name, (_, passes) in ATTACHMENTS.items():
        assert (f"attachment '{name}' () is " in errors) == (not passes and not keep)
    assert ("metadata record 'secret' holds what is no plain text" in errors) == (not keep)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_topics_say_of_themselves_hides_nothing(tmp_path, face_bgr, capsys, storage):
    hidden = base64.b64encode(os.urandom(900)).decode()
    lines = base64.encodebytes(os.urandom(900)).decode()
    for spec in (
        Spec('/odd', 'nobody_msgs/msg/Unheard', qos=f'- {hidden}'),
        Spec('/odd', 'nobody_msgs/msg/Unheard', type_hash=hidden),
        Spec('/odd', 'nobody_msgs/msg/Unheard', definition=f'# {hidden}\nfloat64 a'),
        Spec('/odd', 'nobody_msgs/msg/Unheard', definition=f'float64 a\n{lines}'),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        records = [Record('/odd', T0, T0, 1, b'a')]
        source = write_bag(folder, records, specs=[spec], storage=storage, splits=1)
        assert run(source, tmp_path / 'out') == 1
        text = '/odd (nobody_msgs/msg/Unheard): what it says of itself is no plain text'
        assert text in capsys.readouterr().err
        assert not (tmp_path / 'out').exists()
    assert run(source, tmp_path / 'out', '--exclude-topics', '/odd') == 0


def test_metadata_yaml_hides_nothing(tmp_path, face_bgr, capsys):
    hidden = base64.b64encode(os.urandom(900)).decode()
    custom = {'driver': 'me', 'photo': hidden}
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), custom=custom)
    assert run(source, tmp_path / 'out') == 1
    text = "custom data 'photo' of metadata.yaml is no plain text: left out"
    assert text in capsys.readouterr().err
    written = (tmp_path / 'out' / 'metadata.yaml').read_text()
    assert 'driver: me' in written
    assert hidden not in written
    assert run(source, tmp_path / 'kept', '--keep-attachments', 'photo') == 0
    assert hidden in (tmp_path / 'kept' / 'metadata.yaml').read_text()
    # Keys of topics that are not rosbag2's have no place.
    path = source / 'metadata.yaml'
    text = path.read_text()
    path.write_text(text.replace('name: /odd\n', f'more: {hidden}\n      name: /odd\n'))
    assert path.read_text() != text
    assert run(source, tmp_path / 'third') == 1
    assert hidden not in (tmp_path / 'third' / 'metadata.yaml').read_text()
