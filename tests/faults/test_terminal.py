"""No name or text of a foreign file reaches the terminal with what steers it: in no command, and by no code that prints."""

import ast
import contextlib
import io
import json
import re
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calico.datasets.episodes import EpisodeWriter
from calico.scripts.common import console
from calico.scripts.main import main
from calico.tokenizers.episode import Episode

from ..conftest import SmallRun

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r"      # sets the title, clears the screen, colours, turns the line, goes back
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
ROOT = Path(__file__).parents[2]


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def hostile(folder: Path) -> dict[str, Path]:
    """Files whose names, keys and texts steer a terminal, all of them refused or odd in some way."""
    folder.mkdir(exist_ok=True)
    found = {
        "keys": lines(folder / "keys.jsonl", {EVIL: 1}), "first": folder / "first.jsonl",
        "image": lines(folder / "image.jsonl", {"image": EVIL, "caption": "a"}),
        "role": lines(folder / "role.jsonl", {"messages": [{"role": EVIL, "content": EVIL}]}),
        "texts": lines(folder / "texts.jsonl", *[{"text": f"{EVIL} says {n}"} for n in range(30)]),
        "talk": lines(folder / "talk.jsonl", *[
            {"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": f"{n} {EVIL}"}]}
            for n in range(9)]),
        "csv": folder / "table.csv", "tar": folder / "shard.tar", "parquet": folder / "table.parquet",
        "yaml": folder / "config.yaml", "name": folder / f"{EVIL.replace('/', '')}.jsonl", "labels": folder / "labels.jsonl",
        "npz": folder / "policy.npz", "episodes": folder / "episodes", "wav": folder / "a.wav"}
    found["first"].write_text(EVIL)
    found["wav"].write_text(EVIL)
    found["csv"].write_text(f'"{EVIL[:-1]}",b\n1,2,3\n')
    with tarfile.open(found["tar"], "w") as archive:
        for _ in range(2):
            member = tarfile.TarInfo(f"{EVIL}.txt")
            archive.addfile(member, io.BytesIO())
    pq.write_table(pa.table({EVIL: [1], "text": [EVIL]}), found["parquet"])
    found["yaml"].write_text(f"{json.dumps(EVIL)}: 1\n")
    lines(found["name"], {"text": 1})
    lines(found["labels"], *[{"file": EVIL, "label": EVIL}] * 3)
    arrays: dict[str, Any] = {EVIL: np.zeros(2), "calico": np.array(EVIL)}
    np.savez(found["npz"], **arrays)
    with EpisodeWriter(found["episodes"], {"name": EVIL, "observation_space": {"type": EVIL}}) as writer:
        writer.append(Episode(task=EVIL, seed=0, observations={EVIL: np.zeros((3, 2), np.float32)},
                              actions={"": np.zeros(2, np.int64)}, demonstrated=np.ones(2, bool), rewards=np.ones(2),
                              terminated=True, truncated=False, info={EVIL: EVIL}))
    return found


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(SystemExit):
            main([str(word) for word in words])
    return "".join(capsys.readouterr())


@pytest.mark.filterwarnings("ignore")
def test_no_command_passes_on_what_steers_a_terminal(small_run: SmallRun, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    files, out = hostile(tmp_path / "evil"), tmp_path / "out"
    run, config = small_run.run, small_run.config
    commands: list[tuple[object, ...]] = []
    for path in files.values():
        commands += [("inspect", path), ("inspect", path, "--json"), ("check", path),
                     ("train", config, f"data.sources=[{{path: {json.dumps(str(path))}}}]", f"out={out}", "training.steps=1"),
                     ("tokenizer", path, "--out", out / "t.model"), ("import", "d4rl", path, "--out", out),
                     ("import", "jat", path, "--out", out), ("import", "minari", path, "--out", out),
                     ("export", "lerobot", path, "--out", out), ("caption", run, path), ("vqa", run, path, EVIL),
                     ("collect", "Acrobot-v1", "--policy", f"npz:{path}", "--episodes", 1, "--workers", 0, "--out", out),
                     ("pretrain", path, path), ("perceive", "fill-mask", "train", path, "--out", out),
                     ("finetune", run, path, "--out", out), ("evaluate", path),
                     ("rollout", path, "CartPole-v1"), ("chat", path)]
    for verb in ("train", "collect", "rollout", "evaluate", "inspect", "check", "tasks", "score", "caption", "chat", "vqa",
                 "tokenizer", "import", "export", "pretrain", "finetune", "probe", "perceive", "bench", "demo", "card",
                 "improve"):
        commands += [(verb, EVIL), (verb, f"--{EVIL}"), (verb, f"{EVIL}=1", EVIL), (verb, "--out", EVIL, EVIL)]
    found = {}
    monkey = pytest.MonkeyPatch()
    monkey.chdir(tmp_path)                # for what is written under the name itself
    try:
        for words in commands:
            if steering := STEERS.findall(text := said(capsys, *words)):
                found[words[0], str(words[1])[-20:]] = (set(steering), text[:300])
    finally:
        monkey.undo()
    assert not found


def test_json_stays_json_and_holds_the_same_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({EVIL: [EVIL, "\U000e0001 é"]})
    out = capsys.readouterr().out
    assert not STEERS.search(out) and json.loads(out) == {EVIL: [EVIL, "\U000e0001 é"]} and "é" in out


@pytest.mark.filterwarnings("default")
def test_every_way_to_print_is_safe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_DEBUG", "1")

    @console.run_command
    def main_(argv: list[str] | None = None) -> int:
        console.note(EVIL)
        console.say(EVIL)
        with console.progress(EVIL, total=2, unit=EVIL) as bar:
            bar.advance(note=EVIL)
        console.print_table((EVIL,), [(EVIL,), (None,)], title=EVIL)
        warnings.warn(EVIL, stacklevel=1)
        raise ValueError(EVIL)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main_([]) == 2
    out, err = capsys.readouterr()
    assert "owned" in out and "owned" in err and not STEERS.search(out) and not STEERS.search(err)


def test_commands_print_through_the_console_alone() -> None:
    """Counted in the source: a bare print or write of a stream would go round `printable`."""
    found = []
    for folder in ("agent", "datasets", "envs", "scripts", "tokenizers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in ("scripts/common/console.py", "scripts/main.py"):
                found += [f"{name}:{node.lineno}" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                          if isinstance(node, ast.Call)
                          and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")]
    assert not found
