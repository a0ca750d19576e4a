"""The network as tools of the Model Context Protocol (https://modelcontextprotocol.io), for assistants: `calico app --mcp`.

Gradio serves them beside the page, at /gradio_api/mcp/. Their docstrings are what an assistant reads; Gradio takes one line of
an argument. Nothing is fetched from other machines: a picture is a file of this one, or comes inside the call.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calico.agent.sampling import SamplingConfig
from calico.datasets.images import decode_file
from calico.envs.registry import get_task
from calico.scripts.common.media_inputs import check_saw_pictures, read_picture
from calico.scripts.evaluation.control import UNSEEN, play
from calico.scripts.serving.values import decode_data_uri
from calico.scripts.web.desk import Desk, task_choices, told
from calico.scripts.web.play import LIGHT

MOST_EPISODES, MOST_STEPS, LISTED = 20, 1000, 50
PATH = "/gradio_api/mcp/"          # Gradio's


def tools(desk: Desk) -> list[Callable[..., Any]]:
    """The tools of a network; each raises gradio.Error, in one sentence, for what a user can cause."""

    def caption(picture: str) -> str:
        """Describe a small picture of one of the worlds that this network was trained on, such as a MiniGrid room, a lunar
        lander, Atari's Freeway or Breakout, Sokoban or MiniWorld, in one sentence. About other pictures it makes things up.

        Args:
            picture: path of an image file on the machine of the server, or "data:image/png;base64,..."
        Returns:
            the caption
        """
        with told():
            check_saw_pictures(desk.agent.saved)
            with desk.lock:
                return desk.agent.caption(pixels(picture))

    def answer(picture: str, question: str) -> str:
        """Answer a question about a small picture of one of the worlds that this network was trained on. About other pictures
        it makes things up.

        Args:
            picture: path of an image file on the machine of the server, or "data:image/png;base64,..."
            question: in plain lower-case English, such as "what colour is the ball?" or "how many objects are there?"
        Returns:
            the answer
        """
        with told():
            check_saw_pictures(desk.agent.saved)
            shown = pixels(picture)
            with desk.lock:
                return desk.agent.answer(shown, question.strip())

    def chat(message: str, history: list[dict[str, str]] | None = None, temperature: float = 0.0) -> str:
        """Say something to the network and get its reply. It is a small network for control: it knows small talk and a little
        about its tasks and itself, and nothing else.

        Args:
            message: what is said now
            history: what was said before, oldest first, each {"role": "user" or "assistant", "content": "..."}
            temperature: 0 always takes the likeliest word; up to 2
        Returns:
            the reply
        """
        with told():
            messages = [*checked_history(history or []), {"role": "user", "content": said(message)}]
            with desk.lock:
                return desk.agent.chat(messages, temperature=within("temperature", temperature, 0, 2))

    def find_tasks(containing: str = "", limit: int = LISTED) -> list[str]:
        """List tasks that the network can play with play_task, such as CartPole-v1 or MiniGrid-DoorKey-8x8-v0. A name with
        "(not installed)" behind it needs a package that the server's machine lacks.

        Args:
            containing: part of the name, in any case; empty: all
            limit: most names that are returned
        Returns:
            names of tasks
        """
        found = [words for words, name in task_choices(desk.agent.tasks) if containing.lower() in name.lower()]
        return found[: max(0, int(limit))]

    def play_task(task: str, episodes: int = 5, max_steps: int = 500, temperature: float | None = None) -> dict[str, Any]:
        """Let the network play whole episodes of a task and return its scores. Takes seconds to minutes: a step takes some
        milliseconds, and the page and other calls wait meanwhile.

        Args:
            task: a name from find_tasks
            episodes: how many, at most 20; their seeds are none that the network was trained on
            max_steps: an episode is cut after so many steps, at most 1000
            temperature: of its actions, 0 (always the likeliest one) to 2; default: the one at which it plays best
        Returns:
            task, returns (one per episode), mean, random and expert (mean returns of those), percent (0: random, 100: expert)
        """
        with told():
            count = int(within("episodes", episodes, 1, MOST_EPISODES))
            steps = int(within("max_steps", max_steps, 1, MOST_STEPS))
            network = desk.agent.network
            network.codec(task)                              # refused by name before anything is made
            heat = network.temperature if temperature is None else within("temperature", temperature, 0, 2)
            with desk.lock:
                score = play(network, task, range(UNSEEN, UNSEEN + count), SamplingConfig(temperature=heat), max_steps=steps,
                             num_envs=min(count, 8), isolate=get_task(task).family not in LIGHT, progress=False)
            return {"task": task, "returns": [float(one) for one in score.returns], "mean": score.score, "random": score.random,
                    "expert": score.expert, "percent": score.normalised, "failed": score.failed}

    return [caption, answer, chat, find_tasks, play_task]


def pixels(picture: str) -> Any:
    """Of a file's path, or of "data:image/png;base64,...": uint8 (H, W, 3).

    Raises:
        ValueError: neither, or no picture.
    """
    if picture.startswith("data:"):
        return decode_file(decode_data_uri(picture, "picture"))
    if "://" in picture:
        raise ValueError(f"picture is {picture[:80]!r}, and nothing is fetched from other machines; give the path of a file "
                         'here, or "data:image/png;base64,..."')
    return read_picture(Path(picture), max_side=1024)         # the agent shrinks it to what it was trained on


def checked_history(history: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The turns before. Raises ValueError for what is none."""
    for number, turn in enumerate(history):
        if not isinstance(turn, Mapping) or turn.get("role") not in ("user", "assistant") or not isinstance(
                turn.get("content"), str):
            raise ValueError(f'history[{number}] is {turn!r}; give {{"role": "user" or "assistant", "content": "..."}}')
    return [{"role": turn["role"], "content": turn["content"]} for turn in history]


def said(message: str) -> str:
    """Raises ValueError where nothing is said."""
    if not message.strip():
        raise ValueError("message is empty; say something")
    return message.strip()


def within(name: str, value: float, low: float, high: float) -> float:
    """Raises ValueError for a number outside [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value:g} must be {low:g} to {high:g}")
    return float(value)


def build(desk: Desk, page: Any) -> None:
    """Put the tools into the open `gradio.Blocks`, and leave them as the only ones: what the tabs do stays callable by
    Gradio's clients and is no tool."""
    import gradio as gr

    before = list(page.fns.values())
    for function in before:
        if function.api_visibility == "public":
            function.api_visibility = "undocumented"
    for tool in tools(desk):
        gr.api(tool, api_name=tool.__name__, concurrency_limit=None)
