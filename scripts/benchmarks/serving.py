"""`calico bench serving`: one client of `calico serve` that acts, and many at once: errors, latency, batches, memory.

    calico bench serving                                  # 32 clients for a minute, one before them for a tenth of that
    calico bench serving --minutes 10 --clients 32        # the long one
    calico bench serving --tasks CartPole-v1 ALE/Pong-v5 --json

The server runs in a process of its own and the clients in this one, so both share the machine. Clients are control loops over
WebSocket that send an observation, wait for the action, and go on at once or, with --rate, so many times a second. Each plays
one of the tasks, in turn, with observations that were recorded before. Latency is what a client waits.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP

TASKS = ("CartPole-v1", "BabyAI-GoToLocal-v0")
RECORDED = 64      # observations of a task
WARM_UP = 0.5      # seconds that do not count


@dataclass
class Heard:
    """What clients found: seconds per action, errors, and the server's memory now and then, (seconds, bytes)."""

    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("bench serving", __doc__)
    parser.add_argument("run", nargs="?", default=DEFAULT_RUN, help=HELP)
    parser.add_argument("--minutes", type=float, default=1.0, help="of all clients together (default 1)")
    parser.add_argument("--clients", type=int, default=32, help="(default 32)")
    parser.add_argument("--rate", type=float, default=0.0, help="actions per second of a client (default: as fast as it can)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help=f"(default {' '.join(TASKS)})")
    console.add_common(parser, "--json")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "clients")
    if not arguments.minutes > 0 or not arguments.rate >= 0:
        raise ValueError(f"--minutes {arguments.minutes:g} must be above 0, and --rate {arguments.rate:g} at least 0")
    for module in ("uvicorn", "websockets"):
        console.check_installed(module, "serve", f"serving needs the package {module}")
    found = bench_serving(arguments.run, arguments.tasks, arguments.clients, 60 * arguments.minutes, arguments.rate)
    console.print_result(found, arguments.json, ("figure", "value"), found.items())
    return 0


def bench_serving(run: str, tasks: Sequence[str], clients: int, seconds: float, rate: float = 0.0) -> dict[str, Any]:
    """The figures of one client and of many."""
    from calico.agent.agent import Agent
    from calico.scripts.common.as_trained import as_trained

    agent = Agent.load(run)
    observations = {task: recorded(as_trained(agent, task)) for task in tasks}
    del agent
    with served(run, clients) as (url, process):
        alone, many = Heard(), Heard()
        asyncio.run(play(url, process, {tasks[0]: observations[tasks[0]]}, 1, max(2.0, seconds / 10), rate, alone))
        before = batches(url)
        began = time.perf_counter()
        asyncio.run(play(url, process, observations, clients, seconds, rate, many))
        took, after = time.perf_counter() - began, batches(url)
    first, last = halves(many.memory)
    one, all_of = milliseconds(alone.latencies), milliseconds(many.latencies)
    return {"clients": clients, "seconds": round(took, 1), "actions": len(many.latencies),
            "actions_per_second": len(many.latencies) / took, "errors": len(alone.errors) + len(many.errors),
            "first_error": next(iter(alone.errors + many.errors), None),
            "one_p50_ms": one[0], "one_p95_ms": one[1], "all_p50_ms": all_of[0], "all_p95_ms": all_of[1],
            "all_p99_ms": all_of[2], "p95_of_all_vs_one": all_of[1] / one[1],
            "mean_rows_of_a_batch": (after[1] - before[1]) / max(1.0, after[0] - before[0]),
            "memory_mb": last, "memory_growth": last / first - 1, "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 2)}


def recorded(task: Any) -> list[str]:
    """Observations of random play, as messages."""
    from calico.envs.registry import make

    env, found = make(task), list[str]()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for step in range(RECORDED):
        found.append(json.dumps({"observation": console.jsonable(observation)}))
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset(seed=step + 1)
    env.close()
    return found


@contextmanager
def served(run: str, clients: int) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address, and its process's number."""
    command = [sys.executable, "-m", "calico.scripts.serve", run, "--port", "0", "--max-sessions", str(clients + 1)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            line = said = ""
            for line in server.stderr:
                if line.startswith("serving "):
                    break
                said += line
            else:
                raise ValueError(f"the server did not start: {' '.join(said.split())}")
            url = line.split(" on ")[1].split()[0].rstrip(",")
            wait_for(url)
            yield url, server.pid
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for(url: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=seconds):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


async def play(url: str, process: int, observations: dict[str, list[str]], clients: int, seconds: float, rate: float,
               heard: Heard) -> None:
    """So many control loops for so long."""
    until = time.perf_counter() + WARM_UP + seconds
    counts_from = until - seconds
    loops = [loop(url, *list(observations.items())[number % len(observations)], number, counts_from, until, rate, heard)
             for number in range(clients)]
    await asyncio.gather(watch(process, until, heard), *loops)


async def loop(url: str, task: str, messages: Sequence[str], number: int, counts_from: float, until: float, rate: float,
               heard: Heard) -> None:
    from websockets.asyncio.client import connect

    try:
        async with connect(url.replace("http", "ws", 1) + "/v1/act") as socket:
            await socket.send(json.dumps({"reset": task, "seed": number}))
            await socket.recv()
            step = number
            while (now := time.perf_counter()) < until:
                await socket.send(messages[step % len(messages)])
                answer = await socket.recv()
                took = time.perf_counter() - now
                if '"action"' not in str(answer)[:20]:
                    heard.errors.append(str(answer)[:200])
                elif now >= counts_from:
                    heard.latencies.append(took)
                step += 1
                if rate:
                    await asyncio.sleep(max(0.0, 1 / rate - took))
    except Exception as error:        # counted and told
        heard.errors.append(f"{type(error).__name__}: {error}")


async def watch(process: int, until: float, heard: Heard) -> None:
    """The server's resident memory, twenty times."""
    pause, status = max(0.1, (until - time.perf_counter()) / 20), Path(f"/proc/{process}/statm")
    while time.perf_counter() < until:
        if status.exists():
            heard.memory.append((time.perf_counter(), int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")))
        await asyncio.sleep(pause)


def batches(url: str) -> tuple[float, float]:
    """How many batches the server has acted in, and how many rows they had, so far."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line.startswith("calico_act_batch"))
    return float(lines["calico_act_batch_rows_count"]), float(lines["calico_act_batch_rows_sum"])


def milliseconds(latencies: Sequence[float]) -> tuple[float, float, float]:
    """50th, 95th and 99th percentile."""
    if not latencies:
        raise ValueError("no action came back; the server's own words are above")
    p50, p95, p99 = 1000 * np.percentile(latencies, (50, 95, 99))
    return float(p50), float(p95), float(p99)


def halves(memory: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Megabytes after a quarter of the time, and at the end; 0 where the system does not tell."""
    sizes = [size / 1e6 for _, size in memory] or [float("nan")]
    return sizes[len(sizes) // 4], sizes[-1]
