"""Players of Stable-Baselines3: loaded, turned into npz, found on the hub; statistics are read without running anything."""

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from calico.envs import sb3  # noqa: E402
from calico.envs.experts import make_player  # noqa: E402
from calico.envs.networks import save_network  # noqa: E402
from calico.envs.registry import get_task, make  # noqa: E402
from calico.envs.runner import rollout  # noqa: E402

from .test_networks import RunsWhenLoaded  # noqa: E402


def untrained(algorithm: str, task: str, **settings: Any) -> Any:
    import sb3_contrib
    import stable_baselines3

    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    off_policy = {"buffer_size": 10} if algorithm in ("SAC", "TQC", "DQN", "TD3", "QRDQN") else {}
    return kind("MlpPolicy", make(task), seed=1, device="cpu", **off_policy, **settings)


CASES = [("PPO", "CartPole-v1", {}), ("A2C", "Pendulum-v1", {}), ("TRPO", "Acrobot-v1", {}), ("DQN", "MountainCar-v0", {}),
         ("SAC", "Pendulum-v1", {}), ("TQC", "Pendulum-v1", {"use_sde": True})]


@pytest.mark.parametrize(("algorithm", "task", "settings"), CASES)
def test_a_model_plays_as_it_does_at_home_and_as_an_npz(tmp_path: Path, algorithm: str, task: str,
                                                        settings: dict[str, Any]) -> None:
    model = untrained(algorithm, task, **settings)
    model.save(tmp_path / "model.zip")
    network = sb3.as_network(model)
    assert network is not None
    save_network(network, tmp_path / "model.npz")
    played = [next(iter(rollout(task, make_player(get_task(task), f"{kind}:{tmp_path}/model.{end}"), [3], max_steps=40)))
              for kind, end in (("sb3", "zip"), ("npz", "npz"))]
    home = [model.predict(observation, deterministic=True)[0] for observation in played[0].observations[""][:-1]]
    for episode in played:
        np.testing.assert_allclose(episode.actions[""], np.array(home), atol=1e-5)


@pytest.mark.parametrize(("algorithm", "task"), [("TD3", "Pendulum-v1"), ("QRDQN", "CartPole-v1"),
                                                 ("RecurrentPPO", "CartPole-v1")])
def test_models_that_are_no_plain_network_play_and_are_not_turned_into_one(tmp_path: Path, algorithm: str, task: str) -> None:
    import sb3_contrib

    model = (sb3_contrib.RecurrentPPO("MlpLstmPolicy", make(task), device="cpu") if algorithm == "RecurrentPPO"
             else untrained(algorithm, task))
    model.save(tmp_path / "model.zip")
    assert sb3.as_network(model) is None
    assert len(next(iter(rollout(task, make_player(get_task(task), f"sb3:{tmp_path}/model.zip"), [3], max_steps=5))))


