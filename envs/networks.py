"""Small policy networks in NumPy: `npz:FILE`, and the format of the file.

It holds the weights `w0, b0, w1, b1, ...` of a fully connected network, float32 (outputs, inputs) and (outputs,), where the
observations were normalised `obs_mean` and `obs_var`, and in the string `calico` the settings of `Network` as JSON. A file
without that string takes its settings from an `experts.json` in its own folder or the one above: a list of entries with the
same settings and the `file` they belong to. Nothing in it is a pickle.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..datasets.publish import replacing
from ..tokenizers.budget import check_npz
from .registry import Controller, Start, Task

ACTIVATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), None: lambda x: x}
HEADS = ("argmax", "clip", "tanh_rescale")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A fully connected policy network with what surrounds it.

    Attributes:
        weights, biases: per layer, float32 (outputs, inputs) and (outputs,).
        activations: after each layer: "tanh", "relu" or None.
        head: outputs -> action: "argmax" (Discrete), "clip" (to the action space), "tanh_rescale" (tanh, then to its range).
        obs_take: only so many first numbers of the observation are looked at; None: all.
        obs_pad: zeros that are appended to them.
        obs_mean, obs_var, obs_eps, obs_clip: normalisation, clip((x - mean) / sqrt(var + eps)); None: none.
        pre_tanh_clip: bound of the outputs before tanh; None: none.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activations: tuple[str | None, ...]
    head: str
    obs_take: int | None = None
    obs_pad: int = 0
    obs_mean: np.ndarray | None = None
    obs_var: np.ndarray | None = None
    obs_eps: float = 1e-8
    obs_clip: float = 10.0
    pre_tanh_clip: float | None = None

    def __post_init__(self) -> None:
        depth = len(self.weights)
        if self.head not in HEADS or not set(self.activations) <= set(ACTIVATIONS) or len(self.activations) != depth:
            raise ValueError(f"head {self.head!r} (of {', '.join(HEADS)}) and activations {self.activations} (of tanh, relu, "
                             f"None) do not fit {depth} layers")
        shapes = [weight.shape for weight in self.weights]
        sizes = [shapes[0][-1], *(len(bias) for bias in self.biases)] if depth else []
        if not depth or shapes != list(zip(sizes[1:], sizes, strict=False)):
            raise ValueError(f"layers of {shapes} with biases of {sizes[1:]} are no network")

    @property
    def inputs(self) -> int:
        """Numbers that are taken from the observation."""
        return self.weights[0].shape[1] - self.obs_pad

    def outputs(self, observation: np.ndarray) -> np.ndarray:
        """The network's outputs, float32 (n,), for an observation (inputs,)."""
        x = np.concatenate([observation[: self.obs_take], np.zeros(self.obs_pad)])
        if self.obs_mean is not None and self.obs_var is not None:
            x = np.clip((x - self.obs_mean) / np.sqrt(self.obs_var + self.obs_eps), -self.obs_clip, self.obs_clip)
        x = x.astype(np.float32)
        for weight, bias, activation in zip(self.weights, self.biases, self.activations, strict=True):
            x = ACTIVATIONS[activation](weight @ x + bias)
        return x if self.pre_tanh_clip is None else np.clip(x, -self.pre_tanh_clip, self.pre_tanh_clip)

    def controller(self, env: gym.Env) -> Controller:
        """Plays in an environment.

        Raises:
            ValueError: its spaces do not fit.
        """
        seen, done = env.observation_space, env.action_space
        size = seen.shape[0] if isinstance(seen, gym.spaces.Box) and len(seen.shape) == 1 else 0
        n_outputs = len(self.biases[-1])
        if size != self.inputs and not (self.obs_take and size > self.inputs):
            raise ValueError(f"the policy takes {self.inputs} numbers, the observations are {seen}")
        if self.head == "argmax":
            if not isinstance(done, gym.spaces.Discrete) or done.n != n_outputs:
                raise ValueError(f"the policy chooses among {n_outputs} actions, the action space is {done}")
            first = int(done.start)
            return lambda observation: first + int(self.outputs(observation).argmax())
        if not isinstance(done, gym.spaces.Box) or done.shape != (n_outputs,):
            raise ValueError(f"the policy gives {n_outputs} numbers, the action space is {done}")
        low, high = done.low, done.high

        def act(observation: np.ndarray) -> np.ndarray:
            outputs = self.outputs(observation)
            if self.head == "tanh_rescale":
                outputs = low + 0.5 * (np.tanh(outputs) + 1) * (high - low)
            return np.clip(outputs, low, high).astype(done.dtype)

        return act


ARRAYS = ("weights", "biases", "obs_mean", "obs_var")
SETTINGS = tuple(field.name for field in fields(Network) if field.name not in ARRAYS)


def save_network(network: Network, path: Path) -> Path:
    settings = {key: value for key, value in asdict(network).items() if key in SETTINGS}
    arrays: dict[str, Any] = {"calico": np.array(json.dumps(settings))}
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        arrays |= {f"w{layer}": weight, f"b{layer}": bias}
    if network.obs_mean is not None:
        arrays |= {"obs_mean": network.obs_mean, "obs_var": network.obs_var}
    with replacing(path) as temporary, open(temporary, "wb") as file:      # savez would add .npz to a name
        np.savez_compressed(file, **arrays)
    return path


def load_network(path: Path) -> Network:
    """Read a network; see the top of this file.

    Raises:
        ValueError: no such file, or not a network.
    """
    arrays = read_npz(path)
    settings: dict[str, Any] | None
    if "calico" in arrays:
        try:
            settings = dict(json.loads(str(arrays["calico"])))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} has settings that are no JSON object: {error}") from error
    elif (settings := _shared_settings(path)) is None:
        raise ValueError(f"{path} holds no settings (`calico`), and no experts.json beside it or above names it")
    elif "include_cfrc_ext_in_observation" in settings.get("env_kwargs", {}):
        # Its contact forces were always zero, and are left out; where the environment gives them they stand last.
        settings |= {"obs_take": arrays["w0"].shape[1] - settings["obs_pad"]}
    layers = [layer for layer in range(len(arrays)) if f"w{layer}" in arrays and f"b{layer}" in arrays]
    given: dict[str, Any] = {key: settings[key] for key in SETTINGS if key in settings}
    given |= {key: arrays[key] for key in ("obs_mean", "obs_var") if key in arrays}
    given |= {"weights": tuple(arrays[f"w{layer}"] for layer in layers),
              "biases": tuple(arrays[f"b{layer}"] for layer in layers), "activations": tuple(settings.get("activations", ()))}
    try:
        return Network(**given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no policy network: {error}") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file; no pickles.

    Raises:
        ValueError: no such file, or not an npz file.
    """
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return dict(file)
    except Exception as error:    # NumPy raises zipfile's, zlib's and lzma's errors, NotImplementedError, SyntaxError and more
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as npz: {why}") from error


def _shared_settings(path: Path) -> dict[str, Any] | None:
    for folder in (path.parent, path.parent.parent):
        index = folder / "experts.json"
        if index.is_file():
            for entry in json.loads(index.read_text()):
                if (folder / entry["file"]).resolve() == path.resolve():
                    return entry
    return None


def npz_player(task: Task, where: str) -> Start:
    """`npz:FILE`: a small network in NumPy."""
    network = load_network(Path(where))

    def start(env: gym.Env, seed: int) -> Controller:
        try:
            return network.controller(env)
        except ValueError as error:
            raise ValueError(f"{where} does not play {task.name}: {error}") from error

    return start
