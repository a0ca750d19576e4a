"""The tokens of a task's episode, of a stored episode or of a document, ready to be shown (token_view.py)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.datasets.documents import Caption, Dialogue, Document
from calico.datasets.episodes import EpisodeReader
from calico.datasets.formats.hub import hub_name
from calico.datasets.open_data import open_data
from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.registry import Task, get_task, make, recorded_task
from calico.envs.runner import rollout
from calico.scripts.common.shipped import is_own_task
from calico.scripts.common.token_view import Inspected
from calico.tokenizers.document import Part as DocumentPart
from calico.tokenizers.document import Text, caption_parts, dialogue_parts, encode_document, text_parts
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import space_from_json
from calico.tokenizers.task import Part, TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import Kind
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

if TYPE_CHECKING:
    from calico.agent.agent import Agent


def inspect_target(target: str, *, layout: str = "disjoint", index: int = 0, start: int = 0, steps: int = 4,
                   seed: int = 0, random: bool = False, run: Path | None = None) -> Inspected:
    """Tokens of a task's episode, of a stored episode or of a document.

    Args:
        target: a task's name, or a file or folder of episodes, captions, dialogues or text.
        layout: the id map, unless `run` brings its own.
        index: which episode or document of a file.
        start, steps: window of an episode.
        seed, random: of a task's rollout; `random` plays it without its expert.
        run: a trained run, whose ids and text pieces are used; None learns a small text tokenizer from the shown text.
    Raises:
        ValueError: neither a task nor data that can be read, or a window outside the episode.
    """
    scheme = Scheme(layout=layout, agent=load_agent(run) if run else None)
    return inspect_with(scheme, target, index=index, start=start, steps=steps, seed=seed, random=random)


def inspect_with(scheme: "Scheme", target: str, *, index: int = 0, start: int = 0, steps: int = 4, seed: int = 0,
                 random: bool = False) -> Inspected:
    """`inspect_target` with the ids and text pieces of `scheme`."""
    if steps < 1 or start < 0:
        raise ValueError(f"--steps {steps} --start {start}: show at least one step, from step 0 on")
    if not Path(target).exists() and not (hub_name(target) and not is_own_task(target)):
        if "/" in target and Path(target).suffix:
            raise ValueError(f"{target} does not exist; give a file that does, or a task's name")
        return _inspect_task(target, scheme, start, steps, seed, random)
    data = open_data(target)
    if not 0 <= index < len(data):
        raise ValueError(f"--index {index}: {target} holds the numbers 0 to {len(data) - 1}")
    if isinstance(data, EpisodeReader):
        return _inspect_stored(data, scheme, index, start, steps)
    return _inspect_document(data[index], scheme, [f"number {index} of {len(data)} in {target}", f"read as {data.format}"])


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Where ids come from: a trained agent, or a layout and the shown text."""

    layout: str
    agent: "Agent | None"

    def ids(self, sentences: Iterable[str]) -> tuple[Vocabulary, TextTokenizer | None]:
        """The id map, and the text tokenizer if there is text."""
        if self.agent is not None:
            return self.agent.vocabulary, self.agent.text
        unique = [sentence for sentence in dict.fromkeys(sentences) if sentence.strip()]
        text = TextTokenizer.train(unique, vocab_size=1024) if unique else None
        return Vocabulary(VocabularyConfig(layout=self.layout)), text   # type: ignore[arg-type]

    def codec(self, task: str, spaces: tuple[Any, Any], sentences: Iterable[str]) -> TaskCodec:
        """The agent's own codec where it knows the task, else one for these spaces."""
        if self.agent is not None and task in self.agent.tasks:
            return self.agent.codec(task)
        vocabulary, text = self.ids(sentences)
        return TaskCodec(*spaces, vocabulary=vocabulary, text=text)

    def task(self, name: str) -> Task:
        """The task in the view that the agent was trained with, where it knows it."""
        known = {} if self.agent is None else self.agent.tasks.get(name, {})
        return recorded_task(name, known.get("data", {}).get("environment", {}))


def load_agent(run: Path) -> "Agent":
    """The agent of a run; imported late, because it loads torch."""
    from calico.agent.agent import Agent

    return Agent.load(run)


def _inspect_task(name: str, scheme: Scheme, start: int, steps: int, seed: int, random: bool) -> Inspected:
    task = scheme.task(name)
    random = random or task.expert is None
    policy = RandomPolicy() if random else make_expert(task)
    (episode,) = rollout(task, policy, [seed], num_envs=1, max_steps=start + steps)
    player = "random policy" if random else f"expert {task.expert}"
    return _inspect_episode(episode, _spaces(task), [f"{player}, seed {seed}"], scheme, start, steps)


def _inspect_stored(reader: EpisodeReader, scheme: Scheme, index: int, start: int, steps: int) -> Inspected:
    episode, task = reader[index], reader.task
    known = {"observation_space", "action_space"} <= task.keys()
    spaces = (space_from_json(task["observation_space"]), space_from_json(task["action_space"])) if known else \
        _spaces(get_task(episode.task))
    details = [f"episode {index} of {len(reader)} in {reader.path}",
               f"seed {episode.seed}, {len(episode)} steps, return {episode.score:g}"]
    return _inspect_episode(episode, spaces, details, scheme, start, steps)


def _spaces(task: Task) -> tuple[Any, Any]:
    env = make(task)
    env.close()
    return env.observation_space, env.action_space


def _inspect_episode(episode: Episode, spaces: tuple[Any, Any], details: list[str], scheme: Scheme, start: int,
                     steps: int) -> Inspected:
    if start >= len(episode):
        raise ValueError(f"--start {start}: this episode has the steps 0 to {len(episode) - 1}")
    leaves = [leaf for leaf in (*episode.observations.values(), *episode.actions.values()) if leaf.dtype == object]
    codec = scheme.codec(episode.task, spaces, (str(value) for leaf in leaves for value in leaf))
    stop = min(start + steps, len(episode))
    window = f"steps {start} to {stop - 1}" if stop - start > 1 else f"step {start}"
    details = [*details, window, f"a step is {' + '.join(map(_describe, codec.explain()))}"]
    return Inspected(title=episode.task, details=details, tokens=codec.encode_episode(episode, start, stop),
                     vocabulary=codec.vocabulary, text=codec.text, codec=codec, rewards=episode.rewards)


def _describe(part: Part) -> str:
    if part.kind == Kind.SPECIAL:
        return part.name
    most = "up to " if part.kind == Kind.TEXT else ""
    return f"{part.name} ({most}{part.tokens} {part.kind.name.lower()})"


def _inspect_document(document: Document, scheme: Scheme, details: list[str]) -> Inspected:
    match document:
        case Caption():
            title, parts = "caption", caption_parts(document.image, document.captions[0])
        case Dialogue():
            title, parts = "dialogue", dialogue_parts(document.messages, document.images, sounds=document.sounds)
        case _:
            title, parts = "text", text_parts(document)
    return inspect_parts(title, parts, scheme, details)


def inspect_parts(title: str, parts: Sequence[DocumentPart], scheme: Scheme, details: list[str]) -> Inspected:
    """The tokens of a document that is made of these parts."""
    vocabulary, text = scheme.ids(part.text for part in parts if isinstance(part, Text))
    return Inspected(title=title, details=details, vocabulary=vocabulary, text=text,
                     tokens=encode_document(parts, vocabulary, text))
