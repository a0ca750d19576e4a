"""Tokens: the one record that travels between the folders.

Text, image patches, stretches of sound, vectors, discrete and continuous values all become rows of the same few arrays
(Gato, arXiv:2205.06175, section 2.1; sounds and vectors are ours). tokenizers/ and datasets/ fill them with NumPy arrays;
`to_torch` gives the same record with tensors, which is what agent/ reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any   # np.ndarray in tokenizers/ and datasets/, torch.Tensor in agent/

PATCH_SIZE = 16          # pixels: Gato, section 2.1
MAX_CHANNELS = 4         # RGBA, or up to four stacked grey frames
POSITION_BINS = 128      # patch rows and columns are quantised to 128 intervals: Gato, appendix
SOUND_RATE = 16_000      # samples per second of every sound in the stream
SOUND_SAMPLES = 640      # of one token: 40 ms, so a second of sound costs 25 tokens
VECTOR_SIZE = 32         # real numbers of one token
NO_SOUNDS, NO_MOMENTS = np.zeros((0, SOUND_SAMPLES), np.int16), np.zeros(0, np.int32)
NO_VECTORS, NO_NUMBERS = np.zeros((0, VECTOR_SIZE), np.float32), np.zeros(0, np.uint8)

# Values of Tokens.position below zero; from zero on it is the token's place inside its timestep's observation.
ACTION = -1              # all action tokens of a timestep share one position embedding
NO_POSITION = -2         # separators, documents, padding: nothing is added


class Kind(IntEnum):
    """What a token stands for."""

    PAD = 0
    TEXT = 1
    PATCH = 2
    DISCRETE = 3
    CONTINUOUS = 4
    SPECIAL = 5          # separator, end of document, role markers
    AUDIO = 6
    VECTOR = 7           # up to VECTOR_SIZE observed real numbers at once


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
    """

    ids: Array
    kind: Array
    position: Array
    timestep: Array
    loss_mask: Array
    segment: Array
    patches: Array
    channels: Array
    intervals: Array
    sounds: Array = field(default_factory=lambda: NO_SOUNDS)
    moments: Array = field(default_factory=lambda: NO_MOMENTS)
    vectors: Array = field(default_factory=lambda: NO_VECTORS)
    numbers: Array = field(default_factory=lambda: NO_NUMBERS)
    targets: Array = None

    def __len__(self) -> int:
        """Sequence length: the last axis of `ids`."""
        return int(self.ids.shape[-1])

    @property
    def nbytes(self) -> int:
        """Memory of all fields."""
        return sum(array.nbytes for f in fields(self) if (array := getattr(self, f.name)) is not None)

    @property
    def labels(self) -> Array:
        """What is to be predicted at each place, (..., seq): `targets`, or `ids` where there are none."""
        return self.ids if self.targets is None else self.targets

    def map(self, function: Callable[[Array], Array]) -> "Tokens":
        """The same record with `function` applied to each field."""
        return Tokens(**{f.name: function(array) for f in fields(self) if (array := getattr(self, f.name)) is not None})

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
        cut = {name: array[start:stop] for name in ALONG if (array := getattr(self, name)) is not None}
        for kind, names in CONTENTS.items():
            if len(getattr(self, names[0])):
                first = int((self.kind[:start] == kind).sum())
                last = first + int((self.kind[start:stop] == kind).sum())
                cut |= {name: getattr(self, name)[first:last] for name in names}
            else:
                cut |= {name: getattr(self, name) for name in names}
        return Tokens(**cut)

    @staticmethod
    def concatenate(parts: Sequence["Tokens"], renumber: bool = False) -> "Tokens":
        """Join sequences along seq. With `renumber`, segment becomes the part's number (padding keeps -1)."""
        if renumber:
            parts = [replace(p, segment=np.where(p.segment < 0, -1, i).astype(np.int32)) for i, p in enumerate(parts)]
        if not parts:
            return Tokens.empty()
        joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Tokens) if f.name != "targets"}
        if any(p.targets is not None for p in parts):
            joined["targets"] = np.concatenate([p.labels for p in parts])
        return Tokens(**joined)

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
        empty = Tokens.empty()
        joined = {name: np.concatenate([getattr(row, name) for row in (*rows, empty)]) for name in BESIDE}
        return Tokens(**batch, **joined)

    @staticmethod
    def empty() -> "Tokens":
        """A sequence of length 0."""
        return Tokens(
            **{name: np.zeros(0, DTYPES[name]) for name in ALONG if name != "targets"},
            patches=np.zeros((0, MAX_CHANNELS, PATCH_SIZE, PATCH_SIZE), np.uint8),
            channels=np.zeros(0, np.uint8),
            intervals=np.zeros((0, 4), np.uint8),
        )


# What travels beside the ids: one row per token of the kind.
CONTENTS = {Kind.PATCH: ("patches", "channels", "intervals"), Kind.AUDIO: ("sounds", "moments"),
            Kind.VECTOR: ("vectors", "numbers")}
BESIDE = tuple(name for names in CONTENTS.values() for name in names)
DTYPES: dict[str, Any] = {"ids": np.int32, "kind": np.uint8, "position": np.int16, "timestep": np.int32,
                          "loss_mask": np.bool_, "segment": np.int32,
                          "patches": np.uint8, "channels": np.uint8, "intervals": np.uint8,
                          "sounds": np.int16, "moments": np.int32, "vectors": np.float32, "numbers": np.uint8,
                          "targets": np.int32}
ALONG = tuple(name for name in DTYPES if name not in BESIDE)      # one value per token
