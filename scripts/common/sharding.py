"""Work sharded over processes: each of torchrun's ranks takes a part of the (task, seed) pairs and writes results as files.

`torchrun --nproc-per-node 4 -m calico.scripts.score ...` starts the same command four times; each rank plays every fourth
episode and writes a small file for each. Ranks do not communicate: whichever finds all files of a task adds them up, and
running the command again, with any number of ranks, plays only what is missing.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from calico.datasets.publish import plain_name, replace_file

Item = TypeVar("Item")


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; (0, 1) without it.

    Raises:
        ValueError: the variables RANK and WORLD_SIZE are no such numbers.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ValueError(f"RANK={rank} and WORLD_SIZE={size} are not a rank and a number of ranks; unset them, or use torchrun")
    return int(rank), int(size)


def share(items: Sequence[Item]) -> list[Item]:
    """This rank's part of the work: every n-th item."""
    rank, size = rank_and_size()
    return list(items[rank::size])


def folder_name(task: str) -> str:
    """"ALE/Pong-v5" -> "ALE-Pong-v5", "my_module:MyEnv-v0" -> "my_module-MyEnv-v0"."""
    return plain_name(task.replace(":", "-"))


class Results:
    """One small JSON file per episode: `<folder>/<task>/<who>-<seed>.json`.

    Args:
        folder: the parent folder.
        about: what the numbers depend on (versions, view, settings). A file with another `about` is ignored, and its episode
            is played again.
    """

    def __init__(self, folder: Path, task: str, who: str, about: dict[str, Any]) -> None:
        self.folder, self.who = folder / folder_name(task), who
        self.about = json.loads(json.dumps(about))

    def path(self, seed: int) -> Path:
        return self.folder / f"{self.who}-{seed}.json"

    def get(self, seed: int) -> dict[str, Any] | None:
        """The result of an episode, None if it has not been played under these conditions."""
        try:
            found = json.loads(self.path(seed).read_text())
        except (OSError, ValueError):
            return None
        return found if found.get("about") == self.about else None

    def put(self, seed: int, result: dict[str, Any]) -> None:
        """Write a result; it is not waited for until the disk has it, for an episode can be played again."""
        replace_file(self.path(seed), json.dumps({**result, "about": self.about}), flushed=False)

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """The seeds without a result, in order."""
        return [seed for seed in seeds if self.get(seed) is None]
