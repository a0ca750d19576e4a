"""What the tests of this folder share: one small tokenizer, both layouts, and a list with every kind of space."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import flatten, stack_leaves
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

CORPUS = [
    "go to the red ball",
    "pick up the grey key and open the door",
    "what do you see? <end>",
    "12 cats\tand 7 dogs",
]


def joined(patches: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Patches (N, n, 4, 16, 16) as the images (N, height, width, channels) that they were cut from."""
    rows, columns = -(-height // 16), -(-width // 16)
    tiles = patches.reshape(-1, rows, columns, 4, 16, 16).transpose(0, 1, 4, 2, 5, 3)
    return tiles.reshape(-1, rows * 16, columns * 16, 4)[:, :height, :width, :channels]


@pytest.fixture(scope="session")
def text() -> TextTokenizer:
    """A tokenizer of about 340 pieces."""
    return TextTokenizer.train(CORPUS * 10, 400)


@pytest.fixture(params=["disjoint", "gato"], scope="session")
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    """Both layouts."""
    return Vocabulary(VocabularyConfig(layout=request.param, text=1024))


@pytest.fixture(scope="session")
def record() -> Callable[..., Episode]:
    """Make an episode of a codec's spaces from samples."""

    def make(codec: TaskCodec, steps: int, seed: int = 0) -> Episode:
        seen, done = codec.observation_space, codec.action_space
        seen.seed(seed)
        done.seed(seed)
        rng = np.random.default_rng(seed)
        return Episode(
            task="test",
            seed=seed,
            observations=stack_leaves([flatten(seen, seen.sample()) for _ in range(steps + 1)]),
            actions=stack_leaves([flatten(done, done.sample()) for _ in range(steps)]),
            demonstrated=rng.random(steps) < 0.7,
            rewards=rng.random(steps),
            terminated=True,
            truncated=False,
        )

    return make


class MissionSpace(spaces.Space[str]):
    """Strings of a space that Gymnasium does not know, as MiniGrid has one."""

    def __init__(self) -> None:
        super().__init__(dtype=np.str_)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """One of three missions of different lengths."""
        return ["go to the red ball", "", "pick up the grey key"][int(self.np_random.integers(3))]

    def contains(self, x: Any) -> bool:
        """Any string."""
        return isinstance(x, str)


def make_spaces() -> dict[str, spaces.Space[Any]]:
    """Every kind of space, by name."""
    plain: dict[str, spaces.Space[Any]] = {
        "box": spaces.Box(-1, 1, (3,)),
        "box_matrix": spaces.Box(-2, 5, (2, 3), np.float64),
        "box_scalar": spaces.Box(-0.25, 0.25, ()),
        "box_half": spaces.Box(-1, 1, (2,), np.float16),
        "box_unbounded": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "box_half_bounded": spaces.Box(np.array([-np.inf, 0], np.float32), np.array([3, np.inf], np.float32)),
        "box_mixed": spaces.Box(np.array([-np.inf, -1, 1000]), np.array([np.inf, 1, 3000]), dtype=np.float64),
        "box_wide": spaces.Box(-5000, 300, (2,)),
        "box_one_value": spaces.Box(2, 2, (2,)),
        "box_no_elements": spaces.Box(-1, 1, (0,)),
        "box_no_bound_as_largest": spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,)),
        "integers": spaces.Box(-5, 5, (2, 2), np.int64),
        "integers_wide": spaces.Box(-100, 10_000, (3,), np.int32),
        "integers_unbounded": spaces.Box(-np.inf, np.inf, (2,), np.int64),
        "bytes_small": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "booleans": spaces.Box(0, 1, (4,), np.bool_),
        "image": spaces.Box(0, 255, (20, 33, 3), np.uint8),
        "image_grey": spaces.Box(0, 255, (16, 48), np.uint8),
        "image_four": spaces.Box(0, 255, (32, 16, 4), np.uint8),
        "discrete": spaces.Discrete(4),
        "discrete_start": spaces.Discrete(6, start=-2),
        "multi_discrete": spaces.MultiDiscrete([3, 1, 1024]),
        "multi_discrete_matrix": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, -2], [3, 0]])),
        "multi_binary": spaces.MultiBinary(3),
        "multi_binary_matrix": spaces.MultiBinary((2, 3)),
        "text": spaces.Text(12, charset="abc \u00e9\u2581\U0001f431"),
        "text_maybe_empty": spaces.Text(5, min_length=0),
        "text_long_enough": spaces.Text(9, min_length=4, charset="xyz"),
        "mission": MissionSpace(),
        "empty_dict": spaces.Dict({}),
        "empty_tuple": spaces.Tuple(()),
    }
    everything = {name: space for name, space in plain.items() if not name.startswith("image_")}
    return plain | {
        "dict": spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (2,)), "c": spaces.Text(4)}),
        "tuple": spaces.Tuple([spaces.Discrete(3) for _ in range(12)]),
        "nested": spaces.Dict(
            {
                "z": spaces.Tuple([spaces.Dict({"y": spaces.MultiBinary(2)}), spaces.Discrete(2)]),
                "a": spaces.Dict({"image": plain["image"], "mission": MissionSpace()}),
            }
        ),
        "everything": spaces.Dict({"all": spaces.Dict(everything), "again": spaces.Tuple(list(everything.values()))}),
    }


@pytest.fixture(params=make_spaces(), scope="session")
def space(request: pytest.FixtureRequest) -> spaces.Space[Any]:
    """Each of the spaces in turn."""
    space = make_spaces()[request.param]
    space.seed(7)
    return space


@pytest.fixture(scope="session")
def all_spaces() -> dict[str, spaces.Space[Any]]:
    """All of the spaces by name."""
    return make_spaces()
