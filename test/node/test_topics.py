from __future__ import annotations

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.topics import camera_info_topic, plan, Topics
from ffs_anonymizer.settings.runtime import Settings
import pytest


def planned(
    *, namespace: str = '', remappings: dict[str, str] | None = None, **values: object
) -> Topics:
    def expand(name: str) -> str:
        return name if name.startswith('/') else f'{namespace}/{name}'

    def resolve(name: str) -> str:
        return (remappings or {}).get(expand(name), expand(name))

    return plan(Settings().updated(values), resolve=resolve, expand=expand)


def outputs(topics: Topics) -> dict[str, str]:
    every = (*topics.images, *topics.copies, *topics.infos)
    return {topic.name: topic.output for topic in every}


def test_no_topics() -> None:
    assert planned() == Topics((), (), ())


def test_images_copies_and_their_infos() -> None:
    topics = planned(
        image_topics=['/cam/image_raw', '/cam/image_raw/compressed'], copy_topics=['/depth/image']
    )
    assert outputs(topics) == {
        '/cam/image_raw': '/anonymized/cam/image_raw',
        '/cam/image_raw/compressed': '/anonymized/cam/image_raw/compressed',
        '/depth/image': '/anonymized/depth/image',
        '/cam/camera_info': '/anonymized/cam/camera_info',
        '/depth/camera_info': '/anonymized/depth/camera_info',
    }
    assert [topic.images for topic in topics.infos] == [
        ('/cam/image_raw', '/cam/image_raw/compressed'),
        (),
    ]


def test_relative_prefix_stays_in_the_namespace() -> None:
    topics = planned(namespace='/bus', image_topics=['image'], output_prefix='anonymized')
    assert outputs(topics)['/bus/image'] == '/bus/anonymized/bus/image'
    topics = planned(namespace='/bus', image_topics=['image'])
    assert outputs(topics)['/bus/image'] == '/anonymized/bus/image'


def test_remapped_output_takes_its_camera_info_along() -> None:
    topics = planned(
        image_topics=['/cam/image_raw'],
        remappings={'/anonymized/cam/image_raw': '/safe/front/image_raw'},
    )
    assert outputs(topics) == {
        '/cam/image_raw': '/safe/front/image_raw',
        '/cam/camera_info': '/safe/front/camera_info',
    }


def test_camera_info_that_is_remapped_itself_goes_there() -> None:
    topics = planned(
        image_topics=['/cam/image_raw'],
        remappings={
            '/anonymized/cam/image_raw': '/safe/front/image_raw',
            '/anonymized/cam/camera_info': '/info',
        },
    )
    assert outputs(topics)['/cam/camera_info'] == '/info'


def test_camera_info_goes_with_each_of_its_images() -> None:
    topics = planned(
        image_topics=['/cam/image_raw', '/cam/image_raw/compressed'],
        remappings={'/anonymized/cam/image_raw': '/safe/image_raw'},
    )
    assert {(topic.output, topic.images) for topic in topics.infos} == {
        ('/safe/camera_info', ('/cam/image_raw',)),
        ('/anonymized/cam/camera_info', ('/cam/image_raw/compressed',)),
    }


@pytest.mark.parametrize(
    ('topic', 'expected'),
    [
        ('/cam/image_raw', '/cam/camera_info'),
        ('/cam/image_raw/compressed', '/cam/camera_info'),
        ('/cam/image_raw/ffmpeg', '/cam/camera_info'),
        ('/a/b/image', '/a/b/camera_info'),
        ('/image', '/camera_info'),
        ('/image/compressed', '/camera_info'),
    ],
)
def test_camera_info_topic(topic: str, expected: str) -> None:
    assert camera_info_topic(topic) == expected


@pytest.mark.parametrize(
    ('values', 'text'),
    [
        ({'output_prefix': '/anonymized/'}, 'expected it without the slash at its end'),
        ({'image_topics': ['/a', '/a']}, '/a is named twice'),
        ({'image_topics': ['/a'], 'copy_topics': ['a']}, '/a is named twice'),
        ({'image_topics': ['/a'], 'output_prefix': ''}, 'which is an input too'),
        (
            {'image_topics': ['/c/a', '/x/c/camera_info'], 'output_prefix': '/x'},
            '/c/camera_info would be /x/c/camera_info, which is an input too',
        ),
    ],
)
def test_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        planned(**values)


def test_two_topics_with_one_output_are_refused() -> None:
    with pytest.raises(SettingsError, match='two topics have the same output /one'):
        planned(
            image_topics=['/a/x', '/b/x'],
            remappings={'/anonymized/a/x': '/one', '/anonymized/b/x': '/one'},
        )
