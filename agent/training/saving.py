"""Writing a run's checkpoints: by one process or by many, and while training goes on where that is asked for.

    saver.begin(run, step, tensors, documents, files)      # of a sharded model each rank its part
    ...                                                    # with `background` it is written while steps go on
    saver.finish()                                         # now the checkpoint is the run's latest

Until it is finished the one before is the latest, and a checkpoint is finished only when every rank has written its part. The
threads send nothing to other ranks: that would mix with what training sends.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from .. import checkpoint
from .ranks import Ranks, local

Groups = Mapping[str, Mapping[str, Tensor]]      # stem ("model", "optimizer") -> named tensors
Entries = dict[str, Any]                         # file name -> size and hash, see checkpoint.entry


class SharedCheckpointError(checkpoint.CheckpointError):
    """A checkpoint of several ranks cannot be written; every one of them finds the same.

    Attributes:
        of_all_ranks: one of them is enough to say it.
    """

    of_all_ranks = True


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written.

    Attributes:
        in_parts: by every rank, each its part.
        written: entries of the files that this rank writes in parts, once they are there.
    """

    run: Path
    step: int
    documents: Mapping[str, Any]
    files: Mapping[str, bytes]
    in_parts: bool
    written: "Future[Entries]"


class Saver:
    """Writes one checkpoint at a time."""

    def __init__(self, ranks: Ranks, background: bool) -> None:
        """background: `begin` copies the tensors and returns; else it returns when they are written."""
        self.ranks, self.background = ranks, background
        self.threads = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Pending | None = None

    def begin(self, run: Path, step: int, groups: Groups, documents: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Begin a checkpoint, once the one before is finished. Every rank must call this.

        Args:
            groups: sharded tensors (DTensor) are written by all ranks, each its part; without any the first rank writes.
        Raises:
            checkpoint.CheckpointError: see checkpoint.save; also what kept the one before from being written.
        """
        self.finish()
        in_parts = any(isinstance(tensor, DTensor) for group in groups.values() for tensor in group.values())
        if in_parts:
            work = self.own_part(run, step, groups)
        elif self.ranks.is_first:
            kept = {stem: self.kept(group) for stem, group in groups.items()}

            def work() -> Entries:
                checkpoint.save(run, step, tensors=kept, documents=documents, files=files)
                return {}
        else:
            return
        self.pending = Pending(run, step, documents, files, in_parts, self.run(work))

    def own_part(self, run: Path, step: int, groups: Groups) -> Callable[[], Entries]:
        """What writes this rank's part of a sharded model, into a folder that the first rank has made."""
        from . import shards  # late: it loads much of torch.distributed, which one process does without

        named = {f"{stem}/{name}": tensor for stem, group in groups.items() for name, tensor in group.items()}
        mine, final = shards.own_part(named, self.ranks.rank), checkpoint.folder_of(run, step)
        needed = int(sum(size for (size,) in self.ranks.gather([shards.nbytes(mine)])))
        made: dict[str, str] = {}
        if self.ranks.is_first:
            try:
                made = {"folder": str(checkpoint.begin(run, step, needed))}
            except checkpoint.CheckpointError as error:
                made = {"error": str(error)}
        made = self.ranks.gather_json(made)[0]
        if "error" in made:
            raise SharedCheckpointError(made["error"])
        kept = self.kept(mine)

        def work() -> Entries:
            for name, tensor in kept.items():
                if name.partition("/")[0] in checkpoint.WEIGHTS:
                    checkpoint.check_finite(f"{final} is not written", {name: local(tensor)}, checkpoint.NOT_FINITE)
            return {path.name: checkpoint.entry(path) for path in shards.write(Path(made["folder"]), self.ranks.rank, kept)}

        return work

    def kept(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors; as they are now, in the computer's memory, where training changes them while they are written."""
        return {name: tensor.detach().to("cpu", copy=True) if self.background else tensor for name, tensor in tensors.items()}

    def run(self, work: Callable[[], Entries]) -> "Future[Entries]":
        """Its result, once it is there; with `background` this does not wait for it."""
        if self.background:
            return self.threads.submit(work)
        future: Future[Entries] = Future()
        try:
            future.set_result(work())
        except Exception as error:       # `finish` raises it, on all ranks
            future.set_exception(error)
        return future

    @property
    def is_written(self) -> bool:
        """Whether what this rank writes is on the disk, and waits for `finish`; also where it failed."""
        return self.pending is not None and self.pending.written.done()

    @property
    def in_parts(self) -> bool:
        """Whether a checkpoint is under way that every rank must finish at the same moment."""
        return self.pending is not None and self.pending.in_parts

    def finish(self) -> None:
        """Wait until what was begun is the run's latest checkpoint. Every rank must call this where it is written in parts.

        Raises:
            checkpoint.CheckpointError: it could not be written; older ones are untouched.
        """
        pending, self.pending = self.pending, None
        if pending is None:
            return
        if not pending.in_parts:
            pending.written.result()
            return
        # Each rank tells how it went before any of them stops: one that has stopped would be waited for.
        everyone, final = self.ranks.gather_json(outcome(pending.written)), checkpoint.folder_of(pending.run, pending.step)
        failed = [f"rank {rank} cannot write its part of {final}: {told['error']}; older checkpoints are untouched"
                  for rank, told in enumerate(everyone) if "error" in told]
        if self.ranks.is_first and failed:
            checkpoint.discard(pending.run, pending.step)
        elif self.ranks.is_first:
            entries = {name: entry for told in everyone for name, entry in told["files"].items()}
            try:
                checkpoint.finish(pending.run, pending.step, shards=entries, documents=pending.documents, files=pending.files)
            except checkpoint.CheckpointError as error:
                failed = [str(error)]
        if failed := self.ranks.gather_json(failed)[0]:
            raise SharedCheckpointError(failed[0])

    @contextmanager
    def no_thread_left(self) -> Iterator[None]:
        """However the block ends, no thread writes after it; and what one process writes alone is finished.

        What ranks write in parts is finished by the block itself: an error may have come to one rank only.
        """
        try:
            yield
        finally:
            if self.pending is not None:
                self.pending.written.exception()


def outcome(written: "Future[Entries]") -> dict[str, Any]:
    """What a rank tells the others when it has written: the entries of its files, or what went wrong."""
    error = written.exception()
    if error is None:
        return {"files": written.result()}
    if not isinstance(error, (OSError, checkpoint.CheckpointError)):
        raise error
    return {"error": str(error)}
