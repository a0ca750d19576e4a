"""Every command of the README, of docs/ and of the verbs' help is one that the parsers take; the quick ones are run.

Commands are found in code blocks, tables and prose. Each must be known to the real parser of its verb, with its `key=value`
settings, and to TREATMENTS below: it is run here, or by a named test, or is too long for one, with the reason.
"""

import ast
import importlib
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calico.scripts.common import config, console
from calico.scripts.main import VERBS, main

from .conftest import SmallRun

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


# ---- what is written


def commands_of(text: str) -> Iterator[str]:
    """The shell commands of a Markdown page, with variables filled in; loops are run once."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        variables, waiting = {"seed": "0"}, ""
        for line in block.splitlines():
            waiting += line.removesuffix("\\") + " "
            try:
                words = shlex.split(waiting, comments=True)
            except ValueError:   # a quotation that goes on in the next line
                continue
            if line.endswith("\\"):
                continue
            command, waiting = waiting.strip(), ""
            if len(words) == 1 and re.match(r"[A-Z]+=", words[0]):
                name, _, variables[name] = words[0].partition("=")
                continue
            yield re.sub(r"\$(\w+)", lambda found, known=variables: known.get(found[1], found[0]), command)   # type: ignore[misc]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))


def calico_commands(text: str) -> Iterator[tuple[str, ...]]:
    """The words after `calico`; `a|b` is two commands, and dots that stand for more are left out."""
    for command in commands_of(text):
        words = shlex.split(command, comments=True)
        words = words[1:] if words[:1] == ["srun"] else words
        if words[:1] == ["torchrun"] and "-m" in words:
            words = ["calico", words[words.index("-m") + 1].removeprefix("calico.scripts."), *words[words.index("-m") + 2 :]]
        if words[:1] == ["calico"] and len(words) > 1:
            words = [word.removesuffix("...") for word in words[1:] if word not in ("...", "[key=value", "...]")]
            yield from itertools.product(*(word.split("|") if re.fullmatch(r"[\w|-]+", word) else [word] for word in words))


DOCUMENTED = sorted({command for page in PAGES for command in calico_commands(page.read_text(encoding="utf-8"))})


def test_the_reader_of_pages() -> None:
    page = ("`calico tasks` and\n`calico import minari|jat PATH\n--out DIR`\n```bash\nA='x.y=[{path: p}]'   # why\n"
            "make demo\nfor seed in 0 1; do\n  calico train tiny \"$A\" \\\n      out=r$seed   # how\ndone\n"
            "calico train 'd=[a,\n  b]'\n```\n`torchrun --nproc-per-node 8 -m calico.scripts.collect ...`")
    assert list(calico_commands(page)) == [
        ("train", "tiny", "x.y=[{path: p}]", "out=r0"), ("train", "d=[a,   b]"), ("tasks",),
        ("import", "minari", "PATH", "--out", "DIR"), ("import", "jat", "PATH", "--out", "DIR"), ("collect",)]


# ---- what the parsers say


class Understood(BaseException):
    """A verb has understood its words, and need not go on."""


@pytest.fixture(scope="module")
def everything_imported() -> None:
    """So that no module is imported while the functions below are replaced, and keeps them."""
    for path in sorted((ROOT / "scripts").rglob("*.py")):
        importlib.import_module(".".join(("calico", *path.relative_to(ROOT).with_suffix("").parts)))


@pytest.fixture
def dry(everything_imported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs stop once they have parsed their words, and read their config where there are settings among them."""
    parse, load = console.Parser.parse_args, config.load_config

    def parse_args(self: console.Parser, args: Any = None, namespace: Any = None) -> Any:
        parsed = parse(self, args, namespace)
        words = sys.argv[1:]
        if (not words or words[-1] in args or not args) and not any(SETTING.match(word) for word in words):
            raise Understood
        return parsed

    def load_config(*arguments: Any, **named: Any) -> Any:
        load(*arguments, **named)
        raise Understood

    monkeypatch.setattr(console.Parser, "parse_args", parse_args)
    for module in list(sys.modules.values()):
        if getattr(module, "load_config", None) is load:
            monkeypatch.setattr(module, "load_config", load_config)


PLACEHOLDERS = {"N": "1", "M": "1", "K": "1", "CONFIG": "tiny", "FORMAT": "minari", "DATA": "data"}


