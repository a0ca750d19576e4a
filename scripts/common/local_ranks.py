"""A few ranks on this machine without torchrun: forked from this process, so that they start at once. For benches and tests.

    losses = on_local_ranks(2, lambda: [...])[0]      # what rank 0 returned; JSON values
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from calico.agent.training.ranks import VARIABLES


def rank_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would put into a rank's environment."""
    return dict(zip(VARIABLES, (str(rank), str(size), str(rank), "127.0.0.1", str(port)), strict=True))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_local_ranks(size: int, function: Callable[[], Any], more: Mapping[int, Mapping[str, str]] | None = None) -> list[Any]:
    """Call a function in `size` processes that find themselves ranks of one run.

    Args:
        more: rank -> further variables of its environment.
    Returns:
        what each returned, or its exit code as an int where it ended otherwise, negative for a signal; None: nothing.
    """
    port, pipes, children = free_port(), [], []
    sys.stdout.flush()
    sys.stderr.flush()
    for rank in range(size):
        read, write = os.pipe()
        if not (child := os.fork()):
            _be_rank(function, {**rank_environment(rank, size, port), **(more or {}).get(rank, {})}, write)
        os.close(write)
        pipes.append(read)
        children.append(child)
    found: list[Any] = []
    for read, child in zip(pipes, children, strict=True):
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found.append(code if code else json.loads(text or "null"))
    return found


def _be_rank(function: Callable[[], Any], variables: Mapping[str, str], write: int) -> None:
    """The life of a forked rank; never returns, so that nothing of its parent (tests, locks) ends twice."""
    code = 1
    try:
        os.environ.update(variables)
        returned = function()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(returned).encode())
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
