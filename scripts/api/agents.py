"""`calico.load`: a network that plays, describes pictures and talks, as one Python object.

    agent = calico.load("runs/demo")
    agent.policy("CartPole-v1").predict(observation)
    agent.caption("room.png")
    agent.chat([{"role": "user", "content": "who are you?"}])
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv
from PIL import Image as Picture

from calico.agent import agent as networks
from calico.agent import checkpoint
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import Conversation, TextGenerator, user_message
from calico.datasets.formats.dialogues import chat
from calico.datasets.images import SUFFIXES, seen
from calico.envs.registry import Task
from calico.scripts.api import environments
from calico.scripts.api.policy import Policy
from calico.scripts.common import inspecting
from calico.scripts.common.as_trained import as_trained
from calico.scripts.common.chat_loop import describe_truncation
from calico.scripts.common.media_inputs import check_saw_pictures, largest_side, read_shown
from calico.scripts.common.shipped import DEFAULT_RUN
from calico.scripts.common.token_view import Inspected
from calico.tokenizers.document import caption_parts, dialogue_parts
from calico.tokenizers.tokens import Tokens

Shown = str | Path | np.ndarray | Picture.Image    # a picture or sound: a file's name, uint8 (H, W, C) or float (samples,)


def load(run: str | Path = DEFAULT_RUN, *, device: str = "cpu") -> "Agent":
    """A trained network.

    Args:
        run: a run's folder, one of its checkpoints, the name of a network that comes with Calico, or "owner/name[@revision]"
            of the Hugging Face Hub, where there is no such folder here. Default: the network that comes with Calico.
        device: "cpu" or "cuda".
    Raises:
        ValueError: there is none, or a file of it, which is named, is damaged; or no such device.
    """
    saved = checkpoint.load(networks.located(run), only=("model",))
    return Agent(networks.Agent.from_checkpoint(saved, device), saved)


class Agent:
    """One network, one set of weights: plays tasks, describes pictures, answers, chats.

    Attributes:
        network: what the other packages of Calico work with; see calico.agent.agent.Agent.
        tasks: names of the tasks that it was trained on.
        path: the folder that it was read from.
    """

    def __init__(self, network: networks.Agent, saved: checkpoint.Checkpoint) -> None:
        self.network, self.saved, self.path = network, saved, saved.path
        self.tasks = sorted(network.tasks)

    def __repr__(self) -> str:
        millions = sum(weights.numel() for weights in self.network.model.parameters()) / 1e6
        return f"<Agent of {self.path}: {millions:.1f} million parameters, {len(self.tasks)} tasks>"

    # ---- to play

    def policy(self, task: str, *, temperature: float | None = None, top_k: int = 0, seed: int = 0,
               prompt: Tokens | None = None) -> Policy:
        """A player of one task, with its own memory; for Gymnasium, Stable-Baselines3 and loops of your own.

        Args:
            temperature: of drawn actions; 0 always takes the likeliest, as `predict(..., deterministic=True)` does. Default:
                what the network was found to play best at, or 1.
            top_k: draw among the k likeliest tokens; 0: all.
            seed: of what is drawn.
            prompt: a demonstration that each episode begins after, see AgentPolicy.
        Raises:
            ValueError: the network was not trained on the task; the nearest name is told.
        """
        sampling = SamplingConfig(temperature=self.network.temperature if temperature is None else temperature, top_k=top_k,
                                  seed=seed)
        return Policy(self.network.policy(task, sampling, prompt=prompt), task)

    def make(self, task: str, *, render_mode: str | None = None) -> gym.Env:
        """The task's environment in the view that the network was trained with; see calico.make.

        Raises:
            ValueError: the network does not know the task, or the installed environment shows something else by now.
            ImportError: the task's package is not installed; the message holds the command that installs it.
        """
        return environments.make(self.as_trained(task), render_mode=render_mode)

    def make_vec(self, task: str, num_envs: int, *, render_mode: str | None = None) -> SyncVectorEnv:
        """Several of them as one `gym.vector` environment; see calico.make_vec."""
        return environments.make_vec(self.as_trained(task), num_envs, render_mode=render_mode)

    def as_trained(self, task: str) -> Task:
        """The task's record, in the view that the network was trained with. Raises what `make` raises."""
        return as_trained(self.network, task)

    # ---- to see and to talk

    def caption(self, image: Shown, *, temperature: float = 0.0, seed: int = 0) -> str:
        """A picture in words.

        Args:
            image: a file's name, a Pillow image, or uint8 (H, W) or (H, W, C); larger ones are shrunk to the size of those
                that the network was trained on.
        Raises:
            ValueError: not a picture, or the network never saw pictures with words.
        """
        check_saw_pictures(self.saved)
        (text,) = self._speaker(64, temperature, seed).captions([self._array(image)])
        return text

    def answer(self, shown: Shown | None, question: str, *, temperature: float = 0.0, seed: int = 0) -> str:
        """The answer to a question about a picture or a sound, or about nothing that is shown.

        Raises:
            ValueError: see `caption`; the question is empty.
        """
        return self.chat([user_message(None if shown is None else self._array(shown), question)], max_tokens=64,
                         temperature=temperature, seed=seed)

    def chat(self, messages: str | Sequence[Mapping[str, Any]], *, temperature: float = 0.0, max_tokens: int = 128,
             seed: int = 0, on_text: Callable[[str], None] | None = None) -> str:
        """The next thing that the network says.

        Args:
            messages: what was said so far, `{"role": "user" | "assistant" | "system", "content": ...}`, the user's message
                last; or just that one, as a string. Content is a string or a list of `{"type": "text", "text": ...}`,
                `{"type": "image", "image": ...}` and `{"type": "audio", "audio": ...}`; pictures and sounds as in `caption`.
            temperature: 0 always takes the likeliest token.
            max_tokens: of the reply, at most half of the network's context.
            on_text: called with the reply so far, as it grows.
        Returns:
            the reply. Where the oldest turns do not fit the context they are left out, with a warning.
        Raises:
            ValueError: messages of another form, a picture that cannot be read, or nothing is asked.
        """
        conversation = self.conversation(messages, temperature=temperature, max_tokens=max_tokens, seed=seed)
        reply = conversation.reply(on_text)
        if reply.cut:
            warnings.warn(describe_truncation(reply.cut), stacklevel=2)
        return reply.text

    def conversation(self, messages: str | Sequence[Mapping[str, Any]], *, temperature: float = 0.0, max_tokens: int = 128,
                     seed: int = 0) -> Conversation:
        """What `chat` replies in: its `reply` also says how much was read, written and left out. Arguments as of `chat`."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        messages = as_messages(messages)
        if not messages or messages[-1].get("role") != "user" or not has_content(messages[-1].get("content")):
            raise ValueError("the last message must be the user's and say something, such as "
                             '{"role": "user", "content": "who are you?"}')
        return Conversation(self._speaker(max_tokens, temperature, seed), self._with_arrays(messages))

    # ---- to look inside

    def tokens(self, target: Any, *, index: int = 0, start: int = 0, steps: int = 4, seed: int = 0) -> Inspected:
        """What the network reads, token by token: `print` shows it, `.tokens` has the arrays, `.words` the meanings.

        Args:
            target: a task's name (an episode of its expert, else of random play), a file or folder of data, a picture as a
                file, an array or Pillow image, or messages as in `chat`.
            index: which episode or document of a file.
            start, steps: window of an episode.
            seed: of a task's episode.
        Raises:
            ValueError: none of these, or a window outside the episode.
        """
        scheme = inspecting.Scheme(layout="disjoint", agent=self.network)
        if isinstance(target, str | Path) and str(target).lower().endswith(SUFFIXES) and Path(target).is_file():
            target = self._array(target)
        if isinstance(target, str | Path):
            return inspecting.inspect_with(scheme, str(target), index=index, start=start, steps=steps, seed=seed)
        if isinstance(target, np.ndarray | Picture.Image):
            return inspecting.inspect_parts("picture", caption_parts(self._array(target), None), scheme, [])
        parts = dialogue_parts(self._with_arrays(as_messages(target)), generate=True)
        return inspecting.inspect_parts("dialogue", parts, scheme, [])

    # ---- helpers

    @property
    def most_written(self) -> int:
        """Most tokens of a reply: half of the network's context."""
        return int(self.network.model.config.backbone.context) // 2

    @cached_property
    def _greedy(self) -> TextGenerator:
        return TextGenerator(self.network)     # holds a copy of the weights: made once

    def _speaker(self, max_tokens: int, temperature: float, seed: int) -> TextGenerator:
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens} must be at least 1")
        context, speaker = self.network.model.config.backbone.context, copy.copy(self._greedy)
        speaker.sampling = SamplingConfig(temperature=temperature, seed=seed)
        speaker.max_tokens = min(max_tokens, context // 2)
        speaker.room = context - speaker.max_tokens
        return speaker

    def _with_arrays(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str | Sequence):
                raise ValueError(f'message {number} is {message!r}; give {{"role": "user", "content": "..."}}')
        return [{**message, "content": content if isinstance(content, str) else [self._entry(entry) for entry in content]}
                for message in messages for content in [message["content"]]]

    def _entry(self, entry: Any) -> Any:
        """Part of a message, a picture or sound in it as an array; what is no such part is told by those who read it."""
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        return {**entry, kind: self._array(entry[kind])} if kind in ("image", "audio") and kind in entry else entry

    def _array(self, shown: Shown) -> np.ndarray:
        """A picture, uint8 (H, W, C), in the size that the network was trained on, or a sound, float32 (samples,)."""
        side = largest_side(self.saved)
        if isinstance(shown, str | Path):
            return read_shown(Path(shown), side)
        if isinstance(shown, np.ndarray) and shown.dtype == np.uint8:
            shown = as_picture(shown)
        if isinstance(shown, Picture.Image):
            return seen(shown, side)
        if isinstance(shown, np.ndarray) and shown.dtype.kind == "f" and shown.ndim == 1:
            return shown.astype(np.float32)
        raise ValueError(f"a picture or sound {described(shown)}: give a file's name, a Pillow image, uint8 (height, width, 3) "
                         "or float (samples,)")


def as_messages(messages: Any) -> list[Any]:
    """Messages with the roles and parts that the network knows: "human" is the user, OpenAI's image_url a picture.

    Raises:
        ValueError: no list, or a message of another form.
    """
    if isinstance(messages, Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f'messages {described(messages)}: give a text, or a list of {{"role": "user", "content": "..."}}')
    if not messages or not all(isinstance(message, Mapping) and "content" in message for message in messages):
        return list(messages)          # told by those who read them
    return chat([dict(message) for message in messages], "messages")


def as_picture(pixels: np.ndarray) -> Picture.Image:
    """uint8 (H, W) or (H, W, 1, 3 or 4) as a Pillow image. Raises ValueError for another shape."""
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (*pixels.shape, 1)[2] not in (1, 3, 4):
        raise ValueError(f"a picture of shape {pixels.shape}: give (height, width) or (height, width, 3)")
    return Picture.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def described(value: Any) -> str:
    return f"of {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"of type {type(value).__name__}"


def has_content(content: Any) -> bool:
    return bool(content.strip()) if isinstance(content, str) else isinstance(content, Sequence) and len(content) > 0
