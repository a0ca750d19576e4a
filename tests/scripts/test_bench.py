"""`calico bench`: both sides of each ratio run, and the figures that the README names are there."""

from collections.abc import Callable
from typing import Any

import pytest

from calico.scripts.benchmarks.interleaved import seconds

Refused = Callable[..., str]
Answered = Callable[..., Any]
MACHINE = {"threads", "cores", "load_average"}


def test_sides_run_in_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []
    medians = seconds(3, lambda: order.append("a"), lambda: order.append("b"), warm_up=2)
    assert order == ["a", "b"] * 5 and len(medians) == 2 and all(median >= 0 for median in medians)


def test_tokenizers(answered: Answered) -> None:
    found = answered("bench", "tokenizers", "--turns", 1)
    assert found.keys() == {"tokens_per_second_state", "tokens_per_second_frames"} | MACHINE
    assert all(found[key] > 0 for key in found.keys() - MACHINE)


@pytest.mark.parametrize("words, says", [(["tokenizers", "--turns", 0], "--turns 0 must be at least 1"),
                                         (["flying"], "invalid choice: 'flying'"), ([], "required: what")])
def test_wrong_words_are_one_line(refused: Refused, words: list[object], says: str) -> None:
    assert says in refused("bench", *words)


@pytest.mark.slow
def test_acting(answered: Answered) -> None:
    found = answered("bench", "acting", "--turns", 1)
    assert {"acting_cache_speedup", "acting_cache_speedup_one_row", "acting_batch_speedup"} | MACHINE < found.keys()
    assert all(found[key] > 0 for key in found.keys() - MACHINE)


@pytest.mark.slow
def test_training(answered: Answered) -> None:
    pytest.importorskip("transformers")
    found = answered("bench", "training", "--turns", 1)
    assert {"training_vs_gpt2", "training_share_of_matmul_peak", "tiny_tokens_per_second", "target_share"} < found.keys()
    assert 0 < found["target_share"] < 1 and found["tiny_tokens_per_second"] > 0


@pytest.mark.slow
def test_data2vec(answered: Answered) -> None:
    found = answered("bench", "data2vec", "--turns", 1)
    assert {"targets_per_second_v2_vs_v1", "speech_v2_vs_v1", "text_v2_vs_v1"} | MACHINE < found.keys()
    assert found["targets_per_second_v2_vs_v1"] > 1


@pytest.mark.slow
def test_runner(answered: Answered) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("cv2")   # of Gymnasium's Atari wrappers
    found = answered("bench", "runner", "--turns", 1)
    assert {"overhead", "atari_vs_sync", "atari_one_process_vs_sync", "mujoco_pixels_vs_default"} | MACHINE < found.keys()
    assert found["overhead"].keys() == {"CartPole-v1", "HalfCheetah-v5", "ALE/Pong-v5", "BabyAI-GoToLocal-v0"}
    assert found["atari_vs_sync"] > 0 and found["mujoco_pixels_vs_default"] > 1
