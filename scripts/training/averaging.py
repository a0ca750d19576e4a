"""The mean of several networks' weights, which often plays better than each of them.

Runs that start from one network (`init`) and go on with other data, seeds or weights of tasks end in one valley of the loss,
and gain and lose different tasks; the mean of their weights keeps most of what each has gained, at the price of one network
(model soups, Wortsman et al. 2022, arXiv:2203.05482; along one run, Izmailov et al. 2018, arXiv:1803.05407). Networks with
other first weights have nothing in common place by place, and their mean plays nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from calico.agent.agent import TOKENIZER_FILE
from calico.agent.checkpoint import BEFORE, Checkpoint, CheckpointError, spent
from calico.datasets.mixture import first_difference

SAME = ("model", "vocabulary", "encoders")      # documents that say what a weight means


def mean_weights(networks: Sequence[Checkpoint], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of the weights, in float32.

    Args:
        networks: with their "model" tensors.
        shares: one for each, at least 0; they are divided by their sum.
    Raises:
        CheckpointError: networks of different form, vocabulary or text pieces, or that show a task differently.
    """
    first = networks[0]
    for other in networks[1:]:
        check_alike(first, other)
    total = sum(shares)
    return {name: torch.stack([network.tensors["model"][name].float() * (share / total)
                               for network, share in zip(networks, shares, strict=True)]).sum(dim=0)
            for name in first.tensors["model"]}


def check_alike(first: Checkpoint, other: Checkpoint) -> None:
    """Raise CheckpointError unless a weight of the one means what it means in the other."""
    for stem in SAME:
        if difference := first_difference(other.documents.get(stem), first.documents.get(stem)):
            raise CheckpointError(f"{other.path} and {first.path} differ in {stem}: {difference}; the mean of weights needs "
                                  "networks of one form, trained on from one network")
    if other.files.get(TOKENIZER_FILE) != first.files.get(TOKENIZER_FILE):
        raise CheckpointError(f"{other.path} and {first.path} have other text pieces; train them from one network (init=RUN)")
    tasks, others = first.documents["tasks"], other.documents["tasks"]
    for task in sorted(tasks.keys() & others.keys()):
        if difference := first_difference(others[task], tasks[task]):
            raise CheckpointError(f"{other.path} sees {task} otherwise than {first.path}: {difference}")


def documents_of(networks: Sequence[Checkpoint]) -> dict[str, Any]:
    """The first network's documents, with the tasks of all, and the training that went into them.

    That is what the one with the longest training has spent, and what each other one has spent itself; one that has spent no
    more than the longest had behind it when it started is taken for a part of that, a run that it started from.
    """
    first, longest = networks[0], max(networks, key=lambda network: spent(network)["tokens"])
    behind = longest.documents.get(BEFORE, {}).get("tokens", 0)
    others = {network.path: network.documents.get("state", {}) for network in networks
              if network.path != longest.path and spent(network)["tokens"] > behind}
    total = {key: value + sum(own.get(key, 0) for own in others.values()) for key, value in spent(longest).items()}
    tasks: dict[str, Mapping[str, Any]] = {}
    for network in networks:
        tasks = network.documents["tasks"] | tasks
    kept = {stem: document for stem, document in first.documents.items() if stem != "card"}      # a card is of other weights
    return {**kept, "tasks": tasks, BEFORE: total, "state": {"step": 0, "tokens": 0, "seconds": 0.0}}
