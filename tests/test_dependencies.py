"""Each dependency is imported and used once: a clean resolver proves nothing about what runs."""

import ast
import importlib.metadata
import inspect
import io
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("agent", "datasets", "envs", "scripts", "tokenizers")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def use_torch() -> None:
    import torch

    attended = torch.nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 2, 4))
    torch.testing.assert_close(attended, torch.ones(1, 2, 4))


def use_numpy() -> None:
    assert np.random.default_rng(0).integers(10) == np.random.default_rng(0).integers(10)


def use_gymnasium() -> None:
    import gymnasium

    for name in ("CartPole-v1", "LunarLander-v3"):   # classic-control and box2d
        env = gymnasium.make(name, render_mode="rgb_array")
        env.reset(seed=0)
        assert np.asarray(env.render()).dtype == np.uint8
        env.close()


def use_farama_notifications() -> None:
    from farama_notifications import notifications

    assert isinstance(notifications, dict)


def use_ale_py() -> None:
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/Pong-v5")
    assert env.reset(seed=0)[0].shape == (210, 160, 3)
    env.close()


def use_minigrid() -> None:
    import gymnasium
    import minigrid

    gymnasium.register_envs(minigrid)
    env = gymnasium.make("BabyAI-GoToRedBallGrey-v0")
    assert "red ball" in env.reset(seed=0)[0]["mission"]


def use_sentencepiece() -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a calico cat", "a black cat"]), model_writer=model, vocab_size=16,
        hard_vocab_limit=False, minloglevel=2)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert pieces.decode(pieces.encode("a cat")) == "a cat"


def use_tensorboard(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert any(folder.iterdir())


def use_safetensors() -> None:
    import torch
    from safetensors.torch import load, save

    assert torch.equal(load(save({"x": torch.arange(3)}))["x"], torch.arange(3))


def use_huggingface_hub(folder: Path) -> None:
    from huggingface_hub import ModelCard, PyTorchModelHubMixin

    assert callable(PyTorchModelHubMixin.from_pretrained)
    ModelCard("# calico").save(folder / "README.md")
    assert ModelCard.load(folder / "README.md").text.strip() == "# calico"


def use_pyarrow(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "x.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), path, compression="zstd", write_page_checksum=True)
    assert pq.read_table(path, page_checksum_verification=True)["x"].to_pylist() == [1, 2]


def use_pillow() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "WEBP", lossless=True)
    assert Image.open(buffer).size == (4, 4)


def use_omegaconf() -> None:
    from omegaconf import OmegaConf

    assert OmegaConf.merge({"a": {"b": 1}}, OmegaConf.from_dotlist(["a.b=2e-4"])).a.b == 2e-4


def use_pyyaml() -> None:
    import yaml

    assert yaml.safe_load("a: {b: 1}") == {"a": {"b": 1}}


def use_pydantic() -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, tuple[int, int]]).validate_python({"a": (1, "x")})
    assert caught.value.errors()[0]["loc"] == ("a", 1)


def use_rich() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), record=True, color_system="truecolor", force_terminal=True)
    console.print("[red]x[/red]")
    assert console.export_text() == "x\n"


def use_matplotlib() -> None:
    from matplotlib.figure import Figure

    figure, buffer = Figure(), io.StringIO()
    figure.subplots().plot([1, 2])
    figure.savefig(buffer, format="svg")
    assert "<svg" in buffer.getvalue()


def use_jinja2() -> None:
    import jinja2

    assert jinja2.Environment(autoescape=True).from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"


def use_scipy() -> None:
    import scipy.stats

    assert scipy.stats.trim_mean([0, 1, 2, 100], 0.25) == 1.5


def use_build() -> None:
    import build

    assert build.ProjectBuilder(ROOT).python_executable == sys.executable


def use_hypothesis() -> None:
    from hypothesis import find, strategies

    assert find(strategies.integers(), lambda x: x > 10) == 11


def use_transformers() -> None:
    # Started in the repository root, where folders of the same names as its dependencies stand.
    import transformers

    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=8)
    assert transformers.GPT2LMHeadModel(config).num_parameters() > 0


def use_opencv_python_headless() -> None:
    import cv2

    assert cv2.resize(np.full((4, 4), 7, np.uint8), (2, 2), interpolation=cv2.INTER_AREA).tolist() == [[7, 7], [7, 7]]


def use_openai() -> None:
    import openai

    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


USES: dict[str, Callable[..., None]] = {
    name.removeprefix("use_"): use for name, use in list(globals().items()) if name.startswith("use_")
}
BUILD_TOOLS = {"mypy", "pytest", "pytest_xdist", "ruff", "setuptools", "wheel"}   # of make lint, this run, test_wheel.py


def name_of(requirement: str) -> str:
    """`huggingface_hub>=1.0` -> `huggingface_hub`; names are compared in lower case with underscores."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("-", "_")


def declared() -> set[str]:
    """Names in pyproject.toml: the default dependencies and the `dev` extra."""
    return {name_of(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]}


@pytest.mark.parametrize("name", sorted(USES))
@pytest.mark.filterwarnings("ignore")
def test_dependency_works(name: str, tmp_path: Path) -> None:
    use = USES[name]
    use(tmp_path) if inspect.signature(use).parameters else use()


def test_every_dependency_has_its_use_here() -> None:
    assert declared() - BUILD_TOOLS == set(USES)


def test_every_module_imported_at_the_top_is_declared() -> None:
    # Imports inside functions may belong to an extra; those at the top of a file run for everyone.
    distributions = importlib.metadata.packages_distributions()
    defaults = {name_of(line) for line in PROJECT["dependencies"]}
    for path in (p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")):
        for module in top_imports(path):
            if module in sys.stdlib_module_names or module in {"calico", "__future__"}:
                continue
            owners = {name_of(name) for name in distributions.get(module, [module])}
            assert owners & defaults, f"{path.relative_to(ROOT)} imports {module}: declare it in pyproject.toml"


def top_imports(path: Path) -> set[str]:
    """First parts of the absolute module names that a file imports outside of functions."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name_of(line) for line in lines if "==" in line}
    extras = {name_of(line) for lines in PROJECT["optional-dependencies"].values() for line in lines} - {"calico_agent"}
    assert (declared() | extras) - pinned == set()
    local = [line for line in lines if "+" in line and not line.startswith("#")]
    assert local == [], "a local version tag pins one build"
