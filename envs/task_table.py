"""`tasks.json` beside this file: all tasks with their spaces and tokens per step, to be read without making an environment.

Reading it loads neither Gymnasium nor a family's file. It repeats what the families' files and the environments say:
`python -m calico.scripts.tasks --write` writes it anew, and tests/envs/test_contract.py compares every line of it.

    {"families": {"classic": {"title": ..., "extra": ..., "install": ..., "modules": [...],
                              "tasks": [{... the fields of Task ..., "interface": 0}, ...]}, ...},
     "interfaces": [{... what interfaces.describe gives ...}, ...]}          # many tasks share one
"""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("tasks.json")


@cache
def table() -> dict[str, Any]:
    """The whole of tasks.json."""
    return json.loads(TABLE.read_text())


@cache
def rows() -> dict[str, dict[str, Any]]:
    """Task name -> the fields of its record, and under "interface" what its environment shows and takes."""
    shared = table()["interfaces"]
    return {row["name"]: {**row, "interface": shared[row["interface"]]}
            for group in table()["families"].values() for row in group["tasks"]}


@cache
def missing_module(family: str) -> str | None:
    """The first module of a family that is not installed here; None if all are. Nothing is imported: only the top-level
    packages are looked for."""
    for module in table()["families"][family]["modules"]:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            return module
    return None
