"""A page on this machine alone: frames with their boxes, corrected by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import hmac
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
import json
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ffs_anonymizer.errors import AnonymizerError

HOST = '127.0.0.1'
LARGEST_BODY_BYTES = 64 << 20
_ASSETS = {
    '': ('review.html', 'text/html; charset=utf-8'),
    'review.css': ('review.css', 'text/css; charset=utf-8'),
    'review.js': ('review.js', 'text/javascript; charset=utf-8'),
}
_HEADERS = {
    'Cache-Control': 'no-store',
    'Content-Security-Policy': "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}


@dataclass(frozen=True)
class Answer:
    """Hold what a request is answered with."""

    body: bytes
    content_type: str = 'application/json'
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, value: object) -> Answer:
        """Return a value as JSON."""
        return cls(json.dumps(value).encode())


Query = Mapping[str, str]
# By method and path behind `api/`; the body is what JSON gives, None where there is none.
Routes = Mapping[tuple[str, str], Callable[[Query, Any], Answer]]


class ReviewServer(ThreadingHTTPServer):
    """
    Answer requests from this machine that know the token.

    :param routes: what is to be answered.
    :param port: 0 takes a free one.
    :raises OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, routes: Routes, port: int = 0) -> None:
        self.routes = routes
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)

    @property
    def origin(self) -> str:
        """Return the only origin that may ask."""
        return f'http://{HOST}:{self.server_address[1]}'

    @property
    def address(self) -> str:
        """Return what is to be opened in a browser."""
        return f'{self.origin}/{self.token}/'


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    # Whoever is slow to ask or to listen holds a thread no longer than this.
    timeout = 60

    def do_GET(self) -> None:
        self._answer('GET')

    def do_PUT(self) -> None:
        self._answer('PUT')

    def do_POST(self) -> None:
        self._answer('POST')

    def log_message(self, *_: object) -> None:
        """Say nothing: the addresses hold the token."""

    def _answer(self, method: str) -> None:
        path = self._allowed_path()
        if path is None:
            self._send_text(HTTPStatus.FORBIDDEN, 'this address is not open to you')
            return
        url = urlsplit(path)
        if method == 'GET' and url.path in _ASSETS:
            name, content_type = _ASSETS[url.path]
            self._send(Answer(_asset(name), content_type))
            return
        route = self.server.routes.get((method, url.path.removeprefix('api/')))
        if route is None or not url.path.startswith('api/'):
            self._send_text(HTTPStatus.NOT_FOUND, f'there is no {method} {url.path}')
            return
        try:
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            self._send(route(query, self._body(method)))
        except (AnonymizerError, KeyError, TypeError, ValueError) as error:
            text = str(error) if isinstance(error, AnonymizerError) else f'got {error!r}'
            self._send_text(HTTPStatus.BAD_REQUEST, text)

    def _allowed_path(self) -> str | None:
        """Return the path behind the token; None for whoever is not to be answered."""
        _, token, *rest = [*self.path.split('/', 2), '']
        own = self.server.origin
        hosts = {own.removeprefix('http://')}
        origin = self.headers.get('Origin')
        allowed = (
            hmac.compare_digest(token.encode(), self.server.token.encode())
            and self.headers.get('Host') in hosts
            and origin in (None, own)
            and self.headers.get('Sec-Fetch-Site', 'none') in ('none', 'same-origin')
            and '..' not in self.path
            and '%2e' not in urlsplit(self.path).path.lower()
            and '\\' not in self.path
        )
        return rest[0] if allowed else None

    def _body(self, method: str) -> Any:
        length = int(self.headers.get('Content-Length') or 0)
        if method == 'GET' or not length:
            return None
        if not 0 < length <= LARGEST_BODY_BYTES:
            raise ValueError(f'{length} bytes, expected at most {LARGEST_BODY_BYTES}')
        return json.loads(self.rfile.read(length))

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(Answer(text.encode(), 'text/plain; charset=utf-8'), status)
        self.close_connection = True

    def _send(self, answer: Answer, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (*_HEADERS.items(), *answer.headers):
            self.send_header(name, value)
        self.send_header('Content-Type', answer.content_type)
        self.send_header('Content-Length', str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)


def _asset(name: str) -> bytes:
    return (files('ffs_anonymizer.review') / name).read_bytes()