def test_pictures_play(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    PPO("CnnPolicy", make("ALE/Pong-v5"), n_steps=8, batch_size=8, device="cpu").save(tmp_path / "pong.zip")
    task = get_task("ALE/Pong-v5")
    assert len(next(iter(rollout(task, make_player(task, f"sb3:{tmp_path}/pong.zip"), [0], max_steps=3)))) == 3


def test_the_statistics_beside_a_model_are_used(tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    model = untrained("PPO", "Pendulum-v1")
    model.save(tmp_path / "model.zip")
    normaliser = VecNormalize(DummyVecEnv([lambda: make("Pendulum-v1")]), clip_obs=3.0)
    statistics: Any = normaliser.obs_rms
    statistics.mean, statistics.var = np.array([0.5, -0.5, 2.0]), np.array([0.1, 0.2, 9.0])
    normaliser.save(str(tmp_path / "vecnormalize.pkl"))
    task = get_task("Pendulum-v1")
    network = sb3.as_network(model, normaliser)
    assert network is not None
    save_network(network, tmp_path / "model.npz")
    for spec in (f"sb3:{tmp_path}/model.zip", f"npz:{tmp_path}/model.npz"):
        episode = next(iter(rollout(task, make_player(task, spec), [3], max_steps=20)))
        seen = normaliser.normalize_obs(episode.observations[""][:-1])
        np.testing.assert_allclose(episode.actions[""], model.predict(seen, deterministic=True)[0], atol=1e-5)


def test_statistics_run_nothing(tmp_path: Path) -> None:
    untrained("PPO", "Pendulum-v1").save(tmp_path / "model.zip")
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(RunsWhenLoaded(str(tmp_path / "was-run"))))
    with pytest.raises(ValueError, match="vecnormalize.pkl holds no statistics"):
        make_player(get_task("Pendulum-v1"), f"sb3:{tmp_path}/model.zip")
    assert not (tmp_path / "was-run").exists()


def test_a_model_for_another_task_is_refused(tmp_path: Path) -> None:
    untrained("PPO", "CartPole-v1").save(tmp_path / "model.zip")
    for task, what in (("Pendulum-v1", r"Box\(.*\(4,\)"), ("LunarLander-v3", r"Box\(.*\(4,\)")):
        with pytest.raises(ValueError, match=f"model.zip does not play {task}: it was made for {what}"):
            next(iter(rollout(task, make_player(get_task(task), f"sb3:{tmp_path}/model.zip"), [0])))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("hello")
    for name in ("text.zip", "missing.zip"):
        with pytest.raises(ValueError, match=f"{name} is no model of Stable-Baselines3"):
            make_player(get_task("CartPole-v1"), f"sb3:{tmp_path}/{name}")


def test_loading_is_silent(tmp_path: Path) -> None:
    untrained("DQN", "CartPole-v1").save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        player = make_player(get_task("CartPole-v1"), f"sb3:{tmp_path}/model.zip")
        assert len(next(iter(rollout("CartPole-v1", player, [0], max_steps=2)))) == 2


@pytest.mark.parametrize("code, says", [
    ("import os; os.kill(os.getpid(), 11)", "cannot be read: its reader died of signal 11"),
    ("bytearray(1 << 40)", "cannot be read: MemoryError"),
    ("open('written', 'wb', 0).write(b'x')", "cannot be read: (OSError: .*File too large|its reader died of signal 25)")])
def test_statistics_that_crash_their_reader_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str,
                                                         says: str) -> None:
    """What a crafted pickle may do inside NumPy does not end this process, take its memory or write a file."""
    (tmp_path / "vecnormalize.pkl").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    run = subprocess.run
    monkeypatch.setattr(sb3.subprocess, "run", lambda words, **named: run([sys.executable, "-c", code], **named))
    with pytest.raises(ValueError, match=says):
        sb3._statistics(tmp_path / "model.zip")
    assert not (tmp_path / "written").exists() or not (tmp_path / "written").stat().st_size


def test_the_hub_gives_npz_before_zip_and_the_statistics_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained("PPO", "CartPole-v1")
    model.save(tmp_path / "ppo.zip")
    network = sb3.as_network(model)
    assert network is not None
    save_network(network, tmp_path / "small.npz")
    (tmp_path / "vec_normalize.pkl").touch()
    asked: list[str] = []

    def download(repository: str, file: str) -> str:
        assert repository == "someone/cartpole"
        asked.append(file)
        return str(tmp_path / file)

    held = ["README.md", "ppo.zip", "small.npz", "vec_normalize.pkl"]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda repository: held)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    task = get_task("CartPole-v1")
    assert next(iter(rollout(task, make_player(task, "hf:someone/cartpole"), [0], max_steps=2)))
    assert asked == ["small.npz"]
    with pytest.raises(ValueError, match="vec_normalize.pkl cannot be read"):   # it is empty
        make_player(task, "hf:someone/cartpole/ppo.zip")
    assert asked == ["small.npz", "ppo.zip", "vec_normalize.pkl"]
    with pytest.raises(ValueError, match="holds no best.npz; it holds README.md, ppo.zip"):
        make_player(task, "hf:someone/cartpole/best.npz")
    with pytest.raises(ValueError, match="expected hf:OWNER/NAME"):
        make_player(task, "hf:someone")


