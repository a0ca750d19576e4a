"""Networks and data sets on the Hub: pushed, found by name in every verb, and what goes wrong is one sentence."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import calico
from calico.datasets.document_writers import CaptionWriter, DialogueWriter
from calico.datasets.open_data import open_data
from calico.scripts.common.shipped import DEFAULT_RUN, is_media, is_task, split_run
from calico.scripts.main import main

from ..conftest import SmallRun
from .common.local_hub import TOKEN, Hub, start


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this machine; an empty cache, nobody's own token, and no waiting between tries."""
    import huggingface_hub.file_download as downloads
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    found, server = start()
    monkeypatch.chdir(tmp_path)
    for name, value in {"ENDPOINT": found.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
                        "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN_PATH": str(tmp_path / "token"),
                        "HUGGINGFACE_CO_URL_TEMPLATE": found.url + "/{repo_id}/resolve/{revision}/{filename}"}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for module in (_http, downloads):
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    _http.close_session()
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(small_run: SmallRun, tmp_path: Path) -> Path:
    """The session's run, without the evaluation that another file's tests may have left in it."""
    return Path(shutil.copytree(small_run.run, tmp_path / "my_run", ignore=shutil.ignore_patterns("evaluation")))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a verb ended with."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("calico ")]
    return line


def test_a_network_is_pushed_with_its_card_and_plays_by_its_name(hub: Hub, run: Path, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--suite", "control", "--episodes", "2", "--num-envs", "2"]) == 0
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "film.gif")
    capsys.readouterr()
    assert main(["push", str(run), "ada/agent", "--film", str(tmp_path / "film.gif"), "--private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"url": f"{hub.url}/ada/agent"}
    repository = hub.repositories["ada/agent"]
    assert repository.private
    first, files = repository.commits[-1]
    assert {"model.safetensors", "manifest.json", "README.md", "card.json", "film.gif"} <= files.keys()
    assert not any(name.startswith("optimizer") for name in files)
    from huggingface_hub import ModelCard

    card: Any = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "reinforcement-learning" and card.data.library_name == "calico"
    results = {result.dataset_name: result for result in card.data.eval_results}
    measured = json.loads((run / "evaluation" / "summary.json").read_text())["tasks"] if (
        run / "evaluation" / "summary.json").exists() else json.loads(files["card.json"])["scores"]
    assert {task: round(about["score"], 4) for task, about in measured.items()} == {
        task: result.metric_value for task, result in results.items()}
    assert card.text.strip().startswith("# agent\n\n![It plays](film.gif)")

    assert main(["rollout", "ada/agent", "CartPole-v1", "--episodes", "1", "--json"]) == 0        # a RUN of every verb
    assert json.loads(capsys.readouterr().out)
    assert main(["card", "ada/agent@main", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "agent"
    for words in (["chat", "ada/agent", "--message", "hello"], ["inspect", "CartPole-v1", "--run", "ada/agent"]):
        assert main(words) == 0
    agent = calico.load(f"ada/agent@{first}")
    assert agent.network.fingerprint() == calico.load(run).network.fingerprint()

    assert main(["push", str(run), "ada/agent"]) == 0            # again, without film: its own files are gone there, too
    second, files = repository.commits[-1]
    assert second != first and "film.gif" not in files
    assert "film.gif" in {path.name for path in calico.load(f"ada/agent@{first}").path.iterdir()}
    assert calico.load("ada/agent").path.name == second
    assert main(["train", "tiny", "init=ada/agent", "out=x", "data.sources=[]"]) == 2
    assert "the mixture is empty" in said(capsys)


def test_a_network_that_was_not_evaluated_says_so(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "ada/agent"]) == 0
    assert "its card has no scores" in capsys.readouterr().err
    readme = hub.repositories["ada/agent"].commits[-1][1]["README.md"].decode()
    assert "model-index" not in readme and "It was not evaluated yet" in readme


def test_episodes_are_pushed_as_they_are_and_are_data_of_every_verb(hub: Hub, small_run: SmallRun,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    data = small_run.data / "CartPole-v1"
    assert main(["push", str(data), "ada/poles"]) == 0
    assert capsys.readouterr().out == f"{hub.url}/datasets/ada/poles\n"
    files = hub.repositories["ada/poles"].commits[-1][1]
    assert {path.name: path.read_bytes() for path in data.iterdir() if not path.name.startswith(".")}.items() <= files.items()
    from huggingface_hub import DatasetCard

    card: Any = DatasetCard(files["README.md"].decode())
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "*.parquet"}]
    assert "4 episodes of CartPole-v1" in card.text
    assert open_data("ada/poles").fingerprint == open_data(data).fingerprint
    for words in (["inspect", "ada/poles"], ["check", "ada/poles@main", "--json"],
                  ["export", "lerobot", "ada/poles", "--out", "out"]):
        assert main(words) == 0, capsys.readouterr().err
    capsys.readouterr()
    config = str(small_run.config)
    assert main(["train", config, "data.sources=[{path: ada/poles}]", "out=poles", "training.steps=2"]) == 0


def test_documents_become_parquet_that_reads_the_same(hub: Hub, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (20, 24, 3), np.uint8) for _ in range(3)]
    tone = np.sin(np.arange(4000) / 9).astype(np.float32) / 2
    with CaptionWriter(tmp_path / "captions.jsonl") as captions:
        for number, pixels in enumerate(pictures):
            captions.append(pixels, [f"picture {number}", "another way to say it"])
    with DialogueWriter(tmp_path / "talk.jsonl") as talk:
        for number, pixels in enumerate(pictures):
            content = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": "what?"}]
            talk.append([{"role": "user", "content": content}, {"role": "assistant", "content": f"number {number}"}],
                        {f"{number}.png": pixels})
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"messages": [
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": f"hello {n}"}]}) + "\n" for n in range(3)))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"one, two, {n}"}) + "\n" for n in range(3)))
    names = ["captions", "talk", "words", "text"]
    if has_sounds := bool(__import__("importlib.util").util.find_spec("av")):
        with DialogueWriter(tmp_path / "tones.jsonl") as tones:
            tones.append([{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "what?"}]},
                          {"role": "assistant", "content": "a tone"}], {}, {"a.wav": tone})
        names.append("tones")
    for name in names:
        assert main(["push", f"{name}.jsonl", f"ada/{name}"]) == 0
        before, after = open_data(f"{name}.jsonl", max_side=None), open_data(f"ada/{name}", max_side=None)
        assert type(before) is type(after) and len(before) == len(after)
    pictured, spoken = open_data("ada/captions", max_side=None), open_data("ada/talk", max_side=None)
    for number, pixels in enumerate(pictures):
        np.testing.assert_array_equal(pictured[number].image, pixels)
        assert pictured[number].captions == (f"picture {number}", "another way to say it")
        (shown,) = spoken[number].images.values()
        np.testing.assert_array_equal(shown, pixels)
        assert [entry["type"] for entry in spoken[number].messages[0]["content"]] == ["image", "text"]
    assert [dialogue.messages[1]["content"] for dialogue in map(open_data("ada/words").__getitem__, range(3))] == [
        "hello 0", "hello 1", "hello 2"]
    assert open_data("ada/text")[2] == "one, two, 2"
    if has_sounds:
        (heard,) = open_data("ada/tones")[0].sounds.values()
        np.testing.assert_allclose(heard, tone, atol=1e-4)
    schema = pq.read_schema(next(Path("cache").rglob("datasets--ada--captions/snapshots/*/data.parquet")))
    assert set(schema.names) == {"image", "captions"}


