"""A desk with the network that comes with Calico, for all tests of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import calico
from calico.scripts.api.agents import Agent
from calico.scripts.common.shipped import DEFAULT_RUN
from calico.scripts.web.desk import Desk


@pytest.fixture(scope="package")
def shipped() -> Agent:
    return calico.load()


@pytest.fixture
def desk(shipped: Agent, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(agent=shipped, run=DEFAULT_RUN, out=tmp_path / "taught", runs=tmp_path / "runs")
    yield desk
    desk.close()
