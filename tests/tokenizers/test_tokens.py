from dataclasses import replace

import numpy as np
import pytest
import torch

from calico.tokenizers.tokens import BESIDE, DTYPES, NO_POSITION, SOUND_SAMPLES, VECTOR_SIZE, Kind, Tokens


def sequence(kinds: list[Kind], first: int = 0) -> Tokens:
    """Tokens of the given kinds; ids count from `first`, and a patch or a sound is filled with its own id."""
    n = len(kinds)
    ids = np.arange(first, first + n, dtype=np.int32)
    kind = np.array(kinds, np.uint8).reshape(n)
    own, heard, real = ids[kind == Kind.PATCH].astype(np.uint8), ids[kind == Kind.AUDIO], ids[kind == Kind.VECTOR]
    return Tokens(
        ids=ids,
        kind=kind,
        position=np.arange(n, dtype=np.int16),
        timestep=np.full(n, 3, np.int32),
        loss_mask=np.ones(n, np.bool_),
        segment=np.zeros(n, np.int32),
        patches=np.broadcast_to(own[:, None, None, None], (len(own), 4, 16, 16)).copy(),
        channels=np.full(len(own), 3, np.uint8),
        intervals=np.tile(own[:, None], (1, 4)),
        sounds=np.tile(heard.astype(np.int16)[:, None], (1, SOUND_SAMPLES)),
        moments=heard.astype(np.int32),
        vectors=np.tile(real.astype(np.float32)[:, None], (1, VECTOR_SIZE)),
        numbers=real.astype(np.uint8),
    )


def owners(tokens: Tokens) -> list[int]:
    """The id that each patch is filled with."""
    return [int(patch[0, 0, 0]) for patch in tokens.patches]


P, T, A, V = Kind.PATCH, Kind.TEXT, Kind.AUDIO, Kind.VECTOR


@pytest.mark.parametrize(
    "start, stop, expected",
    [(0, 6, [1, 2, 5]), (2, 5, [2]), (3, 5, []), (-1, None, [5]), (2, 99, [2, 5]), (4, 4, []), (5, 2, [])],
)
def test_patches_travel_with_their_tokens(start: int, stop: int | None, expected: list[int]) -> None:
    tokens = sequence([T, P, P, T, T, P])
    window = tokens[start:stop]
    assert owners(window) == expected
    assert window.ids[window.kind == P].tolist() == expected
    assert len(window) == len(range(6)[start:stop])


@pytest.mark.parametrize("start, stop, heard, seen", [(0, 6, [1, 2, 5], [3]), (2, 5, [2], [3]), (4, 5, [], [])])
def test_sounds_travel_with_their_tokens(start: int, stop: int, heard: list[int], seen: list[int]) -> None:
    """Through windows, joining and batches, patches between them or not."""
    tokens = sequence([T, A, A, P, T, A])
    window = tokens[start:stop]
    joined = Tokens.concatenate([window, sequence([A, T], first=20)])
    batch = Tokens.stack([window, sequence([A, T], first=20)], pad=99)
    for found, more in ((window, []), (joined, [20]), (batch, [20])):
        assert found.sounds[:, 0].tolist() == found.sounds[:, -1].tolist() == found.moments.tolist() == [*heard, *more]
        assert found.ids[found.kind == A].tolist() == [*heard, *more] and owners(found) == seen
    assert batch.to_torch().sounds.dtype == torch.int16 and batch.nbytes > window.nbytes


@pytest.mark.parametrize("start, stop, read", [(0, 6, [1, 2, 5]), (2, 5, [2]), (3, 5, [])])
def test_vectors_travel_with_their_tokens(start: int, stop: int, read: list[int]) -> None:
    """Through windows, joining and batches, beside patches."""
    tokens = sequence([T, V, V, P, T, V])
    window = tokens[start:stop]
    joined = Tokens.concatenate([window, sequence([V, T], first=20)])
    batch = Tokens.stack([window, sequence([V, T], first=20)], pad=99)
    for found, more in ((window, []), (joined, [20]), (batch, [20])):
        assert found.vectors[:, 0].tolist() == found.vectors[:, -1].tolist() == found.numbers.tolist() == [*read, *more]
        assert found.ids[found.kind == V].tolist() == [*read, *more]
    assert batch.to_torch().vectors.dtype == torch.float32


