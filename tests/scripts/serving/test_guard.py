"""Who may ask, how much and how long; and 500 kinds of bad requests, each refused in a sentence."""

import json
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from calico.scripts.main import main
from calico.scripts.serving.limits import Refused
from calico.scripts.serving.running import TOKEN, is_loopback, name_of, token_for

from .conftest import Served, serving

httpx = pytest.importorskip("httpx2")
sync_client = pytest.importorskip("websockets.sync.client")
InvalidStatus = pytest.importorskip("websockets.exceptions").InvalidStatus
ACT = {"reset": "CartPole-v1", "observation": [0, 0, 0, 0]}


def test_nothing_but_the_health_is_told_without_the_token(shipped: Any) -> None:
    with serving(shipped, token="correct-horse") as served:
        for path in ("/v1/models", "/metrics", "/v1/tasks", "/docs", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic correct-horse"},
                            {"Authorization": "Bearer corréct".encode("latin-1").decode("latin-1")}):
                answer = httpx.get(served.url + path, headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
                assert answer.status_code == 401 and "the token is missing or wrong" in answer.json()["error"]["message"]
                assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{served.url}/health").json()["status"] == "ok"
        right = {"Authorization": "Bearer correct-horse"}
        assert httpx.get(f"{served.url}/v1/models", headers={**right, "Host": "calico.example"}).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            sync_client.connect(served.websocket)
        assert refused.value.response.status_code == 401 and b"the token is missing" in refused.value.response.body
        with sync_client.connect(served.websocket, additional_headers=right) as open_socket:
            open_socket.send(json.dumps(ACT))
            assert json.loads(open_socket.recv())["action"] in (0, 1)
        openai = pytest.importorskip("openai")
        with pytest.raises(openai.AuthenticationError, match="the token is missing or wrong"):
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_web_pages_of_other_sites_are_not_answered(served: Served) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = httpx.get(f"{served.url}/v1/models", headers=headers)
        assert answer.status_code == 403 and "start it with CALICO_TOKEN" in answer.json()["error"]["message"]
    with pytest.raises(InvalidStatus) as refused:
        sync_client.connect(served.websocket, origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert httpx.get(f"{served.url}/v1/models", headers={"Origin": served.url}).status_code == 200
    plain = httpx.post(f"{served.url}/v1/act", content=json.dumps(ACT), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 400                # a page may send that without being asked about it


def test_requests_are_small_and_quick(shipped: Any) -> None:
    with serving(shipped, bytes=1000, seconds=0.3) as served:
        for content in (b"x" * 2000, (b"x" * 500 for _ in range(4))):      # announced, and not
            answer = httpx.post(f"{served.url}/v1/act", content=content)
            assert answer.status_code == 413 and "a request may have 1,000 bytes" in answer.json()["error"]["message"]
        with sync_client.connect(served.websocket) as long:
            long.send("x" * 2000)
            with pytest.raises(Exception, match="1009"):
                long.recv(timeout=20)
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(b"POST /v1/act HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            assert b"408" in slow.recv(4096).split(b"\r\n")[0]
        assert httpx.post(f"{served.url}/v1/act", json=ACT, timeout=60).status_code == 200


def test_numbers_for_prometheus(served: Served) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    httpx.post(f"{served.url}/v1/act", json=ACT, timeout=60)
    httpx.get(f"{served.url}/nowhere")
    text = httpx.get(f"{served.url}/metrics").text
    found = {(sample.name, *sample.labels.values()): sample.value for family in text_string_to_metric_families(text)
             for sample in family.samples}
    assert found["calico_actions_total",] >= 1 and found["calico_act_batch_rows_count",] >= 1
    assert found["calico_requests_total", "/v1/act", "200"] >= 1 and found["calico_requests_total", "other", "404"] >= 1
    assert found["process_resident_memory_bytes",] > 1e7


# ---- bad requests


def json_of(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    leaf: list[Callable[[], Any]] = [
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.choice([0, -1, 1 << 70, -(1 << 63), 3]),
        lambda: rng.choice([0.5, -1e308, 1e300]),
        lambda: rng.choice(["", "x" * 300, "\u0000", "\x1b[31m", "CartPole-v1", "caf\u00e9"]),
        lambda: rng.choice(["data:,", "data:image/png;base64,", "data:image/png;base64,iVBORw0KGgo=", "../../etc/passwd"])]
    if depth < 3 and rng.random() < 0.5:
        return rng.choice([lambda: [json_of(rng, depth + 1) for _ in range(rng.randrange(4))],
                           lambda: {rng.choice(["type", "text", "url", "a"]): json_of(rng, depth + 1) for _ in range(2)}])()
    return rng.choice(leaf)()


CHAT = {"model": "calico-small", "messages": [{"role": "user", "content": [
    {"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}]}
OPTIONS = ("stream", "temperature", "max_tokens", "seed", "stop", "n", "tools", "stream_options", "top_p", "response_format")


def mutated(rng: random.Random, value: Any) -> Any:
    """The same tree, one place of it replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], mutated(rng, value[place]), *value[place + 1:]]
    return json_of(rng)


def bad_request(number: int) -> tuple[str, str, bytes, dict[str, str]]:
    """(method, path, body, headers) of a kind of bad request; some turn out to be good by chance."""
    rng = random.Random(number)
    headers = {"Content-Type": "application/json"}
    match number % 10:
        case 0:
            return rng.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "GET"]), "/v1/chat/completions", b"{}", headers
        case 1:
            paths = ("/v1/act/", "/v1/models/" + "x" * rng.randrange(999), "/..%2f..%2fetc", "/v1/tasks/%00", "/v1/tasks/%ff")
            return rng.choice(["GET", "POST"]), rng.choice(paths), b"", headers
        case 2:
            broken = rng.choice([b"", b"{", b"[" * 5000, b"\xff\xfe", b"nul", b'{"reset": "\\ud800"}', b'{"a": 1e999}',
                                 b'{"messages": NaN}', b"[" * 200_000, b'"' + b"x" * 5000 + b'"'])
            return "POST", rng.choice(["/v1/act", "/v1/chat/completions"]), broken, headers
        case 3:
            content = json.dumps(ACT).encode()
            kind = rng.choice(["text/plain", "application/xml", "", "multipart/form-data"])
            return "POST", "/v1/act", content, {"Content-Type": kind}
        case 4 | 5:
            asked = mutated(rng, {**ACT, **({"seed": 1, "temperature": 1, "end": False, "session": "0"} if number % 2 else {})})
            return "POST", "/v1/act", json.dumps(asked).encode(), headers
        case 6:
            observation = json_of(rng) if rng.random() < 0.7 else {"image": json_of(rng), "mission": json_of(rng)}
            task = rng.choice(["CartPole-v1", "BabyAI-GoToLocal-v0", "nothing"])
            return "POST", "/v1/act", json.dumps({"reset": task, "observation": observation}).encode(), headers
        case _:
            asked = mutated(rng, CHAT)
            if isinstance(asked, dict) and rng.random() < 0.6:
                asked = {**asked, rng.choice(OPTIONS): json_of(rng)}
            return "POST", "/v1/chat/completions", json.dumps(asked).encode(), headers


@pytest.mark.parametrize("kinds", [120, pytest.param(600, marks=pytest.mark.slow)])
def test_kinds_of_bad_requests_are_refused_in_a_sentence(kinds: int, served: Served) -> None:
    refused, fine = 0, 0
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for number in range(kinds):
            method, path, body, headers = bad_request(number)
            answer = client.request(method, path, content=body, headers=headers)
            assert answer.status_code < 500, (number, method, path, body[:300], answer.text)
            if answer.status_code < 400:
                fine += 1
                continue
            refused += 1
            error = answer.json()["error"]
            assert " " in error["message"] and len(error["message"]) < 2000 and error["message"].isprintable(), (number, error)
            assert error["type"].endswith("_error")
            if path == "/v1/act" and answer.status_code not in (405, 429):
                assert "Traceback" not in error["message"]
        assert refused >= kinds * 5 // 6 and fine < kinds // 10, (refused, fine)
        assert client.get("/health").json()["status"] == "ok"
        assert client.post("/v1/act", json=ACT).status_code == 200
    for session in list(served.control.sessions.values()):
        httpx.post(f"{served.url}/v1/act", json={"session": session.id, "end": True})


def test_bad_messages_leave_a_websocket_open(served: Served) -> None:
    with sync_client.connect(served.websocket) as open_socket:
        for number in range(4, 300, 10):
            *_, body, _ = bad_request(number)
            open_socket.send(body.decode())
            answer = json.loads(open_socket.recv(timeout=60))
            assert "action" in answer or "session" in answer or 400 <= answer["status"] < 500, (number, answer)
        open_socket.send(json.dumps(ACT))
        assert json.loads(open_socket.recv(timeout=60))["action"] in (0, 1)
        open_socket.send(b"\x00")
        with pytest.raises(Exception, match="send text: JSON objects"):
            open_socket.recv(timeout=20)


# ---- the command


@pytest.mark.parametrize("host, alone", [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True),
                                         ("0.0.0.0", False), ("192.168.1.5", False), ("example.org", False), ("", False)])
def test_which_hosts_only_this_machine_reaches(host: str, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert is_loopback(host) == alone
    if alone:
        assert token_for(host) == ""
    else:
        with pytest.raises(ValueError, match="lets other machines in; set CALICO_TOKEN to a secret first"):
            token_for(host)
    monkeypatch.setenv(TOKEN, "a-long-secret")
    assert token_for(host) == "a-long-secret"
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ValueError, match="CALICO_TOKEN has 5 characters; give at least 8"):
        token_for(host)


@pytest.mark.parametrize("words, says", [
    (["--port", "70000"], "--port 70000 must be within 0 and 65535"), (["--idle", "0"], "must be above 0 seconds"),
    (["--max-sessions", "0"], "--max-sessions 0 must be at least 1"), (["--host", "0.0.0.0"], "lets other machines in"),
    (["--host", "no host"], "lets other machines in"), (["runs/nothing"], "runs/nothing"), (["--port", "{port}"], "is in use")])
def test_wrong_words_are_one_line(words: list[str], says: str, served: Served, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    port = served.url.rpartition(":")[2]
    assert main(["serve", *([] if "--port" in words else ["--port", "0"]), *(word.format(port=port) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("calico serve: ") and says in line


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert 'serving needs the package uvicorn; run: pip install "calico-agent[serve]"' in capsys.readouterr().err


def test_names_of_networks(tmp_path: Any) -> None:
    assert name_of(str(tmp_path)) == tmp_path.name and name_of("calico-small") == "calico-small"
    assert str(Refused(404, "none")) == "none"
