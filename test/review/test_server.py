import http.client
import json
import threading

from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.review.server import Answer, HOST, ReviewServer
import pytest


def _fail(query, body):
    raise AnonymizerError('no such frame')


@pytest.fixture
def server():
    routes = {
        ('GET', 'sum'): lambda query, body: Answer.of(int(query['a']) + 1),
        ('PUT', 'echo'): lambda query, body: Answer.of(body),
        ('GET', 'fail'): _fail,
    }
    server = ReviewServer(routes)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, path, method='GET', body=None, **headers):
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=10)
    connection.request(method, path, body, {k.replace('_', '-'): v for k, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == '127.0.0.1'


def test_page_and_api(server):
    token = f'/{server.token}/'
    status, body, headers = ask(server, token)
    assert (status, headers['Content-Type']) == (200, 'text/html; charset=utf-8')
    assert b'review.js' in body
    assert "default-src 'self'" in headers['Content-Security-Policy']
    assert ask(server, f'{token}api/sum?a=2')[1] == b'3'
    own = {'Origin': server.origin}
    assert json.loads(ask(server, f'{token}api/echo', 'PUT', b'{"a": 1}', **own)[1]) == {'a': 1}


@pytest.mark.parametrize(
    'path', ['/', '/wrong/', '/{}x/', '/{}/../x', '/{}/%2e%2e/x', '/{}/..%2fx', '/favicon.ico']
)
def test_who_does_not_know_the_token_or_climbs_is_refused(server, path):
    assert ask(server, path.format(server.token))[0] == 403


@pytest.mark.parametrize(
    'headers',
    [
        {'Origin': 'http://evil.example'},
        {'Origin': 'null'},
        {'Host': 'evil.example'},
        {'Sec_Fetch_Site': 'cross-site'},
    ],
)
def test_other_origins_are_refused(server, headers):
    assert ask(server, f'/{server.token}/api/sum?a=1', **headers)[0] == 403


def test_what_is_wrong_is_told(server):
    token = f'/{server.token}/'
    assert ask(server, f'{token}api/fail')[:2] == (400, b'no such frame')
    assert ask(server, f'{token}api/sum')[0] == 400
    assert ask(server, f'{token}api/nothing')[0] == 404
    assert ask(server, f'{token}sum')[0] == 404
    assert ask(server, f'{token}api/echo', 'PUT', b'{')[0] == 400
    assert ask(server, f'{token}api/echo', 'PUT', Content_Length='99999999999')[0] == 400
