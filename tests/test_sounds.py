"""Sound in the same checkpoint that plays: trained by the command, asked by the commands, kept by a conversation."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import TextGenerator
from calico.datasets.documents import DialogueReader
from calico.envs.runner import rollout
from calico.scripts.common.media_inputs import read_shown
from calico.scripts.main import main

from .conftest import CONFIG, SmallRun
from .counting import registered
from .tones import tone, write_tones, write_wav

pytest.importorskip("av")
SHARED = Path(os.environ.get("CALICO_SHARED_DATA", "../shared/data"))
TONES = {"low": 200.0, "middle": 800.0, "high": 3000.0}


def train(folder: Path, sounds: Path, steps: int, *more: str) -> Path:
    """A very small model on a task of counting and on questions about sounds."""
    config, run = folder / "small.yaml", folder / "run"
    config.write_text(CONFIG)
    assert main(["collect", "Counting-v0", "--episodes", "60", "--workers", "0", "--out", str(folder)]) == 0
    sources = f"[{{path: {folder / 'Counting-v0'}}}, {{path: {sounds}, weight: 2}}]"
    assert main(["train", str(config), f"data.sources={sources}", "data.batch_size=8", "backbone.context=64",
                 f"training.steps={steps}", "training.save_every=400", f"out={run}", *more]) == 0
    return run


def right(run: Path, sounds: Path) -> float:
    """Share of the questions about sounds that are answered in the right words."""
    speaker = TextGenerator(Agent.load(run))
    found = []
    for dialogue in DialogueReader(sounds):
        (sound,), (asked, answered) = dialogue.sounds.values(), dialogue.messages
        said = speaker.answers([sound], [asked["content"][1]["text"]])
        found.append(said == [answered["content"]])
    return float(np.mean(found))


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the manifest of tones that it has learnt."""
    folder = tmp_path_factory.mktemp("hearing")
    manifest = write_tones(folder, TONES, rate=8000)
    with registered():
        return train(folder, manifest, 160), manifest


def test_one_checkpoint_counts_and_tells_sounds_apart(hearing: tuple[Path, Path]) -> None:
    run, manifest = hearing
    assert right(run, manifest) == 1
    agent = Agent.load(run)
    assert agent.model.embedding.sound_block is not None
    with registered():
        episodes = list(rollout("Counting-v0", agent.policy("Counting-v0", SamplingConfig(temperature=0)), range(1000, 1010)))
    assert np.mean([episode.score for episode in episodes]) > 5        # the expert has 10, chance 2


def test_the_rate_is_told_and_a_run_goes_on(hearing: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, manifest = hearing
    with registered():
        assert main(["train", str(run / "config.json"), "training.steps=161"]) == 0
    assert "tones: sounds are resampled to 16000 Hz: 3 of 8000 Hz among those looked at" in capsys.readouterr().err
    assert Agent.load(run).about["step"] == 161 and right(run, manifest) == 1


def test_a_sound_is_asked_about_as_a_picture_is(hearing: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, manifest = hearing
    files = [str(manifest.with_suffix("") / f"{name}.wav") for name in TONES]
    assert main(["vqa", str(run), *files, "what do you hear?", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [(found["sound"], found["answer"]) for found in json.loads(out)] == list(zip(files, TONES, strict=True))
    assert f"{files[0]}: resampled from 8000 to 16000 Hz" in err
    assert main(["chat", str(run), "--message", "what do you hear?", "--image", files[2]]) == 0
    assert capsys.readouterr().out.strip() == "high"


def test_held_out_sounds_are_judged(hearing: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Silence and the question alone tell which part the sound has in it."""
    run, manifest = hearing
    assert main(["evaluate", str(run), "--suite", "vqa", "--data", str(manifest), "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["vqa"]["tones"]["accuracy"]
    assert accuracy["model"] == 1 and max(accuracy["blanked"], accuracy["question_only"]) < 0.5


def test_a_conversation_with_a_sound_is_kept(hearing: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    run, manifest = hearing
    file = manifest.with_suffix("") / "low.wav"
    lines = (f"/image {file}", "what do you hear?", f"/save {tmp_path / 'talk.jsonl'}", "/quit")
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert main(["chat", str(run)]) == 0
    assert "(0.2 seconds of sound go with your next message)" in capsys.readouterr().out
    (dialogue,) = DialogueReader(tmp_path / "talk.jsonl")
    np.testing.assert_allclose(dialogue.sounds["0.wav"], read_shown(file), atol=1 / 2**14)
    assert main(["chat", str(run), "--history", str(tmp_path / "talk.jsonl"), "--message", "and now?"]) == 0


def test_sounds_that_can_not_be_used_are_one_line(small_run: SmallRun, hearing: tuple[Path, Path], tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    words, short = tmp_path / "words.wav", write_wav(tmp_path / "short.wav", tone(300.0, 0.03))
    words.write_text("these are words")
    long = write_wav(tmp_path / "long.wav", tone(300.0, 9.0))
    good = write_wav(tmp_path / "good.wav", tone(300.0))
    for run, file, says in ((hearing[0], words, "words.wav: not a readable sound"),
                            (hearing[0], short, "short.wav: 30 ms of sound are too short, at least 40 are needed"),
                            (hearing[0], tmp_path / "nothing.flac", "nothing.flac is not a file; give a sound"),
                            (hearing[0], long, "give a smaller picture, a shorter sound or fewer words"),
                            (small_run.run, good, "there is a sound in the stream, and this model was trained without any")):
        assert main(["vqa", str(run), str(file), "what do you hear?"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and says in err.splitlines()[-1], err


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "audio").exists(), reason="no data pack")
def test_a_tiny_model_memorises_spoken_digits_beside_a_game(tmp_path: Path) -> None:
    records = [json.loads(line) for line in (SHARED / "audio" / "fsdd.jsonl").read_text().splitlines()]
    chosen = [next(record for record in records if (record["digit"], record["speaker"]) == (digit, speaker))
              for digit in range(10) for speaker in ("george", "theo")]
    manifest = tmp_path / "digits.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in chosen))
    (tmp_path / "digits.zip").symlink_to((SHARED / "audio" / "fsdd.zip").resolve())
    with registered():
        run = train(tmp_path, manifest, 500)
        policy = Agent.load(run).policy("Counting-v0", SamplingConfig(temperature=0))
        scores = [episode.score for episode in rollout("Counting-v0", policy, range(1000, 1010))]
    assert right(run, manifest) == 1 and np.mean(scores) > 5
