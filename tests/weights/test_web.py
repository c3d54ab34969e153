"""Files from the web: whole or not at all, in a cache that can be written."""
import http.server
import threading

import pytest
import torch

from mmeffnet.errors import InputError
from mmeffnet.weights import addresses
from mmeffnet.weights.web import fetch

CONTENT = bytes(range(256)) * 64
PAGE = b'<!doctype html><html>log in, please</html>'


class Host(http.server.BaseHTTPRequestHandler):
    """Answers with a whole file, one without its length, half of one, or a page."""

    def do_GET(self):
        kind = self.path.strip('/').partition('.')[0]
        body = PAGE if kind == 'page' else CONTENT
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8' if kind == 'page' else
                         'application/octet-stream')
        if kind != 'endless':
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if kind == 'half' else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def host():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Host)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    return tmp_path


@pytest.mark.parametrize('name', ['whole.pth', 'endless.pth'])
def test_a_file_is_fetched_once_into_pytorchs_cache(name, host, home, monkeypatch):
    path = addresses.download(f'{host}/{name}')
    assert path.parent == home / 'hub/checkpoints'
    assert path.read_bytes() == CONTENT
    monkeypatch.setattr(addresses, 'fetch', None)
    assert addresses.download(f'{host}/{name}') == path


@pytest.mark.parametrize(('name', 'why'), [
    ('half.pth', r'8,192 of 16,384 bytes arrived'), ('page.pth', 'a page of HTML was answered')])
def test_what_is_not_the_whole_file_is_refused_and_not_kept(name, why, host, home):
    with pytest.raises(InputError, match=rf"{name}' could not be fetched .*{why}"):
        addresses.download(f'{host}/{name}')
    assert list((home / 'hub/checkpoints').iterdir()) == []


def test_a_file_that_is_there_stays_as_it_was(host, tmp_path):
    path = tmp_path / 'there.pth'
    path.write_bytes(b'before')
    with pytest.raises(OSError, match='arrived'):
        fetch(f'{host}/half.pth', path)
    assert path.read_bytes() == b'before'
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_names_the_variable(host, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'file/hub'))
    with pytest.raises(InputError, match=r"cache '.*file/hub/checkpoints' cannot be written "
                                         r'\(NotADirectoryError: .*\): set TORCH_HOME to a folder'):
        addresses.download(f'{host}/whole.pth')