@pytest.mark.parametrize(("spec", "can"), [("sb3:a.zip", True), ("hf:a/b", True), ("hf:a/b/c.zip", True),
                                           ("hf:a/b/c.npz", False), ("npz:a.npz", False), ("expert", False)])
def test_which_players_can_run_code(spec: str, can: bool) -> None:
    assert sb3.runs_code(spec) is can


def test_spaces_of_several_actions_are_not_turned_into_a_network() -> None:
    from stable_baselines3 import PPO

    class Several(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        action_space = gym.spaces.MultiDiscrete([2, 3])

    assert sb3.as_network(PPO("MlpPolicy", Several(), n_steps=8, batch_size=8, device="cpu")) is None


@pytest.mark.parametrize("name", [
    "vecnormalize.pkl", "vec_normalize.pkl", "model/vecnormalize.pkl", "model_vecnormalize.pkl", "other/vecnormalize.pkl",
    "VecNormalize.pkl", "../vecnormalize.pkl"])
def test_statistics_are_found_where_people_keep_them(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    found = sb3.statistics_of(folder / "model.zip")
    assert found is not None and found.samefile(folder / name)
    assert sb3.statistics_of(folder / "else" / "where" / "model.zip") is None


class Two(gym.Env):
    observation_space = gym.spaces.Dict({"seen": gym.spaces.Box(-9, 9, (3,), np.float32),
                                         "goal": gym.spaces.Box(-9, 9, (2,), np.float32)})
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("keys", [None, ["seen"]])
def test_statistics_of_a_dict_are_read_whatever_their_file_is_called(tmp_path: Path, keys: list[str] | None) -> None:
    """Goal-conditioned agents have such; under another name they were passed over, and the agent played what it never saw."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    normaliser = VecNormalize(DummyVecEnv([Two]), norm_obs_keys=keys)
    normaliser.reset()
    for _ in range(20):
        normaliser.step(np.stack([normaliser.action_space.sample()]))
    normaliser.save(str(tmp_path / "env_stats.pickle"))
    statistics = sb3._statistics(tmp_path / "model.zip")
    assert statistics is not None
    observation = Two.observation_space.sample()
    expected: Any = normaliser.normalize_obs(observation)
    made = statistics.normalise(observation)
    assert made.keys() == expected.keys()
    for key in made:
        np.testing.assert_allclose(made[key], expected[key], rtol=1e-6)
    statistics.check(Two.observation_space)
    with pytest.raises(ValueError, match=r"holds statistics of (seen|goal) of shape \(.,\), here it is not there"):
        statistics.check(gym.spaces.Box(-1, 1, (3,)))


def test_statistics_of_another_environment_are_refused_before_play(tmp_path: Path) -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    untrained("PPO", "Pendulum-v1").save(tmp_path / "model.zip")
    VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")])).save(str(tmp_path / "vecnormalize.pkl"))
    player = make_player(get_task("Pendulum-v1"), f"sb3:{tmp_path}/model")        # without its ending, as load() takes it
    with pytest.raises(ValueError, match=r"statistics of observations of shape \(4,\), here it is \(3,\): they are another"):
        next(iter(rollout("Pendulum-v1", player, [3], max_steps=4)))


def test_each_checkpoint_has_its_own_statistics(tmp_path: Path) -> None:
    for steps in (100, 200):
        (tmp_path / f"rl_model_vecnormalize_{steps}_steps.pkl").touch()
    assert sb3.statistics_of(tmp_path / "rl_model_200_steps.zip") == tmp_path / "rl_model_vecnormalize_200_steps.pkl"
    with pytest.raises(ValueError, match=r"which statistics are its own is not clear: .*100_steps.pkl, .*200_steps.pkl; keep "
                                         r"one, as"):
        sb3.statistics_of(tmp_path / "best_model.zip")
