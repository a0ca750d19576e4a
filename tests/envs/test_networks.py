"""Policies as npz files: what they compute, both layouts, and what is wrong with a file that is none."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.envs.experts import make_player
from calico.envs.networks import Network, load_network, save_network
from calico.envs.registry import MissingPackage, get_task, make
from calico.envs.runner import rollout

BALANCE = np.array([[0.0, 0, 0, 0], [0.3, 0.8, 8, 2.0]], np.float32)   # push right when the pole leans or falls to the right


def cartpole(**changes: Any) -> Network:
    return Network(weights=(BALANCE,), biases=(np.zeros(2, np.float32),), activations=(None,), head="argmax", **changes)


def test_a_network_is_computed_by_the_book() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32))
    biases = (rng.normal(size=5).astype(np.float32), rng.normal(size=2).astype(np.float32))
    network = Network(weights=weights, biases=biases, activations=("tanh", "relu"), head="clip", obs_pad=1, obs_take=3,
                      obs_mean=np.array([1.0, 0, 0, 0]), obs_var=np.array([4.0, 1, 1, 1]), obs_clip=2.0, obs_eps=0.0)
    x = np.array([3.0, 0.5, -9.0, 7.0])                  # the fourth number is not looked at
    seen = np.array([1.0, 0.5, -2.0, 0.0])               # (3 - 1) / 2; clipped; padded
    expected = np.maximum(weights[1] @ np.tanh(weights[0] @ seen + biases[0]) + biases[1], 0)
    np.testing.assert_allclose(network.outputs(x), expected, rtol=1e-5)


@pytest.mark.parametrize(("head", "bound", "output", "action"), [
    ("clip", None, 5.0, 2.0), ("clip", None, -0.5, -0.5), ("tanh_rescale", None, 0.5, 2 * np.tanh(0.5)),
    ("tanh_rescale", 0.25, 0.5, 2 * np.tanh(0.25)),
])
def test_outputs_become_actions_within_the_space(head: str, bound: float | None, output: float, action: float) -> None:
    network = Network(weights=(np.zeros((1, 3), np.float32),), biases=(np.array([output], np.float32),), activations=(None,),
                      head=head, pre_tanh_clip=bound)
    env = make("Pendulum-v1")                            # torque in [-2, 2]
    chosen = network.controller(env)(np.zeros(3, np.float32))
    assert env.action_space.contains(chosen)
    np.testing.assert_allclose(chosen, [action], rtol=1e-6)


def test_what_is_saved_plays_the_same(tmp_path: Path) -> None:
    network = cartpole(obs_mean=np.full(4, 0.01), obs_var=np.ones(4))
    path = save_network(network, tmp_path / "made" / "cartpole.npz")
    with np.load(path, allow_pickle=False) as file:      # no pickle: it can be read without
        assert json.loads(str(file["calico"]))["head"] == "argmax"
    loaded, x = load_network(path), np.array([0.1, -0.2, 0.03, 0.4])
    assert loaded.obs_clip == 10 and (loaded.outputs(x) == network.outputs(x)).all()
    task = get_task("CartPole-v1")
    scores = [episode.score for episode in rollout(task, make_player(task, f"npz:{path}"), range(5), record=False)]
    assert min(scores) > 150                             # random play has 22 in the mean


def test_settings_may_stand_in_an_experts_json_above(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    np.savez(tmp_path / "policies" / "cart.npz", w0=BALANCE, b0=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="cart.npz holds no settings"):
        load_network(tmp_path / "policies" / "cart.npz")
    entry = {"file": "policies/cart.npz", "head": "argmax", "activations": [None], "obs_pad": 0, "env_kwargs": {}, "score": 1.0}
    (tmp_path / "experts.json").write_text(json.dumps([{**entry, "file": "policies/other.npz", "head": "clip"}, entry]))
    assert load_network(tmp_path / "policies" / "cart.npz").head == "argmax"


@pytest.mark.parametrize(("arrays", "says"), [
    ({"calico": "{}", "w0": BALANCE, "b0": np.zeros(2)}, "holds no policy network: .*'head'"),
    ({"calico": '{"head": "argmax", "activations": [null]}', "w0": BALANCE, "b0": np.zeros(3)}, r"layers of \[\(2, 4\)\]"),
    ({"calico": '{"head": "best", "activations": [null]}', "w0": BALANCE, "b0": np.zeros(2)}, "head 'best'"),
    ({"calico": '{"head": "argmax", "activations": ["elu"]}', "w0": BALANCE, "b0": np.zeros(2)}, "activations .'elu',. "),
    ({"calico": "{", "w0": BALANCE}, "settings that are no JSON"),
])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz.*{says}"):
        load_network(tmp_path / "bad.npz")


class RunsWhenLoaded:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_nothing_in_an_npz_is_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", calico=np.array([RunsWhenLoaded(str(tmp_path / "was-run"))], dtype=object))
    with pytest.raises(ValueError, match="evil.npz cannot be read as npz"):
        load_network(tmp_path / "evil.npz")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(("task", "says"), [
    ("Pendulum-v1", r"takes 4 numbers, the observations are Box"), ("ALE/Pong-v5", "takes 4 numbers"),
    ("Acrobot-v1", "takes 4 numbers"),
])
def test_a_policy_for_another_task_is_refused(tmp_path: Path, task: str, says: str) -> None:
    path = save_network(cartpole(), tmp_path / "cartpole.npz")
    with pytest.raises(ValueError, match=f"cartpole.npz does not play {task}: .*{says}"):
        next(iter(rollout(task, make_player(get_task(task), f"npz:{path}"), [0])))


@pytest.mark.parametrize("spec", ["npz:", "npz", "pickle:x", "Expert"])
def test_an_unknown_player_names_those_that_exist(spec: str) -> None:
    with pytest.raises(ValueError, match=f"unknown policy '{spec}'.*; there are: expert, random, npz:FILE, sb3:FILE.zip"):
        make_player(get_task("CartPole-v1"), spec)


SHARED = Path(os.environ.get("CALICO_SHARED_DATA", "shared/data")) / "experts"


@pytest.mark.shared
def test_published_networks_play_as_well_as_their_source_says() -> None:
    if not (SHARED / "experts.json").is_file():
        pytest.skip(f"no {SHARED}/experts.json; set CALICO_SHARED_DATA")
    for entry in json.loads((SHARED / "experts.json").read_text()):
        name = "LunarLanderContinuous-v3" if entry["env_kwargs"].get("continuous") else entry["env_id"]
        player = make_player(get_task(name), f"npz:{SHARED / entry['file']}")
        try:
            score = np.mean([episode.score for episode in rollout(name, player, range(4), record=False)])
        except MissingPackage:
            continue
        # four episodes against ten: within three deviations of their mean, and well above random play in any case
        assert abs(score - entry["score_mean"]) < 3 * entry["score_std"] / 2 + 0.02 * abs(entry["score_mean"]), (name, score)
        assert score > (entry["random_mean"] + entry["score_mean"]) / 2
