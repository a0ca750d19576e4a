"""From a command line to a server that listens."""

import ipaddress
import os
from pathlib import Path

from calico.agent.hardware import keep_freed_memory
from calico.scripts.api.agents import load
from calico.scripts.common import console
from calico.scripts.serving.limits import Limits
from calico.scripts.serving.ports import listening

TOKEN = "CALICO_TOKEN"
SHORTEST = 8       # characters of a token
GOODBYE = 3        # seconds that open connections have when the server ends


def serve(run: str, host: str, port: int, limits: Limits, *, device: str = "cpu") -> None:
    """Load a network and answer until Ctrl-C or SIGTERM.

    Raises:
        ValueError: no such run; a host that others reach without a token; a port that is in use.
    """
    import uvicorn

    from calico.scripts.serving.application import create_app

    token = token_for(host)
    with listening(host, port) as listener:                # before the network is read: a port in use is told at once
        keep_freed_memory()
        network = load(run, device=device)
        console.chosen_device(device)                      # said once the words are known to be right
        app = create_app(network, name_of(run), limits, token)
        place = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws_max_size=limits.bytes, server_header=False,
                                timeout_graceful_shutdown=GOODBYE, timeout_keep_alive=30, lifespan="on")
        console.note(f"serving {name_of(run)} on http://{place}:{listener.getsockname()[1]}"
                     + (f", for those who bring {TOKEN}" if token else "") + " (Ctrl-C ends)")
        uvicorn.Server(config).run(sockets=[listener])


def token_for(host: str) -> str:
    """The token of the environment, or "".

    Raises:
        ValueError: a host that others reach without one, or one that can be guessed.
    """
    token = os.environ.get(TOKEN, "").strip()
    if token and (len(token) < SHORTEST or not token.isascii()):
        raise ValueError(f"{TOKEN} has {len(token)} characters; give at least {SHORTEST}, ASCII, such as those of "
                         "`openssl rand -hex 16`")
    if not token and not is_loopback(host):
        raise ValueError(f"--host {host} lets other machines in; set {TOKEN} to a secret first, or leave --host out")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name_of(run: str) -> str:
    """What clients call the network: a run's own name, or its whole name on the Hub."""
    return Path(run).resolve().name if Path(run).exists() else run
