"""Runs of Perceivers and encoders below a folder, for the tabs that show them."""

import json
from collections.abc import Iterator
from pathlib import Path

from calico.agent import checkpoint
from calico.agent.perceiver.runs import DOCUMENT

DEPTH = 3              # folders below the one that is searched
MOST = 200             # runs that are looked at


def perceivers(folder: Path) -> list[tuple[str, str]]:
    """(task, run) of each run of `calico perceive`."""
    return [(task, str(run)) for run, kept in runs(folder)
            if isinstance(task := document(kept / f"{DOCUMENT}.json").get("task"), str)]


def encoders(folder: Path) -> list[str]:
    """Runs of `calico pretrain` and `finetune`."""
    return [str(run) for run, kept in runs(folder) if (kept / "encoder.json").is_file()]


def runs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(run, its newest checkpoint) of what is below a folder, by name."""
    places = sorted(place for depth in range(1, DEPTH + 1) for place in folder.glob("/".join(["*"] * depth) + "/checkpoints"))
    for place in places[:MOST]:
        if kept := checkpoint.checkpoints(place.parent):
            yield place.parent, kept[-1]


def document(path: Path) -> dict[str, object]:
    """A checkpoint's JSON document; {} where there is none, or it is damaged, which loading the run tells."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
