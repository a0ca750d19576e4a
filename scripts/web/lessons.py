"""What a person plays becomes demonstrations, and a process of its own trains the network on them.

    lesson = Lesson(agent, "MiniGrid-DoorKey-5x5-v0", folder)
    lesson.act(2)                        # until the episode has ended; solved ones are kept
    worker = train("calico-small", lesson.data, folder / "run")
    progress(folder / "run")             # (step, loss) so far

The demonstrations are an ordinary data set: `calico train`, `calico inspect` and `calico export` take it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.envs import scores
from calico.envs.registry import FAMILIES, Task, get_task
from calico.envs.runner import Recorder
from calico.scripts.api.agents import Agent
from calico.scripts.common.as_trained import view_of
from calico.scripts.common.collecting import described
from calico.scripts.common.film import fit
from calico.scripts.common.sharding import folder_name

# MiniGrid's own order: name of the action, what stands on its button, the key of the keyboard.
ACTIONS = (("left", "↺ left", "ArrowLeft"), ("right", "↻ right", "ArrowRight"), ("forward", "↑ ahead", "ArrowUp"),
           ("pickup", "pick up", "p"), ("drop", "drop", "d"), ("toggle", "open", " "), ("done", "done", "Enter"))
SIDE = 480                 # pixels of a frame's longer side
WANTED = 5                 # episodes before training is offered
# What is shown by hand is little, and a network that can play already has learnt it by heart after 20 steps. Measured with five
# episodes of a new task in an 8 x 8 room, 30 unseen episodes each: 150 steps at 1e-3 were no better than 30 at 3e-4.
TRAINING = ("training.save_every=1000000", "training.log_every=2", "training.ema=0.95", "data.batch_size=8",
            "optimizer.learning_rate=3e-4", "optimizer.warmup_steps=10", "optimizer.final_share=0.05",
            "data.prompt_probability=0")
STEPS, STEPS_EACH = 40, 8      # of training: at least, and for each episode that was shown


class Lesson:
    """A task that a person plays.

    Attributes:
        data: the folder of the demonstrations.
        solved: returns of the kept episodes.
        score: the return of the episode under way.
        ended: it is over, and `again` begins the next one.
    """

    def __init__(self, agent: Agent, task: str, folder: Path) -> None:
        """
        Args:
            task: one of MiniGrid's or BabyAI's, or of your own with the same actions; seen as the network sees it, or would.
        Raises:
            ValueError: an unknown task, or one that is played otherwise.
        """
        self.task = grid_task(agent, task)
        self.recorder = Recorder(self.task, render=True)
        self.data = folder / "data" / folder_name(task)
        self.solved: list[float] = []
        self.seed, self.score, self.steps, self.ended = -1, 0.0, 0, True
        self.again()

    def again(self) -> None:
        """Begin the next episode; one that is not over is forgotten."""
        self.seed += 1
        self.recorder.reset(self.seed)
        space = self.recorder.env.action_space
        if not isinstance(space, gym.spaces.Discrete) or int(space.n) != len(ACTIONS):
            self.close()
            raise ValueError(f"{self.task.name} is played with {space}; teach a task with MiniGrid's seven actions, such as "
                             "MiniGrid-DoorKey-5x5-v0")
        self.score, self.steps, self.ended = 0.0, 0, False

    def act(self, action: int) -> bool | None:
        """Move. Returns None while the episode goes on, then whether it was solved, and so kept."""
        if self.ended:
            return None
        self.ended = self.recorder.step(action)
        self.steps += 1
        self.score = self.recorder.score
        if not self.ended:
            return None
        if self.score > 0:
            with EpisodeWriter(self.data, described(self.task, expert=None, policy="person", noise=0.0, noise_steps=1,
                                                    keep=None)) as writer:
                writer.append(self.recorder.episode())
            self.solved.append(self.score)
        return self.score > 0

    @property
    def frame(self) -> np.ndarray:
        """uint8 (height, width, 3)."""
        drawn: Any = self.recorder.env.render()
        return fit(np.asarray(drawn, np.uint8), SIDE)

    @property
    def mission(self) -> str:
        """What is to be done, in words."""
        world: Any = self.recorder.env.unwrapped
        return str(getattr(world, "mission", ""))

    def close(self) -> None:
        self.recorder.close()


def grid_task(agent: Agent, name: str) -> Task:
    """The task in the view that the network has learnt, or would. Raises ValueError for one of another family."""
    task = get_task(name)
    if task.family in FAMILIES and task.family != "minigrid":
        raise ValueError(f"{name} is no grid task; choose one of MiniGrid's or BabyAI's, such as MiniGrid-DoorKey-5x5-v0")
    return view_of(agent.network, name)


def train(run: str, data: Path, out: Path, overrides: Sequence[str] = (), device: str = "cpu") -> "subprocess.Popen[bytes]":
    """Begin `calico train` from a run's weights, in a process of its own; what it prints goes to OUT.log."""
    out.parent.mkdir(parents=True, exist_ok=True)
    steps = max(STEPS, STEPS_EACH * len(EpisodeReader(data)))
    settings = [f"training.steps={steps}", *TRAINING, *overrides, f"init={json.dumps(str(run))}",
                f"out={json.dumps(str(out))}", f"data.sources=[{{path: {json.dumps(str(data))}}}]"]
    command = [sys.executable, "-m", "calico.scripts.train", "tiny", *settings, "--device", device]
    with open(log_of(out), "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                env={**os.environ, "COLUMNS": "1000"})


def log_of(out: Path) -> Path:
    return out.with_suffix(".log")


def last_words(out: Path) -> str:
    """The last line that a training process printed."""
    lines = log_of(out).read_text(errors="replace").strip().splitlines() if log_of(out).exists() else []
    return lines[-1].removeprefix("calico train: ") if lines else ""


def progress(out: Path) -> list[tuple[float, float]]:
    """(step, loss) so far."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # late: it takes a second

    with suppress(Exception):          # a file that is being written
        events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
        tags = [tag for tag in ("loss/all", "loss/train") if tag in events.Tags()["scalars"]]
        return [(event.step, event.value) for tag in tags for event in events.Scalars(tag)]
    return []


def in_words(returns: Sequence[float], task: str) -> str:
    """Mean return beside what is known of the task."""
    mean = sum(returns) / len(returns)
    known = scores.reference(task)
    percent = known.normalise(mean)
    beside = f", {percent:.0f} % of the expert's" if percent is not None else ""
    return (f"{sum(value > 0 for value in returns)} of {len(returns)} unseen episodes solved, mean return {mean:.2f}{beside}")
