"""docs/settings.md, the reference of the config's keys: read from the source of the dataclasses, with the comments beside them.

    python -m calico.scripts.common.settings_page > docs/settings.md      # after a setting has changed; a test compares

Nothing of what it describes is imported: a page of settings must not need torch.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calico.scripts.common import console

ROOT = Path(__file__).parents[2]
TRAIN = (   # keys, file, class
    ("", "scripts/common/settings.py", "RunSettings"),
    ("data.", "scripts/common/settings.py", "DataSettings"),
    ("data.sources[].", "scripts/common/settings.py", "SourceSettings"),
    ("vocabulary.", "tokenizers/vocabulary.py", "VocabularyConfig"),
    ("embedding.", "agent/embedding.py", "EmbeddingConfig"),
    ("embedding.vision. / .audio. / .text.", "agent/front_end.py", "FrontEndConfig"),
    ("optimizer.", "agent/training/optimizer.py", "OptimizerConfig"),
    ("distillation.", "agent/training/distillation.py", "DistillationConfig"),
    ("training.", "agent/training/trainer.py", "TrainingConfig"),
    ("training. (of calico train)", "scripts/common/settings.py", "AgentTraining"),
    ("backbone. (kind: decoder)", "agent/backbones/decoder.py", "DecoderConfig"),
    ("backbone. (kind: perceiver)", "agent/backbones/perceiver.py", "PerceiverConfig"),
    ("backbone. (kind: perceiver-ar)", "agent/backbones/perceiver_ar.py", "PerceiverARConfig"),
    ("backbone. (kind: data2vec)", "agent/backbones/masked_encoder.py", "MaskedEncoderConfig"),
)
OTHERS = (("calico pretrain", "scripts/training/pretraining.py", "PretrainSettings"),
          ("calico finetune", "scripts/training/finetuning.py", "FinetuneSettings"))
OPENING = """\
# Settings

What `calico train CONFIG [key=value ...]` takes, in a YAML file or on the command line: `training.steps=300`,
`'data.sources=[{path: data/CartPole-v1, weight: 2}]'`. What is given on the command line wins over the file, the file over the
`size`, and that over the defaults here. The sizes (`tiny`, `small`, ...) set the fields of `backbone` and `embedding`. The
settings of a run are in its `config.json`. `calico perceive TASK train --help` lists those of the Perceiver's tasks.

This page is made from the source; the files say more.
"""


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass, as it is written."""

    name: str
    default: str
    text: str


def settings_of(source: str, name: str) -> tuple[str, list[Setting]]:
    """First sentence of a dataclass's docstring, and its fields with the comments behind or before them.

    Raises:
        ValueError: no such class in the source.
    """
    found = next((node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        raise ValueError(f"there is no class {name}")
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT}
    code = {line for node in ast.walk(found) if isinstance(node, ast.stmt) and node is not found
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    settings = []
    above: set[int] = set()                       # comment lines that belong to the field before
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(node.annotation):
            continue
        last = node.end_lineno or node.lineno
        lines = [number for number in range(node.lineno, last + 1) if number in comments]
        following = last + 1
        while lines and following in comments and following not in code and column(source, following) > 20:
            lines.append(following)               # goes on in the next line, behind the code
            following += 1
        before = node.lineno - 1
        first: list[int] = []
        while before in comments and before not in code and before not in above:
            first.insert(0, before)
            before -= 1
        above |= set(lines)
        text = " ".join(comments[number] for number in [*first, *lines])
        settings.append(Setting(node.target.id, default_of(node.value), text))
    return (ast.get_docstring(found) or "").split("\n")[0], settings


def column(source: str, line: int) -> int:
    """Where the text of a line begins."""
    text = source.splitlines()[line - 1]
    return len(text) - len(text.lstrip())


def default_of(value: ast.expr | None) -> str:
    """A default as a config writes it."""
    if value is None:
        return "(must be given)"
    written = ast.unparse(value)
    if isinstance(value, ast.Call) and written.startswith("field("):
        made = next((ast.unparse(keyword.value) for keyword in value.keywords if keyword.arg == "default_factory"), "")
        return {"list": "[]", "dict": "{}"}.get(made, "see below")
    return {"True": "true", "False": "false", "None": "null", "''": "(empty)", "()": "[]"}.get(written, written.strip("'"))


def page() -> str:
    """The whole page."""
    train = [line for keys, path, name in TRAIN for line in section(f"`{keys or 'top level'}`", path, name)]
    others = [line for verb, path, name in OTHERS for line in section(f"`{verb}`", path, name)]
    return "\n".join([OPENING, *train, "# Other verbs\n", *others])


def section(title: str, path: str, name: str) -> Iterator[str]:
    """A heading and a table."""
    opening, settings = settings_of((ROOT / path).read_text(encoding="utf-8"), name)
    yield f"## {title}\n\n{opening} ([`{path}`](../{path}))".replace("\n\n ", "\n\n")
    yield "\n| key | default | |\n|---|---|---|"
    for setting in settings:
        told = setting.text.replace("|", "\\|")
        yield f"| `{setting.name}` | `{setting.default}` | {told} |"
    yield ""


if __name__ == "__main__":
    console.say(*page().splitlines())
