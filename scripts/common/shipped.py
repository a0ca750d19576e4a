"""RUN may be left out of a command line: then the network that comes with the package is used."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from calico.datasets.formats.hub import hub_name
from calico.envs.task_table import rows
from calico.tokenizers.spelling import nearest

DEFAULT_RUN = "calico-small"     # agent.agent.SHIPPED has its folder; importing that loads torch
MODULE_TASK = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[\w./-]+")      # module:Env-v0, see envs/families/own.py
HELP = (f"a run's folder, one of its checkpoints, or owner/name[@revision] of the Hugging Face Hub (default: {DEFAULT_RUN}, "
        "which comes with Calico)")


def split_run(words: Sequence[str], is_other: Callable[[str], bool]) -> tuple[str, list[str]]:
    """The RUN of a command line and the words after it.

    Args:
        words: all of them; the first one is the RUN unless `is_other`.
        is_other: whether a word that is no folder here is meant as one of those after RUN.
    """
    if words and (words[0] == DEFAULT_RUN or Path(words[0]).is_dir() or is_on_hub(words[0]) or not is_other(words[0])):
        return words[0], list(words[1:])
    return DEFAULT_RUN, list(words)


def is_on_hub(word: str) -> bool:
    """Whether a word is spelt like a name of the Hugging Face Hub and like no task ("ALE/Pong-v5") and no file ("a/b.png")."""
    name = hub_name(word)
    if name is None or name[0].partition("/")[0] in {row.partition("/")[0] for row in rows() if "/" in row}:
        return False
    return name[1] is not None or Path(word).suffix[1:].isdigit() or not (Path(word).suffix or is_gymnasium(word))


def is_task(word: str) -> bool:
    """Whether a word is a task's name, or is spelt like one; MODULE:ENV is always one of your own."""
    return word in rows() or bool(MODULE_TASK.fullmatch(word)) or bool(nearest(word, rows())) or is_gymnasium(word)


def is_own_task(word: str) -> bool:
    """Whether a word that is no file or folder here names a task."""
    return not Path(word).exists() and (word in rows() or bool(MODULE_TASK.fullmatch(word)) or is_gymnasium(word))


def is_gymnasium(word: str) -> bool:
    """Whether a word is the name of a task that Calico does not bring, such as another Gymnasium id."""
    if not re.fullmatch(r"[\w./-]+-v\d+", word):
        return False
    from calico.envs.registry import is_known  # late: it loads Gymnasium

    return is_known(word)


def is_media(word: str) -> bool:
    """Whether a word names a file, there or not: runs are folders, and have no suffix."""
    return Path(word).is_file() or bool(Path(word).suffix)
