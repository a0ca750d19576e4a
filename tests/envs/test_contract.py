"""One contract that every task's environment keeps: a few tasks of each family in every run, all of them in `make test-all`.

Tasks whose packages are not installed are skipped.
"""

import json
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from calico.envs import task_table
from calico.envs.interfaces import describe_spaces, spaces_of
from calico.envs.registry import FAMILIES, MissingPackage, family, get_task, make, tasks
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import flatten, stack_leaves
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

EXAMPLES = {
    "CoinrunEasy-v0", "MazeMemory-v0", "MiniWorld-FourRooms-v0", "MiniWorld-Sign-v0",
    "VizdoomBasic-v1", "VizdoomMyWayHome-MultiBinary-v1",
    "CartPole-v1", "Pendulum-v1", "LunarLander-v3", "CarRacing-v3", "ALE/Freeway-v5", "ALE/Pong-v5",
    "BabyAI-GoToLocal-v0", "MiniGrid-DoorKey-5x5-v0", "PandaReach-v3", "PandaStack-v3", "Sokoban-6x6-1",
    "Meta-World/reach-v3", "FetchReach-v4", "PointMaze_UMaze-v3",
    "HalfCheetah-v5", "Reacher-v5-pixels", "dm_control/cartpole-swingup", "dm_control/reacher-easy-pixels",
}
ALL = [pytest.param(task.name, marks=() if task.name in EXAMPLES else pytest.mark.slow) for task in tasks()]
STEPS = 25


@pytest.fixture(scope="module", params=ALL)
def env(request: pytest.FixtureRequest) -> Iterator[gym.Env]:
    try:
        made = make(request.param, render=True)
    except MissingPackage as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return TextTokenizer.train(["go to the red ball", "use the key to open the door and then get to the goal"], 300)


def play(env: gym.Env, seed: int, steps: int = STEPS) -> list[Any]:
    """(observation, reward, terminated, truncated) of random actions that depend on the seed alone."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    trace: list[Any] = [(leaves(env, observation), 0.0, False, False)]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        trace.append((leaves(env, observation), reward, terminated, truncated))
        assert env.observation_space.contains(observation)
        assert np.isfinite(float(reward)) and isinstance(terminated, bool) and isinstance(truncated, bool)
        if terminated or truncated:
            break
    return trace


def leaves(env: gym.Env, observation: Any) -> dict[str, Any]:
    """Copies of an observation's leaves: some environments reuse their buffers."""
    return {name: np.array(leaf) for name, leaf in flatten(env.observation_space, observation).items()}


def test_the_table_of_tasks_repeats_the_families_files() -> None:
    written = task_table.table()["families"]
    assert list(written) == list(FAMILIES)
    for name in FAMILIES:
        group = family(name)
        assert (written[name]["title"], written[name]["extra"], written[name]["install"], written[name]["modules"]) == \
            (group.title, group.extra, group.install, list(group.modules))
        records = [json.loads(json.dumps(task.record())) for task in group.tasks]
        assert [{**row, "interface": None} for row in written[name]["tasks"]] == \
            [{**record, "interface": None} for record in records], "run: python -m calico.scripts.tasks --write"


def test_the_table_of_tasks_says_what_the_environment_shows(env: gym.Env, request: pytest.FixtureRequest) -> None:
    task, shown = get_task(request.node.callspec.params["env"]), (env.observation_space, env.action_space)
    compact = spaces_of(task.compact()) if task.compact_view else shown
    assert task_table.rows()[task.name]["interface"] == describe_spaces(*shown, compact), \
        "run: python -m calico.scripts.tasks --write"


def test_a_seed_decides_an_episode(env: gym.Env) -> None:
    first, other, again = play(env, seed=3), play(env, seed=4, steps=3), play(env, seed=3)
    assert len(first) == len(again) and other
    for (a, *rest_a), (b, *rest_b) in zip(first, again, strict=True):
        assert rest_a == rest_b
        for name, leaf in a.items():
            np.testing.assert_array_equal(leaf, b[name])


def test_rendering_gives_a_frame(env: gym.Env) -> None:
    env.reset(seed=0)
    frame: Any = env.render()
    for _ in range(60):                                # some games begin in the dark
        if frame.std():
            break
        env.step(env.action_space.sample())
        frame = env.render()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.std() > 0


def test_values_survive_tokens(env: gym.Env, text: TextTokenizer) -> None:
    vocabulary = Vocabulary(VocabularyConfig(text=text.size))
    codec = TaskCodec(env.observation_space, env.action_space, vocabulary, text, max_text_tokens=512)
    trace = play(env, seed=1, steps=4)
    env.action_space.seed(2)
    actions = [env.action_space.sample() for _ in trace[1:]]
    episode = Episode(
        task="any", seed=1, demonstrated=np.ones(len(actions), bool), rewards=np.zeros(len(actions)), terminated=False,
        truncated=True, observations=stack_leaves([step[0] for step in trace]),
        actions=stack_leaves([flatten(env.action_space, action) for action in actions]),
    )
    least, most = codec.tokens_per_step
    assert least * len(actions) <= len(codec.encode_episode(episode)) <= most * len(actions)
    for action, decoded in zip(actions, codec.decode_actions(codec.encode_actions(actions)), strict=True):
        assert env.action_space.contains(decoded)
        for name, leaf in flatten(env.action_space, action).items():
            # bins are coarsest at the ends of the range
            np.testing.assert_allclose(leaf, flatten(env.action_space, decoded)[name], atol=0.025 * (1 + np.abs(leaf).max()))
