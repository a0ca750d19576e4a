"""A real server with the network that comes with Calico, in a thread of this process."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from calico.agent.agent import SHIPPED
from calico.scripts.common.shipped import DEFAULT_RUN


@dataclass(frozen=True)
class Served:
    """Where a server listens; `app` is the Guard around FastAPI's application."""

    url: str
    app: Any

    @property
    def websocket(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/act"

    @property
    def control(self) -> Any:
        return self.app.app.state.control

    @property
    def talking(self) -> Any:
        return self.app.app.state.talking


@contextlib.contextmanager
def serving(agent: Any, token: str = "", name: str = DEFAULT_RUN, **limits: Any) -> Iterator[Served]:
    """A server with its own limits."""
    import uvicorn

    from calico.scripts.serving.application import create_app
    from calico.scripts.serving.limits import Limits
    from calico.scripts.serving.ports import listening

    found = Limits(**limits)
    app = create_app(agent, name, found, token)
    listener: socket.socket = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, ws_max_size=found.bytes, lifespan="on",
                                           timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def shipped() -> Any:
    """The network that comes with Calico."""
    for package in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
        pytest.importorskip(package)
    if DEFAULT_RUN not in SHIPPED:
        pytest.skip("this copy of the repository is without the network")
    from calico.scripts.api.agents import load

    return load()


@pytest.fixture(scope="session")
def served(shipped: Any) -> Iterator[Served]:
    with serving(shipped) as found:
        yield found
