"""`calico app`: what is checked before anything is loaded, and the page through its programming interface."""

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import calico
from calico.scripts.app import HOST, main
from calico.scripts.common.local_ranks import free_port
from calico.scripts.web.desk import Desk


def test_a_port_in_use_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} of {HOST} is in use" in said and "--port " in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("port", ["0", "70000"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", port]) == 2
    assert f"--port {port} must be 1 to 65535" in capsys.readouterr().err


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["--port", str(free_port())]) == 2
    assert 'run: pip install "calico-agent[web]"' in capsys.readouterr().err


def test_missing_tools_for_assistants_name_the_command(monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", sys)      # installed, as far as this check goes
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["--port", str(free_port()), "--mcp"]) == 2
    said = capsys.readouterr().err
    assert '--mcp needs the package mcp; run: pip install "calico-agent[mcp]"' in said and len(said.splitlines()) == 1


def test_a_run_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason='needs the extra web: pip install "calico-agent[web]"')
    assert main(["runs/nowhere", "--port", str(free_port())]) == 2
    assert "runs/nowhere" in capsys.readouterr().err


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, str]]:
    """The page of the network that comes with Calico."""
    pytest.importorskip("gradio", reason='needs the extra web: pip install "calico-agent[web]"')
    from calico.scripts.web import page

    folder = tmp_path_factory.mktemp("page")
    desk = Desk(agent=calico.load(), run="calico-small", out=folder / "taught", runs=folder)
    built, port = page.build(desk), free_port()
    page.launch(built, port=port)
    yield desk, f"http://{HOST}:{port}"
    desk.close()
    built.close(verbose=False)


@pytest.fixture
def client(served: tuple[Desk, str]) -> Iterator[Any]:
    from gradio_client import Client

    made = Client(served[1], verbose=False, analytics_enabled=False)
    yield made
    made.close()


def test_programs_play_look_and_stop(served: tuple[Desk, str], client: Any) -> None:
    frame, _, facts = client.predict("BabyAI-GoToLocal-v0", 10_000, api_name="/look")
    assert "data:image/jpeg;base64," in frame and "go to" in facts
    playing = client.submit("CartPole-v1", 3, 1.0, api_name="/play")
    for number, (frame, choice, _) in enumerate(playing):
        assert "<img" in frame and (not number or "push left" in choice)
        if number == 4:
            client.predict(api_name="/stop")
            break
    until = time.monotonic() + 60
    while not playing.done() and time.monotonic() < until:
        time.sleep(0.05)
    assert playing.done()
    page = client.predict("a message", None, 0, 1, 0, "who are you?", None, None, 0, api_name="/tokens")
    assert page.count('class="token"') > 3


def test_errors_are_one_sentence_on_the_page(client: Any) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="the seed is -1; give a whole number of at least 0|Value -1 is less than minimum"):
        client.predict("CartPole-v1", -1, api_name="/look")
    with pytest.raises(AppError, match="there is no file yet; choose one"):
        client.predict("a file", None, 0, 1, 0, "", None, None, 0, api_name="/tokens")
    with pytest.raises(AppError, match="os.system|not in the list of choices"):
        client.predict("os:system", api_name="/teach")              # no module is imported that the command did not name


def test_a_file_of_another_type(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    broken = tmp_path / "talk.jsonl"
    broken.write_text("{not json")
    with pytest.raises(AppError, match=r"talk\.jsonl"):
        client.predict("a file", None, 0, 1, 0, "", None, handle_file(str(broken)), 0, api_name="/tokens")
    words = tmp_path / "words.png"
    words.write_text("no picture")
    with pytest.raises(AppError, match="cannot identify image file"):
        client.predict("a message", None, 0, 1, 0, "what?", handle_file(str(words)), None, 0, api_name="/tokens")