def filled(command: tuple[str, ...]) -> list[str]:
    """Words that stand for others replaced by one of them."""
    meant = {**PLACEHOLDERS, **({"TASK": "classify-image"} if command[0] in ("perceive", "bench") else {}),
             **({"CONFIG": "pretrain_images"} if command[0] == "pretrain" else {}),
             **({"VERB": "train"} if command[0] == "perceive" else {})}
    return [meant.get(word, word).replace("[...]", "[]") for word in command]


def complaint(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the verb says against a command; "" if it understands it."""
    monkeypatch.setattr(sys, "argv", ["calico", *filled(command)[1:]])
    try:
        main(filled(command))
    except Understood:
        return ""
    except SystemExit as left:
        if not left.code:   # --help
            return ""
    return capsys.readouterr().err.strip() or "it has run"


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if c[0] != "VERB"], ids=" ".join)
def test_every_documented_command_is_understood(command: tuple[str, ...], dry: None, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    if command[0].startswith("-"):
        assert main(list(command)) == 0
        return
    assert command[0] in VERBS
    said = complaint(command, monkeypatch, capsys)
    # Prose names verbs, and single options of them, without the rest.
    is_mention = len(command) == 1 or "the following arguments are required" in said
    assert not said or is_mention, said


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_of_a_verb_s_help_is_understood(verb: str, dry: None, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    doc = ast.get_docstring(ast.parse((ROOT / "scripts" / f"{verb}.py").read_text(encoding="utf-8"))) or ""
    lines = re.findall(r"^ *((?:calico|torchrun) .*)$", doc, re.MULTILINE)
    commands = list(calico_commands("```bash\n" + "\n".join(lines) + "\n```\n"))
    assert commands
    for command in commands:
        assert not (said := complaint(command, monkeypatch, capsys)), said


@pytest.mark.parametrize("words, says", [
    ("rollout runs/demo --epsiodes 3", "unrecognized arguments: --epsiodes"),
    ("train tiny backbone.dpeth=4", "dpeth"),
    ("perceive classify-image predikt RUN", "invalid choice: 'predikt'"),
])
def test_a_wrong_command_would_be_found(words: str, says: str, dry: None, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert says in complaint(tuple(words.split()), monkeypatch, capsys)


def test_targets_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {found[1] for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
             for found in re.finditer(r"(?:^|`)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert named and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named), named


# ---- what is run


@dataclass(frozen=True)
class Elsewhere:
    """Run by a named test: the same verb on other, smaller data."""

    test: str


@dataclass(frozen=True)
class Long:
    """Not run as it stands: why."""

    reason: str


PERCEIVE = "tests/scripts/perceiver_tasks"
HERE = "run by test_quick_commands_run"
TRAINS = Long("trains for minutes to hours; tests/conftest.py trains by the same verb, and the figures are in the page")
# The first pattern that a whole command matches says how it is tested. Verbs alone are mentions.
TREATMENTS: list[tuple[str, str | Elsewhere | Long]] = [
    (r"--?\w+|tasks.*|inspect (CartPole-v1|Pendulum-v1 .*)|tokenizer .*|caption .*|vqa RUN (?!seven).*", HERE),
    (r"collect CartPole-v1 --episodes 20 --out data|chat RUN --message .*|rollout runs/(latents|cartpole) .*", HERE),
    (r"inspect TASK --run RUN", Elsewhere("tests/scripts/test_inspect.py::test_a_run_shows_what_it_sees")),
    (r"inspect (FILE|DATA)", Elsewhere("tests/scripts/test_inspect.py::test_a_text_file")),
    (r"[\w-]+", "a mention of the verb"),
    (r"chat RUN", Elsewhere("tests/scripts/test_talking.py::test_a_conversation_remembers_shows_and_forgets")),
    (r"vqa RUN seven.*", Elsewhere("tests/test_sounds.py::test_a_sound_is_asked_about_as_a_picture_is")),
    (r"rollout .*", Elsewhere("tests/scripts/test_rollout.py::test_films_show_the_first_episodes_side_by_side")),
    (r"evaluate .*", Elsewhere("tests/scripts/test_evaluate.py::test_every_ability_in_one_document")),
    (r"inspect (FILE|DATA)", Elsewhere("tests/scripts/test_inspect.py::test_a_text_file")),
    (r"check .*", Elsewhere("tests/scripts/test_check.py::test_broken_doubled_and_remarked_pictures_are_told")),
    (r"score .*", Elsewhere("tests/scripts/test_score.py::test_the_table_gets_what_was_measured")),
    (r"(import|export) .*", Elsewhere("tests/scripts/test_import.py::test_collected_episodes_come_back_from_minari")),
    (r"collect .*--train-expert.*", Long("trains an expert for minutes")),
    (r"collect .*", Elsewhere("tests/scripts/test_collect.py::test_episodes_are_the_experts_and_say_where_they_come_from")),
    (r"(demo|train) .*", TRAINS),
    (r"average .*", Elsewhere("tests/scripts/training/test_average.py::test_the_mean_is_a_run_that_plays_and_trains_on")),
    (r"fewshot .*", Elsewhere("tests/scripts/training/test_fewshot.py::test_all_ways_are_measured_and_nothing_is_done_twice")),
    (r"inspect ada/.*", Elsewhere(
        "tests/scripts/test_push.py::test_episodes_are_pushed_as_they_are_and_are_data_of_every_verb")),
    (r"serve .*", Elsewhere("tests/scripts/serving/test_documented.py::test_the_command_serves_and_ends")),
    (r"push .*", Elsewhere("tests/scripts/test_push.py::test_a_network_is_pushed_with_its_card_and_plays_by_its_name")),
    (r"improve .*", Elsewhere("tests/scripts/training/test_improve.py::test_each_round_adds_corrections_and_trains_on")),
    (r"app .*", Elsewhere("tests/scripts/test_app.py::test_programs_play_look_and_stop")),
    (r"card .*", Elsewhere("tests/scripts/test_card.py::test_the_card_says_what_was_measured")),
    (r"pretrain .*", Elsewhere("tests/scripts/training/test_pretrain.py::test_a_run_holds_encoder_teacher_and_curves")),
    (r"probe .*", Elsewhere("tests/scripts/training/test_pretrain.py::test_the_probe_shows_all_sides")),
    (r"finetune .*", Elsewhere("tests/scripts/training/test_pretrain.py::test_a_fine_tuned_run_answers")),
    (r"perceive (classify-[\w]+|TASK) .*", Elsewhere(f"{PERCEIVE}/test_classify.py::test_it_learns_measures_and_answers")),
    (r"perceive fill-mask .*", Elsewhere(f"{PERCEIVE}/test_fill_mask.py::test_it_learns_fills_in_and_serves_classification")),
    (r"perceive flow .*", Elsewhere(f"{PERCEIVE}/test_flow.py::test_a_run_is_trained_continued_and_used")),
    (r"perceive autoencode .*", Elsewhere(f"{PERCEIVE}/test_autoencode.py::test_a_run_is_trained_continued_and_used")),
    (r"bench .*", Long("minutes on a quiet machine; `make test-all` runs tests/scripts/test_bench.py with one turn")),
]


def treatment(command: tuple[str, ...]) -> str | Elsewhere | Long | None:
    return next((how for pattern, how in TREATMENTS if re.fullmatch(pattern, " ".join(command), re.DOTALL)), None)


@pytest.mark.parametrize("command", DOCUMENTED, ids=" ".join)
def test_it_is_known_how_each_is_tested(command: tuple[str, ...]) -> None:
    how = treatment(command)
    assert how, f"say in TREATMENTS how `calico {' '.join(command)}` is tested"
    if isinstance(how, Elsewhere):
        file, _, name = how.test.partition("::")
        assert name, how
        names = [node.name for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
                 if isinstance(node, ast.FunctionDef)]
        assert name in names, how


@pytest.fixture(scope="module")
def desk(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "runs").mkdir()
    for name in ("RUN", "runs/latents", "runs/cartpole", "runs/demo"):
        (folder / name).symlink_to(small_run.run)
    for name in ("a.png", "b.jpg", "b.png", "IMAGE", "FILE"):
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(folder / name, "JPEG" if name.endswith("jpg") else "PNG")
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text("Some words to learn pieces from.\n" * 20)
    (folder / "talk.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hello"},
                                                                {"role": "assistant", "content": "hello, who are you?"}]}))
    return folder


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if treatment(c) == HERE and not c[0].startswith("-")], ids=" ".join)
def test_quick_commands_run(command: tuple[str, ...], desk: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(desk)
    words = [str(found) for word in command for found in ([*Path().glob(word)] if "*" in word else [word])]
    words = ["texts" if word == "FILES" else word for word in words]
    assert main(words) == 0, capsys.readouterr().err
    assert any(capsys.readouterr())
