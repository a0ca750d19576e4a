"""The parts of scripts/gpu_check.sh that measure, each a command that prints JSON lines; and what joins them into one file.

    python -m calico.scripts.benchmarks.gpu training gato-364m --rows 32 --seconds 40
    python -m calico.scripts.benchmarks.gpu contexts small --seconds 40
    python -m calico.scripts.benchmarks.gpu acting --seconds 40
    python -m calico.scripts.benchmarks.gpu record OUT NAME STATUS SECONDS      # a part that has ended, into OUT/gpu_check.json

The figures of a part stand in its output as soon as they are there, one JSON object a line: a part that runs out of time, or of
memory, keeps those before. Without a GPU a part says so and exits with SKIPPED, unless --device cpu is given.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calico.datasets.publish import replace_file
from calico.scripts.common import console

SKIPPED = 77                 # exit code, as Automake's tests have it
CONTEXT = 1024
CONTEXTS, WINDOW = (512, 2048, 8192), 256    # of `contexts`: the cost of a token should not grow with the context
WARM_UP = 3                  # steps that are not counted: kernels are loaded, memory is taken
FILE = "gpu_check.json"
TAIL = 15                    # lines of a part's output that are kept where it did not end well
ENDS = {0: "ok", SKIPPED: "skipped", 5: "no tests", 124: "out of time", 137: "out of time"}


def chosen(device: str) -> Any:
    """The torch device; exits with SKIPPED where the default is asked for and there is no GPU."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else f": torch {torch.__version__} is a build without CUDA"
        console.say(f"skipped: torch finds no CUDA device here{built}")
        raise SystemExit(SKIPPED)
    return torch.device(device)


def tell(**figures: Any) -> None:
    """One line of figures."""
    console.say(json.dumps(figures))
    sys.stdout.flush()       # a part that is ended keeps them


def rate(step: Callable[[], Any], device: Any, budget: float) -> float:
    """Steps per second of a step, over `budget` seconds after the warm-up; at least one is counted."""
    import torch

    def finished() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    for _ in range(WARM_UP):
        step()
    began, count = finished(), 0
    while count == 0 or time.perf_counter() - began < budget:
        step()
        count += 1
    return count / (finished() - began)


def training(size: str, rows: int, device: Any, budget: float,
             forms: Sequence[bool] = (False, True)) -> Iterator[dict[str, Any]]:
    """Whole training steps (forward, backward, clip, AdamW) of a size on rows of CONTEXT tokens, a tenth of them targets.

    Half as many rows are tried where memory does not suffice.

    Args:
        forms: whether compiled by torch.compile.
    """
    import torch

    for compiled in forms:
        tried = rows
        while True:
            try:
                yield trained(size, tried, device, budget / len(forms), compiled)
                break
            except torch.cuda.OutOfMemoryError:
                if tried == 1:
                    raise
            tried //= 2                         # here the failed step's tensors are gone, which the exception still had