def test_an_upload_that_was_interrupted_goes_on(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.most_puts = 1
    assert main(["push", str(run), "ada/agent"]) == 2
    assert said(capsys).startswith("calico push: Hugging Face Hub, 'ada/agent': ") and len(hub.objects) == 1
    assert len(hub.repositories["ada/agent"].commits) == 1           # nothing of it is seen by others
    hub.most_puts = None
    hub.seen.clear()
    (arrived,) = hub.objects
    assert main(["push", str(run), "ada/agent"]) == 0
    puts = [line for line in hub.seen if line.startswith("PUT")]
    assert puts and f"PUT /put/{arrived}" not in puts
    assert calico.load("ada/agent").tasks == calico.load(run).tasks


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: Hub, run: Path) -> None:
    assert main(["push", str(run), "ada/agent"]) == 0
    hub.fail["GET", "model.safetensors"] = "short"                    # half of the file, once
    assert calico.load("ada/agent").tasks
    fetched = [line for line in hub.seen if line.startswith("GET") and "/resolve/" in line]
    assert sorted(line for line in set(fetched) if fetched.count(line) > 1) == [
        line for line in sorted(set(fetched)) if line.endswith("model.safetensors")]     # the others came once
    hub.seen.clear()
    calico.load("ada/agent")
    assert [line for line in hub.seen if "/resolve/" in line] == []   # what is here is not fetched again


