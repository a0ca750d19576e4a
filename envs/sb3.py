"""Players trained with Stable-Baselines3: `sb3:FILE.zip`, and `hf:OWNER/NAME` from the Hugging Face hub.

Any algorithm of stable-baselines3 and sb3-contrib (extra `experts`), with the statistics of its VecNormalize, see
`statistics_of`. **A zip of Stable-Baselines3 holds pickled Python objects, which can run code when they are loaded**: name none
that you do not trust. It is the one place where Calico loads any; `as_network` turns fully connected policies into npz files,
which hold none. The statistics of vecnormalize.pkl are read by an unpickler that knows NumPy arrays and nothing else, in a
process of its own, because a crafted one can still crash NumPy.
"""

import importlib
import io
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from .networks import Network, npz_player
from .registry import Controller, MissingPackage, Start, Task

MEMORY, SECONDS = 4 << 30, 60     # that reading the statistics may take, libraries included
STATISTICS = re.compile(r"(?i)_?vec_?normalize_?")       # in the names under which they are published
NAMED_INSIDE, PICKLES = b"VecNormalize", (".pkl", ".pickle")     # what a pickle of them names in its first HEAD bytes
HEAD = 4096
ALGORITHMS = {   # module of the policy's class -> the algorithm; actor-critics are told apart by their settings
    "stable_baselines3.sac": "stable_baselines3.SAC", "stable_baselines3.td3": "stable_baselines3.TD3",
    "stable_baselines3.dqn": "stable_baselines3.DQN", "sb3_contrib.tqc": "sb3_contrib.TQC",
    "sb3_contrib.qrdqn": "sb3_contrib.QRDQN", "sb3_contrib.ars": "sb3_contrib.ARS",
    "sb3_contrib.crossq": "sb3_contrib.CrossQ", "sb3_contrib.common.recurrent": "sb3_contrib.RecurrentPPO",
    "sb3_contrib.common.maskable": "sb3_contrib.MaskablePPO",
}
RUNS_CODE = "holds pickled Python objects, which can run code when they are loaded: go on only if you trust its source"


def runs_code(spec: str) -> bool:
    """Whether a player named so is loaded from a file that can run code."""
    return spec.startswith("sb3:") or (spec.startswith("hf:") and not spec.endswith(".npz"))


def sb3_player(task: Task, where: str) -> Start:
    """`sb3:FILE.zip`: a trained model, which takes its best action.

    Raises:
        ValueError: no such file, or not a model.
        MissingPackage: Stable-Baselines3 is not installed.
    """
    path = Path(where)
    if not path.exists() and (named := path.with_name(f"{path.name}.zip")).is_file():      # as its own load() does
        path = named
    data = _settings(path)
    algorithm = _algorithm(data, where)
    statistics = _statistics(path)
    loaded: list[Any] = []

    def start(env: gym.Env, seed: int) -> Controller:
        if not loaded:
            loaded.append(_load(algorithm, path, data, env))
        model = loaded[0]
        _check(model, env, f"{where} does not play {task.name}")
        if statistics is not None:
            statistics.check(env.observation_space)
        memory: Any = None
        begins = np.ones(1, bool)

        def act(observation: Any) -> Any:
            nonlocal memory, begins
            seen = observation if statistics is None else statistics.normalise(observation)
            action, memory = model.predict(seen, state=memory, episode_start=begins, deterministic=True)
            begins = np.zeros(1, bool)
            return int(action) if isinstance(env.action_space, gym.spaces.Discrete) else action

        return act

    return start


