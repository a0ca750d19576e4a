"""What an environment shows and takes, in words and in tokens; found by making it."""

import json
import warnings
from functools import cache
from typing import Any

from gymnasium import spaces

from ..datasets.publish import replace_file
from ..tokenizers.spaces import is_image, is_text, leaf_spaces, space_to_json
from ..tokenizers.task import TaskCodec
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocabulary import Vocabulary
from . import task_table
from .registry import FAMILIES, Task, family, make

TEXT_EVERY = 16   # steps, in the compact form


def describe(task: Task) -> dict[str, Any]:
    """What a task's environment shows and takes, as plain values.

    Returns:
        observation and action in words, their spaces, the parts of a step, and `tokens_per_step` [least, most]: the
        observation, the separator and the action. `compact_tokens_per_step` is the same in the task's compact view, real
        numbers as vectors, text that stays the same at every TEXT_EVERY-th step, so that the least is nearly what a step costs.
    Raises:
        MissingPackage: the family's package is not installed.
    """
    shown = spaces_of(task)
    return describe_spaces(*shown, spaces_of(task.compact()) if task.compact_view else shown)


def spaces_of(task: Task) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """What the task's environment shows and takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)   # Gymnasium's for old versions
        env = make(task)
    env.close()
    return env.observation_space, env.action_space


def describe_spaces(observation: spaces.Space[Any], action: spaces.Space[Any],
                    compact: tuple[spaces.Space[Any], spaces.Space[Any]]) -> dict[str, Any]:
    """The same, of an environment's two spaces, and of those that it has in the compact view."""
    codec = TaskCodec(observation, action, Vocabulary(), any_text())
    cheapest = TaskCodec(*compact, Vocabulary(), any_text(), numbers="vector", text_every=TEXT_EVERY)
    parts = [{"name": part.name, "kind": part.kind.name.lower(), "tokens": part.tokens} for part in codec.explain()]
    return {"parts": parts, "observation": describe_space(observation), "action": describe_space(action),
            "observation_space": space_to_json(observation), "action_space": space_to_json(action),
            "tokens_per_step": list(codec.tokens_per_step), "compact_tokens_per_step": list(cheapest.tokens_per_step)}


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


def write_table() -> None:
    """Make every task's environment once and write tasks.json anew.

    Raises:
        MissingPackage: a family is not installed here; the table needs all of them.
    """
    interfaces: dict[str, int] = {}   # as JSON -> its index
    families: dict[str, dict[str, Any]] = {}
    for name in FAMILIES:
        group = family(name)
        rows = [{**task.record(), "interface": interfaces.setdefault(_line(describe(task)), len(interfaces))}
                for task in group.tasks]
        families[name] = {"title": group.title, "extra": group.extra, "install": group.install, "modules": list(group.modules),
                          "tasks": rows}
    # One line per task and interface, so that a change can be read in a diff.
    text = json.dumps({"families": {name: {**about, "tasks": [f"@{name}"]} for name, about in families.items()},
                       "interfaces": ["@interfaces"]}, indent=1)
    for name, about in families.items():
        text = text.replace(f'"@{name}"', ",\n    ".join(map(_line, about["tasks"])))
    replace_file(task_table.TABLE, text.replace('"@interfaces"', ",\n  ".join(interfaces)) + "\n")
    task_table.table.cache_clear()
    task_table.rows.cache_clear()


def _line(value: Any) -> str:
    return json.dumps(value)
