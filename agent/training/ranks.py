"""The processes that train one model together, as torchrun starts them: torch.distributed, DDP and FSDP2.

    torchrun --nproc-per-node 4 -m calico.scripts.train CONFIG

Each rank makes its rows of every batch and computes their gradient; the gradients are added up over all ranks and divided by
the number of targets in the whole batch. So the losses are those of one process with the same batch, but for rounding.

Without torchrun there is ALONE, with which nothing is wrapped and nothing is sent.
"""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from ..backbones.decoder import Decoder

Shard = Literal["auto", "ddp", "fsdp"]

LONGEST_SILENCE = timedelta(minutes=30)     # of the other ranks: a checkpoint is written, tasks are played, by one of them
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
BYTES_PER_WEIGHT = 16                       # weight, gradient and AdamW's two averages, fp32
MOST_OF_A_CARD = 0.5                        # of its memory, that these may take under DDP


class RanksError(ValueError):
    """What ranks are asked to do cannot be done; every one of them finds the same.

    Attributes:
        of_all_ranks: one of them is enough to say it.
    """

    of_all_ranks = True


class LostRank(ConnectionError):
    """Another rank died or does not answer: this one cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank, size: its number, and how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def together(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and reports."""
        return self.rank == 0

    def rows(self, batch_size: int, setting: str = "data.batch_size") -> slice:
        """This rank's rows of a batch, one after another; as many as the other ranks', or one more.

        Raises:
            ValueError: there are more ranks than rows.
        """
        if self.size > batch_size:
            raise RanksError(f"{setting}={batch_size} rows cannot be shared by {self.size} ranks; raise it to at least "
                             f"{self.size}, or start fewer ranks")
        return slice(self.rank * batch_size // self.size, (self.rank + 1) * batch_size // self.size)

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, each of which gives equally many. Raises LostRank."""
        mine = torch.tensor(numbers, dtype=torch.float64)
        if not self.together:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        with answered():
            dist.all_gather(everyone, mine)
        return [theirs.tolist() for theirs in everyone]

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The numbers added up over the ranks. Raises LostRank."""
        summed = torch.tensor(numbers, dtype=torch.float64)
        if self.together:
            with answered():
                dist.all_reduce(summed)
        return summed.tolist()

    def gather_json(self, value: Any) -> list[Any]:
        """The JSON values of every rank; torch's own `all_gather_object` would send pickles. Raises LostRank."""
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [int(length) for (length,) in self.gather([len(text)])]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[:len(text)] = text
        everyone = [torch.empty_like(padded) for _ in lengths]
        with answered():
            dist.all_gather(everyone, padded)
        return [json.loads(bytes(theirs[:length].tolist())) for theirs, length in zip(everyone, lengths, strict=True)]

    def wait(self) -> None:
        """Until every rank is here. Raises LostRank."""
        self.gather([])


ALONE = Ranks()


@contextmanager
def answered() -> Iterator[None]:
    """Raises LostRank where what the block sends to other ranks is not answered."""
    try:
        yield
    except RuntimeError as error:        # gloo's errors have no type of their own
        text = str(error)
        if isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "Gloo", "Connection", "NCCL")):
            reason = (text.strip() or type(error).__name__).splitlines()[0]
            raise LostRank(f"another rank has gone or does not answer ({reason}); the run continues from its last checkpoint "
                           "when it is started again, which torchrun --max-restarts does by itself") from error
        raise


