"""`calico inspect TASK|FILE`: any episode or document as coloured tokens.

Each token is a small card: what it means above, its id below, the colour says its kind, an underlined id is a target of
the loss. Image patches are drawn. `--table` adds every field of every token, `--json` prints them for machines.

    calico inspect CartPole-v1                       the first steps of an expert's episode; a second or two
    calico inspect BabyAI-GoToLocal-v0 --steps 1 --table
    calico inspect data/CartPole-v1 --index 3 --start 100
    calico inspect captions.jsonl --index 7          a captioned picture; dialogues and text files too
    calico inspect Pendulum-v1 --layout gato         ids as in the paper, where integers share the ids of text

With `--run RUN` ids and text pieces are those of a trained run: exactly what it sees. Without, a small text tokenizer
is learnt from the shown text itself.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from calico.datasets.documents import Caption, Dialogue, Document
from calico.datasets.episodes import EpisodeReader
from calico.datasets.opening import open_data
from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.registry import get_task, make
from calico.envs.runner import rollout
from calico.scripts.console import make_parser, print_json, printable, run_command
from calico.tokenizers.document import Text as DocumentText
from calico.tokenizers.document import caption_parts, dialogue_parts, encode_document, text_parts
from calico.tokenizers.episode import Episode
from calico.tokenizers.meaning import meanings
from calico.tokenizers.spaces import space_from_json
from calico.tokenizers.task import Part, TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import ACTION, NO_POSITION, PATCH_SIZE, Kind, Tokens
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

if TYPE_CHECKING:
    from calico.agent.agent import Agent

KIND_STYLES = {
    Kind.TEXT: Style(color="#1b1a18", bgcolor="#e8a06f"),
    Kind.DISCRETE: Style(color="#1b1a18", bgcolor="#7fb2cc"),
    Kind.CONTINUOUS: Style(color="#1b1a18", bgcolor="#a3bd84"),
    Kind.SPECIAL: Style(color="#f4f1ec", bgcolor="#6b6660"),
    Kind.PAD: Style(color="#8d877e"),
}
KIND_WORDS = {Kind.TEXT: "text", Kind.PATCH: "image patch", Kind.DISCRETE: "integer", Kind.CONTINUOUS: "real value",
              Kind.SPECIAL: "special", Kind.PAD: "padding"}
DIM, TARGET = Style(dim=True), Style(bold=True, underline=True)
LABEL = 9         # columns of "step 12" at the left
LONGEST_WORD = 20


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What is shown: tokens, and what is known about them."""

    title: str
    details: list[str]
    tokens: Tokens
    vocabulary: Vocabulary
    text: TextTokenizer | None
    codec: TaskCodec | None = None
    rewards: np.ndarray | None = None   # by timestep

    @cached_property
    def words(self) -> list[str]:
        """The meaning of each token."""
        return meanings(self.tokens, self.vocabulary, self.text, self.codec)


# ---- what to show ---------------------------------------------------------------------------------------------------

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
    if steps < 1 or start < 0:
        raise ValueError(f"--steps {steps} --start {start}: show at least one step, from step 0 on")
    scheme = Scheme(layout=layout, agent=load_agent(run) if run else None)
    if not Path(target).exists():
        if "/" in target and Path(target).suffix in (".parquet", ".jsonl", ".txt"):
            raise ValueError(f"{target} does not exist; give a file that does, or a task's name")
        return _inspect_task(target, scheme, start, steps, seed, random)
    data = open_data(target)
    if not 0 <= index < len(data):
        raise ValueError(f"--index {index}: {target} holds the numbers 0 to {len(data) - 1}")
    if isinstance(data, EpisodeReader):
        return _inspect_stored(data, scheme, index, start, steps)
    return _inspect_document(data[index], scheme, [f"number {index} of {len(data)} in {target}"])


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


def load_agent(run: Path) -> "Agent":
    """The agent of a run; imported late, because it loads torch."""
    from calico.agent.agent import Agent

    return Agent.load(run)


