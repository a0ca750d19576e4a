"""calico perceive fill-mask: whole words are masked, blanks are filled, and what was learned serves classify-text."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calico.agent import checkpoint
from calico.agent.perceiver.inputs import MASK, TextConfig, decode_bytes
from calico.agent.perceiver.layers import LatentConfig
from calico.agent.perceiver.samples import TextInput, words_of
from calico.agent.perceiver.tasks import LanguageConfig, MaskedLanguage
from calico.scripts.main import main
from calico.scripts.perceiver_tasks import fill_mask as perceive_fill_mask
from calico.scripts.perceiver_tasks.fill_mask import IGNORED, fill, mask_words, measure

TINY = LanguageConfig(latent=LatentConfig(latents=8, width=32, layers=1, heads=2),
                      text=TextConfig(width=32, positions=64, grams=(2, 3), buckets=64, stride=2))


def test_whole_words_are_masked_and_nothing_else_changes() -> None:
    texts = ["one two  three\nfour", "ä b " * 20, " ", "word"]
    batch = TextInput(positions=128)(texts)
    masked = mask_words(batch, np.random.default_rng(0))
    for row in range(len(texts)):
        kept = masked["targets"][row] != IGNORED
        places, before, after = masked["positions"][row][kept], batch["inputs"][row], masked["inputs"][row]
        changed = (before != after).nonzero()[:, 0]
        assert sorted(places.tolist()) == changed.tolist() and (after[changed] == MASK).all()
        assert torch.equal(masked["targets"][row][kept], before[places])
        words = decode_bytes(before.tolist()).split()
        hidden = bytes(i - 6 if i != MASK else 0 for i in after[1:int(batch["mask"][row].sum()) - 1]).decode().split()
        assert sum("\0" in word for word in hidden) == (max(1, round(0.15 * len(words))) if words else 0)
        assert all(set(word) == {"\0"} or word in words for word in hidden)
    assert torch.equal(masked["mask"], batch["mask"])


def test_masking_is_a_function_of_its_generator() -> None:
    ids = TextInput(positions=128)(["some words to choose from " * 4])["inputs"][0].numpy()
    draws = [words_of(ids, 0.15, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1] and len({tuple(draw) for draw in draws}) > 2


def test_the_measure_is_a_mean_over_bytes() -> None:
    """A model without knowledge needs log2(262) bits per byte, however the texts are spread over batches."""
    torch.manual_seed(0)
    model = MaskedLanguage(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    texts = ["a few words", "and a few more words than before", "x"]
    whole = mask_words(TextInput(positions=64)(texts), np.random.default_rng(0))
    parts = [{name: tensor[i:i + 1] for name, tensor in whole.items()} for i in range(3)]
    with torch.inference_mode():
        assert measure(model, [whole])["bits_per_byte"] == pytest.approx(np.log2(262), rel=1e-4)
        assert measure(model, [whole]) == pytest.approx(measure(model, parts))


def test_blanks_keep_the_text_around_them() -> None:
    model = MaskedLanguage(TINY).eval()
    made = fill(model, "[MASK]a[MASK] b", 2, 64)
    filled = made["filled"]
    assert made["length"] == 2 and 0 < made["probability"] <= 1 and filled.endswith(" b") and "[MASK]" not in filled
    with pytest.raises(ValueError, match="the text has 82 bytes, the model reads 64; shorten it"):
        fill(model, "x" * 70 + "[MASK]", 10, 64)


def test_it_learns_fills_in_and_serves_classification(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceive_fill_mask, "SMALL_LANGUAGE", TINY)
    data = tmp_path / "t.jsonl"
    lines = [{"text": f"{i} is {'odd' if i % 2 else 'even'} {'yes' * (i % 3)}", "label": i % 2} for i in range(80)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = str(tmp_path / "run")
    words = ["perceive", "fill-mask", "train", str(data), "--out", run, "training.steps=30", "batch_size=16",
             "length=64", "optimizer.learning_rate=3e-3"]
    assert main(words) == 0
    report = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert report["bits_per_byte"] < 6 and report["steps"] == 30
    assert "bits per masked byte" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0                        # continued: nothing is left to do, the same figures
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] == report["bits_per_byte"]

    assert main(["perceive", "fill-mask", "predict", run, "7 is [MASK]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 3 and found[0]["probability"] >= found[1]["probability"] and found[0]["filled"].startswith("7 is ")
    assert main(["perceive", "fill-mask", "predict", run, "7 is [MASK]", "--length", "3"]) == 0
    assert "7 is " in capsys.readouterr().out
    assert main(["perceive", "fill-mask", "predict", run, "no blank"]) == 2
    assert "there is no [MASK] in 'no blank'" in capsys.readouterr().err

    tuned = tmp_path / "tuned"
    assert main(["perceive", "classify-text", "train", str(data), f"init={run}", "--out", str(tuned), "training.steps=1",
                 "batch_size=8"]) == 0
    one, other = (load_file(checkpoint.find(folder) / "model.safetensors") for folder in (run, tuned))
    assert (one["encoder.latents"] - other["encoder.latents"]).abs().max() < 0.01
    assert main(["perceive", "classify-text", "predict", str(tuned), "8 is even"]) == 0


def test_a_hugging_face_model_fills_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.PerceiverConfig(num_latents=4, d_latents=32, d_model=16, num_self_attends_per_block=1,
                                          num_self_attention_heads=2, num_cross_attention_heads=2, vocab_size=262,
                                          max_position_embeddings=64)
    theirs = transformers.PerceiverForMaskedLM(config).eval()
    theirs.save_pretrained(tmp_path)
    assert main(["perceive", "fill-mask", "predict", str(tmp_path), "a [MASK] c", "--length", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    ids = torch.tensor([[4, *(b + 6 for b in b"a "), 3, 3, 3, *(b + 6 for b in b" c"), 5]])
    with torch.no_grad():
        logits = theirs(torch.nn.functional.pad(ids, (0, 64 - ids.shape[1])),
                        attention_mask=(torch.arange(64) < ids.shape[1])[None]).logits[0, 3:6]
    logits[:, :6] = -torch.inf
    assert found["filled"] == "a " + decode_bytes(logits.argmax(dim=1).tolist()) + " c"
