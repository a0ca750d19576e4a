"""What the site has beside the files of docs/: pages made from the code, and the files of the repository that pages point to.

    overview.md, contributing.md, ...   README.md, CONTRIBUTING.md, ... of the root
    reference/verbs.md                  `--help` of every verb
    reference/python.md                 what `import calico` gives, by mkdocstrings
    notebooks/NAME.md                   docs/notebooks/NAME.ipynb
    source/PATH.md                      a file of the code, or a folder's files, that a page points to

Links that are right on a code host (../agent/agent.py) are turned to these pages while the site is built; no text stands twice.
"""

import ast
import contextlib
import importlib
import io
import json
import os
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "build" / "docs" / "calico"
TOP = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md",
       "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)]*)?\)")
FENCE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)    # code, in which nothing is a link


def on_startup(**_: Any) -> None:
    """Lay the package out as it is installed: mkdocstrings does not look into typings/calico, whose folders are links."""
    shutil.rmtree(PACKAGE.parent, ignore_errors=True)
    for folder in ("agent", "datasets", "envs", "scripts", "tokenizers"):
        for path in (ROOT / folder).rglob("*.py"):
            place = PACKAGE / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    (PACKAGE / "__init__.py").symlink_to(ROOT / "typings" / "calico" / "__init__.py")
    for folder in [path for path in PACKAGE.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").touch()


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of docs/."""
    pages = {name: (ROOT / top).read_text(encoding="utf-8") for top, name in TOP.items()}
    pages |= {"reference/verbs.md": verbs(), "reference/python.md": python()}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook(path)
    texts = pages | {file.src_uri: (ROOT / "docs" / file.src_uri).read_text(encoding="utf-8")
                     for file in files.documentation_pages()}
    for name, text in texts.items():
        for target in targets(name, text):
            if (made := site_name(target)) and made.startswith("source/") and (ROOT / target).exists():
                pages[made] = source(target)
    for name, text in pages.items():
        level = InclusionLevel.NOT_IN_NAV if name.startswith("source/") else InclusionLevel.UNDEFINED
        files.append(File.generated(config, name, content=text, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files of the repository to the pages that show them."""
    name = page.file.src_uri
    if name.startswith("source/"):
        return markdown

    def turned(found: re.Match[str]) -> str:
        target = where(name, found[2])
        made = site_name(target) if target is not None else None
        if made is None:
            return found[0]
        return f"{found[1]}{posixpath.relpath(made, posixpath.dirname(name) or '.')}{found[3] or ''})"

    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(turned, part) for index, part in enumerate(parts))


def where(page: str, link: str) -> str | None:
    """The path in the repository that a page's link means; None: it leads elsewhere."""
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    base = "" if page in TOP.values() else f"docs/{posixpath.dirname(page)}"
    return posixpath.normpath(posixpath.join(base, link))


def targets(page: str, text: str) -> Iterator[str]:
    """All that a page points to, as paths in the repository."""
    for part in FENCE.split(text)[::2]:
        yield from (target for found in LINK.finditer(part) if (target := where(page, found[2])) is not None)


def site_name(target: str) -> str | None:
    """The page of the site that shows a path of the repository."""
    if target in TOP:
        return TOP[target]
    if target in ("docs", "docs/README.md"):
        return "README.md"
    if target == "docs/notebooks":
        return "notebooks/gato.md"       # the folder's first; the others stand beside it
    if target.startswith("docs/notebooks/") and target.endswith(".ipynb"):
        return f"{target.removeprefix('docs/').removesuffix('.ipynb')}.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"source/{target}.md"


def source(target: str) -> str:
    """A file with its source, or a folder with the first line of each of its files."""
    path = ROOT / target
    if path.is_dir():
        rows = [f"| `{file.relative_to(path)}` | {first_line(file)} |" for file in sorted(path.rglob("*.py"))]
        return "\n".join([f"# {target}/", "", "| File | What it is |", "|---|---|", *rows, ""])
    language = {".py": "python", ".yaml": "yaml", ".json": "json", ".md": "markdown"}.get(path.suffix, "text")
    return f"# {target}\n\n````{language}\n{path.read_text(encoding='utf-8')}\n````\n"


def first_line(file: Path) -> str:
    """Of a Python file's docstring."""
    told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return told.partition("\n")[0].replace("|", "\\|").replace("<", "&lt;")


def notebook(path: Path) -> str:
    """A notebook as Markdown: its texts as they are, its code as code; outputs are made by who runs it."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, f"*This page is the notebook `docs/notebooks/{path.name}`: run it with Jupyter.*", ""])


def verbs() -> str:
    """`--help` of every verb, as the terminal shows it."""
    from calico.scripts.main import VERBS

    os.environ["COLUMNS"] = "110"
    parts = ["# Verbs", "Made from the code: what `calico VERB --help` prints."]
    for verb, summary in VERBS.items():
        parts += [f"## calico {verb}", f"{summary[0].upper()}{summary[1:]}.", f"```text\n{help_of(verb)}\n```"]
    inner = json.loads((ROOT / "scripts" / "perceiver_tasks" / "help.json").read_text(encoding="utf-8"))
    for words, text in inner.items():
        parts += [f"### calico perceive {words}", f"```text\n{text.strip()}\n```"]
    return "\n\n".join([*parts, ""])


def help_of(verb: str) -> str:
    """What a verb says of itself."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        importlib.import_module(f"calico.scripts.{verb}").main(["--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).strip()      # Python 3.14 colours it


def python() -> str:
    """What `import calico` gives, each with its docstring."""
    import calico

    names = [name for name in calico.__all__ if not name.startswith("_")]
    parts = ["# The Python API", "Made from the code. [Calico in Python](../python.md) shows how the parts work together."]
    for name in sorted(names, key=lambda name: (not name[0].islower(), name)):
        parts.append(f"::: calico.{calico._HOMES[name]}.{name}")
    return "\n\n".join([*parts, ""])
