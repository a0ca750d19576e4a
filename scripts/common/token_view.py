"""Tokens for people: as coloured cards, as pictures, as a table, as plain words. `calico inspect` prints them.

Each token is a card of two lines: what it means above, its id below; the colour says its kind, an underlined id is a
target of the loss. The patches of an image are drawn at their places, two pixels per character.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from calico.scripts.common.console import printable
from calico.tokenizers.meaning import meanings
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import ACTION, CONTENTS, MODALITIES, NO_POSITION, PATCH_SIZE, Kind, Tokens
from calico.tokenizers.vocabulary import Vocabulary

DIM, TARGET = Style(dim=True), Style(bold=True, underline=True)
LABEL = 9         # columns of "step 12" at the left
LONGEST_WORD = 20
LOUDNESS = "▁▂▃▄▅▆▇█"


def style_of(kind: int) -> Style:
    """How tokens of a kind are printed: dark on their colour, light where that is dark itself."""
    colour = MODALITIES[kind].colour
    if not colour:
        return Style(color="#8d877e")
    brightness = sum(bytes.fromhex(colour[1:])) / 3
    return Style(color="#1b1a18" if brightness > 128 else "#f4f1ec", bgcolor=colour)


@dataclass(frozen=True, kw_only=True, repr=False)
class Inspected:
    """What is shown: tokens, and what is known about them."""

    title: str
    details: list[str]
    tokens: Tokens
    vocabulary: Vocabulary
    text: TextTokenizer | None
    codec: TaskCodec | None = None
    rewards: np.ndarray | None = None   # by timestep

    def __str__(self) -> str:
        """Title, tokens as `meaning/id` with a star before targets, and the legend, without colours."""
        lines = [*header(self), Text(), *plain_stream(self), legend(self)]
        return "\n".join(line.plain for line in lines)

    def __repr__(self) -> str:
        return f"<{self.title}: {len(self.tokens)} tokens>"

    @cached_property
    def words(self) -> list[str]:
        """The meaning of each token, and behind an arrow that of what the loss asks for where it differs."""
        words = meanings(self.tokens, self.vocabulary, self.text, self.codec)
        wanted = meanings(replace(self.tokens, ids=self.tokens.labels), self.vocabulary, self.text, self.codec)
        return [f"{words[i]}→{wanted[i]}" if differs else words[i] for i, differs in enumerate(self.differs)]

    @cached_property
    def differs(self) -> np.ndarray:
        """bool (seq,), where the loss asks for something else than what stands there."""
        return np.asarray(self.tokens.labels != self.tokens.ids)

    @cached_property
    def numbers(self) -> list[str]:
        """The id of each token, and behind an arrow what the loss asks for where that differs."""
        ids, labels = self.tokens.ids.tolist(), self.tokens.labels.tolist()
        return [str(token) if token == label else f"{token}→{label}" for token, label in zip(ids, labels, strict=True)]


def header(shown: Inspected) -> Iterator[Text]:
    """Title, details, id ranges, legend."""
    yield Text(printable(shown.title), Style(bold=True))
    for line in shown.details:
        yield Text(printable(line), DIM)
    kinds = (Kind.TEXT, Kind.DISCRETE, Kind.CONTINUOUS, Kind.SPECIAL)
    ranges = [f"{MODALITIES[kind].shown_as} {start}–{stop - 1}" for kind in kinds
              for start, stop in [shown.vocabulary.range_of(kind)]]
    yield Text(f"{shown.vocabulary.config.layout} ids: {' · '.join(ranges)}", DIM)


def legend(shown: Inspected) -> Text:
    """How many tokens of each kind there are, in the kind's colour, and what the marks mean."""
    line = Text()
    for kind, modality in MODALITIES.items():
        count = int((shown.tokens.kind == kind).sum())
        if count:
            line.append(f" {modality.shown_as} ", style_of(kind))
            beside = f" (id {shown.vocabulary.patch})" if kind in CONTENTS else ""
            line.append(f" {count}{beside}   ")
    line.append("id", TARGET)
    line.append(f" target of the loss: {int(shown.tokens.loss_mask.sum())} of {len(shown.tokens)}")
    if replaced := int(shown.differs.sum()):
        line.append(f"   {replaced} of them a→b: a was done, b is asked for")
    return line


def stream(shown: Inspected, width: int) -> Iterator[Text]:
    """The tokens as cards of two lines, images as pictures, sounds as bars; `width` columns, one block per timestep."""
    for start, stop in blocks(shown.tokens):
        step, reward = block_labels(shown, start)
        labels = [Text.assemble((step, "bold")), Text.assemble((reward, "dim"))]
        for line in _block_lines(shown, start, stop, width - LABEL):
            label = labels.pop(0) if labels else Text()
            label.pad_right(LABEL - label.cell_len)
            yield label.append_text(line)
        yield Text()


def _block_lines(shown: Inspected, start: int, stop: int, width: int) -> Iterator[Text]:
    """The lines of one timestep: what DRAWN says, everything else as wrapped cards."""
    tokens, words = shown.tokens, shown.words
    kinds = tokens.kind[start:stop]
    drawn = np.where(np.isin(kinds, list(DRAWN)), kinds, Kind.PAD)
    edges = [0, *(np.flatnonzero(np.diff(drawn)) + 1).tolist(), stop - start]
    for first, last in zip(edges, edges[1:], strict=False):
        if drawn[first] in DRAWN:
            yield from DRAWN[drawn[first]](tokens[start + first: start + last], width)
        else:
            cards = [_card(words[i], int(tokens.kind[i]), shown.numbers[i], bool(tokens.loss_mask[i]))
                     for i in range(start + first, start + last)]
            for line in _wrap(cards, width):
                yield Text(" ").join(upper for upper, _ in line)
                yield Text(" ").join(lower for _, lower in line)


