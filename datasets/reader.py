"""The contract between data and training: what a reader gives, and what a source must be able to do.

A reader is a sequence of documents or episodes that also knows its strings, its division into what is trained on and what is
held out, and the source that makes token rows of it. With that a format is one file, and one line of the table in
open_data.py; docs/extending.md walks through it. `DocumentReader` and `TextData` have all but the reading itself.
"""

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ..tokenizers.task import Numbers
from ..tokenizers.text import TextTokenizer
from ..tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:   # sources.py and splits.py know the documents of documents.py, whose readers know this file
    from .sources import Source

Item = TypeVar("Item", covariant=True)

BROKEN = 0.05      # of a source's documents, that may be unreadable and are passed over


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What the config says about making rows; each reader's source takes what concerns it (see `Reader.settings`)."""

    vocabulary: Vocabulary
    text: TextTokenizer
    mirror: bool = False
    crop: float = 1.0
    prompt_probability: float = 0.25
    observation_text_loss: bool = True
    max_text_tokens: int = 64
    numbers: Numbers = "binned"
    text_every: int = 1
    titles: bool = False
    memory: bool | None = None


class Reader(Sequence[Item]):
    """Documents or episodes to train on; `reader[i]` reads one.

    Attributes:
        settings: which of "mirror", "crop" and "memory" change the rows; another one is refused.
        task: what the data say about the task that they were recorded from; None where nothing is played.
        format: what the data were taken for and why, for people; "" where there is no choice.
    """

    settings: ClassVar[frozenset[str]] = frozenset()
    format: str = ""
    task: dict[str, Any] | None = None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Two readers with the same one hold the same data."""

    @abstractmethod
    def texts(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        """The strings of these items, or of all: what a text tokenizer is learnt from."""

    @abstractmethod
    def source(self, name: str, numbers: np.ndarray, options: SourceOptions) -> "Source":
        """What fills rows of tokens with these items."""

    def keys(self) -> Sequence[Any] | np.ndarray:
        """One key per item: what has the same key is trained on together, or held out together. None: it cannot be read."""
        from .splits import document_key

        keys: list[str | None] = []
        broken: list[str] = []
        for number in range(len(self)):
            try:
                keys.append(document_key(self[number]))   # type: ignore[arg-type]
            except ValueError as error:
                keys.append(None)
                broken.append(str(error))
                warnings.warn(f"{error}; left out, {len(broken)} so far", stacklevel=2)
        check_broken("", broken, len(keys))
        return keys

    def split(self, held_out: float) -> tuple["Split", "Split"]:
        """What is trained on and what is held out; what cannot be read is neither.

        Raises:
            ValueError: too few to be divided, or too many that cannot be read.
        """
        from .splits import split

        keys = self.keys()
        readable = np.flatnonzero([key is not None for key in keys])
        train, held = split([keys[number] for number in readable.tolist()], held_out)
        return Split(self, readable[train]), Split(self, readable[held])

    @property
    def has_pictures(self) -> bool:
        """Whether pictures are shown, with words about them."""
        return False

    @property
    def has_sounds(self) -> bool:
        """Whether the network needs a block for sounds."""
        return False

    def other_rates(self, probed: int = 100) -> dict[int, int]:
        """Sample rate -> number of sounds that are resampled from it, among the first `probed`."""
        return {}

    def remarks(self) -> Counter[str]:
        """What a user should know of the pictures and sounds read so far, each with how many it is true of."""
        return Counter()

    def spec(self, options: SourceOptions) -> dict[str, Any] | None:
        """What a checkpoint keeps of the task, as JSON values: how it is tokenised, and what the data say about it."""
        return None


@dataclass(frozen=True)
class Split:
    """What is trained on, or what is held out, of one data set: the data and the numbers of the items that count."""

    data: Reader[Any]
    numbers: np.ndarray

    def documents(self, limit: int | None = None) -> Iterator[Any]:
        """The documents, or the first `limit` of them."""
        return (self.data[int(number)] for number in self.numbers[:limit])


def whole(data: Reader[Any]) -> Split:
    return Split(data, np.arange(len(data)))


def check_broken(where: str, reasons: Collection[str], total: int) -> None:
    """Raise ValueError where more than BROKEN of `total` documents cannot be read, for these reasons."""
    if len(reasons) > BROKEN * total:
        *_, last = reasons
        raise ValueError(f"{where}{': ' * bool(where)}{len(reasons)} of {total} documents cannot be read, at most {BROKEN:.0%} "
                         f"may be passed over; the last: {last}")


class DocumentReader(Reader[Item]):
    """A reader of str, Caption or Dialogue, each placed whole in a row."""

    @property
    def has_pictures(self) -> bool:
        return True       # those that cannot know it say that there may be some

    def source(self, name: str, numbers: np.ndarray, options: SourceOptions) -> "Source":
        """Drawn uniformly, one after another."""
        from .sources import DocumentSource

        return DocumentSource(name, self, options.vocabulary, options.text, select=numbers,    # type: ignore[arg-type]
                              mirror=options.mirror, crop=options.crop)


class TextData(Reader[str]):
    """A reader of texts of any length."""

    def texts(self, numbers: Iterable[int] | None = None) -> Iterator[str]:
        return (self[number] for number in (range(len(self)) if numbers is None else numbers))

    def source(self, name: str, numbers: np.ndarray, options: SourceOptions) -> "Source":
        """Windows of them."""
        from .sources import TextSource

        return TextSource(name, self, options.vocabulary, options.text, select=numbers)

    def split(self, held_out: float) -> tuple[Split, Split]:
        """Long texts are divided in themselves; see splits.py."""
        from .splits import split_texts

        train, held = split_texts(self, held_out)
        return whole(train), whole(held)
