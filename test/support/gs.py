"""A Google Cloud Storage on this machine: a stub, over the wire that can be told to refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from unittest import mock

from gcp_storage_emulator.server import create_server
from support.s3 import Wire


@contextmanager
def gs_server(bucket: str) -> Iterator[Wire]:
    """Yield the wire to a server with a bucket; its address is in the environment."""
    server = create_server('127.0.0.1', 0, in_memory=True, default_bucket=bucket)
    server.start()
    wire = Wire(server._api._httpd.server_address)
    environment = {
        'STORAGE_EMULATOR_HOST': f'http://127.0.0.1:{wire.port}',
        # Asks Google for the kind of the bucket, before anything else.
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    }
    with mock.patch.dict(os.environ, environment):
        # Reads the environment when it is imported.
        import gcsfs

        gcsfs.GCSFileSystem.clear_instance_cache()
        gcsfs.GCSFileSystem.retries = 2
        try:
            yield wire
        finally:
            gcsfs.GCSFileSystem.clear_instance_cache()
            wire.close()
            server.stop()
