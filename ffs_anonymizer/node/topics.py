"""Which topic comes out under which name, told before anything is subscribed to or published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ffs_anonymizer.clouds.scene import Link
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.settings.runtime import Settings

# What image_transport puts behind a topic's name for its other forms.
TRANSPORTS = ('/compressed', '/ffmpeg')


@dataclass(frozen=True)
class NodeTopic:
    """
    Hold the way of one topic.

    :param source: its name, as the user wrote it.
    :param name: the same, resolved.
    :param target: the name of the output before remapping.
    :param output: the same, resolved.
    :param images: of a camera_info, the image topics that it belongs to and waits for.
    :param links: of a cloud or a depth image, the cameras whose regions count in it.
    """

    source: str
    name: str
    target: str
    output: str
    images: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Topics:
    """
    Hold the topics of a node.

    :param images: are anonymized.
    :param copies: are passed on as they are.
    :param infos: the camera_info of all but clouds.
    :param clouds: are anonymized by their own colours, or by their cameras.
    :param depths: are anonymized by their cameras.
    :param registered: clouds that take the regions of a picture.
    """

    images: tuple[NodeTopic, ...]
    copies: tuple[NodeTopic, ...]
    infos: tuple[NodeTopic, ...]
    clouds: tuple[NodeTopic, ...] = ()
    depths: tuple[NodeTopic, ...] = ()
    registered: tuple[NodeTopic, ...] = ()

    @property
    def every(self) -> tuple[NodeTopic, ...]:
        """Return all topics."""
        return (
            *self.images,
            *self.copies,
            *self.infos,
            *self.clouds,
            *self.depths,
            *self.registered,
        )

    def names(self) -> set[str]:
        """Return all names that are subscribed to or published."""
        return {name for topic in self.every for name in (topic.name, topic.output)}


def plan(
    settings: Settings, *, resolve: Callable[[str], str], expand: Callable[[str], str]
) -> Topics:
    """
    Return the topics that the settings ask for.

    A camera_info goes where its image goes, also if the image's output is remapped.

    :param resolve: gives a name its namespace and applies the remappings.
    :param expand: gives a name its namespace alone.
    :raises SettingsError: a name cannot be used, or an output would meet an input or another one.
    """
    prefix = settings.output_prefix
    if prefix.endswith('/'):
        raise SettingsError(
            f'output_prefix: got {prefix!r}, expected it without the slash at its end, '
            "since every topic's own name begins with one"
        )

    def topic(source: str) -> NodeTopic:
        name = resolve(source)
        return NodeTopic(source, name, prefix + name, resolve(prefix + name))

    try:
        images = tuple(topic(source) for source in settings.image_topics)
        copies = tuple(topic(source) for source in settings.copy_topics)
        sensors = _sensors(settings, resolve)
        clouds, depths, registered = (
            tuple(replace(topic(source), links=links) for source, links in some.items())
            for some in sensors
        )
        infos = _infos(images, copies + depths, prefix, resolve, expand)
    except RuntimeError as error:
        raise SettingsError(
            'image_topics, cloud_topics, copy_topics, cloud.cameras, depth.cameras or '
            f'output_prefix: not a topic name: {error}'
        ) from error
    measured = clouds + depths + registered
    _check(images + copies + measured, infos)
    _check_links(measured, images)
    return Topics(images, copies, infos, clouds, depths, registered)


def camera_info_topic(image_topic: str) -> str:
    """Return the topic of the camera_info that belongs to an image topic (resolved name)."""
    for transport in TRANSPORTS:
        image_topic = image_topic.removesuffix(transport)
    return image_topic.rpartition('/')[0] + '/camera_info'


def _sensors(
    settings: Settings, resolve: Callable[[str], str]
) -> tuple[dict[str, tuple[Link, ...]], ...]:
    """
    Return the cameras of clouds, of depth topics and of registered clouds.

    They stand by the name that the user wrote.
    """

    def links(texts: tuple[str, ...]) -> list[Link]:
        parsed = [Link.parse(text) for text in texts]
        return [
            replace(link, image=resolve(link.image), info=resolve(link.info)) for link in parsed
        ]

    def fitting(source: str, some: list[Link]) -> tuple[Link, ...]:
        return tuple(link for link in some if link.fits(source) or link.fits(resolve(source)))

    by_camera, by_pixel = links(settings.cloud.cameras), links(settings.cloud.registered)
    depths = links(settings.depth.cameras)
    globs = [link.topics for link in depths if set(link.topics) & set('*?[')]
    if globs:
        raise SettingsError(
            f'depth.cameras: got {globs[0]!r}, which the node cannot subscribe to; expected the '
            'name of one topic'
        )
    sources = settings.cloud_topics
    pictures = {source: fitting(source, by_pixel) for source in sources}
    cameras = {source: fitting(source, by_camera) for source in sources}
    names = dict.fromkeys(link.topics for link in depths)
    return (
        {source: found for source, found in cameras.items() if not pictures[source]},
        {name: tuple(link for link in depths if link.topics == name) for name in names},
        {source: found[:1] for source, found in pictures.items() if found},
    )


def _infos(
    images: tuple[NodeTopic, ...],
    copies: tuple[NodeTopic, ...],
    prefix: str,
    resolve: Callable[[str], str],
    expand: Callable[[str], str],
) -> tuple[NodeTopic, ...]:
    chosen = {item.name for item in images + copies}
    found: dict[tuple[str, str], NodeTopic] = {}
    for item in images + copies:
        source = camera_info_topic(item.name)
        name = resolve(source)
        if name in chosen:
            continue
        target = prefix + name
        if resolve(target) == expand(target) and item.output != expand(item.target):
            target = camera_info_topic(item.output)
        before = found.get((name, target))
        waits_for = before.images if before else ()
        if item in images:
            waits_for += (item.name,)
        found[name, target] = NodeTopic(source, name, target, resolve(target), waits_for)
    return tuple(found.values())


def _check(pictures: tuple[NodeTopic, ...], infos: tuple[NodeTopic, ...]) -> None:
    names = [topic.name for topic in pictures]
    for name in sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(
            f'{name} is named twice in image_topics, cloud_topics, copy_topics and depth.cameras'
        )
    topics = pictures + infos
    inputs = {topic.name for topic in topics}
    outputs = [topic.output for topic in topics]
    for topic in topics:
        if topic.output in inputs:
            raise SettingsError(
                f'the output of {topic.name} would be {topic.output}, which is an input too: '
                'choose another output_prefix'
            )
        if outputs.count(topic.output) > 1:
            raise SettingsError(f'two topics have the same output {topic.output}')


def _check_links(measured: tuple[NodeTopic, ...], images: tuple[NodeTopic, ...]) -> None:
    names = [image.name for image in images]
    for topic in measured:
        for link in topic.links:
            if link.image not in names:
                raise SettingsError(
                    f'cloud.cameras, cloud.registered, depth.cameras: got {link.image} for '
                    f'{topic.name}, expected one of image_topics: '
                    f'{", ".join(names) or "there is none"}'
                )