def plain_stream(shown: Inspected) -> Iterator[Text]:
    """The stream without colours: `meaning/id`, a star before targets."""
    tokens = shown.tokens
    for start, stop in blocks(tokens):
        words = [short(shown.words[i], int(tokens.kind[i])) for i in range(start, stop)]
        stars = ["*" if target else "" for target in tokens.loss_mask[start:stop]]
        ids = shown.numbers[start:stop]
        cards = [f"{star}{word}/{token}" for star, word, token in zip(stars, words, ids, strict=True)]
        yield Text(" ".join([*filter(None, block_labels(shown, start)), *cards]))


def blocks(tokens: Tokens) -> list[tuple[int, int]]:
    """(start, stop) of each run of tokens with the same segment and timestep."""
    changes = np.flatnonzero(np.diff(tokens.timestep) | np.diff(tokens.segment)) + 1
    edges = [0, *changes.tolist(), len(tokens)]
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def block_labels(shown: Inspected, start: int) -> tuple[str, str]:
    """What stands left of a block: its timestep and the reward that the step earned."""
    if shown.rewards is None:
        return "", ""
    step = int(shown.tokens.timestep[start])
    return f"step {step}", f"r {shown.rewards[step]:.3g}"


def _card(word: str, kind: int, token: str, target: bool) -> tuple[Text, Text]:
    """Upper and lower line of a token."""
    word = short(word, kind)
    least = 8 if kind == Kind.CONTINUOUS else 0   # "-0.02318": columns of numbers stay below each other over the steps
    width = max(cell_len(word), len(token), least)
    upper = Text(f" {set_cell_size(word, width)} ", style_of(kind))
    lower = Text(" ").append(token, TARGET if target else DIM)
    lower.pad_right(width + 2 - lower.cell_len)
    return upper, lower


def short(word: str, kind: int) -> str:
    """A meaning that fits a card; spaces of text pieces become visible."""
    if kind == Kind.TEXT and word[:1] in ("'", '"') and len(word) > 1:
        word = word[1:-1].replace(" ", "·")
    if kind in DRAWN:
        word = MODALITIES[kind].name
    return word if cell_len(word) <= LONGEST_WORD else set_cell_size(word, LONGEST_WORD - 1) + "…"


def images(tokens: Tokens) -> list[Tokens]:
    """A run of patches, cut where a patch begins a new image."""
    corners = np.flatnonzero((tokens.intervals[:, 0] == 0) & (tokens.intervals[:, 2] == 0)).tolist()
    edges = [*corners, len(tokens)] if corners[:1] == [0] else [0, *corners, len(tokens)]
    return [tokens[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _pictures(tokens: Tokens, width: int) -> Iterator[Text]:
    """A run of patches."""
    for image in images(tokens):
        yield from _picture(image, width)


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


def _bars(sounds: Tokens, width: int) -> Iterator[Text]:
    """One bar per stretch of sound, as high as it is loud (over 60 dB); a blank before each new sound."""
    power = (sounds.sounds.astype(np.float64) / 2**15) ** 2
    decibels = 10 * np.log10(power.mean(1) + 1e-6)                          # -60 (silence) to 0
    bars = [LOUDNESS[int(level)] for level in np.clip((decibels + 60) / 60 * len(LOUDNESS), 0, len(LOUDNESS) - 1)]
    pieces = [" " + bar if moment == 0 and i else bar for i, (bar, moment) in enumerate(zip(bars, sounds.moments, strict=True))]
    drawn = "".join(pieces)
    for start in range(0, len(drawn), width):
        yield Text(drawn[start:start + width], style_of(Kind.AUDIO))
    yield Text()


# Runs of these kinds are drawn: (tokens (seq,), columns) -> lines. Other kinds are cards that say what they mean.
DRAWN: dict[int, Callable[[Tokens, int], Iterator[Text]]] = {Kind.PATCH: _pictures, Kind.AUDIO: _bars}


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
    for row, kind in zip(token_rows(shown), shown.tokens.kind.tolist(), strict=True):
        position = "–" if row["position"] is None else str(row["position"])
        table.add_row(str(row["place"]), str(row["id"]), Text(row["kind"], Style(color=style_of(kind).bgcolor)),
                      Text(printable(row["meaning"])), position, str(row["timestep"]), str(row["segment"]),
                      "●" if row["loss"] else "")
    return table


def token_rows(shown: Inspected) -> list[dict[str, Any]]:
    """Every field of every token as plain values."""
    tokens = shown.tokens
    positions = [{ACTION: "action", NO_POSITION: None}.get(place, place) for place in tokens.position.tolist()]
    return [{"place": i, "id": int(tokens.ids[i]), "kind": MODALITIES[int(tokens.kind[i])].name, "meaning": word,
             "position": positions[i], "timestep": int(tokens.timestep[i]), "segment": int(tokens.segment[i]),
             "loss": bool(tokens.loss_mask[i])} | ({"label": int(tokens.labels[i])} if shown.differs[i] else {})
            for i, word in enumerate(shown.words)]


def render(shown: Inspected, width: int, colour: bool, with_table: bool) -> Group:
    """The whole page."""
    body = stream(shown, width) if colour else plain_stream(shown)
    page: list[Any] = [*header(shown), Text(), *body]
    if with_table:
        page += [token_table(shown), Text()]
    return Group(*page, legend(shown))
