"""`calico bench data`: a mixture of many episode files, more than memory holds: opening it, and batches of it.

    calico bench data --json                                  # 1,000 files, 1 GB; a minute
    calico bench data --gigabytes 20 --folder /tmp/big        # ten minutes on one core; so much room on the disk

Makes episodes of random pictures (64 x 64, RGB, which do not compress) in ten data sets, measures, and deletes them.

- first_opening_*, opening_*: as on a computer that has never seen the files, which hashes all of them, and after that; up to
  the mixture that is ready to draw. Seconds, CPU seconds, and megabytes by which the process has grown.
- batch_*: 8 rows of 1,024 tokens, nothing kept in memory from one to the next: the files' pages are dropped from the
  system's memory before each batch.
- batch_cpu_over_a_twentieth: CPU time of such a batch, over that from a twentieth of the files. 1: size does not matter.

The openings run in processes of their own, so that memory is what they need.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.formats import parquet_part
from calico.datasets.mixture import Mixture
from calico.datasets.reader import SourceOptions
from calico.scripts.common import console
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import space_to_json
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.vocabulary import Vocabulary

DATA_SETS = 10
EPISODES = 4             # in each file
SIDE = 64                # pixels
ROWS, CONTEXT = 8, 1024
BATCHES = 40
TWENTIETH = 20


def main(argv: Sequence[str]) -> int:
    parser = console.make_parser("bench data", __doc__)
    parser.add_argument("--files", type=int, default=1000, help=f"in all, in {DATA_SETS} data sets (default 1000)")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="in all (default 1)")
    parser.add_argument("--batches", type=int, default=BATCHES, help=f"that are drawn (default {BATCHES})")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made (default: the system's for these)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)      # what a process of its own is asked for
    console.add_common(parser, "--json")
    arguments = parser.parse_args(argv)
    if arguments.measure:
        console.say(json.dumps(opened(arguments.measure, arguments.batches)))
        return 0
    console.check_positive(arguments, "files", "batches")
    if arguments.gigabytes <= 0:
        raise ValueError(f"--gigabytes {arguments.gigabytes:g} must be above 0")
    found = bench_data(arguments.files, arguments.gigabytes, arguments.batches, arguments.folder)
    console.print_result(found, arguments.json, ("figure", "value"), found.items())
    return 0


def bench_data(files: int, gigabytes: float, batches: int, folder: Path | None = None) -> dict[str, Any]:
    """See the top of the file."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        data, few, kept = (Path(inside) / name for name in ("data", "few", "cache"))
        size = make(data, max(1, files // DATA_SETS), gigabytes)
        time.sleep(2.5)                                    # digests of files that have just changed are not kept
        first, again = measured(data, kept, 0), measured(data, kept, batches)
        link_a_twentieth(data, few)
        small = measured(few, kept, batches)
    found = {"files": len(again.pop("parts")), "gigabytes": size / 1e9}
    found |= {f"first_{name}": value for name, value in first.items() if name.startswith("opening")}
    return found | again | {"batch_cpu_over_a_twentieth": again["batch_cpu_milliseconds"] / small["batch_cpu_milliseconds"]}


def make(folder: Path, parts: int, gigabytes: float) -> int:
    """DATA_SETS data sets of so many files each, all together about so large; returns bytes."""
    frame = SIDE * SIDE * 3
    steps = max(1, round(1e9 * gigabytes / (DATA_SETS * parts * EPISODES * frame)) - 1)
    rng, size = np.random.default_rng(0), 0
    spaces = {"observation_space": space_to_json(gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)),
              "action_space": space_to_json(gym.spaces.Discrete(4))}
    for number in range(DATA_SETS):
        task: dict[str, Any] = {"name": f"noise-{number}", **spaces}
        with EpisodeWriter(folder / task["name"], task, part_bytes=EPISODES * (steps + 1) * frame) as writer:
            for seed in range(parts * EPISODES):
                frames = np.frombuffer(rng.bytes((steps + 1) * frame), np.uint8).reshape(-1, SIDE, SIDE, 3)
                writer.append(Episode(task=task["name"], seed=seed, observations={"": frames},
                                      actions={"": rng.integers(0, 4, steps)}, demonstrated=np.ones(steps, bool),
                                      rewards=np.zeros(steps), terminated=True, truncated=False))
        size += sum(part.stat().st_size for part in writer.parts)
    return size


def link_a_twentieth(data: Path, few: Path) -> None:
    """Links to the first files of each data set."""
    for folder in sorted(data.iterdir()):
        (few / folder.name).mkdir(parents=True)
        parts = sorted(folder.glob("*.parquet"))
        for part in parts[: max(1, len(parts) // TWENTIETH)]:
            for path in (part, parquet_part.sidecar_path(part)):
                (few / folder.name / path.name).symlink_to(path)


def measured(folder: Path, kept: Path, batches: int) -> dict[str, Any]:
    """`opened` in a process of its own; kept: where digests are kept."""
    command = [sys.executable, "-m", "calico.scripts.bench", "data", "--measure", str(folder), "--batches", str(batches)]
    done = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(kept)}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"the process that measures ended with exit code {done.returncode}; its own words are above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def opened(folder: Path, batches: int) -> dict[str, Any]:
    """What opening all data sets of a folder takes, and batches from them."""
    vocabulary, text = Vocabulary(), TextTokenizer.train(["noise"], 300)
    options = SourceOptions(vocabulary=vocabulary, text=text)
    before, began, cpu_began = resident(), time.perf_counter(), time.process_time()
    readers = [EpisodeReader(path, cache_bytes=1) for path in sorted(folder.iterdir())]
    mixture = Mixture([reader.source(reader.task["name"], np.arange(len(reader)), options) for reader in readers],
                      vocabulary=vocabulary, context=CONTEXT, batch_size=ROWS)
    found: dict[str, Any] = {"parts": sorted(str(part) for path in folder.iterdir() for part in path.glob("*.parquet")),
                             "opening_seconds": time.perf_counter() - began,
                             "opening_cpu_seconds": time.process_time() - cpu_began,
                             "opening_megabytes": (resident() - before) / 1e6}
    taken = [batch_of(mixture, number, found["parts"]) for number in range(batches)]
    if taken:
        seconds, cpu_seconds, read = (statistics.median(column) for column in zip(*taken, strict=True))
        found |= {"batch_milliseconds": 1000 * seconds, "batch_cpu_milliseconds": 1000 * cpu_seconds,
                  "batch_read_megabytes": read / 1e6}
    return found


def batch_of(mixture: Mixture, number: int, parts: Sequence[str]) -> tuple[float, float, int]:
    """Seconds, CPU seconds and bytes read from the disk for a batch whose files the system has forgotten."""
    for path in parts:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    read, began, cpu_began = read_bytes(), time.perf_counter(), time.process_time()
    mixture.batch(number)
    return time.perf_counter() - began, time.process_time() - cpu_began, read_bytes() - read


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_bytes() -> int:
    """Bytes that this process has read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
