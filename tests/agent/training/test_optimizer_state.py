"""Optimizer state by parameter name: a resumed run equals one that never stopped, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calico.agent.checkpoint import load, save
from calico.agent.training.optimizer_state import named_state, restore_optimizer


class Small(nn.Module):
    """A few shapes of parameter: matrix, vector, scalar, and one that never gets a gradient."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Parameter(torch.zeros(3))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.layer(x)) * self.scale


def build(width: int = 8, **options: Any) -> tuple[Small, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Small(width)
    groups = [{"params": [model.layer.weight], "weight_decay": 0.1},
              {"params": [model.layer.bias, model.scale, model.unused], "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1e-2, **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = (model(torch.randn(5, 4)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}])
def test_stop_and_resume_equals_no_stop(tmp_path: Path, options: dict[str, bool]) -> None:
    model, optimizer = build(**options)
    expected = train(model, optimizer, 8)

    stopped, first = build(**options)
    losses = train(stopped, first, 5)
    save(tmp_path, 5, documents={}, tensors={"model": stopped.state_dict(),
                                             "optimizer": named_state(first, stopped),
                                             "random": {"cpu": torch.get_rng_state()}})
    torch.manual_seed(99)
    resumed, second = build(**options)
    saved = load(tmp_path)
    resumed.load_state_dict(saved.tensors["model"])
    restore_optimizer(second, resumed, saved.tensors["optimizer"])
    torch.set_rng_state(saved.tensors["random"]["cpu"])

    assert losses + train(resumed, second, 3) == expected
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_names_are_the_parameters_names() -> None:
    model, optimizer = build()
    train(model, optimizer, 1)
    flat = named_state(optimizer, model)
    assert set(flat) == {f"{name}/{entry}" for name in ("layer.weight", "layer.bias", "scale")
                         for entry in ("step", "exp_avg", "exp_avg_sq")}   # `unused` never had a gradient
    assert flat["scale/exp_avg"].shape == () and flat["layer.weight/exp_avg"].shape == (8, 4)


def test_restored_state_is_a_copy_of_the_same_dtype() -> None:
    model, optimizer = build()
    train(model, optimizer, 1)
    flat = {name: tensor.double() for name, tensor in named_state(optimizer, model).items()}
    restore_optimizer(optimizer, model, flat)
    restored = optimizer.state[model.layer.weight]["exp_avg"]
    assert restored.dtype == torch.float64 and torch.equal(restored, flat["layer.weight/exp_avg"])
    restored.zero_()
    assert flat["layer.weight/exp_avg"].any()


def test_a_model_that_does_not_fit_is_an_error_and_changes_nothing() -> None:
    model, optimizer = build()
    train(model, optimizer, 1)
    flat = named_state(optimizer, model)
    wider, other = build(width=16)
    train(wider, other, 1)
    before = named_state(other, wider)
    with pytest.raises(ValueError, match=r"layer.weight/\w+ has shape \(8, 4\), the parameter has \(16, 4\).*config"):
        restore_optimizer(other, wider, flat)
    with pytest.raises(ValueError, match=r"head.weight/exp_avg is for a parameter that this model lacks"):
        restore_optimizer(other, wider, {"head.weight/exp_avg": torch.zeros(1)})
    after = named_state(other, wider)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_what_can_not_be_saved_is_named() -> None:
    model, optimizer = build()
    with pytest.raises(ValueError, match=r"shape \(8, 4\) is not in the model"):
        named_state(optimizer, nn.Linear(1, 1))
    optimizer.state[model.scale]["step"] = 3
    with pytest.raises(ValueError, match="scale/step is int, not a tensor"):
        named_state(optimizer, model)


def test_random_states_of_early_checkpoints_are_passed_over() -> None:
    model, optimizer = build()
    train(model, optimizer, 1)
    flat = named_state(optimizer, model)
    restore_optimizer(optimizer, model, flat | {"rng/cpu": torch.get_rng_state()})
    assert named_state(optimizer, model).keys() == flat.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_state_follows_the_parameters_to_the_gpu() -> None:
    model, optimizer = build()
    train(model, optimizer, 1)
    flat = named_state(optimizer, model)
    on_gpu = Small().cuda()
    second = torch.optim.AdamW(on_gpu.parameters())
    restore_optimizer(second, on_gpu, flat)
    assert second.state[on_gpu.layer.weight]["exp_avg"].is_cuda
    assert second.state[on_gpu.layer.weight]["step"].device.type == "cpu"


SHARDED = '''
import os, sys
import torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch import nn
from torch.distributed.tensor import DTensor
from calico.agent.training.optimizer_state import named_state, restore_optimizer

torch.set_num_threads(1)
world = 2
rank = 0 if os.fork() else 1
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[1], world), rank=rank, world_size=world)
mesh = dist.init_device_mesh("cpu", (world,))

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

def train(model, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4) * (rank + step)).square().mean().backward()
        optimizer.step()

model, optimizer = build()
train(model, optimizer, 3)
def whole():
    return {name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in named_state(optimizer, model).items()}

flat = whole()
assert flat["0.weight/exp_avg"].shape == (6, 4) and type(flat["0.weight/exp_avg"]) is torch.Tensor
restore_optimizer(optimizer, model, flat)
again = whole()
assert flat.keys() == again.keys() and all(torch.equal(flat[name], again[name]) for name in flat)
train(model, optimizer, 1)   # the restored shards fit their parameters
dist.destroy_process_group()
if not rank:
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    print("both ranks agree")
'''


def test_sharded_state_is_gathered_whole_and_dealt_out_again(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SHARDED, str(tmp_path / "store")], capture_output=True, text=True,
                          timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout == "both ranks agree\n", done.stderr