def _inspect_task(name: str, scheme: Scheme, start: int, steps: int, seed: int, random: bool) -> Inspected:
    task = get_task(name)
    random = random or task.expert is None
    policy = RandomPolicy() if random else make_expert(task)
    (episode,) = rollout(task, policy, [seed], num_envs=1, max_steps=start + steps)
    player = "random policy" if random else f"expert {task.expert}"
    return _inspect_episode(episode, _spaces(name), [f"{player}, seed {seed}"], scheme, start, steps)


def _inspect_stored(reader: EpisodeReader, scheme: Scheme, index: int, start: int, steps: int) -> Inspected:
    episode, task = reader[index], reader.task
    known = {"observation_space", "action_space"} <= task.keys()
    spaces = (space_from_json(task["observation_space"]), space_from_json(task["action_space"])) if known else \
        _spaces(episode.task)
    details = [f"episode {index} of {len(reader)} in {reader.path}",
               f"seed {episode.seed}, {len(episode)} steps, return {episode.score:g}"]
    return _inspect_episode(episode, spaces, details, scheme, start, steps)


def _spaces(task: str) -> tuple[Any, Any]:
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
    details = [*details, f"steps {start} to {stop - 1}", f"a step is {' + '.join(map(_describe, codec.explain()))}"]
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
            title, parts = "dialogue", dialogue_parts(document.messages, document.images)
        case _:
            title, parts = "text", text_parts(document)
    vocabulary, text = scheme.ids(part.text for part in parts if isinstance(part, DocumentText))
    return Inspected(title=title, details=details, vocabulary=vocabulary, text=text,
                     tokens=encode_document(parts, vocabulary, text))


# ---- how to show it -------------------------------------------------------------------------------------------------

def header(shown: Inspected) -> Iterator[Text]:
    """Title, details, id ranges, legend."""
    yield Text(printable(shown.title), Style(bold=True))
    for line in shown.details:
        yield Text(printable(line), DIM)
    kinds = (Kind.TEXT, Kind.DISCRETE, Kind.CONTINUOUS, Kind.SPECIAL)
    ranges = [f"{KIND_WORDS[kind]} {start}–{stop - 1}" for kind in kinds
              for start, stop in [shown.vocabulary.range_of(kind)]]
    yield Text(f"{shown.vocabulary.config.layout} ids: {' · '.join(ranges)}", DIM)


def legend(shown: Inspected) -> Text:
    """How many tokens of each kind there are, in the kind's colour, and what the marks mean."""
    line = Text()
    for kind in Kind:
        count = int((shown.tokens.kind == kind).sum())
        if count:
            line.append(f" {KIND_WORDS[kind]} ", KIND_STYLES.get(kind, Style(color="#1b1a18", bgcolor="#c9b7d8")))
            line.append(f" {count}   " if kind != Kind.PATCH else f" {count} (id {shown.vocabulary.patch})   ")
    line.append("id", TARGET)
    line.append(f" target of the loss: {int(shown.tokens.loss_mask.sum())} of {len(shown.tokens)}")
    return line


def stream(shown: Inspected, width: int) -> Iterator[Text]:
    """The tokens as cards of two lines and images as pictures, wrapped to `width` columns; one block per timestep."""
    for start, stop in _blocks(shown.tokens):
        step, reward = _labels(shown, start)
        labels = [Text.assemble((step, "bold")), Text.assemble((reward, "dim"))]
        for line in _block_lines(shown, start, stop, width - LABEL):
            label = labels.pop(0) if labels else Text()
            label.pad_right(LABEL - label.cell_len)
            yield label.append_text(line)
        yield Text()


def _block_lines(shown: Inspected, start: int, stop: int, width: int) -> Iterator[Text]:
    """The lines of one timestep: images as grids of their patches, everything else as wrapped cards."""
    tokens, words = shown.tokens, shown.words
    is_patch = tokens.kind[start:stop] == Kind.PATCH
    edges = [0, *(np.flatnonzero(np.diff(is_patch)) + 1).tolist(), stop - start]
    for first, last in zip(edges, edges[1:], strict=False):
        if is_patch[first]:
            for image in _images(tokens[start + first: start + last]):
                yield from _picture(image, width)
        else:
            cards = [_card(words[i], Kind(tokens.kind[i]), int(tokens.ids[i]), bool(tokens.loss_mask[i]))
                     for i in range(start + first, start + last)]
            for line in _wrap(cards, width):
                yield Text(" ").join(upper for upper, _ in line)
                yield Text(" ").join(lower for _, lower in line)


