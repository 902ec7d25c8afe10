"""Test what happens to each topic."""

from types import SimpleNamespace

from ffs_anonymizer.bag.selection import Action, contains_picture, is_picture, Selection
from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.storage import Attachment, Topic
import pytest
from support.bags import (
    ALL_NAMES,
    COMPRESSED,
    drive,
    IMAGE,
    images,
    leftovers,
    MARKERS,
    NESTED,
    others,
    read_bag,
    Record,
    run,
    Spec,
    SPECS,
    T0,
    VIDEO,
    write_bag,
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
