"""H.264 and H.265 topics of a bag: decoded as they are read, encoded as they are written."""

from __future__ import annotations

from dataclasses import dataclass

from ffs_anonymizer.frames.frame import Buffer, Frame
from ffs_anonymizer.frames.message import black_like
from ffs_anonymizer.frames.upright import upright
from ffs_anonymizer.frames.video_packets import (
    codec_of,
    DecodedPicture,
    PacketDecoder,
    PacketEncoder,
)
from ffs_anonymizer.rosbag2.cdr import CdrPacket


@dataclass(frozen=True)
class VideoImage:
    """
    Hold a packet of a video and its picture.

    Both sides of a topic keep their order by themselves: packets are read in order, and written
    in order.

    :param data: the picture's samples, of which the recipe makes others.
    """

    packet: CdrPacket
    picture: DecodedPicture
    encoder: PacketEncoder

    @property
    def stamp_ns(self) -> int:
        """Return the packet's stamp; 0 means that the camera set none."""
        return self.packet.stamp_ns

    @property
    def data(self) -> Buffer:
        """Return the picture's samples."""
        return self.picture.samples.data

    def decode(self, rotation: int = 0) -> Frame:
        """
        Return the picture as the recipe takes it.

        :param rotation: degrees clockwise that make it upright.
        """
        return upright(self.picture.samples.decode(), rotation=rotation)

    def with_data(self, data: Buffer) -> bytes:
        """
        Return the serialized message with a packet of other samples.

        :raises ImageError: they cannot be encoded.
        """
        return self.packet.with_data(self.encoder.encode(self.picture, data))

    def black(self) -> bytes:
        """Return the serialized message with a black picture."""
        return self.with_data(black_like(self.picture.samples))


class Videos:
    """
    Hold the decoder and the encoder of each topic.

    :param encoder: who encodes, as the setting says.
    :param decoder: who decodes.
    """

    def __init__(self, *, encoder: str = 'software', decoder: str = 'software') -> None:
        self._kinds = encoder, decoder
        self._sides: dict[tuple[str, str], tuple[PacketDecoder, PacketEncoder]] = {}

    def read(self, topic: str, packet: CdrPacket) -> VideoImage:
        """
        Return the picture of a topic's next packet.

        :raises ImageError: it has none, or none yet; it is to be left out.
        """
        codec = codec_of(packet.format)
        key = (topic, codec)
        if key not in self._sides:
            encoder, decoder = self._kinds
            self._sides[key] = (
                PacketDecoder(codec, kind=decoder),
                PacketEncoder(codec, kind=encoder),
            )
        read, make = self._sides[key]
        return VideoImage(packet, read.decode(packet.data), make)
