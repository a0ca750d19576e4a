"""Control loops over WebSocket and HTTP: the same actions as in a program, many clients in one forward, sessions that end."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

import calico

from .conftest import Served, serving

httpx = pytest.importorskip("httpx2")
connect = pytest.importorskip("websockets.sync.client").connect
TASKS = ("CartPole-v1", "BabyAI-GoToLocal-v0", "Pendulum-v1")


def plain(value: Any) -> Any:
    """An observation as JSON values."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def observations_of(agent: Any, task: str, count: int) -> list[Any]:
    """What somebody who plays at random sees."""
    env = agent.make(task)
    env.action_space.seed(0)
    found = [env.reset(seed=0)[0]]
    while len(found) < count:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        found.append(env.reset(seed=len(found))[0] if terminated or truncated else observation)
    return found


def expected_actions(agent: Any, task: str, observations: list[Any], seed: int = 0) -> list[Any]:
    from calico.agent.sampling import SamplingConfig

    playing = agent.network.policy(task, SamplingConfig(temperature=agent.network.temperature))
    playing.reset(0, seed)
    return [plain(playing.act([observation], [0])[0]) for observation in observations]


def test_a_websocket_plays_as_a_program_does(served: Served, shipped: Any) -> None:
    with connect(served.websocket) as socket:
        def say(**what: Any) -> Any:
            socket.send(json.dumps(what))
            return json.loads(socket.recv())

        for task in TASKS:                        # one session after the other on one connection
            observations = observations_of(shipped, task, 4)
            answer = say(reset=task, seed=7)
            assert answer["task"] == task and answer["action_space"]["type"] in ("Discrete", "Box")
            found = [say(observation=plain(observation)) for observation in observations]
            assert [answer["step"] for answer in found] == [1, 2, 3, 4]
            assert [answer["action"] for answer in found] == expected_actions(shipped, task, observations, 7)
        assert "give numbers of the shape (3,)" in say(observation=[1, 2])["error"]["message"]      # and it goes on
        assert "action" in say(observation=[0, 1, 0])
        assert say(end=True) == {"ended": True}
        assert "no session yet" in say(observation=[0, 1, 0])["error"]["message"]


def test_a_loop_over_http_balances_the_pole(served: Served) -> None:
    env = calico.make("CartPole-v1")
    observation, _ = env.reset(seed=1_000_000)
    with httpx.Client(base_url=served.url) as client:
        answer = client.post("/v1/act", json={"reset": "CartPole-v1", "observation": observation.tolist()}).json()
        session, total = answer["session"], 0.0
        for _ in range(40):
            observation, reward, terminated, truncated, _ = env.step(answer["action"])
            total += float(reward)
            if terminated or truncated:
                break
            answer = client.post("/v1/act", json={"session": session, "observation": observation.tolist()}).json()
        assert total == 40
        assert client.post("/v1/act", json={"session": session, "end": True}).json() == {"ended": True}
        gone = client.post("/v1/act", json={"session": session, "observation": observation.tolist()})
        assert gone.status_code == 404 and "has ended" in gone.json()["error"]["message"]


def test_pictures_come_as_numbers_as_bytes_and_as_png(served: Served, shipped: Any) -> None:
    task = "BabyAI-GoToLocal-v0"
    (seen,) = observations_of(shipped, task, 1)
    name = next(key for key, part in seen.items() if getattr(part, "ndim", 0) == 3)
    space = shipped.network.codec(task).observation_space[name]
    file = io.BytesIO()
    Image.fromarray(seen[name][..., :3]).save(file, "PNG")
    forms: list[Any] = [seen[name].tolist(), {"base64": base64.b64encode(seen[name].tobytes()).decode()}]
    if space.shape[2] == 3:
        forms.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    found = [httpx.post(f"{served.url}/v1/act", timeout=60, json={"reset": task, "observation": {**plain(seen), name: form},
                                                                  "temperature": 0}).json() for form in forms]
    assert len({answer["action"] for answer in found}) == 1