def test_concatenate_keeps_patches_in_order_and_renumbers_segments() -> None:
    joined = Tokens.concatenate([sequence([P, T]), sequence([T, P, P], first=10)], renumber=True)
    assert owners(joined) == joined.ids[joined.kind == P].tolist() == [0, 11, 12]
    assert joined.segment.tolist() == [0, 0, 1, 1, 1]
    assert len(Tokens.concatenate([])) == 0
    assert Tokens.concatenate([sequence([T]), sequence([T])]).segment.tolist() == [0, 0]


def with_targets(kinds: list[Kind], first: int = 0) -> Tokens:
    """`sequence` where every id is to be predicted as one hundred more."""
    tokens = sequence(kinds, first)
    return replace(tokens, targets=tokens.ids + 100)


def test_targets_travel_with_their_tokens_and_are_the_ids_where_there_are_none() -> None:
    plain, other = sequence([T, P, T]), with_targets([P, T, T, P], first=10)
    assert plain[1:].targets is None and plain.labels is plain.ids
    window = other[1:3]
    assert window.targets.tolist() == window.labels.tolist() == [111, 112]
    joined = Tokens.concatenate([plain, window])
    assert joined.targets.tolist() == [0, 1, 2, 111, 112] and joined.ids.tolist() == [0, 1, 2, 11, 12]
    batch = Tokens.stack([plain, window], pad=99, length=4)
    assert batch.targets.tolist() == [[0, 1, 2, 99], [111, 112, 99, 99]] and batch.nbytes > batch.ids.nbytes
    assert Tokens.concatenate([plain, plain]).targets is None and batch.map(np.asarray).targets is not None


def test_stack_pads_on_the_right_and_joins_patches_row_by_row() -> None:
    batch = Tokens.stack([sequence([T, P]), sequence([], first=0), sequence([P, T, P], first=10)], pad=99, length=4)
    assert batch.ids.tolist() == [[0, 1, 99, 99], [99] * 4, [10, 11, 12, 99]]
    assert batch.kind[0].tolist() == [T, P, Kind.PAD, Kind.PAD]
    assert batch.segment[0].tolist() == [0, 0, -1, -1]
    assert batch.position[1].tolist() == [NO_POSITION] * 4
    assert not batch.loss_mask[1].any()
    assert owners(batch) == batch.ids[batch.kind == P].tolist() == [1, 10, 12]
    assert batch.targets is None
    batch = Tokens.stack([with_targets([T]), sequence([T, T])], pad=99)
    assert {name: getattr(batch, name).dtype for name in DTYPES} == {
        name: np.dtype(kind) for name, kind in DTYPES.items()
    }
    assert Tokens.stack([], pad=0).ids.shape == (0, 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens does not fit the batch length 2"):
        Tokens.stack([sequence([T, T, T])], pad=0, length=2)
    batch = Tokens.stack([sequence([T])], pad=0)
    with pytest.raises(ValueError, match="windows are cut from one sequence"):
        batch[0:1]


def test_tensors_have_the_same_values() -> None:
    tokens = sequence([T, P, T])
    tensors = tokens.to_torch()
    assert tensors.ids.dtype == torch.int32 and tensors.loss_mask.dtype == torch.bool
    assert tensors.targets is None and with_targets([T]).to_torch().targets.dtype == torch.int32
    for name in DTYPES.keys() - {"targets"} | set(BESIDE):
        np.testing.assert_array_equal(getattr(tensors, name).numpy(), getattr(tokens, name))
    assert len(tensors) == 3
