"""The id map: which range of ids belongs to text, discrete values, continuous values and special tokens.

Two layouts. `gato` is the paper's (arXiv:2205.06175, section 2.1): text [0, 32000), discrete values share the first
1,024 text ids, continuous bins follow at 32,000, the separator comes last (its id is not given in the paper).
`disjoint` gives discrete values a range of their own. The special tokens after the separator are ours: user text can
never produce them, because SentencePiece only yields ids of the text range.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from .tokens import Kind

SPECIALS = ("separator", "pad", "patch", "end", "user", "assistant", "system")


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Sizes of the ranges. A laptop model wants 1k-8k text pieces; the paper has 32,000."""

    layout: Literal["disjoint", "gato"] = "disjoint"
    text: int = 2048         # SentencePiece pieces
    discrete: int = 1024     # integers in [0, discrete)
    continuous: int = 1024   # uniform bins over [-1, 1]

    def __post_init__(self) -> None:
        for name in ("text", "discrete", "continuous"):
            if getattr(self, name) < 1:
                raise ValueError(f"vocabulary.{name}={getattr(self, name)} is not positive; give at least 1")
        if self.layout not in ("disjoint", "gato"):
            raise ValueError(f"vocabulary.layout={self.layout!r} is unknown; choose 'disjoint' or 'gato'")
        if self.layout == "gato" and self.text < self.discrete:
            raise ValueError(f"layout 'gato' shares the first {self.discrete} text ids with discrete values, but there "
                             f"are only {self.text} text pieces; raise vocabulary.text or choose layout 'disjoint'")


class Vocabulary:
    """Starts of the ranges and ids of the special tokens.

    Attributes:
        text_start, discrete_start, continuous_start: first id of each range; sizes are in `config`.
        separator, pad, patch, end, user, assistant, system: ids of the special tokens; `patch` stands for a stretch of
            sound and for a vector as well, so that vocabularies from before there were any stay as they are.
        size: number of ids = rows of the embedding table.
    """

    separator: int
    pad: int
    patch: int
    end: int
    user: int
    assistant: int
    system: int

    def __init__(self, config: VocabularyConfig | None = None) -> None:
        self.config = config = config or VocabularyConfig()
        self.text_start = 0
        self.discrete_start = 0 if config.layout == "gato" else config.text
        self.continuous_start = config.text if config.layout == "gato" else config.text + config.discrete
        special_start = self.continuous_start + config.continuous
        for offset, name in enumerate(SPECIALS):
            setattr(self, name, special_start + offset)
        self.size = special_start + len(SPECIALS)

    def range_of(self, kind: int) -> tuple[int, int]:
        """(start, stop) of the ids that a token of this kind may have."""
        config = self.config
        match kind:
            case Kind.TEXT:
                return self.text_start, self.text_start + config.text
            case Kind.DISCRETE:
                return self.discrete_start, self.discrete_start + config.discrete
            case Kind.CONTINUOUS:
                return self.continuous_start, self.continuous_start + config.continuous
            case Kind.PAD:
                return self.pad, self.pad + 1
            case Kind.SPECIAL:
                return self.separator, self.size
            case _:                                     # what it says travels beside the ids
                return self.patch, self.patch + 1

    def special_name(self, token: int) -> str:
        """Name of a special token's id.

        Raises:
            ValueError: `token` is not special.
        """
        if not self.separator <= token < self.size:
            raise ValueError(f"id {token} is not a special token; those are [{self.separator}, {self.size})")
        return SPECIALS[token - self.separator]

    def to_json(self) -> dict[str, object]:
        """The config as plain values; `Vocabulary.from_json` is the inverse."""
        return asdict(self.config)

    @staticmethod
    def from_json(values: dict[str, object]) -> "Vocabulary":
        """Rebuild from `to_json`."""
        return Vocabulary(VocabularyConfig(**values))  # type: ignore[arg-type]
