"""Thirty-two clients that act at once: no error, and batches of many."""

import asyncio
import os
from typing import Any

import pytest

from calico.scripts.common.as_trained import as_trained

from .conftest import Served


def test_thirty_two_clients_act_at_once(served: Served, shipped: Any) -> None:
    pytest.importorskip("websockets")
    from calico.scripts.benchmarks.serving import TASKS, Heard, batches, milliseconds, play, recorded

    observations, heard = {task: recorded(as_trained(shipped.network, task)) for task in TASKS}, Heard()
    before = batches(served.url)
    asyncio.run(play(served.url, os.getpid(), observations, 32, 2.0, 0.0, heard))
    after = batches(served.url)
    assert heard.errors == [] and len(heard.latencies) > 64
    assert (after[1] - before[1]) / (after[0] - before[0]) > 4            # rows of a batch
    assert milliseconds(heard.latencies)[0] > 0


@pytest.mark.slow
def test_the_bench_tells_both_sides(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from calico.scripts.main import main

    assert main(["bench", "serving", "--minutes", "0.1", "--clients", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == 0 and found["clients"] == 8 and found["p95_of_all_vs_one"] > 0
    assert abs(found["memory_growth"]) < 0.2


def test_the_bench_waits_for_its_server_and_tells_what_it_said_instead(served: Served) -> None:
    from calico.scripts.benchmarks.serving import batches
    from calico.scripts.benchmarks.serving import served as started
    from calico.scripts.common.shipped import DEFAULT_RUN

    with started(DEFAULT_RUN, 2) as (url, _):
        assert batches(url) == (0, 0)
    with pytest.raises(ValueError, match="the server did not start: .*runs/nothing"), started("runs/nothing", 2):
        pass
