"""`calico bench acting|training|context|learning|tokenizers|runner|perceiver|data2vec|text|data|scale|memory|serving`: ratios.

    calico bench acting --json           # cached against uncached, many rows against one; about a minute
    calico bench training                # against Hugging Face's GPT-2 of the same shape, and against the matmul peak
    calico bench training --compile      # the same with torch.compile; two minutes more
    calico bench context --json          # a training step's cost per token, contexts of 512 to 8,192; four minutes
    calico bench learning --b data.numbers=binned --minutes 5    # which of two settings plays better after equal minutes?
    calico bench tokenizers              # tokens per second, vectorised, one core
    calico bench runner                  # environments: the runner beside bare loops, Gymnasium's vector and rendering
    calico bench perceiver --json        # beside transformers and other Perceivers; a quarter of an hour
    calico bench perceiver-scores classify-image cifar10.zip training.minutes=4     # accuracy after equal training, beside them
    calico bench perceiver-shortcuts runs/reviews reviews.jsonl       # early exit and fewer latents: accuracy, time
    calico bench data2vec --json         # version 2.0's masked predictions per second beside version 1's; five minutes
    calico bench serving --minutes 10    # 32 clients of `calico serve` beside one: errors, latency, batches, memory
    calico bench data --gigabytes 20     # opening 1,000 files, and batches from a disk, beside a twentieth of them; minutes
    calico bench text --turns 2 --json   # writing, cached against the whole prefix again for each token; minutes
    calico bench scale --quick --json    # several ranks against one process, memory planned and measured, acting at 1.18B
    calico bench memory                  # gigabytes per card of the paper's sizes, planned; minutes

Both sides of a ratio run in turns, and the median turn counts, so that a drifting machine moves both. Run it on a quiet
machine: another busy process on the same cores slows two-threaded work several times over.
"""

import os
import sys
from importlib import import_module

from calico.scripts.common import console

# scripts/benchmarks/NAME.py has `bench_NAME(turns) -> figures`
BENCHES = ("acting", "training", "context", "tokenizers", "runner", "perceiver", "data2vec", "text", "scale", "memory")
OWN_PARSERS = {"perceiver-scores": "perceiver_scores", "perceiver-shortcuts": "perceiver_shortcuts", "learning": "learning",
               "data": "data", "serving": "serving"}


@console.run_command
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in OWN_PARSERS:
        return int(import_module(f"calico.scripts.benchmarks.{OWN_PARSERS[words[0]]}").main(words[1:]))
    parser = console.make_parser("bench", __doc__)
    parser.add_argument("what", choices=(*BENCHES, *OWN_PARSERS))
    parser.add_argument("--compile", action="store_true", help="training: with torch.compile")
    parser.add_argument("--quick", action="store_true", help="scale: fewer steps and sizes, 4 of the 24 blocks of gato-1.18b")
    parser.add_argument("--turns", type=int, default=5, help="how often each side runs (default 5)")
    console.add_common(parser, "--json")
    arguments = parser.parse_args(words)
    console.check_positive(arguments, "turns")

    import torch  # late: it takes seconds

    from calico.agent.hardware import keep_freed_memory

    keep_freed_memory()
    bench = getattr(import_module(f"calico.scripts.benchmarks.{arguments.what}"), f"bench_{arguments.what}")
    options = {"training": {"compiled": arguments.compile}, "scale": {"quick": arguments.quick}}.get(arguments.what, {})
    found = {**bench(arguments.turns, **options), "threads": torch.get_num_threads(), "cores": os.cpu_count(),
             "load_average": round(os.getloadavg()[0], 2)}
    console.print_result(found, arguments.json, ("figure", "value"), found.items())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
