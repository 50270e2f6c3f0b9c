"""Downloads, against a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from pathlib import Path

import pytest

from enc_caffe.errors import DatasetError
from enc_caffe.experiments import fetch as module
from enc_caffe.experiments.fetch import Resource, fetch


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, ranges too; ``cut`` names the bytes after which a connection breaks, ``asked`` the ranges seen."""

    cut: int | None = None
    asked: list[str | None] = []

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if wanted and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.cut])


@pytest.fixture
def server(tmp_path: Path):
    """A folder and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = lambda *a, **k: _Quiet(*a, directory=str(folder), **k)  # noqa: E731
    _Quiet.cut, _Quiet.asked = None, []
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{http_server.server_port}"
    http_server.shutdown()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's cache nor their data."""
    monkeypatch.setenv("ENC_CAFFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENC_CAFFE_DATA", raising=False)


def resource(url: str, content: bytes, name: str = "file.bin") -> Resource:
    """A resource with the right hash of ``content``."""
    return Resource(name, f"{url}/{name}", "sha256:" + hashlib.sha256(content).hexdigest(), "a test file")


def test_download_is_checked_and_kept(server: tuple[Path, str]) -> None:
    folder, url = server
    (folder / "file.bin").write_bytes(b"content")
    wanted = resource(url, b"content")
    path = fetch(wanted)
    assert path.read_bytes() == b"content"
    (folder / "file.bin").unlink()
    assert fetch(wanted) == path


def test_wrong_hash_leaves_nothing_and_says_what_to_do(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = server
    (folder / "file.bin").write_bytes(b"other")
    with pytest.raises(DatasetError, match="by hand and put it as file.bin into") as caught:
        fetch(resource(url, b"content"))
    assert len(str(caught.value).splitlines()) == 2 and "\\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "downloads").glob("*file.bin*"))


def test_a_download_that_broke_off_goes_on_where_it_was(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = server
    content = bytes(range(256)) * 2000
    (folder / "file.bin").write_bytes(content)
    _Quiet.cut = 300_000
    with pytest.raises(DatasetError, match="cannot be downloaded"):
        fetch(resource(url, content))
    partial = tmp_path / "cache" / "downloads" / "file.bin.part"
    here = partial.stat().st_size
    assert 0 < here <= 300_000
    _Quiet.cut = None
    assert fetch(resource(url, content)).read_bytes() == content
    assert _Quiet.asked == [None, f"bytes={here}-"] and not partial.exists()


def test_a_whole_part_of_another_file_is_not_believed(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = server
    (folder / "file.bin").write_bytes(b"content")
    partial = tmp_path / "cache" / "downloads" / "file.bin.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"another one")
    with pytest.raises(DatasetError, match="hash"):
        fetch(resource(url, b"content"))
    assert fetch(resource(url, b"content")).read_bytes() == b"content"


def test_mirrors_are_tried_in_order(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, url = server
    (folder / "file.bin").write_bytes(b"content")
    there = resource(url, b"content")
    wrong = Resource("file.bin", f"{url}/absent.bin", there.known_hash, there.what, mirrors=(there.url,))
    assert fetch(wrong).read_bytes() == b"content" and len(_Quiet.asked) == 2
    fetch(wrong).unlink()
    monkeypatch.setenv("ENC_CAFFE_MIRROR", url + "/")
    assert fetch(resource("http://127.0.0.1:9", b"content")).read_bytes() == b"content"


def test_no_room_is_said_before_anything_is_written(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    (folder / "file.bin").write_bytes(b"content")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 7, 3))
    with pytest.raises(DatasetError, match="no room for it .*7 bytes are needed, 3 are free") as caught:
        fetch(resource(url, b"content"))
    assert "ENC_CAFFE_CACHE" in str(caught.value) and not list((tmp_path / "cache" / "downloads").iterdir())


def test_no_answer_names_the_file_to_fetch_by_hand() -> None:
    with pytest.raises(DatasetError, match=r"http://127\.0\.0\.1:9/file\.bin by hand"):
        fetch(resource("http://127.0.0.1:9", b"content"))


def test_data_folder_comes_first_and_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENC_CAFFE_DATA", str(tmp_path))
    (tmp_path / "file.bin").write_bytes(b"content")
    assert fetch(resource("http://127.0.0.1:9", b"content")) == tmp_path / "file.bin"
    (tmp_path / "file.bin").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="it is not a test file"):
        fetch(resource("http://127.0.0.1:9", b"content"))


def test_data_folder_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENC_CAFFE_DATA", "/nonexistent")
    with pytest.raises(DatasetError, match="ENC_CAFFE_DATA=/nonexistent: no such folder"):
        fetch(resource("http://127.0.0.1:9", b""))


def test_cifar10_is_unpacked_under_our_own_names(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("cifar-10-batches-bin/test_batch.bin", "../../escaped.bin"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))
    (folder / "cifar.tar.gz").write_bytes(buffer.getvalue())
    archive = resource(url, buffer.getvalue(), "cifar.tar.gz")
    monkeypatch.setitem(module.RESOURCES, "cifar-10-binary.tar.gz", archive)
    batches = module.cifar10_folder()
    assert (batches / "test_batch.bin").read_bytes() == b"data"
    assert not list(tmp_path.glob("*escaped*"))
    assert not (tmp_path / "cache" / "escaped.bin").exists()
