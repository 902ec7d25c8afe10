"""An S3 server on this machine, and a wire to it that can be cut."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
import socket
import threading
from unittest import mock

from moto.server import ThreadedMotoServer
import s3fs

DENIED = b'HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'


class Wire:
    """Pass bytes on to a server, until it is told to do otherwise."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        # What requests must not hold: empty, nothing.
        self.refused = b''
        # Bytes that still pass to the server, and back; None: any number.
        self.to_server: int | None = None
        self.to_client: int | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def mend(self) -> None:
        self.refused, self.to_server, self.to_client = b'', None, None

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            back = threading.Thread(target=self._pass, args=(server, client, 'to_client'))
            back.start()
            self._pass(client, server, 'to_server')
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if way == 'to_server' and self.refused and self.refused in data:
                    source.sendall(DENIED)
                    break
                left = getattr(self, way)
                if left is not None:
                    data = data[:left]
                    setattr(self, way, left - len(data))
                if not data:
                    break
                target.sendall(data)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextmanager
def s3_server(bucket: str) -> Iterator[Wire]:
    """Yield the wire to a server with a bucket; credentials and address are in the environment."""
    server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
    server.start()
    wire = Wire(server.get_host_and_port())
    environment = {
        'AWS_ACCESS_KEY_ID': 'key',
        'AWS_SECRET_ACCESS_KEY': 'secret',
        'AWS_DEFAULT_REGION': 'us-east-1',
        'AWS_MAX_ATTEMPTS': '1',
        'AWS_ENDPOINT_URL_S3': f'http://127.0.0.1:{wire.port}',
    }
    with mock.patch.dict(os.environ, environment):
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem.retries = 2
        s3fs.S3FileSystem().mkdir(bucket)
        try:
            yield wire
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            wire.close()
            server.stop()
