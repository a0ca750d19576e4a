"""Optimizer state as named tensors, so that a resumed run continues bit for bit without a pickle.

torch's own `optimizer.state_dict()` numbers the parameters and mixes tensors with Python values; here each tensor has the name
of its parameter, and the error for a model that does not fit names the tensor.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

FITTING = "resume with the config that the checkpoint was trained with"


def named_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Optimizer state as tensors named `<parameter>/<entry>`: for AdamW head.weight/exp_avg, /exp_avg_sq and /step; those of
    sharded parameters are sharded (DTensor).

    Learning rate and other settings are left out: they come from the config and the step. A parameter that never had a
    gradient has no state and no entry.

    Raises:
        ValueError: a parameter of the optimizer is not in the model, or some state is not a tensor.
    """
    found = {}
    for name, parameter, _ in _named_parameters(optimizer, model):
        for entry, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise ValueError(f"optimizer state {name}/{entry} is {type(value).__name__}, not a tensor to save")
            found[f"{name}/{entry}"] = value.detach()
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of named_state, also with whole tensors for sharded parameters: same values, same dtypes, on each parameter's
    device. Raises ValueError, and changes nothing, where a name or a shape does not fit this model."""
    from torch.distributed.tensor import DTensor, distribute_tensor  # late: it loads SymPy, and every command would wait for it

    parameters = {name: (parameter, group) for name, parameter, group in _named_parameters(optimizer, model)}
    state: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name == "rng":                       # random states, in checkpoints of early versions
            continue
        if name not in parameters:
            raise ValueError(f"optimizer state {key} is for a parameter that this model lacks; {FITTING}")
        parameter, group = parameters[name]
        if entry != "step" and value.shape != parameter.shape:
            raise ValueError(f"optimizer state {key} has shape {tuple(value.shape)}, the parameter has "
                             f"{tuple(parameter.shape)}; {FITTING}")
        # torch counts steps on the CPU unless told otherwise
        on_device = entry != "step" or group.get("capturable") or group.get("fused")
        value = value.to(parameter.device if on_device else "cpu", copy=True)
        if isinstance(parameter, DTensor) and entry != "step" and not isinstance(value, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        state.setdefault(parameter, {})[entry] = value
    optimizer.state.clear()
    optimizer.state.update(state)


def _named_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[tuple[str, nn.Parameter, dict[str, Any]]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in names:
                raise ValueError(f"the optimizer's parameter of shape {tuple(parameter.shape)} is not in the model")
            yield names[parameter], parameter, group
