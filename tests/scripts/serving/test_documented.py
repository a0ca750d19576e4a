"""The examples of docs/serve.md run as they stand, on another port; and the command serves until it is told to end."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Served

PAGE = (Path(__file__).parents[3] / "docs" / "serve.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
CURL = re.findall(r"^curl .*?[^\\]$", PAGE, re.M | re.S)


@pytest.mark.parametrize("block", PYTHON)
def test_the_python_of_the_page_runs(block: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    if "openai" in block:
        pytest.importorskip("openai")
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "room.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block.replace("127.0.0.1:8000", served.url.removeprefix("http://")), "page", "exec"), names)
    said = capsys.readouterr().out.strip()
    assert said if "openai" in block else float(said) > 100


@pytest.mark.parametrize("command", CURL)
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_commands_of_the_page_answer(command: str, served: Served) -> None:
    words = shlex.split(command.replace("\\\n", " ").replace("http://127.0.0.1:8000", served.url))
    done = subprocess.run([words[0], "-sS", "--fail-with-body", *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"choices", "action", "action_space"} & json.loads(done.stdout).keys()


def test_there_are_examples_of_each_kind() -> None:
    assert len(PYTHON) == 2 and len(CURL) == 3


def test_the_command_serves_and_ends() -> None:
    for package in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
        pytest.importorskip(package)
    environment = {**os.environ, "CALICO_TOKEN": "correct-horse"}
    command = [sys.executable, "-m", "calico.scripts.serve", "--host", "0.0.0.0", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        device, line = server.stderr.readline(), server.stderr.readline()
        if "serving" not in line:
            server.kill()
        assert device.startswith("device: ")
        found = re.fullmatch(r"serving calico-small on http://0\.0\.0\.0:(\d+), for those who bring CALICO_TOKEN "
                             r"\(Ctrl-C ends\)\n", line)
        assert found, line + server.stderr.read()
        asked = urllib.request.Request(f"http://127.0.0.1:{found[1]}/v1/models",
                                       headers={"Authorization": "Bearer correct-horse"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["data"][0]["id"] == "calico-small"
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 143
        assert server.stderr.read() == "calico serve: stopped\n"