def plain_stream(shown: Inspected) -> Iterator[Text]:
    """The stream without colours: `meaning/id`, a star before targets."""
    tokens = shown.tokens
    for start, stop in _blocks(tokens):
        words = [_short(shown.words[i], Kind(tokens.kind[i])) for i in range(start, stop)]
        stars = ["*" if target else "" for target in tokens.loss_mask[start:stop]]
        ids = tokens.ids[start:stop].tolist()
        cards = [f"{star}{word}/{token}" for star, word, token in zip(stars, words, ids, strict=True)]
        yield Text(" ".join([*filter(None, _labels(shown, start)), *cards]))


def _blocks(tokens: Tokens) -> list[tuple[int, int]]:
    """(start, stop) of each run of tokens with the same segment and timestep."""
    changes = np.flatnonzero(np.diff(tokens.timestep) | np.diff(tokens.segment)) + 1
    edges = [0, *changes.tolist(), len(tokens)]
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def _labels(shown: Inspected, start: int) -> tuple[str, str]:
    """What stands left of a block: its timestep and the reward that the step earned."""
    if shown.rewards is None:
        return "", ""
    step = int(shown.tokens.timestep[start])
    return f"step {step}", f"r {shown.rewards[step]:.3g}"


def _card(word: str, kind: Kind, token: int, target: bool) -> tuple[Text, Text]:
    """Upper and lower line of a token."""
    word = _short(word, kind)
    least = 8 if kind == Kind.CONTINUOUS else 0   # "-0.02318": columns of numbers stay below each other over the steps
    width = max(cell_len(word), len(str(token)), least)
    upper = Text(f" {set_cell_size(word, width)} ", KIND_STYLES[kind])
    lower = Text(" ").append(str(token), TARGET if target else DIM)
    lower.pad_right(width + 2 - lower.cell_len)
    return upper, lower


def _short(word: str, kind: Kind) -> str:
    """A meaning that fits a card; spaces of text pieces become visible."""
    if kind == Kind.TEXT and word[:1] in ("'", '"') and len(word) > 1:
        word = word[1:-1].replace(" ", "·")
    if kind == Kind.PATCH:
        word = "patch"
    return word if cell_len(word) <= LONGEST_WORD else set_cell_size(word, LONGEST_WORD - 1) + "…"


