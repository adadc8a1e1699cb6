"""Data comes from where it lies, is checked, and a damaged file is never kept."""

import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import data

CONTENT = b"\x00\x00\x08\x01\x00\x00\x00\x02\x07\x09"
SUMS = {"labels.gz": hashlib.sha256(CONTENT).hexdigest()}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(tmp_path):
    """A server that offers one gzip file."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "labels.gz").write_bytes(gzip.compress(CONTENT))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_files_come_from_the_address_where_the_package_is_not_installed(tmp_path, address):
    data.bring_fashion_mnist(tmp_path / "data", debian=tmp_path / "absent", address=address, sums=SUMS)
    assert gzip.decompress((tmp_path / "data/labels.gz").read_bytes()) == CONTENT


def test_the_installed_package_is_preferred(tmp_path):
    (tmp_path / "labels.gz").write_bytes(gzip.compress(CONTENT))
    data.bring_fashion_mnist(tmp_path / "data", debian=tmp_path, address="http://127.0.0.1:9", sums=SUMS)
    assert gzip.decompress((tmp_path / "data/labels.gz").read_bytes()) == CONTENT


def test_another_content_is_refused_and_not_kept(tmp_path, address):
    wrong = {"labels.gz": "0" * 64}
    with pytest.raises(data.DataError, match=r"labels\.gz: checksum .* is not the known 0+"):
        data.bring_fashion_mnist(tmp_path / "data", debian=tmp_path / "absent", address=address, sums=wrong)
    assert list((tmp_path / "data").iterdir()) == []


def test_no_answer_names_the_command_that_helps(tmp_path):
    with pytest.raises(data.DataError, match="apt-get install dataset-fashion-mnist"):
        data.bring_fashion_mnist(tmp_path / "data", debian=tmp_path / "absent", address="http://127.0.0.1:9", sums=SUMS)
