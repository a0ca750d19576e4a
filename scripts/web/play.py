"""The tab Play: a task from the run's list, live, with the probabilities of the action that was chosen."""

import base64
import html
import io
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from calico.agent.policy import looked_at, shows_attention
from calico.envs import registry
from calico.envs.isolated import isolated
from calico.envs.scores import FIRST_SEED
from calico.scripts.api.agents import Agent
from calico.scripts.common.film import fit
from calico.scripts.web.desk import Desk, Session, task_choices, told
from calico.tokenizers.spaces import flatten
from calico.tokenizers.tokens import PATCH_SIZE

FPS = 15                 # frames, and steps, per second
SIDE = 480               # pixels of a frame's longer side
LONGEST = 3600.0         # seconds of play, for tabs that were forgotten
REST = 1.0               # seconds that the end of an episode is shown
# Drawn without OpenGL, in any thread of this process; the other families get a process of their own.
LIGHT = ("classic", "box2d", "atari", "minigrid", "sokoban")
NAMES = {"CartPole": ("push left", "push right"), "MountainCar": ("left", "nothing", "right"),
         "Acrobot": ("turn left", "nothing", "turn right"),
         "LunarLander": ("nothing", "left engine", "main engine", "right engine")}
MOST_BARS, MOST_PARTS, COLUMNS = 18, 8, 32      # of the probabilities that are drawn
SEEN_SIDE = 256                                  # pixels of the longer side of a picture that was looked at
HEAT, STRONGEST = (255, 90, 0), 0.7              # colour of what was looked at most, and how much of it covers the picture


# ---- to play


@dataclass
class Moment:
    """What is shown of one step: a frame uint8 (height, width, 3), HTML of the choice, and facts."""

    frame: np.ndarray
    choice: str
    seed: int
    steps: int
    score: float
    texts: tuple[str, ...]
    ended: bool = False


def open_env(agent: Agent, task: str) -> gym.Env:
    """The task's environment with frames, as the network was trained to see it. Raises what `agent.make` raises."""
    seen = agent.as_trained(task)
    return registry.make(seen, True) if seen.family in LIGHT else isolated()(seen, True)


def first_moment(agent: Agent, task: str, seed: int) -> Moment:
    """How an episode begins."""
    env = open_env(agent, task)
    try:
        observation, _ = guarded(task, seed, 0, env.reset, seed=seed)
        return Moment(frame_of(env), "", seed, 0, 0.0, texts_of(env, observation))
    finally:
        env.close()


def play(desk: Desk, session: Session, agent: Agent, task: str, seed: int) -> Iterator[Moment]:
    """One episode after the other, each with the next seed, at most FPS steps per second, until the session has another turn.

    Raises:
        ValueError: the network does not know the task, or the environment failed.
        ImportError: the task's package is not installed; the message holds the command that installs it.
    """
    turn, began = session.take_turn(), time.monotonic()
    policy = agent.policy(task, temperature=session.temperature, seed=seed)
    env = open_env(agent, task)
    chosen = Choice(action_names(env, task))
    policy.playing.on_logits = chosen.keep
    pictures = bool(policy.playing.codec.picture_grids) and shows_attention(policy.playing.model)
    policy.playing.keeps_history = pictures             # so that the box may be ticked in the middle of an episode
    try:
        for number in itertools.count(seed):
            observation, _ = guarded(task, number, 0, env.reset, seed=number)
            policy.reset()
            moment = Moment(frame_of(env), "", number, 0, 0.0, texts_of(env, observation))
            due = time.monotonic()
            while not moment.ended:
                yield moment
                due = max(due + 1 / FPS, time.monotonic() - 1 / FPS)      # what is lost is not made up for
                time.sleep(max(0.0, due - time.monotonic()))
                if session.turn != turn or time.monotonic() - began > LONGEST:
                    return
                temperature = session.temperature
                policy.playing.sampling = replace(policy.playing.sampling, temperature=temperature)
                with desk.lock:
                    action, memory = policy.predict(observation)
                    looked = looked_html(memory.playing, observation) if pictures and session.looks else ""
                observation, reward, terminated, truncated, _ = guarded(task, number, moment.steps + 1, env.step, action)
                moment = Moment(frame_of(env), chosen.to_html(temperature) + looked, number, moment.steps + 1,
                                moment.score + float(reward), texts_of(env, observation), bool(terminated or truncated))
            yield moment
            time.sleep(REST)
            if session.turn != turn:
                return
    finally:
        env.close()


def guarded(task: str, seed: int, step: int, work: Any, /, *arguments: Any, **named: Any) -> Any:
    """What an environment raises, as a sentence that names task, seed and step."""
    try:
        return work(*arguments, **named)
    except Exception as error:
        raise ValueError(f"{task}, seed {seed}, step {step}: the environment failed "
                         f"({type(error).__name__}: {error})") from error


def frame_of(env: gym.Env) -> np.ndarray:
    frame: Any = env.render()
    return fit(np.asarray(frame, np.uint8), SIDE)


