"""Text <-> token ids: SentencePiece with byte fallback (Kudo and Richardson, arXiv:1808.06226; Gato, arXiv:2205.06175).

What differs from a plain SentencePiece model: every Unicode string comes back exactly as it went in. There is no
normalisation, no dummy prefix and no whitespace removal; characters outside the vocabulary become UTF-8 byte pieces,
and so does U+2581, the character that SentencePiece uses to write a space. Decoding joins the bytes of the pieces, so
it is total: what a model makes up may be invalid UTF-8 and then shows U+FFFD.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from .vocabulary import Vocabulary

SPACE_MARK = "\u2581"        # how SentencePiece writes a space inside a piece
RESERVED = "\u2585"          # how its trainer writes an unknown character: it silently skips lines that hold one
MINIMUM_PIECES = 258         # 256 bytes, one unknown, the space
LONGEST_LINE = 2048          # characters; SentencePiece silently skips longer training sentences, so they are split
ADVICE = "give one with byte pieces, such as `calico tokenizer train` makes"
# Whatever a model file claims, these must come back unchanged, or it normalises text and is not ours.
PROBES = (" a  b ", "\n\t\r\x00", "\ufb01\u2460\uff21e\u0301", SPACE_MARK, RESERVED, "\U0001f431", "<unk><0x41></s>")


# A ModelProto that holds nothing but a normalizer_spec (field 3): identity, no table of characters, no dummy prefix, spaces
# kept and escaped. Protocol buffers merge when joined, so appended to a model it switches that model's own rules off.
KEEP_TEXT = b"\x1a\x12\x0a\x08identity\x12\x00\x18\x00\x20\x00\x28\x01"


class TextTokenizer:
    """A SentencePiece model whose `decode(encode(text)) == text` for every Unicode string.

    Attributes:
        size: number of pieces; ids are in [0, size).
    """

    def __init__(self, proto: bytes, source: str = "the given bytes") -> None:
        """Load a serialised model; use `train`, `load` or `from_bytes`.

        A model of other making that changes text (Unicode normal forms, spaces, a space before the first word) is used
        without these rules: its pieces stay, and `to_bytes` gives the model as it is used.

        Raises:
            ValueError: `proto` is not a SentencePiece model, or one without byte pieces; the message names `source`.
        """
        changed = self._load(proto, source)
        if changed is not None:
            changed = self._load(bytes(proto) + KEEP_TEXT, source)
        if changed is not None:
            raise ValueError(f"{source} is a SentencePiece model that does not keep text as it is: {changed!r} "
                             f"came back as {self.decode(self.encode(changed))!r}; {ADVICE}")

    def _load(self, proto: bytes, source: str) -> str | None:
        """Take the model; returns a text that does not come back as it was, or None."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
            size = self._processor.get_piece_size()
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise ValueError(f"{source} is not a SentencePiece model ({error}); {ADVICE}") from error
        if size < MINIMUM_PIECES:
            raise ValueError(f"{source} is not a usable SentencePiece model: it has {size} pieces, not at least "
                             f"{MINIMUM_PIECES}; {ADVICE}")
        self.size: int = size
        self._proto = bytes(proto)
        try:
            self._read_pieces()
            return next((probe for probe in PROBES if self.decode(self.encode(probe)) != probe), None)
        except KeyError as error:
            raise ValueError(f"{source} is a SentencePiece model without a piece for byte {error}, so it cannot write every "
                             f"text; {ADVICE}") from error
        except (RuntimeError, UnicodeError, IndexError, ValueError) as error:
            raise ValueError(f"{source} is a damaged SentencePiece model ({error}); {ADVICE}") from error

    def _read_pieces(self) -> None:
        """Fill the id -> bytes table."""
        processor = self._processor
        pieces = [processor.id_to_piece(i) for i in range(self.size)]
        byte_ids: dict[int, int] = {}
        self._bytes: list[bytes] = []
        for i, piece in enumerate(pieces):
            if processor.is_byte(i):
                byte_ids[int(piece[3:5], 16)] = i                      # "<0x41>"
                self._bytes.append(bytes([int(piece[3:5], 16)]))
            elif processor.is_unknown(i) or processor.is_control(i):
                self._bytes.append(b"")
            else:
                self._bytes.append(piece.replace(SPACE_MARK, " ").encode())
        self._mark = [byte_ids[byte] for byte in SPACE_MARK.encode()]

    @classmethod
    def train(cls, sentences: Iterable[str], vocab_size: int, *, seed: int = 0, max_lines: int = 500_000,
              words: Sequence[str] = ()) -> "TextTokenizer":
        """Learn pieces by byte-pair encoding; the same sentences, size and seed give the same model, byte for byte.

        Args:
            sentences: any strings; they are split into lines, and pieces never span two lines.
            vocab_size: how many pieces to aim for, 260 or more, better 1,000. A small corpus gives fewer, see `size`.
            seed: chooses the lines when there are more than `max_lines`.
            max_lines: how many lines to learn from at most.
            words: each becomes one piece, wherever it stands in a text; they count towards `vocab_size`.
        Raises:
            ValueError: `vocab_size` is too small, or there is no text to learn from.
        """
        if vocab_size < MINIMUM_PIECES + 2:
            raise ValueError(f"vocab_size={vocab_size} leaves no room beside the 256 byte pieces; give at least "
                             f"{MINIMUM_PIECES + 2}")
        lines = _sample([line for text in sentences for line in _lines(text)], max_lines, seed)
        lines = _without_rare(lines, most=max(1, (vocab_size - MINIMUM_PIECES) // 2))
        if not lines:
            raise ValueError("there is no text to train a tokenizer from; give at least one sentence with a letter")
        sentencepiece.set_random_generator_seed(seed)
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=vocab_size,
            hard_vocab_limit=False, byte_fallback=True, character_coverage=1.0, required_chars=SPACE_MARK,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
            split_digits=True,              # numbers read digit by digit: 17 and 71 have the same pieces
            max_sentence_length=4 * LONGEST_LINE, user_defined_symbols=list(words), bos_id=-1, eos_id=-1, pad_id=-1,
            num_threads=1, minloglevel=2)
        return cls(model.getvalue(), "the model just trained")

    @classmethod
    def load(cls, path: str | Path) -> "TextTokenizer":
        """Read a model file that `save` wrote.

        Raises:
            ValueError: the file is not such a model.
            FileNotFoundError: there is no file.
        """
        return cls(Path(path).read_bytes(), str(path))

    @classmethod
    def from_bytes(cls, proto: bytes) -> "TextTokenizer":
        """Rebuild from `to_bytes`."""
        return cls(proto)

    def to_bytes(self) -> bytes:
        """The serialised model."""
        return self._proto

    def save(self, path: str | Path) -> None:
        """Write the model file."""
        Path(path).write_bytes(self._proto)

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return TextTokenizer.from_bytes, (self._proto,)   # data loader workers get their own processor

    def encode(self, text: str) -> np.ndarray:
        """Text to ids.

        Returns:
            int32 (n,) in [0, size); empty text gives n = 0.
        Raises:
            TypeError: not a str.
            ValueError: `text` holds a surrogate, which is no character and has no UTF-8 form.
        """
        if not isinstance(text, str):
            raise TypeError(f"text to encode must be a str, got {type(text).__name__}")
        if not text.isascii():
            _reject_surrogates(text)
        first, *rest = text.split(SPACE_MARK)
        ids = self._processor.encode(first)
        for part in rest:
            ids = ids + self._mark + self._processor.encode(part)
        return np.array(ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Ids to text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is outside [0, size).
        """
        table = self._bytes
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else ids
        for i in numbers:
            if not 0 <= i < self.size:
                raise ValueError(f"id {i} is not a text piece; this tokenizer has ids [0, {self.size})")
        return b"".join([table[i] for i in numbers]).decode("utf-8", errors="replace")

    def piece(self, token: int) -> str:
        """How the piece with id `token` looks: its text, or `<0x41>` for a byte.

        Raises:
            ValueError: `token` is outside [0, size).
        """
        if not 0 <= token < self.size:
            raise ValueError(f"id {token} is not a text piece; this tokenizer has ids [0, {self.size})")
        if self._processor.is_byte(token) or self._processor.is_unknown(token):
            return str(self._processor.id_to_piece(token))
        return self._bytes[token].decode("utf-8", errors="replace")

    def piece_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that `token` adds to decoded text."""
        return self._bytes[token]


def check_fits(text: TextTokenizer | None, vocabulary: Vocabulary) -> None:
    """Raise ValueError where the tokenizer has more pieces than the vocabulary's text range has ids."""
    if text is not None and text.size > vocabulary.config.text:
        raise ValueError(f"the text tokenizer has {text.size} pieces but the vocabulary only room for "
                         f"{vocabulary.config.text}; set vocabulary.text={text.size}")


def _reject_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text holds the surrogate U+{ord(text[error.start]):04X} at index {error.start}, which has "
                         "no UTF-8 form; read the file with errors='replace'") from None


def _lines(text: str) -> list[str]:
    """Training lines of a text: no line breaks, no characters that the trainer keeps for itself, none too long."""
    if not text.isascii():
        _reject_surrogates(text)
    cleaned = text.replace(SPACE_MARK, " ").replace("\x00", " ").replace("\x05", " ")   # 5: unknown, to the trainer
    lines = [line for line in cleaned.replace(RESERVED, "\n").split("\n") if line.strip()]
    return [line[i:i + LONGEST_LINE] for line in lines for i in range(0, len(line), LONGEST_LINE)]


def _sample(lines: list[str], limit: int, seed: int) -> list[str]:
    """At most `limit` of the lines, in their order."""
    if len(lines) <= limit:
        return lines
    chosen = np.sort(np.random.default_rng(seed).choice(len(lines), limit, replace=False))
    return [lines[i] for i in chosen]


def _without_rare(lines: list[str], most: int) -> list[str]:
    """Keep the `most` frequent characters and break lines at the others, which stay bytes: every character that the
    trainer sees gets a piece of its own, and there would be none left for words, or not even enough for all of them."""
    counts = Counter(character for line in lines for character in line if character != " ")   # it always has a piece
    rare = sorted(counts, key=lambda character: (-counts[character], character))[most:]
    if not rare:
        return lines
    breaks = dict.fromkeys(map(ord, rare), "\n")
    return [part for line in lines for part in line.translate(breaks).split("\n") if part.strip()]
