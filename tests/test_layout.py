"""The house: which folders there are, who may import whom, and that nothing unsafe is read."""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from calico.scripts.main import VERBS

ROOT = Path(__file__).parent.parent
FOLDERS = ("agent", "datasets", "envs", "scripts", "tokenizers")
MAY_IMPORT = {
    "tokenizers": set(),
    "datasets": {"tokenizers"},
    "envs": {"tokenizers", "datasets.publish"},
    # one home for files that appear whole, for seeds and for what the Hub gives
    "agent": {"tokenizers", "datasets.publish", "datasets.streams", "datasets.formats.hub"},
    "scripts": set(FOLDERS),
}
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """(absolute module name, level of the relative import) for every import in a file of the house."""
    here = ["calico", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.level) for alias in node.names)


def folder_of(module: str) -> str | None:
    """`calico.envs.registry.tasks` -> `envs`; None for modules that are not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "calico" and len(parts) > 1 else None


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_import_reader_resolves_relative_imports() -> None:
    here = ROOT / "envs" / "registry.py"
    found = {module for module, _ in imported_modules(here)} if here.exists() else set()
    assert not {m for m in found if m.startswith(".")}
    assert folder_of("calico.envs.registry.tasks") == "envs"
    assert folder_of("datasets.load_dataset") is None


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_the_allowed_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for module, level in imported_modules(path):
        target = folder_of(module)
        if target is None:
            continue
        exact, file = ".".join(module.split(".")[1:3]), ".".join(module.split(".")[1:4])
        assert target == folder or {target, exact, file} & MAY_IMPORT[folder], f"{relative(path)} imports {module}"
        if folder == "scripts":
            assert level == 0, f"{relative(path)}: scripts write `from calico...`, found a relative import of {module}"
        else:
            assert level > 0, f"{relative(path)}: folders import each other relatively, found {module}"


def rooms(*names: str) -> list[Path]:
    """The files of these rooms of agent/."""
    return [path for path in SOURCES if path.relative_to(ROOT).parts[:-1] in {("agent", name) for name in names}]


@pytest.mark.parametrize("path", rooms("perceiver", "data2vec"), ids=relative)
def test_perceivers_and_data2vec_import_no_backbone_and_no_model(path: Path) -> None:
    for module, _ in imported_modules(path):
        assert not module.startswith(("calico.agent.backbones", "calico.agent.model.", "calico.agent.embedding.")), (
            f"{relative(path)} imports {module}")


@pytest.mark.parametrize("path", rooms("backbones"), ids=relative)
def test_backbones_import_no_model(path: Path) -> None:
    for module, _ in imported_modules(path):
        assert not module.startswith(("calico.agent.model.", "calico.agent.embedding.")), f"{relative(path)} imports {module}"


@pytest.mark.parametrize("path", [path for path in SOURCES if "datasets" in path.relative_to(ROOT).parts], ids=relative)
def test_data_are_free_of_torch(path: Path) -> None:
    """Only the worker processes of a mixture, which are PyTorch's, import it, and when they start."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: Iterable[ast.AST] = ast.walk(tree) if path.name != "mixture.py" else tree.body
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
            node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "torch" for name in names), f"{relative(path)} imports {', '.join(names)}"


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_tests_import_by_the_installed_name(path: Path) -> None:
    for module, level in imported_modules(path):
        inside_tests = module.startswith("calico.tests.")   # `from .conftest import ...`
        assert level == 0 or inside_tests, f"{relative(path)}: relative import of {module}"
        assert module.split(".")[0] not in {"agent", "envs", "scripts"}, f"{relative(path)}: write calico.{module}"


def test_the_top_level_has_the_five_folders() -> None:
    for folder in (*FOLDERS, "tests"):
        assert (ROOT / folder).is_dir(), folder
    for folder in FOLDERS:
        link = ROOT / "typings" / "calico" / folder
        assert link.resolve() == (ROOT / folder).resolve(), f"{link} must point to {folder}/ for mypy and pyright"


def test_folders_named_like_hugging_face_packages_are_namespaces() -> None:
    # With an __init__.py there, `import transformers` started in the repository root would load ours instead.
    assert not (ROOT / "tokenizers" / "__init__.py").exists()
    assert not (ROOT / "datasets" / "__init__.py").exists()
    for folder in ("agent", "envs"):
        assert (ROOT / folder / "__init__.py").exists(), folder


def test_every_folder_with_code_is_a_listed_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    with_files = {p.parent for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()}
    with_code = [p for p in with_files if not {"__pycache__", "shipped"} & set(p.parts)]
    names = {"calico." + ".".join(p.relative_to(ROOT).parts) for p in with_code}
    assert "shipped/*/*" in setuptools["package-data"]["calico.agent"]       # networks are files, not code
    assert names - set(setuptools["packages"]) == set(), "list them under [tool.setuptools] packages"
    assert set(setuptools["package-dir"]) == set(setuptools["packages"])


LOADERS = {"torch.load", "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
           "dill.load", "dill.loads", "pd.read_pickle", "pandas.read_pickle", "marshal.loads", "shelve.open"}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_pickle_is_ever_loaded(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in LOADERS, f"{relative(path)}:{node.lineno} calls {called}"
        for keyword in node.keywords:   # np.load(..., allow_pickle=True)
            is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            assert not (keyword.arg == "allow_pickle" and is_true), f"{relative(path)}:{node.lineno} allows pickle"


def functions_of(path: Path) -> dict[str, tuple[bool, set[str]]]:
    """Function -> whether an assertion stands in it, and the functions that it calls by their bare name."""
    found = {}
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef):
            nodes = list(ast.walk(function))
            calls = [node.func for node in nodes if isinstance(node, ast.Call)]
            methods = {func.attr for func in calls if isinstance(func, ast.Attribute)}
            asserts = any(isinstance(node, ast.Assert) for node in nodes) or methods & {"raises", "fail", "warns"}
            found[function.name] = (bool(asserts or any(name.startswith("assert_") for name in methods)),
                                    {func.id for func in calls if isinstance(func, ast.Name)})
    return found


def test_every_test_asserts_something() -> None:
    functions = {(path, name): about for path in TESTS for name, about in functions_of(path).items()}
    uses = {name: asserts for (path, name), (asserts, _) in functions.items() if name.startswith("use_")}
    assert uses and all(uses.values())   # of test_dependencies.py, which calls them by one name:
    helpers = {"use"} | {name for (_, name), (asserts, _) in functions.items() if asserts}
    for _ in range(3):                   # helpers that call helpers
        helpers |= {name for (_, name), (_, called) in functions.items() if called & helpers}
    idle = [f"{relative(path)}: {name}" for (path, name), (asserts, called) in functions.items()
            if name.startswith("test_") and not asserts and not called & helpers]
    assert not idle


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_opens_with_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{relative(path)} has no docstring"


def test_a_folder_is_taken_in_at_a_glance() -> None:
    folders = {path.parent for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")}
    one_file_each = {ROOT / "envs" / "families", ROOT / "scripts"}    # of a family, of a verb
    crowded = {relative(folder): count for folder in folders - one_file_each
               if (count := sum(path.is_file() for path in folder.iterdir())) > 20}
    assert not crowded, "give what belongs together a room of its own"


def test_scripts_holds_the_verbs_and_nothing_else() -> None:
    """Beside gpu_check.sh, which is for a checkout: it runs the tests."""
    found = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert found == {"main.py", "gpu_check.sh", *(f"{verb}.py" for verb in VERBS)}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_of_the_pages_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
