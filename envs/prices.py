"""What a step of a task costs in tokens, in the paper's form and in the most compact one."""

from functools import cache
from typing import Any

from gymnasium import spaces

from ..tokenizers.task import TaskCodec
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocabulary import Vocabulary
from .registry import Task, make

TEXT_EVERY = 16   # steps


def prices(task: Task) -> dict[str, tuple[int, int]]:
    """(least, most) tokens of a step, which differ where text is observed.

    Returns:
        "binned": the task's own view, each real number a token; "compact": its compact view, real numbers as vectors, text
        that stays the same at every TEXT_EVERY-th step, so that the least is nearly what a step costs.
    Raises:
        MissingPackage: the family's package is not installed.
    """
    return {"binned": price(*spaces_of(task), compact=False), "compact": price(*spaces_of(task.compact()), compact=True)}


def price(observation: spaces.Space[Any], action: spaces.Space[Any], *, compact: bool) -> tuple[int, int]:
    """The same of one form, for spaces that are known."""
    form: dict[str, Any] = {"numbers": "vector", "text_every": TEXT_EVERY} if compact else {}
    return TaskCodec(observation, action, Vocabulary(), _any_text(), **form).tokens_per_step


def spaces_of(task: Task) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """What the task's environment shows and takes, found by making it."""
    env = make(task)
    env.close()
    return env.observation_space, env.action_space


@cache
def _any_text() -> TextTokenizer:
    """For counting only: how many tokens a text takes at most does not depend on its pieces."""
    return TextTokenizer.train(["go to the red ball"], vocab_size=300)
