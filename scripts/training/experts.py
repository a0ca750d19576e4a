"""`calico collect TASK --train-expert`: train a network with Stable-Baselines3 where a task has no scripted expert.

Soft actor-critic (arXiv:1801.01290) for continuous actions, proximal policy optimisation (arXiv:1707.06347) for all others,
with the library's defaults but for the settings below. The zip can be trained further; where the network is fully connected,
the npz holds the same policy without pickles, and Stable-Baselines3 is not needed to play it.
"""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from calico.datasets.publish import replace_file, replacing
from calico.envs.networks import save_network
from calico.envs.registry import MissingPackage, Task, make
from calico.envs.sb3 import as_network
from calico.scripts.common import console
from calico.scripts.common.sharding import folder_name

PPO_ROWS = 8
FIRST_SEED = 5_000   # the environments' seeds in training begin here


def train_expert(task: Task, out: Path, steps: int) -> str:
    """Train a policy and save it in `<out>/experts`, if it is not there already.

    Returns:
        the policy's spec, "npz:..." or "sb3:...", see experts.make_player.
    Raises:
        ValueError: the task's observations are not numbers, or what is there was trained for another number of steps.
        MissingPackage: Stable-Baselines3 is not installed.
    """
    if steps < 1:
        raise ValueError(f"--train-steps {steps} must be at least 1")
    stem = out / "experts" / folder_name(task.name)
    zipped, small, about = (stem.with_name(stem.name + ending) for ending in (".zip", ".npz", ".json"))
    if not about.is_file():   # written last
        model = _train(task, steps)
        with replacing(zipped) as temporary, open(temporary, "wb") as file:
            model.save(file)
        if network := as_network(model):
            save_network(network, small)
        replace_file(about, json.dumps({"task": task.to_json(), "algorithm": type(model).__name__, "steps": steps}, indent=1))
    elif (found := json.loads(about.read_text())["steps"]) != steps:
        raise ValueError(f"{zipped} was trained for {found} steps, not {steps}; choose another --out, or take it with "
                         f"--policy sb3:{zipped}")
    return f"npz:{small}" if small.is_file() else f"sb3:{zipped}"


def _train(task: Task, steps: int) -> Any:
    try:
        import stable_baselines3 as sb3
        import torch
        from stable_baselines3.common.callbacks import BaseCallback
    except ImportError as error:
        raise MissingPackage('--train-expert needs stable_baselines3; run: pip install "calico-agent[experts]"') from error

    env = make(task)
    observed, continuous = env.observation_space, isinstance(env.action_space, gym.spaces.Box)
    env.close()
    policy = _policy(task, observed)
    if policy == "MlpPolicy":
        torch.set_num_threads(1)   # so small a network gains nothing from more, and loses on a busy machine
    rows = 1 if continuous else PPO_ROWS
    world = sb3.common.vec_env.DummyVecEnv([lambda: sb3.common.monitor.Monitor(make(task)) for _ in range(rows)])
    world.seed(FIRST_SEED)
    model: Any   # 2,048 steps per update of PPO as in its paper, but from eight environments
    if continuous:
        model = sb3.SAC(policy, world, buffer_size=min(steps, 1_000_000), seed=0, device="cpu")
    else:
        n_steps = max(2, min(2048, steps) // rows)
        model = sb3.PPO(policy, world, n_steps=n_steps, batch_size=n_steps, seed=0, device="cpu")

    class Progress(BaseCallback):
        """Draws the bar; the note is the mean return of the last hundred episodes."""

        def __init__(self, bar: console.Bar) -> None:
            super().__init__()
            self.bar = bar

        def _on_step(self) -> bool:
            finished = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            self.bar.update(min(self.num_timesteps, steps), note=f"return {np.mean(finished):.4g}" if finished else "")
            return True

    with console.progress(f"train {type(model).__name__} on {task.name}", total=steps, unit="steps") as bar:
        model.learn(steps, callback=Progress(bar))
    world.close()
    return model


def _policy(task: Task, observed: gym.Space) -> str:
    """Stable-Baselines3's name of the network that suits an observation space."""
    match observed:
        case gym.spaces.Box(shape=(_,)) | gym.spaces.Discrete():
            return "MlpPolicy"
        case gym.spaces.Box(shape=(_, _, _), dtype=np.uint8):
            return "CnnPolicy"
        case gym.spaces.Dict(spaces=parts) if all(isinstance(part, gym.spaces.Box) for part in parts.values()):
            return "MultiInputPolicy"
    raise ValueError(f"--train-expert: {task.name} observes {observed}, which Stable-Baselines3 has no network for")