def hub_player(task: Task, where: str) -> Start:
    """`hf:OWNER/NAME` or `hf:OWNER/NAME/FILE`: a file of the Hugging Face hub, npz before zip where none is named.

    Raises:
        ValueError: the name is incomplete, or the repository holds no such file.
    """
    import huggingface_hub

    owner, _, rest = where.partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name):
        raise ValueError(f"hf:{where}: expected hf:OWNER/NAME or hf:OWNER/NAME/FILE")
    repository = f"{owner}/{name}"
    held = huggingface_hub.list_repo_files(repository)
    found = [file] if file else sorted((f for f in held if f.endswith((".npz", ".zip"))), key=lambda f: not f.endswith(".npz"))
    if not found or found[0] not in held:
        raise ValueError(f"hf:{where}: {repository} holds {'no ' + file if file else 'no .npz and no .zip'}; "
                         f"it holds {', '.join(held) or 'nothing'}")
    path = huggingface_hub.hf_hub_download(repository, found[0])
    for other in held:
        if other.endswith(".pkl") and STATISTICS.search(Path(other).name) and found[0].endswith(".zip"):
            huggingface_hub.hf_hub_download(repository, other)   # lands beside the model, or in the folder below it
    return (npz_player if path.endswith(".npz") else sb3_player)(task, path)


def as_network(model: Any, normaliser: Any = None) -> Network | None:
    """A model's policy as a NumPy network; None where it is not fully connected, or chooses more than one discrete action.

    Args:
        model: of stable-baselines3 or sb3-contrib, already loaded.
        normaliser: its VecNormalize, if it was trained with one.
    """
    from torch import nn

    policy = model.policy
    if hasattr(policy, "mlp_extractor") and not hasattr(policy, "lstm_actor"):   # A2C, PPO, TRPO
        modules, head = [*policy.mlp_extractor.policy_net, policy.action_net], "clip"
    elif hasattr(getattr(policy, "actor", None), "latent_pi"):   # SAC, TQC
        modules, head = [*policy.actor.latent_pi, policy.actor.mu], "tanh_rescale"
    elif hasattr(getattr(policy, "q_net", None), "q_net"):   # DQN
        modules, head = [*policy.q_net.q_net], "argmax"
    else:
        return None
    if isinstance(model.action_space, gym.spaces.Discrete):
        head = "argmax"
    plain = isinstance(model.observation_space, gym.spaces.Box) and len(model.observation_space.shape) == 1
    squashed = getattr(policy, "squash_output", False) == (head == "tanh_rescale")
    if not plain or not squashed or not isinstance(model.action_space, (gym.spaces.Discrete, gym.spaces.Box)):
        return None
    weights, biases, activations, bound = [], [], list[str | None](), None
    for module in (part for outer in modules for part in (outer if isinstance(outer, nn.Sequential) else [outer])):
        match module:
            case nn.Linear():
                weights.append(module.weight.detach().cpu().numpy().copy())
                biases.append(module.bias.detach().cpu().numpy().copy())
                activations.append(None)
            case nn.Tanh() | nn.ReLU():
                activations[-1] = type(module).__name__.lower()
            case nn.Hardtanh():   # SAC and TQC with state-dependent exploration
                bound = float(module.max_val)
            case _:
                return None
    normalised = {} if normaliser is None else {
        "obs_mean": normaliser.obs_rms.mean, "obs_var": normaliser.obs_rms.var, "obs_clip": float(normaliser.clip_obs),
        "obs_eps": float(normaliser.epsilon)}
    return Network(weights=tuple(weights), biases=tuple(biases), activations=tuple(activations), head=head,
                   pre_tanh_clip=bound, **normalised)