def from_environment() -> Ranks:
    """What torchrun says in the environment; ALONE without it.

    Raises:
        ValueError: only some of its variables are there, or they are no numbers.
    """
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return ALONE
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        there = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name))
        raise ValueError(f"{there} is set, and {', '.join(missing)} not: start ranks with torchrun --nproc-per-node N -m "
                         "calico.scripts.train ..., or unset it to train in one process")
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size) and os.environ["LOCAL_RANK"].isdecimal()):
        raise ValueError(f"RANK={rank} and WORLD_SIZE={size} are not a rank and a number of ranks; unset them, or use torchrun")
    return Ranks(int(rank), int(size))


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Within this block the ranks can send to each other: on the CPU by gloo, between CUDA devices by NCCL.

    Raises:
        ValueError: see `from_environment`; LostRank: the others did not come.
    """
    ranks = from_environment()
    if not ranks.together:
        yield ranks
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(torch.device(device))
    with answered():
        store, rank, size = next(dist.rendezvous("env://", timeout=LONGEST_SILENCE))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # The agent's store outlives a restart, and in it are the addresses of the processes that died.
            store = dist.PrefixStore(f"attempt{os.environ.get(ATTEMPT, '0')}", store)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=size,
                                timeout=LONGEST_SILENCE)
    try:
        # Until all are connected: one that leaves at once, with a reason, would be a lost rank to those that still connect.
        ranks.wait()
        yield ranks
    except Exception as error:
        # Its traceback holds DDP's reducer. Python puts that away with its lock held, and gloo's thread, which is waited for
        # then, may want that lock: seen to wait for ever. So a process that has said its line ends there.
        error.leaves_at_once = True      # type: ignore[attr-defined]
        raise
    finally:
        dist.destroy_process_group()


def check_same(ranks: Ranks, difference_of: Callable[[Any, Any], str | None], **parts: Any) -> None:
    """Raise ValueError, the same on each rank, where the ranks' JSON values of a part differ; it names the ranks and the first
    difference.

    Args:
        difference_of: (this one, the other) -> the first difference in words, or None.
        parts: what is compared -> the value here.
    """
    if not ranks.together:
        return
    for name, value in parts.items():
        first, *others = ranks.gather_json(value)
        for number, other in enumerate(others, start=1):
            if difference := difference_of(other, first):
                raise RanksError(f"rank {number} has other {name} than rank 0: {difference} on rank 0; start every rank with "
                                 "the same config, data and version of Calico")


def chosen_shard(model: nn.Module, shard: Shard, ranks: Ranks) -> Shard:
    """How the ranks share a model: "ddp", where each has all of it, or "fsdp", where each has a part of every block.

    Raises:
        ValueError: FSDP of a model that has no decoder.
    """
    weights = list(model.parameters())
    if shard == "auto":
        needed = BYTES_PER_WEIGHT * sum(weight.numel() for weight in weights)
        on_cuda = weights[0].device.type == "cuda"
        room = torch.cuda.get_device_properties(weights[0].device).total_memory if on_cuda else math.inf
        shard = "fsdp" if needed > MOST_OF_A_CARD * room and isinstance(getattr(model, "backbone", None), Decoder) else "ddp"
    if shard == "fsdp" and not isinstance(getattr(model, "backbone", None), Decoder):
        kind = getattr(getattr(getattr(model, "backbone", None), "config", None), "kind", type(model).__name__)
        raise RanksError(f"training.shard=fsdp works with the backbone decoder, not {kind}; use training.shard=ddp")
    return shard


def shard_model(model: nn.Module, ranks: Ranks) -> None:
    """Divide a model with a decoder among the ranks, in place: each has a part of every tensor, and a block is put together
    only while it is needed (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size,))
    backbone = model.backbone
    assert isinstance(backbone, Decoder), type(backbone)
    for block in backbone.blocks:
        fully_shard(block, mesh=mesh)
    # The table stays whole from the embedding to the output head, which is outside `forward`: FSDP's default for the root.
    fully_shard(model, mesh=mesh)


def put_away(model: nn.Module) -> None:
    """After a pass without gradient: give back what FSDP put together, which would be taken for the weights from then on."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class LossOf(nn.Module):
    """Model and loss as one module, for DDP."""

    def __init__(self, model: nn.Module, loss: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Any:
        """What the loss gives."""
        return self.loss(self.model, batch)


def replicated(model: nn.Module, loss: Callable[[Any, Any], Any]) -> nn.parallel.DistributedDataParallel:
    """The loss of a model that every rank has, whose backward pass averages the gradients over the ranks.

    What no rank used keeps no gradient, as in one process: picture blocks where no batch has pictures, for instance.
    """
    with warnings.catch_warnings():
        # From torch 2.13 on it has another name, which older ones do not know.
        warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
        return nn.parallel.DistributedDataParallel(LossOf(model, loss), find_unused_parameters=True, broadcast_buffers=False)


def sending(model: nn.Module, sends: bool) -> AbstractContextManager[None]:
    """Whether the backward pass in this block sends gradients; those that are not sent are kept and added up."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return nullcontext() if sends else model.no_sync()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(sends)
    return nullcontext()


def local(tensor: Tensor) -> Tensor:
    """A rank's own part of a sharded tensor, whose memory it shares; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, which every rank must ask for; any other tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole, divided as the parameter is."""
    if not isinstance(parameter, DTensor):
        return tensor
    everywhere = DTensor.from_local(tensor, parameter.device_mesh, [Replicate()] * parameter.device_mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=parameter.placements).to_local()


def load_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of tensors, whole or sharded as the model's are, into a model that may be sharded."""
    divided = {name: like for name, like in model.state_dict().items()
               if isinstance(like, DTensor) and not isinstance(tensors.get(name), DTensor)}
    model.load_state_dict({
        name: distribute_tensor(tensor.to(divided[name].device), divided[name].device_mesh, divided[name].placements,
                                src_data_rank=None) if name in divided else tensor
        for name, tensor in tensors.items()})