@pytest.mark.parametrize("fail, says", [
    (("GET", "model.safetensors", "half"), "only a part of a file arrived"),
    (("GET", "model.safetensors", "flip"), "model.safetensors does not match its hash"),
    (("GET", "tasks.json", "flip"), "tasks.json does not match its hash"),
    (("HEAD", "tasks.json", 404), "or a file of it is missing"),
    (("GET", "/api/models", 429), "it says 429, too many requests; wait some minutes"),
    (("GET", "/api/models", 401), "it says 401: the model does not exist, or is not yours to read; run `hf auth login`"),
    (("GET", "/api/models", 403), "it says 403"), (("GET", "/api/models", 500), "500"),
    (("GET", "/api/models", 404), "there is no such model")])
def test_what_goes_wrong_is_one_sentence(fail: tuple[str, str, int | str], says: str, hub: Hub, run: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "ada/agent"]) == 0
    method, pattern, what = fail
    hub.fail[method, pattern] = what
    capsys.readouterr()
    assert main(["rollout", "ada/agent", "CartPole-v1", "--episodes", "1"]) == 2
    line = said(capsys)
    assert line.startswith("calico rollout: ada/agent does not exist here; Hugging Face Hub, 'ada/agent': ") and says in line
    hub.fail.clear()
    assert main(["rollout", "ada/agent", "CartPole-v1", "--episodes", "1"]) == 0       # nothing bad was kept


@pytest.mark.parametrize("fail, says", [(("PUT", "/put/", 429), "429"), (("POST", "create", 401), "not yours to change"),
                                        (("POST", "commit", 403), "set HF_TOKEN to a token that may write there"),
                                        (("POST", "preupload", 404), "there is no such model")])
def test_a_refused_push_is_one_sentence(fail: tuple[str, str, int], says: str, hub: Hub, run: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    hub.fail[fail[0], fail[1]] = fail[2]
    assert main(["push", str(run), "ada/agent"]) == 2
    assert says in said(capsys)


def test_names_that_are_not_there(hub: Hub, run: Path, small_run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "ada/agent"]) == 0
    capsys.readouterr()
    for words, says in (
            (["card", "ada/nothing"], "ada/nothing does not exist here; Hugging Face Hub, 'ada/nothing': there is no such"),
            (["card", "ada/agent@v9"], "the model has no revision 'v9'"),
            (["check", "ada/nothing"], "there is no such data set"), (["check", "ada/agent"], "there is no such data set"),
            (["export", "minari", "ada/nothing", "--out", "out"], "there is no such data set"),
            (["train", str(small_run.config), "data.sources=[{path: ada/nothing}]", "out=x"], "there is no such data set"),
            (["push", str(run), "agent"], "'agent' is no name of a repository; give OWNER/NAME"),
            (["push", "nothing", "ada/agent"], "nothing does not exist"),
            (["push", str(run), "ada/agent", "--film", "no.gif"], "--film no.gif is no GIF or MP4"),
            (["push", str(small_run.data / "CartPole-v1"), "ada/x", "--optimizer"], "are for networks")):
        assert main(words) == 2, words
        assert says in said(capsys), words


def test_without_a_network_what_came_whole_is_used(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub import constants

    assert main(["push", str(run), "ada/agent"]) == 0
    hub.fail["GET", "tasks.json"] = "half"
    assert main(["card", "ada/agent"]) == 2
    hub.fail.clear()
    capsys.readouterr()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["chat", "ada/agent", "--message", "hello"]) == 2
    assert "Cannot reach" in said(capsys)                  # half of it is not used
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    calico.load("ada/agent")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert calico.load("ada/agent").tasks == calico.load(run).tasks


@pytest.mark.slow
def test_another_process_finds_it_by_the_environment(hub: Hub, small_run: SmallRun, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN and HF_HOME as users set them."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"),
                   "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    for words in (["push", str(small_run.data / "CartPole-v1"), "ada/poles"], ["inspect", "ada/poles"]):
        done = subprocess.run([sys.executable, "-m", f"calico.scripts.{words[0]}", *words[1:]], env=environment,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words, run_meant", [
    (["ada/cartpole", "CartPole-v1"], "ada/cartpole"), (["ada/agent@v1.0", "CartPole-v1"], "ada/agent@v1.0"),
    (["ada/agent-v1.2"], "ada/agent-v1.2"), (["ALE/Pong-v5"], DEFAULT_RUN), (["ALE/Pomg-v5"], DEFAULT_RUN)])
def test_a_name_of_the_hub_is_a_run(words: list[str], run_meant: str) -> None:
    assert split_run(words, is_task)[0] == run_meant


def test_files_are_no_names_of_the_hub() -> None:
    assert split_run(["pictures/a.png"], is_media) == (DEFAULT_RUN, ["pictures/a.png"])
    assert split_run(["ada/agent@v1.0", "a.png"], is_media) == ("ada/agent@v1.0", ["a.png"])