def contexts(size: str, tokens: int, device: Any, budget: float) -> Iterator[dict[str, Any]]:
    """Whole training steps of as many tokens in rows of each of CONTEXTS, with an attention window of WINDOW tokens."""
    for context in CONTEXTS:
        yield trained(size, max(1, tokens // context), device, budget / len(CONTEXTS), False, context, WINDOW)


def trained(size: str, rows: int, device: Any, budget: float, compiled: bool, context: int | None = None,
            window: int | None = None) -> dict[str, Any]:
    """The figures of one form and number of rows; context: CONTEXT if not given; window: that of the size if not given."""
    import torch

    from calico.agent.hardware import peak_flops
    from calico.agent.model import Model, matmul_flops_per_token, named_size
    from calico.agent.training.agent_loss import agent_loss
    from calico.agent.training.optimizer import OptimizerConfig
    from calico.agent.training.trainer import Trainer, TrainingConfig
    from calico.scripts.benchmarks.training import state_batch
    from calico.tokenizers.vocabulary import Vocabulary

    on_cuda, peak = device.type == "cuda", peak_flops(device)
    context = context or CONTEXT
    if on_cuda:
        gc.collect()                            # what is measured before may be held by cycles of references
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(0)
    config = named_size(size, context)
    if window is not None:
        config = replace(config, backbone=replace(config.backbone, window=window))
    model = Model(config, Vocabulary()).to(device)
    trainer = Trainer(model, agent_loss(["bench"]), OptimizerConfig(), TrainingConfig(compile=compiled))
    batch = state_batch(context, rows)
    tokens = rows * context * rate(lambda: trainer.train_step([batch]), device, budget)
    flops = 3 * matmul_flops_per_token(model.config, Vocabulary().size, 0.1) * tokens
    return {"size": size, "parameters": model.parameter_count(), "rows": rows, "context": context, "compiled": compiled,
            "tokens_per_second": tokens, "tflops": flops / 1e12, "mfu": flops / peak if peak else None,
            "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if on_cuda else None}


def acting(device: Any, budget: float, rows: tuple[int, ...] = (1, 16, 64), quick: bool = False) -> Iterator[dict[str, Any]]:
    """gato-1.18b with random weights in bf16: one token more of each row behind a full window, and the action on the CPU."""
    import torch

    from calico.scripts.benchmarks.acting_1b import one_token, random_network, weight_bytes

    network = random_network(quick).to(device)
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * len(source) * rate(lambda: target.copy_(source), device, budget / 10)
    for count in rows:
        act = one_token(network, count)
        found = rate(lambda: act().tolist(), device, budget / len(rows))  # noqa: B023
        yield {"size": "gato-1.18b", "parameters": network.parameter_count(), "rows": count, "tokens_per_second": count * found,
               "milliseconds": 1000 / found, "share_of_bandwidth": weight_bytes(network) * found / bandwidth,
               "copy_gb_per_second": bandwidth / 1e9}


def record(out: Path, name: str, code: int, seconds: float) -> None:
    """Add a part that has ended to OUT/gpu_check.json: how it ended, its figures, and the end of its output (OUT/NAME.log)."""
    path = out / FILE
    report = json.loads(path.read_text()) if path.exists() else {"machine": machine(), "parts": {}}
    lines = (out / f"{name}.log").read_text(errors="replace").splitlines()
    figures = []
    for line in lines:
        try:
            figures += [json.loads(line)] if line.startswith("{") else []
        except ValueError:
            continue
    status = ENDS.get(code, f"failed with exit code {code}")
    part: dict[str, Any] = {"status": status, "seconds": seconds, "figures": figures}
    if status != "ok" or not figures:
        part["output"] = lines[-TAIL:]
    report["parts"][name] = part
    replace_file(path, json.dumps(report, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What was measured on."""
    import torch

    cuda = torch.cuda.is_available()
    return {"torch": torch.__version__, "python": platform.python_version(), "cuda": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else [],
            "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("training", "contexts", "acting"):
        added = verbs.add_parser(verb)
        added.add_argument("--seconds", type=float, default=40.0, help="of measuring")
        added.add_argument("--device", default="cuda")
        if verb != "acting":
            added.add_argument("size")
        if verb == "training":
            added.add_argument("--rows", type=int, default=32)
        if verb == "contexts":
            added.add_argument("--tokens", type=int, default=65536, help="of a step")
    added = verbs.add_parser("record")
    added.add_argument("out", type=Path)
    added.add_argument("name")
    added.add_argument("code", type=int)
    added.add_argument("seconds", type=float)
    arguments = parser.parse_args(argv)
    match arguments.verb:
        case "record":
            record(arguments.out, arguments.name, arguments.code, arguments.seconds)
        case "training":
            for figures in training(arguments.size, arguments.rows, chosen(arguments.device), arguments.seconds):
                tell(**figures)
        case "contexts":
            for figures in contexts(arguments.size, arguments.tokens, chosen(arguments.device), arguments.seconds):
                tell(**figures)
        case "acting":
            for figures in acting(chosen(arguments.device), arguments.seconds):
                tell(**figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
