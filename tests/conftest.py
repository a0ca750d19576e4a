"""Settings of every test: one thread, no screen, no sound, no network, the same examples each time."""

import os

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