def texts_of(env: gym.Env, observation: Any) -> tuple[str, ...]:
    """What an observation says in words, such as an instruction."""
    return tuple(value for value in flatten(env.observation_space, observation).values() if isinstance(value, str) and value)


# ---- the probabilities of the next action


def action_names(env: gym.Env, task: str) -> Sequence[str]:
    """What a Discrete action space's actions are called; () where nobody says."""
    known = next((names for start, names in NAMES.items() if task.startswith(start)), None)
    if known or not isinstance(env.action_space, gym.spaces.Discrete):
        return known if known and len(known) == getattr(env.action_space, "n", 0) else ()
    with suppress(Exception):                # of Atari and MiniGrid; an environment in another process does not show itself
        world: Any = env.unwrapped
        names = [str(getattr(action, "name", action)).lower() for action in world.actions]
        return ["nothing" if name == "noop" else name for name in names][: int(env.action_space.n)]
    return ()


class Choice:
    """The logits that the latest action was drawn from."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.logits = names, list[np.ndarray]()

    def keep(self, place: int, logits: np.ndarray) -> None:
        """See AgentPolicy.on_logits; a row is one environment."""
        self.logits = [*self.logits[:place], logits[0]]

    def to_html(self, temperature: float) -> str:
        """Bars for few choices, a strip from low to high for many; those of temperature 1 where it is 0."""
        parts = [probabilities(logits, temperature or 1.0) for logits in self.logits]
        drawn = [bars(part, self.names if len(parts) == 1 else ()) if len(part) <= MOST_BARS else strip(part)
                 for part in parts[:MOST_PARTS]]
        titles = [f"<h4>number {number + 1} of {len(parts)}</h4>" if len(parts) > 1 else "" for number in range(len(drawn))]
        return "".join(f"<section>{title}{one}</section>" for title, one in zip(titles, drawn, strict=True))


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax."""
    scaled = (logits - logits.max()) / temperature
    return np.exp(scaled) / np.exp(scaled).sum()


def bars(chances: np.ndarray, names: Sequence[str]) -> str:
    names = names if len(names) == len(chances) else [f"action {number}" for number in range(len(chances))]
    return "".join(f'<div class="bar"><span>{html.escape(name)}</span><i style="--share:{chance:.3f}"></i>'
                   f"<b>{chance:.0%}</b></div>" for name, chance in zip(names, chances.tolist(), strict=True))


def strip(chances: np.ndarray) -> str:
    """Many bins, such as those of a real number from its least to its greatest value, summed in COLUMNS."""
    columns = np.array([part.sum() for part in np.array_split(chances, COLUMNS)])
    heights = columns / columns.max()
    return ('<div class="strip">' + "".join(f'<i style="--share:{height:.3f}"></i>' for height in heights.tolist())
            + "</div><small>low to high</small>")


# ---- which patches it looked at


def looked_html(playing: Any, observation: Any) -> str:
    """The observed pictures with a heat map of what the latest action was chosen from, see agent/backbones/rollout.py."""
    maps, leaves = looked_at(playing), flatten(playing.codec.observation_space, observation)
    patches = sum(grid.size for grid in maps.values())
    where = "the only patch" if patches == 1 else f"these {patches} patches"
    drawn = "".join(image_html(with_heat(as_rgb(leaves[name]), grid, scale_of(maps)), "what it looked at")
                    for name, grid in maps.items())
    return (f'<section class="looked"><h4>Where it looked in what it saw</h4>{drawn}<small>{total(maps):.0%} of its attention, '
            f"followed through all layers, is on {where}; the rest is on words, "
            "numbers and what was before</small></section>")


def total(maps: Mapping[str, np.ndarray]) -> float:
    """Part of the attention that is on any of the pictures, at most 1."""
    return float(sum(grid.sum() for grid in maps.values()))


def scale_of(maps: Mapping[str, np.ndarray]) -> float:
    """The attention on the patch that has most of it; infinite, so that nothing is coloured, where there is one patch alone."""
    return max(float(grid.max()) for grid in maps.values()) if sum(grid.size for grid in maps.values()) > 1 else np.inf


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """An observed picture (H, W[, C]) as (H, W, 3); of stacked grey frames the last."""
    picture = picture if picture.ndim == 3 else picture[..., None]
    return picture if picture.shape[2] == 3 else np.repeat(picture[..., -1:], 3, axis=2)