def _images(tokens: Tokens) -> list[Tokens]:
    """A run of patches, cut where a patch begins a new image."""
    corners = np.flatnonzero((tokens.intervals[:, 0] == 0) & (tokens.intervals[:, 2] == 0)).tolist()
    edges = [*corners, len(tokens)] if corners[:1] == [0] else [0, *corners, len(tokens)]
    return [tokens[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _picture(image: Tokens, width: int) -> Iterator[Text]:
    """The patches of an image at their places, a gap between two columns of patches, two pixels per character."""
    columns = int((image.intervals[:, 0] == image.intervals[0, 0]).sum())
    side = next((side for side in (8, 4) if columns * (side + 1) <= width), 2)   # pixels of a drawn patch
    columns = min(columns, max(1, width // (side + 1)))
    for start in range(0, len(image), columns):
        row = [_shrunk(patch, channels, side) for patch, channels in
               zip(image.patches[start:start + columns], image.channels[start:start + columns].tolist(), strict=True)]
        for y in range(0, side, 2):
            line = Text()
            for x in range(side * len(row)):
                patch, x = divmod(x, side)
                line.append(" " if patch and not x else "")
                line.append("▀", Style(color=row[patch][y][x], bgcolor=row[patch][y + 1][x]))
            yield line
    yield Text()


def _shrunk(patch: np.ndarray, channels: int, side: int) -> list[list[str]]:
    """A patch uint8 (4, 16, 16) as `side` x `side` colour names."""
    colours = patch[:3] if channels >= 3 else np.repeat(patch[channels - 1][None], 3, 0)   # of grey frames the newest
    pixels = colours.reshape(3, side, PATCH_SIZE // side, side, PATCH_SIZE // side).mean((2, 4)).astype(int)
    return [[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in row] for row in pixels.transpose(1, 2, 0).tolist()]


def _wrap(cards: list[tuple[Text, Text]], width: int) -> Iterator[list[tuple[Text, Text]]]:
    """Cards in lines of at most `width` columns, a blank between two."""
    line: list[tuple[Text, Text]] = []
    used = 0
    for card in cards:
        if line and used + card[0].cell_len > width:
            yield line
            line, used = [], 0
        line.append(card)
        used += card[0].cell_len + 1
    yield line


def token_table(shown: Inspected) -> Table:
    """Every field of every token."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("place", "id", "kind", "meaning", "position", "timestep", "segment", "loss"):
        table.add_column(name, justify="left" if name in ("kind", "meaning", "loss") else "right")
    for row in token_rows(shown):
        style = KIND_STYLES.get(Kind[row["kind"].upper()], Style())
        position = "–" if row["position"] is None else str(row["position"])
        table.add_row(str(row["place"]), str(row["id"]), Text(row["kind"], Style(color=style.bgcolor)),
                      Text(printable(row["meaning"])), position, str(row["timestep"]), str(row["segment"]),
                      "●" if row["loss"] else "")
    return table


def token_rows(shown: Inspected) -> list[dict[str, Any]]:
    """Every field of every token as plain values."""
    tokens = shown.tokens
    positions = [{ACTION: "action", NO_POSITION: None}.get(place, place) for place in tokens.position.tolist()]
    return [{"place": i, "id": int(tokens.ids[i]), "kind": Kind(tokens.kind[i]).name.lower(), "meaning": word,
             "position": positions[i], "timestep": int(tokens.timestep[i]), "segment": int(tokens.segment[i]),
             "loss": bool(tokens.loss_mask[i])}
            for i, word in enumerate(shown.words)]


def render(shown: Inspected, width: int, colour: bool, with_table: bool) -> Group:
    """The whole page."""
    body = stream(shown, width) if colour else plain_stream(shown)
    page: list[Any] = [*header(shown), Text(), *body]
    if with_table:
        page += [token_table(shown), Text()]
    return Group(*page, legend(shown))


@run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, read, print."""
    parser = make_parser("inspect", __doc__)
    parser.add_argument("target", metavar="TASK|FILE", help="a task's name, or a file or folder of data")
    parser.add_argument("--index", type=int, default=0, help="which episode or document of the file (default 0)")
    parser.add_argument("--start", type=int, default=0, help="first step (default 0)")
    parser.add_argument("--steps", type=int, default=4, help="how many steps (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="the episode's seed (default 0)")
    parser.add_argument("--random", action="store_true", help="play the task at random instead of with its expert")
    parser.add_argument("--layout", choices=("disjoint", "gato"), default="disjoint", help="the id map")
    parser.add_argument("--run", type=Path, help="use the ids and text pieces of this run")
    parser.add_argument("--table", action="store_true", help="also list every field of every token")
    parser.add_argument("--json", action="store_true", help="print the fields as JSON")
    args = parser.parse_args(argv)
    shown = inspect_target(args.target, layout=args.layout, index=args.index, start=args.start, steps=args.steps,
                           seed=args.seed, random=args.random, run=args.run)
    if args.json:
        print_json({"title": shown.title, "details": shown.details, "vocabulary": shown.vocabulary.to_json(),
                    "tokens": token_rows(shown)})
        return 0
    console = Console(highlight=False)
    colour = console.color_system is not None and not console.no_color
    console.print(render(shown, console.width, colour, args.table), soft_wrap=not colour)
    return 0


if __name__ == "__main__":
    sys.exit(main())
