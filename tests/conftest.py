"""Settings of every test: one thread, no screen, no sound, no network, the same examples each time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Set before torch, pygame or MuJoCo are imported anywhere: they read these once.
os.environ.update(
    OMP_NUM_THREADS="1",             # two cores: thread pools of several libraries would fight
    MKL_NUM_THREADS="1",
    SDL_VIDEODRIVER="dummy",
    SDL_AUDIODRIVER="dummy",
    PYGAME_HIDE_SUPPORT_PROMPT="1",
    MPLBACKEND="Agg",
    PYGLET_HEADLESS="1",
    HF_HUB_OFFLINE="1",              # a test that would download fails at once
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("MUJOCO_GL", "egl")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A slow machine must not fail a property, and a failure must come back on the next run.
hypothesis.settings.register_profile("calico", deadline=None, derandomize=True)
hypothesis.settings.load_profile("calico")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where there is no CUDA device (only `make test-all` selects them at all)."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="module")
def counting() -> Iterator[None]:
    """The tasks of counting.py can be played."""
    from .counting import registered

    with registered():
        yield


@dataclass(frozen=True)
class SmallRun:
    """A real run, made by the commands themselves. Tests that change something work on copies."""

    data: Path      # CartPole-v1, BabyAI-GoToLocal-v0, minigrid-captions, minigrid-dialogues
    config: Path
    run: Path


CONFIG = """
vocabulary: {text: 400, discrete: 16, continuous: 64}
embedding: {observation_positions: 96, patch_channels: 4}
backbone: {width: 32, depth: 1, heads: 2, context: 128}
optimizer: {learning_rate: 1e-2, warmup_steps: 2}
training: {steps: 6, log_every: 1, save_every: 2}
data: {batch_size: 4}
"""


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Two control tasks, captions and dialogues collected, and a very small model trained on them for six steps."""
    from calico.scripts.main import main

    folder = tmp_path_factory.mktemp("small")
    made = SmallRun(folder / "data", folder / "small.yaml", folder / "run")
    made.config.write_text(CONFIG)
    assert main(["collect", "CartPole-v1", "BabyAI-GoToLocal-v0", "--episodes", "4", "--out", str(made.data)]) == 0
    assert main(["collect", "--scenes", "minigrid", "--episodes", "24", "--out", str(made.data)]) == 0
    sources = ", ".join(f"{{path: {path}}}" for path in sorted(made.data.iterdir()))
    assert main(["train", str(made.config), f"data.sources=[{sources}]", f"out={made.run}"]) == 0
    return made
