"""`calico tasks`: what can be played here, and what a timestep of it looks like.

    calico tasks                                 # every task; the first time each is opened once, which takes minutes
    calico tasks --family classic
    calico tasks CartPole-v1 ALE/Pong-v5 --json

Tokens per step count the observation, the separator and the action; they vary where text is observed. Scores
are means: of uniform actions, of the scripted expert, of a person. What was found in an environment is kept in
~/.cache/calico until its package or its view changes.
"""

import contextlib
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gymnasium import spaces
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calico.envs import scores
from calico.envs.registry import FAMILIES, MissingPackage, Task, family, get_task, make, tasks
from calico.scripts.common.console import make_parser, note, print_json, progress, run_command
from calico.tokenizers.spaces import is_image, is_text, leaf_spaces, space_to_json
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.vocabulary import Vocabulary

COLUMNS = ("task", "sees", "does", "tokens/step", "expert", "random score", "expert score", "human score")
SCORES = {"random score": "random_score", "expert score": "expert_score", "human score": "human_score"}
FORMAT = 1  # of the cached descriptions
FEW = 30   # tasks that open so fast that a progress bar would only flicker


@run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, look up, print."""
    parser = make_parser("tasks", __doc__)
    parser.add_argument("names", nargs="*", metavar="TASK", help="only these tasks")
    parser.add_argument("--family", metavar="F", help=f"only this family: {', '.join(FAMILIES)}")
    parser.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    args = parser.parse_args(argv)
    chosen = [get_task(name) for name in args.names] or tasks(args.family)
    entries = _described(chosen)
    if args.json:
        print_json(entries)
        return 0
    for name in FAMILIES:
        of_family = [entry for entry in entries if entry["family"] == name]
        if of_family:
            _print_family(name, of_family)
    experts = sum(entry["expert"] is not None for entry in entries)
    note(f"{len(entries)} tasks, {experts} with an expert that `calico collect` records; "
         "`calico inspect TASK` shows tokens")
    return 0


def _described(chosen: Sequence[Task]) -> list[dict[str, Any]]:
    if len(chosen) <= FEW:
        return [describe(task) for task in chosen]
    entries = []
    with progress("looking at tasks", total=len(chosen), unit="tasks") as bar:
        for task in chosen:
            entries.append(describe(task))
            bar.advance(note=task.name)
    return entries


def describe(task: Task) -> dict[str, Any]:
    """Everything that is known of a task, as plain values.

    Returns:
        task, family, extra, licence, expert, max_steps (longest episode), the reference scores, view and versions; and of
        its environment: observation and action in words, their spaces, the parts of a step, `tokens_per_step` [least, most].
        Where its package is not installed, `missing` holds the message and these are None.
    """
    known, about = scores.reference(task.name), task.to_json()
    entry = {"task": about.pop("name"), "family": about.pop("family"), "observation": None, "action": None,
             "tokens_per_step": None, "max_steps": about.pop("episode_limit"), "expert": about.pop("expert"),
             "random_score": known.random, "expert_score": known.expert, "human_score": known.human,
             "extra": family(task.family).extra, "licence": about.pop("licence"), **about}
    try:
        return entry | opened(task)
    except MissingPackage as error:
        return {**entry, "missing": str(error)}


def opened(task: Task) -> dict[str, Any]:
    """What an environment shows and takes, from the cache or from the environment itself."""
    digest = hashlib.sha256(json.dumps([FORMAT, task.to_json()], sort_keys=True).encode()).hexdigest()
    cached = cache_folder() / f"{digest[:16]}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(cached.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)   # Gymnasium's for old versions
        env = make(task)
    codec = TaskCodec(env.observation_space, env.action_space, Vocabulary(), any_text())
    env.close()
    parts = [{"name": part.name, "kind": part.kind.name.lower(), "tokens": part.tokens} for part in codec.explain()]
    found = {"parts": parts,
             "observation": describe_space(env.observation_space), "action": describe_space(env.action_space),
             "observation_space": space_to_json(env.observation_space), "action_space": space_to_json(env.action_space),
             "tokens_per_step": list(codec.tokens_per_step)}
    with contextlib.suppress(OSError):   # a cache that cannot be written is none
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(found))
        os.replace(temporary, cached)
    return found


def cache_folder() -> Path:
    """Where descriptions are kept: one small file for each task, version and view."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calico" / "tasks"


def describe_space(space: spaces.Space[Any]) -> str:
    """A space in a few words: "8 real", "64x64x2 image", "text + 56x56x3 image + 1 of 4"."""
    return " + ".join(_describe_leaf(leaf) for leaf in leaf_spaces(space).values()) or "nothing"


def _describe_leaf(leaf: spaces.Space[Any]) -> str:
    shape = "x".join(map(str, leaf.shape or ()))
    match leaf:
        case spaces.Discrete():
            return f"1 of {leaf.n}"
        case spaces.MultiDiscrete():
            return f"{shape} of {'/'.join(map(str, leaf.nvec.ravel()))}"
        case spaces.MultiBinary():
            return f"{shape} bits"
        case _ if is_text(leaf):
            return "text"
        case _ if is_image(leaf):
            return f"{shape} image"
        case _:
            is_real = leaf.dtype is not None and leaf.dtype.kind == "f"
            return f"{shape or 1} {'real' if is_real else 'integers'}"


@cache
def any_text() -> TextTokenizer:
    """A tokenizer for counting only: how many tokens a text takes at most does not depend on its pieces."""
    return TextTokenizer.train(["go to the red ball"], vocab_size=300)


def _print_family(name: str, entries: list[dict[str, Any]]) -> None:
    """A heading, what all of the family share in one line, and a table of the rest."""
    versions = ", ".join(f"{k} {v}" for k, v in {k: v for e in entries for k, v in e["versions"].items()}.items())
    licences = ", ".join(dict.fromkeys(entry["licence"] for entry in entries))
    columns = {column: [_cell(entry, column) for entry in entries] for column in COLUMNS}
    shared = {c: cells[0] for c, cells in columns.items() if len(entries) > 2 and len(set(cells)) == 1}
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200   # one line per task for grep and less
    console.print(Text(f"{family(name).title}:", "bold"),
                  Text(f"{len(entries)} tasks, {versions}, licence {licences}", "dim"))
    told = [f"{column} {value}" for column, value in shared.items() if value]
    if told:
        console.print(Text(f"All of them: {', '.join(told)}", "dim"))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in (column for column in COLUMNS if column not in shared):
        table.add_column(column, justify="right" if column in SCORES or column == "tokens/step" else "left",
                         no_wrap=column == "task", overflow="fold")
    for row in zip(*(cells for column, cells in columns.items() if column not in shared), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    for message in dict.fromkeys(entry["missing"] for entry in entries if "missing" in entry):
        note(message)


def _cell(entry: dict[str, Any], column: str) -> str:
    match column:
        case "task":
            return entry["task"]
        case "expert":
            return entry["expert"] or ""
        case _ if column in SCORES:
            value = entry[SCORES[column]]
            return "" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case _ if "missing" in entry:
            return "not installed" if column == "sees" else ""
        case "tokens/step":
            least, most = entry["tokens_per_step"]
            return str(most) if least == most else f"{least}-{most}"
        case _:
            return entry["observation" if column == "sees" else "action"]


if __name__ == "__main__":
    sys.exit(main())