def test_all_that_wait_go_through_the_network_together(served: Served, shipped: Any) -> None:
    """Twelve clients of three tasks: while one forward is held up, eleven observations gather and go as one batch."""
    control, sizes, held = served.control, list[int](), threading.Event()
    real = control.policy.act

    def act(observations: Any, rows: Any) -> Any:
        sizes.append(len(rows))
        if len(sizes) == 1:
            assert held.wait(30)
        return real(observations, rows)

    clients = [(TASKS[number % 3], observations_of(shipped, TASKS[number % 3], 1)[0]) for number in range(12)]
    sessions = [httpx.post(f"{served.url}/v1/act", json={"reset": task}).json()["session"] for task, _ in clients]
    control.policy.act = act
    try:
        with ThreadPoolExecutor(12) as pool:
            def play(number: int) -> Any:
                return httpx.post(f"{served.url}/v1/act", timeout=60, json={
                    "session": sessions[number], "observation": plain(clients[number][1])}).json()["action"]

            first = pool.submit(play, 0)
            until = time.monotonic() + 20
            while not sizes and time.monotonic() < until:
                time.sleep(0.01)
            others = [pool.submit(play, number) for number in range(1, 12)]
            while sum(control.sessions[session].busy for session in sessions) < 12 and time.monotonic() < until:
                time.sleep(0.01)
            held.set()
            actions = [found.result() for found in (first, *others)]
    finally:
        held.set()
        del control.policy.act
    assert sizes == [1, 11]
    assert actions == [expected_actions(shipped, task, [seen])[0] for task, seen in clients]


def test_sessions_are_limited_and_idle_ones_end(shipped: Any) -> None:
    with serving(shipped, sessions=2, idle=1.0) as served, connect(served.websocket) as socket:
        socket.send(json.dumps({"reset": "CartPole-v1"}))
        socket.recv()
        one = httpx.post(f"{served.url}/v1/act", json={"reset": "CartPole-v1"}, timeout=60).json()["session"]
        refused = httpx.post(f"{served.url}/v1/act", json={"reset": "CartPole-v1"})
        assert refused.status_code == 429 and "2 sessions are open, which is the limit" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "5"
        with pytest.raises(Exception, match="nothing came for 1 seconds"):
            socket.recv(timeout=30)
        until = time.monotonic() + 20
        while served.control.sessions and time.monotonic() < until:
            time.sleep(0.05)
        assert not served.control.sessions
        gone = httpx.post(f"{served.url}/v1/act", json={"session": one, "observation": [0, 0, 0, 0]})
        assert gone.status_code == 404 and "was idle for 1 seconds" in gone.json()["error"]["message"]
        assert httpx.post(f"{served.url}/v1/act", json={"reset": "CartPole-v1"}).status_code == 200


def test_a_client_that_leaves_takes_nothing_with_it(served: Served) -> None:
    before = len(served.control.sessions)
    for _ in range(3):
        with connect(served.websocket) as socket:
            socket.send(json.dumps({"reset": "CartPole-v1"}))
            socket.recv()
            socket.send(json.dumps({"observation": [0.0, 0.0, 0.0, 0.0]}))     # and it leaves without waiting for the answer
    until = time.monotonic() + 20
    while len(served.control.sessions) > before and time.monotonic() < until:
        time.sleep(0.02)
    assert len(served.control.sessions) == before
    assert httpx.post(f"{served.url}/v1/act", json={"reset": "CartPole-v1"}, timeout=60).status_code == 200


def test_rows_of_ended_sessions_are_given_back(served: Served) -> None:
    policy = served.control.policy
    for session in list(served.control.sessions.values()):
        httpx.post(f"{served.url}/v1/act", json={"session": session.id, "end": True})
    answer = httpx.post(f"{served.url}/v1/act", timeout=60,
                        json={"reset": "CartPole-v1", "observation": np.zeros(4).tolist()}).json()
    assert len(policy.rows) == len(policy.placed) == len(policy.cache.lengths) == 1
    httpx.post(f"{served.url}/v1/act", json={"session": answer["session"], "end": True})


def test_what_can_be_played_is_told(served: Served, shipped: Any) -> None:
    assert httpx.get(f"{served.url}/v1/tasks").json()["data"] == shipped.tasks
    found = httpx.get(f"{served.url}/v1/tasks/ALE/Pong-v5") if "ALE/Pong-v5" in shipped.tasks else httpx.get(
        f"{served.url}/v1/tasks/{shipped.tasks[0]}")
    assert found.status_code == 200 and {"task", "observation_space", "action_space", "memory"} == found.json().keys()
    wrong = httpx.get(f"{served.url}/v1/tasks/CartPole-v9")
    assert wrong.status_code == 404 and "did you mean CartPole-v1?" in wrong.json()["error"]["message"]
