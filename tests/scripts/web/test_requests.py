"""What a stranger may ask of the page's server: nothing but the page."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico.scripts.app import HOST
from calico.scripts.common.local_ranks import free_port

SECRET = "nothing for strangers"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the page, and the folder with a secret that it was started in; in a process of its own, for its threads would
    be in the way of tests that fork."""
    pytest.importorskip("gradio", reason='needs the extra web: pip install "calico-agent[web]"')
    import httpx

    folder, port = tmp_path_factory.mktemp("started"), free_port()
    (folder / "secret.txt").write_text(SECRET)
    server = subprocess.Popen([sys.executable, "-m", "calico.scripts.app", "--port", str(port)], cwd=folder,
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=60) as client:
        end = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < end:
            try:
                client.get("/")
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        yield client, folder
    server.terminate()
    server.communicate(timeout=60)


@pytest.mark.parametrize("name", ["/etc/passwd", "secret.txt", "{here}/secret.txt", "../../../../etc/passwd",
                                  "%2e%2e/%2e%2e/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x"])
@pytest.mark.parametrize("path", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/theme.css/"])
def test_files_of_this_machine_are_not_given(client: Any, path: str, name: str) -> None:
    asked, folder = client
    answer = asked.get(path + name.format(here=folder))
    assert 400 <= answer.status_code < 500, answer.status_code
    assert "root:" not in answer.text and SECRET not in answer.text


def test_a_large_file_is_not_taken(client: Any) -> None:
    from calico.scripts.web.page import LARGEST_UPLOAD

    large = b"0" * (int(LARGEST_UPLOAD.removesuffix("mb")) + 1 << 20)
    answer = client[0].post("/gradio_api/upload", files={"files": ("a.png", large, "image/png")})
    assert 400 <= answer.status_code < 500 and "size" in answer.text.lower(), (answer.status_code, answer.text[:200])


def test_an_upload_stays_in_its_folder(client: Any, tmp_path: Path) -> None:
    answer = client[0].post("/gradio_api/upload", files={"files": ("../../../../../tmp/outside.png", b"x", "image/png")})
    assert answer.status_code == 200 and not Path("/tmp/outside.png").exists()
    assert all(".." not in Path(name).parts for name in answer.json())


def test_other_machines_are_not_answered(client: Any) -> None:
    port = client[0].base_url.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:      # sends nothing: which address has this machine?
        try:
            asked.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its own")
        outside = asked.getsockname()[0]
    if outside.startswith("127."):
        pytest.skip("this machine has no address but its own")
    with pytest.raises(ConnectionRefusedError), socket.create_connection((outside, port), timeout=5):
        pass
