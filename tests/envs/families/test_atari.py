"""The Atari view: areas averaged rightly, frames stacked newest last, settings that do what they say."""

from typing import Any

import numpy as np

from calico.envs.registry import get_task, make


def test_the_newest_frame_is_last() -> None:
    env = make(get_task("ALE/Freeway-v5").with_view(frames=3, noop_max=0))
    first, _ = env.reset(seed=0)
    assert (first == first[..., :1]).all()                         # nothing happened before the first frame
    second, *_ = env.step(1)
    third, *_ = env.step(1)
    np.testing.assert_array_equal(third[..., 1], second[..., 2])
    np.testing.assert_array_equal(third[..., 0], first[..., 2])
    assert (third[..., 2] != third[..., 1]).any()
    fourth, *_ = env.step(1)
    np.testing.assert_array_equal(fourth[..., :2], third[..., 1:])
    np.testing.assert_array_equal(third[..., 1], second[..., 2])   # what was given before is left as it was


def test_the_picture_is_the_mean_of_the_screen() -> None:
    env = make(get_task("ALE/Breakout-v5").with_view(height=210, width=160, frames=1, noop_max=0))
    observation, _ = env.reset(seed=0)
    game: Any = env.unwrapped
    np.testing.assert_array_equal(observation[..., 0], game.ale.getScreenGrayscale())
    small, _ = make(get_task("ALE/Breakout-v5").with_view(height=21, width=16, frames=1, noop_max=0)).reset(seed=0)
    blocks = observation[..., 0].reshape(21, 10, 16, 10).mean(axis=(1, 3))
    np.testing.assert_allclose(small[..., 0], blocks, atol=1)   # rounded twice, once per axis


def test_sticky_actions_and_noop_starts_differ_by_seed() -> None:
    def heights(seed: int, **view: Any) -> list[int]:
        env = make(get_task("ALE/Freeway-v5").with_view(**view))
        env.reset(seed=seed)
        game: Any = env.unwrapped
        trace = []
        for step in range(12):
            env.step(step // 3 % 2)                                # three steps of waiting, three up
            trace.append(int(game.ram()[14]))
        return trace

    assert heights(1, noop_max=0) != heights(2, noop_max=0)
    assert heights(1) == heights(1)
    sure = {"noop_max": 0, "repeat_action_probability": 0.0}
    assert heights(1, **sure) == heights(2, **sure)