def with_heat(picture: np.ndarray, grid: np.ndarray, most: float) -> np.ndarray:
    """A picture uint8 (H, W, 3), enlarged without smoothing, each of its patches coloured by its part of the attention.

    Args:
        grid: attention (rows, columns) of the patches of PATCH_SIZE pixels; those at the lower and right edges may be cut.
        most: attention that is drawn strongest.
    """
    times = max(1, SEEN_SIDE // max(picture.shape[:2]))
    height, width = picture.shape[:2]
    share = np.repeat(np.repeat(grid, PATCH_SIZE, axis=0), PATCH_SIZE, axis=1)[:height, :width, None] / (most or 1.0)
    mixed = picture * (1 - STRONGEST * share) + np.array(HEAT) * STRONGEST * share
    return np.repeat(np.repeat(mixed.round().astype(np.uint8), times, axis=0), times, axis=1)


# ---- as HTML


def frame_html(frame: np.ndarray) -> str:
    return image_html(frame, "the world")


def image_html(picture: np.ndarray, words: str) -> str:
    """A picture inside the page: a file for each would be fetched fifteen times a second."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    return f'<img alt="{words}" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def facts_html(moment: Moment, fps: float | None = None) -> str:
    said = "".join(f"<q>{html.escape(text)}</q>" for text in moment.texts)
    parts = [f"step {moment.steps}", f"return {moment.score:.4g}", f"seed {moment.seed}"]
    parts += [f"{fps:.1f} frames per second"] if fps else []
    return f'{said}<p>{" · ".join(parts)}{" · <b>the episode has ended</b>" if moment.ended else ""}</p>'


def shown(moments: Iterator[Moment]) -> Iterator[tuple[str, str, str]]:
    """Frame, choice and facts of each moment as HTML, with the speed over the last second or two."""
    times: list[float] = []
    for moment in moments:
        times = [*times[-2 * FPS:], time.monotonic()] if moment.steps else []
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > FPS // 2 else None
        yield frame_html(moment.frame), moment.choice, facts_html(moment, fps)


# ---- the tab


def build(desk: Desk, page: Any) -> None:
    """Put the tab's contents into the open `gradio.Tab`; `page` is the gradio.Blocks around it."""
    import gradio as gr

    choices = task_choices(desk.agent.tasks)
    if not choices:
        gr.Markdown(f"{desk.run} was trained on no tasks; `calico improve {desk.run} TASK --out NEW` teaches it some.")
        return
    with gr.Row(elem_classes="board"):
        with gr.Column(scale=3, min_width=300):
            task = gr.Dropdown(choices, value=choices[0][1], label="Task", elem_id="play-task",
                               info=f"{len(choices)} to choose from; type to search")
            frame = gr.HTML(elem_classes="world", elem_id="play-world")
            facts = gr.HTML(elem_classes="facts", elem_id="play-facts")
            with gr.Row(elem_classes="keys"):
                go = gr.Button("Play", variant="primary", elem_id="play-go", min_width=80)
                stop = gr.Button("Stop", elem_id="play-stop", min_width=80)
                again = gr.Button("Another seed", elem_id="play-again", min_width=80)
        with gr.Column(scale=2, min_width=280):
            gr.Markdown("#### Its next action")
            choice = gr.HTML('<p class="soft">Press Play: the probabilities of each step are shown here.</p>',
                             elem_classes="choice", elem_id="play-choice")
            temperature = gr.Slider(0, 2, value=desk.agent.network.temperature, step=0.05, label="Temperature",
                                    info="0 always takes the likeliest action; may be moved while it plays")
            looks = gr.Checkbox(False, label="Show which patches it looked at", elem_id="play-looks",
                                info="of tasks whose observation is a picture; may be ticked while it plays",
                                visible=shows_attention(desk.agent.network.model))
            seed = gr.Number(FIRST_SEED, label="Seed", precision=0, minimum=0, elem_id="play-seed",
                             info="of the first episode; the next ones count on")

    def look(task: str, seed: int, request: gr.Request) -> tuple[str, str, str]:
        desk.session(request).take_turn()
        with told():
            moment = first_moment(desk.agent, task, whole(seed))
        return frame_html(moment.frame), "", facts_html(moment)

    def watch(task: str, seed: int, temperature: float, request: gr.Request) -> Iterator[tuple[str, str, str]]:
        session = desk.session(request)
        session.temperature = float(temperature)
        with told():
            yield from shown(play(desk, session, desk.agent, task, whole(seed)))

    def other(seed: int) -> int:
        return whole(seed) + 1

    def warm(temperature: float, request: gr.Request) -> None:
        desk.session(request).temperature = float(temperature)

    def attend(looks: bool, request: gr.Request) -> None:
        desk.session(request).looks = bool(looks)

    def end(request: gr.Request) -> None:
        desk.session(request).take_turn()

    outputs: Any = [frame, choice, facts]
    live: Any = {"show_progress": "hidden", "concurrency_limit": None, "trigger_mode": "multiple"}
    page.load(look, [task, seed], outputs, **live, api_name="look")
    task.input(look, [task, seed], outputs, **live, api_visibility="private")
    go.click(watch, [task, seed, temperature], outputs, **live, api_name="play")
    again.click(other, seed, seed, queue=False, api_visibility="private").then(
        watch, [task, seed, temperature], outputs, **live, api_visibility="private")
    temperature.input(warm, temperature, None, queue=False, show_progress="hidden", api_visibility="private")
    looks.input(attend, looks, None, queue=False, show_progress="hidden", api_name="attend")
    stop.click(end, None, None, queue=False, show_progress="hidden", api_name="stop")


def whole(seed: float | None) -> int:
    """A seed from a field that may be empty. Raises ValueError for a negative one."""
    if seed is None or seed < 0:
        raise ValueError(f"the seed is {'empty' if seed is None else seed}; give a whole number of at least 0")
    return int(seed)