def _settings(path: Path) -> dict[str, Any]:
    """The readable part of a model's settings."""
    try:
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read("data"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no model of Stable-Baselines3: {error}") from error


def _algorithm(data: dict[str, Any], where: str) -> Any:
    module = str(data.get("policy_class", {}).get("__module__", ""))
    name = next((name for start, name in ALGORITHMS.items() if module.startswith(start)), None)
    if name is None and module == "stable_baselines3.common.policies":
        name = ("sb3_contrib.TRPO" if "cg_max_steps" in data else "stable_baselines3.PPO" if "n_epochs" in data
                else "stable_baselines3.A2C")
    if name is None:
        raise ValueError(f"sb3:{where}: policies of {module or 'an unknown module'} are not known here")
    package, _, algorithm = name.partition(".")
    try:
        return getattr(importlib.import_module(package), algorithm)
    except ImportError as error:
        raise MissingPackage(f'sb3:{where} needs the package {package!r}; run: pip install "calico-agent[experts]"') from error


def _load(algorithm: Any, path: Path, data: dict[str, Any], env: gym.Env) -> Any:
    """Load a model without what only training needs; models from the days of `gym` get the environment's spaces."""
    known: dict[str, Any] = dict.fromkeys(("_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer",
                                           "ep_success_buffer", "action_noise", "replay_buffer_class"))
    known |= {"learning_rate": 0.0} | dict.fromkeys(("lr_schedule", "clip_range", "exploration_schedule"), lambda progress: 0.0)
    if "gymnasium" not in str(data.get("observation_space", {}).get(":type:")):
        known |= {"observation_space": env.observation_space, "action_space": env.action_space}
    try:
        with warnings.catch_warnings(action="ignore"):   # on optimizers, and on what `known` replaces
            return algorithm.load(path, device="cpu", custom_objects=known)
    except Exception as error:   # what can go wrong in unpickling has no end
        raise ValueError(f"{path} cannot be loaded as {algorithm.__name__}: {' '.join(str(error).split())[:300]}") from error


def _check(model: Any, env: gym.Env, complaint: str) -> None:
    """Pictures may be turned (channels first in the model), all else must be equal in shape."""
    pairs = ((model.observation_space, env.observation_space), (model.action_space, env.action_space))
    for theirs, ours in pairs:
        shapes = [sorted(space.shape) if space.shape else space.shape for space in (theirs, ours)]
        if type(theirs) is not type(ours) or shapes[0] != shapes[1] or getattr(theirs, "n", 0) != getattr(ours, "n", 0):
            raise ValueError(f"{complaint}: it was made for {theirs}, this is {ours}")


class _Inert:
    """Stands for every class in a pickle but NumPy's: keeps its state and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: Any, value: Any) -> None: ...      # what an OrderedDict is filled by: a Dict space's is not read


@dataclass(frozen=True)
class Statistics:
    """A VecNormalize's view of an observation.

    Attributes:
        path: the file that they come from.
        moments: mean and variance of the observation, under ""; of a Dict space those of each key that is normalised.
    """

    path: Path
    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    epsilon: float
    clip: float

    def normalise(self, observation: Any) -> Any:
        """float32, as the model takes it; other keys of a dict stay as they are."""
        if not isinstance(observation, dict):
            return self._scaled(observation, *self.moments[""])
        return {key: self._scaled(value, *self.moments[key]) if key in self.moments else value
                for key, value in observation.items()}

    def _scaled(self, values: Any, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
        return np.clip((values - mean) / np.sqrt(var + self.epsilon), -self.clip, self.clip).astype(np.float32)

    def check(self, space: gym.Space) -> None:
        """Raise ValueError where they are another environment's: NumPy would stretch what does not fit, or fail in play."""
        parts = space.spaces if isinstance(space, gym.spaces.Dict) else {"": space}
        shapes = {key: part.shape for key, part in parts.items()}
        for key, (mean, _) in self.moments.items():
            if mean.shape != shapes.get(key):
                raise ValueError(f"{self.path} holds statistics of {key or 'observations'} of shape {mean.shape}, here it is "
                                 f"{shapes.get(key, 'not there')}: they are another environment's; remove or replace them")


class _Statistics(pickle.Unpickler):
    """Reads NumPy arrays; other objects become inert, so that loading runs nothing."""

    HARMLESS = {"_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer"}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self.HARMLESS:
            return super().find_class(module, name)
        return _Inert


def statistics_of(path: Path) -> Path | None:
    """The file with the statistics of a model's VecNormalize; None where there is none.

        vecnormalize.pkl, vec_normalize.pkl beside the model
        MODEL/vecnormalize.pkl                as rl-zoo3 writes it
        MODEL_vecnormalize.pkl, and rl_model_vecnormalize_100_steps.pkl for rl_model_100_steps.zip, as CheckpointCallback writes
        it
        any other name, where the file says that it holds them; else in the folder above, where callbacks save models in
        folders of their own

    Raises:
        ValueError: only others that might belong to it, and several of them.
    """
    folder = path.parent
    found = sorted(file for file in (*folder.glob("*.*"), *folder.glob("*/*.*")) if is_statistics(file))
    found = found or sorted(file for file in folder.resolve().parent.glob("*.*") if is_statistics(file))
    ranks = [lambda file: file.parent == folder and STATISTICS.sub("_", file.stem).strip("_") == path.stem,
             lambda file: file.parent == folder / path.stem,
             lambda file: file.parent == folder and STATISTICS.fullmatch(file.stem),
             lambda file: True]
    for fits in ranks:
        if fitting := [file for file in found if fits(file)]:
            if len(fitting) > 1:
                raise ValueError(f"{path}: which statistics are its own is not clear: {', '.join(map(str, fitting[:4]))}; "
                                 f"keep one, as {path.with_name(f'{path.stem}_vecnormalize.pkl')}")
            return fitting[0]
    return None


def is_statistics(file: Path) -> bool:
    """Whether a pickle is named as a VecNormalize's, or begins as one."""
    if file.suffix.lower() not in PICKLES or not file.is_file():
        return False
    with file.open("rb") as opened:
        return STATISTICS.search(file.name) is not None or NAMED_INSIDE in opened.read(HEAD)


def _statistics(path: Path) -> Statistics | None:
    """The observation statistics of a model; None where it was trained without.

    Raises:
        ValueError: they cannot be read.
    """
    beside = statistics_of(path)
    if beside is None:
        return None
    script = "import sys; from calico.envs.sb3 import print_statistics; print_statistics(sys.argv[1])"
    known = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run([sys.executable, "-c", script, str(beside)], capture_output=True, timeout=SECONDS,
                              env={**os.environ, "PYTHONPATH": known}, preexec_fn=_limit)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{beside} cannot be read: it took more than {SECONDS} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said and done.returncode > 0 else f"its reader died of signal {-done.returncode}"
        raise ValueError(f"{beside} {why}" if why.startswith("holds") else f"{beside} cannot be read: {why}")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        keys = [name.removeprefix("mean") for name in arrays.files if name.startswith("mean")]
        moments = {key.removeprefix("/"): (arrays[f"mean{key}"], arrays[f"var{key}"]) for key in keys}
        found = Statistics(beside, moments, float(arrays["epsilon"]), float(arrays["clip"]))
        is_used = bool(arrays["normalised"])
    if is_used and beside.parent not in (path.parent, *path.parent.glob("*/")):
        warnings.warn(f"{path}: its observations are normalised by {beside}", stacklevel=2)
    return found if is_used else None


def _limit() -> None:
    """Of the process that reads a pickle: no file may grow, and memory and time are bounded."""
    for what, most in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS),
                       (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))


def print_statistics(path: str) -> None:
    """Read a vecnormalize.pkl and write its numbers to stdout as npz; the work of the process that `_statistics` starts."""
    try:
        with open(path, "rb") as file:
            found = _Statistics(file).load()
        kept: Any = getattr(found, "obs_rms", None)
        parts = {f"/{key}": moments for key, moments in kept.items()} if isinstance(kept, dict) else {"": kept}
        if not parts or not all(isinstance(moments, _Inert) for moments in parts.values()):
            raise ValueError("holds no statistics of observations")
        arrays = {"epsilon": found.epsilon, "clip": found.clip_obs, "normalised": bool(found.norm_obs)}
        for key, moments in parts.items():
            arrays |= {f"mean{key}": moments.mean, f"var{key}": moments.var}
        out = io.BytesIO()
        numbers: dict[str, Any] = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
        np.savez(out, **numbers)
    except Exception as error:   # what can go wrong in unpickling has no end
        raise SystemExit(" ".join(str(error).split()) or type(error).__name__) from None
    sys.stdout.buffer.write(out.getvalue())
