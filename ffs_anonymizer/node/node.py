"""The live node: camera topics in, anonymized camera topics out."""

from __future__ import annotations

from ffs_anonymizer.node.service import Service
from ffs_anonymizer.node.serving import ServingNode


class AnonymizerNode(ServingNode):
    """
    Anonymize the camera topics that its parameters name.

    The constructor loads the models; nothing is subscribed or published before.

    :raises AnonymizerError: a parameter is wrong, or a model cannot be loaded.
    """

    def _begin(self, service: Service) -> None:
        service.load()
        service.open()
