"""Tokens: the one record that travels between the folders, and the table of what its tokens can be.

Text, image patches, stretches of sound, vectors, discrete and continuous values all become rows of the same few arrays
(Gato, arXiv:2205.06175, section 2.1; sounds and vectors are ours). tokenizers/ and datasets/ fill them with NumPy arrays;
`to_torch` gives the same record with tensors, which is what agent/ reads.

What a kind of token is called and what travels beside its ids stands in MODALITIES. A new one is an entry there, its fields in
Tokens and a block in agent/embedding.py; code outside this package adds one by `register_modality`, see docs/extending.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

Array: TypeAlias = Any   # np.ndarray in tokenizers/ and datasets/, torch.Tensor in agent/

PATCH_SIZE = 16          # pixels: Gato, section 2.1
MAX_CHANNELS = 4         # RGBA, or up to four stacked grey frames
POSITION_BINS = 128      # patch rows and columns are quantised to 128 intervals: Gato, appendix
SOUND_RATE = 16_000      # samples per second of every sound in the stream
SOUND_SAMPLES = 640      # of one token: 40 ms, so a second of sound costs 25 tokens
VECTOR_SIZE = 32         # real numbers of one token

# Values of Tokens.position below zero; from zero on it is the token's place inside its timestep's observation.
ACTION = -1              # all action tokens of a timestep share one position embedding
NO_POSITION = -2         # separators, documents, padding: nothing is added


class Kind(IntEnum):
    """What a token stands for; the numbers of modalities from outside this package begin at 64."""

    PAD = 0
    TEXT = 1
    PATCH = 2
    DISCRETE = 3
    CONTINUOUS = 4
    SPECIAL = 5          # separator, end of document, role markers
    AUDIO = 6
    VECTOR = 7           # up to VECTOR_SIZE observed real numbers at once


OUTSIDE = 64             # kinds from here on are free for `register_modality`


@dataclass(frozen=True, kw_only=True)
class Modality:
    """A kind of token.

    Attributes:
        kind: its number in Tokens.kind.
        name: one word, as in tables and JSON.
        shown_as: in the legend of `calico inspect`.
        colour: there, of its cards, as "#rrggbb"; empty: none.
        beside: what travels beside the ids, one row per token of the kind: name of the field -> an empty array (0, ...) of its
            dtype and of the shape of a row. Such tokens carry the id `Vocabulary.patch`.
        describe: what one token says, from its row of each field; None: its name.
    """

    kind: int
    name: str
    shown_as: str
    colour: str = ""
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    describe: Callable[[Mapping[str, Any]], str] | None = None

    @property
    def row_bytes(self) -> int:
        """Memory of what travels beside one token."""
        return sum(np.prod(empty.shape[1:], dtype=int) * empty.itemsize for empty in self.beside.values())


def _describe_patch(row: Mapping[str, Any]) -> str:
    top, bottom, left, right = row["intervals"]
    return f"patch rows {top}-{bottom} columns {left}-{right} of {POSITION_BINS}"


def _describe_sound(row: Mapping[str, Any]) -> str:
    seconds = SOUND_SAMPLES / SOUND_RATE
    return f"audio {row['moments'] * seconds:.2f}-{(row['moments'] + 1) * seconds:.2f} s"


def _describe_vector(row: Mapping[str, Any]) -> str:
    return f"vector {' '.join(f'{value:.2g}' for value in row['vectors'][: row['numbers']])}"


MODALITIES: dict[int, Modality] = {modality.kind: modality for modality in (
    Modality(kind=Kind.PAD, name="pad", shown_as="padding"),
    Modality(kind=Kind.TEXT, name="text", shown_as="text", colour="#e8a06f"),
    Modality(kind=Kind.PATCH, name="patch", shown_as="image patch", colour="#c9b7d8", describe=_describe_patch, beside={
        "patches": np.zeros((0, MAX_CHANNELS, PATCH_SIZE, PATCH_SIZE), np.uint8), "channels": np.zeros(0, np.uint8),
        "intervals": np.zeros((0, 4), np.uint8)}),
    Modality(kind=Kind.DISCRETE, name="discrete", shown_as="integer", colour="#7fb2cc"),
    Modality(kind=Kind.CONTINUOUS, name="continuous", shown_as="real value", colour="#a3bd84"),
    Modality(kind=Kind.SPECIAL, name="special", shown_as="special", colour="#6b6660"),
    Modality(kind=Kind.AUDIO, name="audio", shown_as="sound", colour="#d8c36a", describe=_describe_sound, beside={
        "sounds": np.zeros((0, SOUND_SAMPLES), np.int16), "moments": np.zeros(0, np.int32)}),
    Modality(kind=Kind.VECTOR, name="vector", shown_as="real values", colour="#a3bd84", describe=_describe_vector, beside={
        "vectors": np.zeros((0, VECTOR_SIZE), np.float32), "numbers": np.zeros(0, np.uint8)}),
)}

# Read from the table: the kinds that have something beside their ids and its fields; those fields' empty arrays; all dtypes.
CONTENTS: dict[int, tuple[str, ...]] = {}
BESIDE: dict[str, np.ndarray] = {}
DTYPES: dict[str, Any] = {"ids": np.int32, "kind": np.uint8, "position": np.int16, "timestep": np.int32,
                          "loss_mask": np.bool_, "segment": np.int32, "targets": np.int32}


def register_modality(modality: Modality) -> None:
    """Make a kind of token from outside this package known; its fields then stand in `Tokens.more`.

    Call it where the module of the modality is imported, in worker processes too.

    Raises:
        ValueError: kind, name or field belongs to another modality, or the kind is below 64 or above 255.
    """
    others = [known for known in MODALITIES.values() if known.kind != modality.kind]
    taken = {name for known in others for name in (known.name, *known.beside)} | {f.name for f in fields(Tokens)}
    clashing = sorted(taken & {modality.name, *modality.beside})
    if not OUTSIDE <= modality.kind <= np.iinfo(DTYPES["kind"]).max or clashing:
        raise ValueError(f"modality {modality.name!r} of kind {modality.kind}: kinds from outside are {OUTSIDE} to 255, and "
                         f"names must be new ({', '.join(clashing) or 'these are'}); choose others")
    if MODALITIES.get(modality.kind, modality).name != modality.name:
        raise ValueError(f"kind {modality.kind} is modality {MODALITIES[modality.kind].name!r} already; give "
                         f"{modality.name!r} another number")
    _enter(modality)


def _enter(modality: Modality) -> None:
    MODALITIES[modality.kind] = modality
    if modality.beside:
        CONTENTS[modality.kind] = tuple(modality.beside)
        BESIDE.update(modality.beside)
        DTYPES.update({name: empty.dtype.type for name, empty in modality.beside.items()})


for _modality in MODALITIES.values():
    _enter(_modality)


def _nothing(name: str) -> Any:
    """The default of a field that travels beside the ids."""
    return field(default_factory=lambda: BESIDE[name])


@dataclass(frozen=True)
class Tokens:
    """One token sequence (seq,) or a padded batch of them (batch, seq).

    Attributes:
        ids: int32 (..., seq), vocabulary ids; patches, sounds and vectors carry `Vocabulary.patch`, padding `Vocabulary.pad`.
        kind: uint8 (..., seq), a Kind.
        position: int16 (..., seq), place inside the timestep's observation (0, 1, ...), or ACTION, or NO_POSITION.
        timestep: int32 (..., seq), environment step inside the segment; 0 in documents.
        loss_mask: bool (..., seq), True where this token is something to predict.
        segment: int32 (..., seq), which episode or document of the sequence (0, 1, ...); -1 for padding.
        patches: uint8 (n_patches, MAX_CHANNELS, 16, 16), in the order in which `kind` names them, row by row of a batch;
            channels beyond `channels` are zero.
        channels: uint8 (n_patches,), how many of the MAX_CHANNELS are real.
        intervals: uint8 (n_patches, 4), row start, row stop, column start, column stop of the patch inside its image,
            in [0, POSITION_BINS], stop exclusive.
        sounds: int16 (n_sounds, SOUND_SAMPLES), stretches of waveform in the order in which `kind` names them.
        moments: int32 (n_sounds,), place of the stretch in its sound; 0 begins one.
        vectors: float32 (n_vectors, VECTOR_SIZE), real numbers in [-1, 1] in the order in which `kind` names them, then zeros.
        numbers: uint8 (n_vectors,), how many numbers of each vector are real.
        targets: int32 (..., seq), what is to be predicted at each place where it may differ from what stands there: a
            demonstration's action was replaced by a random one, and the loss asks for the demonstration's. None: `ids`.
        more: the fields of modalities from outside this package, (n, ...) each; they can also be read as attributes.
    """

    ids: Array
    kind: Array
    position: Array
    timestep: Array
    loss_mask: Array
    segment: Array
    patches: Array = _nothing("patches")
    channels: Array = _nothing("channels")
    intervals: Array = _nothing("intervals")
    sounds: Array = _nothing("sounds")
    moments: Array = _nothing("moments")
    vectors: Array = _nothing("vectors")
    numbers: Array = _nothing("numbers")
    targets: Array = None
    more: Mapping[str, Array] = field(default_factory=dict)

    if not TYPE_CHECKING:   # type checkers know the fields above and no others

        def __getattr__(self, name: str) -> Array:
            if name not in BESIDE:
                raise AttributeError(f"Tokens has no field {name!r}")
            return self.more.get(name, BESIDE[name])

    @staticmethod
    def of(ids: Array, kind: Array, position: Array = NO_POSITION, *, timestep: Array = 0, loss_mask: Array = False,
           segment: Array = 0, **beside: Array) -> "Tokens":
        """Tokens (..., seq) from their ids; each other field an array of the same shape, or one value for all.

        Args:
            beside: what travels beside the ids, by the names in MODALITIES; the rest is empty.
        """
        given = {"ids": ids, "kind": kind, "position": position, "timestep": timestep, "loss_mask": loss_mask,
                 "segment": segment, **beside}
        shape = np.shape(ids)
        return Tokens.from_fields({name: np.full(shape, value, DTYPES[name]) if np.ndim(value) == 0 else
                                   np.asarray(value, DTYPES[name]) for name, value in given.items()})

    @staticmethod
    def from_fields(values: Mapping[str, Array]) -> "Tokens":
        """From the fields by name, those of `more` among them."""
        own = {name: value for name, value in values.items() if name in _OWN}
        return Tokens(**own, more={name: value for name, value in values.items() if name not in _OWN})

    def __len__(self) -> int:
        """Sequence length: the last axis of `ids`."""
        return int(self.ids.shape[-1])

    @property
    def nbytes(self) -> int:
        """Memory of all fields."""
        return sum(int(getattr(self, name).nbytes) for name in self.held)

    @property
    def held(self) -> list[str]:
        """Names of the fields that hold an array: all in DTYPES, but `targets` only where there are some."""
        return [name for name in DTYPES if name != "targets" or self.targets is not None]

    @property
    def labels(self) -> Array:
        """What is to be predicted at each place, (..., seq): `targets`, or `ids` where there are none."""
        return self.ids if self.targets is None else self.targets

    def map(self, function: Callable[[Array], Array]) -> "Tokens":
        """The same record with `function` applied to each field."""
        return Tokens.from_fields({name: function(getattr(self, name)) for name in self.held})

    def to_torch(self, device: Any = "cpu") -> "Tokens":
        """The same record as tensors on `device`; shares memory with the arrays on the CPU."""
        import torch  # only agent/ needs tensors: tokenising works without loading torch

        return self.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))

    def __getitem__(self, window: slice) -> "Tokens":
        """Cut a window out of one sequence, its patches, sounds and vectors with it.

        Args:
            window: a slice with step 1 over the seq axis.
        Raises:
            ValueError: on a batch; cut its sequences before they are stacked.
        """
        if self.ids.ndim != 1:
            raise ValueError(f"windows are cut from one sequence, got a batch of shape {self.ids.shape}")
        start, stop, step = window.indices(len(self))
        assert step == 1, step
        cut = {name: getattr(self, name)[start:stop] for name in self.held if name not in BESIDE}
        for kind, names in CONTENTS.items():
            if len(getattr(self, names[0])):
                first = int((self.kind[:start] == kind).sum())
                last = first + int((self.kind[start:stop] == kind).sum())
                cut |= {name: getattr(self, name)[first:last] for name in names}
            else:
                cut |= {name: getattr(self, name) for name in names}
        return Tokens.from_fields(cut)

    @staticmethod
    def concatenate(parts: Sequence["Tokens"], renumber: bool = False) -> "Tokens":
        """Join sequences along seq. With `renumber`, segments are counted on from part to part (padding keeps -1)."""
        if renumber:
            first, counted = 0, []
            for part in parts:
                counted.append(replace(part, segment=np.where(part.segment < 0, -1, part.segment + first).astype(np.int32)))
                first += int(part.segment.max(initial=-1)) + 1
            parts = counted
        if not parts:
            return Tokens.empty()
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in DTYPES if name != "targets"}
        if any(p.targets is not None for p in parts):
            joined["targets"] = np.concatenate([p.labels for p in parts])
        return Tokens.from_fields(joined)

    @staticmethod
    def stack(rows: Sequence["Tokens"], pad: int, length: int | None = None) -> "Tokens":
        """Stack sequences into a batch (len(rows), length), padded on the right with id `pad` and Kind.PAD.

        Raises:
            ValueError: a row is longer than `length`.
        """
        width = max((len(r) for r in rows), default=0)
        length = width if length is None else length
        if width > length:
            raise ValueError(f"a sequence of {width} tokens does not fit the batch length {length}; cut it first")
        batch = {}
        fills = {"ids": pad, "kind": 0, "position": NO_POSITION, "timestep": 0, "loss_mask": False, "segment": -1}
        if any(row.targets is not None for row in rows):
            fills["targets"] = pad
        for name, fill in fills.items():
            out = np.full((len(rows), length), fill, dtype=DTYPES[name])
            for i, row in enumerate(rows):
                out[i, : len(row)] = row.labels if name == "targets" else getattr(row, name)
            batch[name] = out
        return Tokens.from_fields(batch | joined_contents(rows))

    @staticmethod
    def empty() -> "Tokens":
        """A sequence of length 0."""
        return Tokens.of(np.zeros(0, np.int32), Kind.PAD)


def joined_contents(parts: Sequence[Tokens]) -> dict[str, Array]:
    """What travels beside the ids of all parts, one after another."""
    return {name: np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name, empty in BESIDE.items()}


_OWN = frozenset(f.name for f in fields(Tokens)) - {"more"}
