"""A recipe names everything that a network's data is made of, and what is there already is not made again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from calico.datasets.episodes import EpisodeReader
from calico.envs import scores, task_table
from calico.scripts.common import recipes
from calico.scripts.common.recipes import collect_recipe, read_recipe
from calico.scripts.main import main

SMALL = """
families:
  classic: {noise: 0.2, noise_steps: 2, episodes: {CartPole-v1: 3, Acrobot-v1: 2}}
  minigrid: {episodes: {MiniGrid-Empty-5x5-v0: 4}}
scenes: {lander: 12}
small_talk: true
"""


def test_a_recipe_is_collected_and_completed(tmp_path: Path) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(SMALL)
    written = collect_recipe(str(file), out, 0)
    assert [path.name for path in written] == ["CartPole-v1", "Acrobot-v1", "MiniGrid-Empty-5x5-v0", "lander-captions",
                                               "lander-dialogues", "small-talk"]
    cart, grid = EpisodeReader(out / "CartPole-v1"), EpisodeReader(out / "MiniGrid-Empty-5x5-v0")
    assert len(cart) == 3 and len(grid) == 4 and cart.task["noise"] == 0.2 and grid.task["environment"]["view"]["tile"] == 2
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    file.write_text(SMALL.replace("CartPole-v1: 3", "CartPole-v1: 5"))
    collect_recipe(str(file), out, 0)
    assert len(EpisodeReader(out / "CartPole-v1")) == 5
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_network_plays_a_recipe_and_its_experts_correct_it(tmp_path: Path, refused: Callable[..., str]) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(SMALL)
    words = ["--policy", "calico-small", "--label", "expert", "--mix", "0.5", "--seed", "700", "--out", str(out)]
    assert main(["collect", "--recipe", str(file), *words]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["Acrobot-v1", "CartPole-v1", "MiniGrid-Empty-5x5-v0"]
    cart = EpisodeReader(out / "CartPole-v1")
    assert sorted(cart.seeds) == [700, 701, 702]
    assert {key: cart.task[key] for key in ("policy", "label", "mix", "noise")} == {
        "policy": "calico-small", "label": "expert", "mix": 0.5, "noise": 0.0}
    for given, says in [(("--policy", "random"), "--policy random, --label None: a recipe's tasks are played by their experts"),
                        (("--label", "expert"), "--policy expert, --label expert: a recipe's tasks"),
                        (("--noise", 0.1), "--noise: a recipe says itself"), (("CartPole-v1",), "leave TASK and --scenes out")]:
        assert says in refused("collect", "--recipe", file, *given, "--out", tmp_path / "other")
    file.write_text("families: {minigrid: {episodes: {MiniGrid-Playground-v0: 1}}}")
    says = refused("collect", "--recipe", file, "--policy", "calico-small", "--label", "expert", "--out", tmp_path / "other")
    assert "MiniGrid-Playground-v0" in says and not (tmp_path / "other").exists()


def test_what_is_not_installed_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text("families: {panda: {episodes: {PandaReach-v3: 2}}}\nscenes: {miniworld: 3}")
    monkeypatch.setattr(recipes.task_table, "missing_module", {"panda": "panda_gym", "miniworld": "miniworld"}.get)
    assert collect_recipe(str(file), tmp_path / "out", 0) == []
    said = capsys.readouterr().err
    assert "1 tasks of panda are left out: panda_gym is not installed; pip install" in said
    assert "pictures of miniworld are left out: miniworld is not installed; pip install" in said


def test_wrong_recipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe 'none'; name a YAML file, or one of corrections, corrections-num"):
        read_recipe("none")
    file = tmp_path / "wrong.yaml"
    file.write_text("families: {classic: {episodes: {CartPole-v9: 2}}}")
    with pytest.raises(ValueError, match="CartPole-v9"):
        collect_recipe(str(file), tmp_path / "out", 0)


def test_the_generalists_recipe_names_tasks_of_its_families_that_have_a_measured_expert() -> None:
    recipe, rows = read_recipe("generalist"), task_table.rows()
    names = [task for part in recipe.families.values() for task in part.episodes]
    assert len(names) == len(set(names)) > 300 and len(recipe.families) >= 12
    for family, part in recipe.families.items():
        assert all(rows[task]["family"] == family for task in part.episodes)
    assert all(scores.reference(task).normalise(0) is not None for task in names)
