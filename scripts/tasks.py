"""`calico tasks`: what can be played here, and what a timestep of it looks like.

    calico tasks                                 # every task, at once: the package brings the list
    calico tasks --family classic
    calico tasks CartPole-v1 ALE/Pong-v5 --json

Tokens per step count the observation, the separator and the action; they vary where text is observed. "compact" is what a
step costs with `calico collect --compact`, data.numbers=vector and data.text_every=16. Scores are means: of uniform actions,
of the scripted expert, of a person.
"""

import argparse
from importlib import metadata
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calico.envs import scores, task_table
from calico.envs.registry import ENTRY_POINTS, FAMILIES, MissingPackage, Task, family, get_task, tasks, version
from calico.scripts.common.console import make_parser, note, print_json, run_command, say, wrote

COLUMNS = ("task", "sees", "does", "tokens/step", "compact", "expert", "random score", "expert score", "human score")
SCORES = {"random score": "random_score", "expert score": "expert_score", "human score": "human_score"}
RIGHT = ("tokens/step", "compact", *SCORES)   # columns of numbers


@run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, look up, print."""
    parser = make_parser("tasks", __doc__)
    parser.add_argument("names", nargs="*", metavar="TASK", help="only these tasks")
    parser.add_argument("--family", metavar="F", help=f"only this family: {', '.join(FAMILIES)}")
    parser.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)   # for those who change a family
    args = parser.parse_args(argv)
    if args.write:
        from calico.envs.interfaces import write_table  # late: it makes every environment

        write_table()
        wrote(task_table.TABLE)
        return 0
    names = args.names or listed(args.family)
    entries = [describe(name) for name in names]
    if args.json:
        print_json(entries)
        return 0
    for name in dict.fromkeys((*FAMILIES, *(entry["family"] for entry in entries))):
        of_family = [entry for entry in entries if entry["family"] == name]
        if of_family:
            _print_family(name, of_family)
    experts = sum(entry["expert"] is not None for entry in entries)
    note(f"{len(entries)} tasks, {experts} with an expert that `calico collect` records; "
         "`calico inspect TASK` shows tokens")
    return 0


def listed(family_name: str | None) -> list[str]:
    """Names of all tasks, those of other packages last, or of those of one family.

    Raises:
        ValueError: no such family.
    """
    brought = metadata.entry_points(group=ENTRY_POINTS) if family_name is None else ()
    if (family_name is None and not brought) or family_name in FAMILIES:     # Calico's own: from the table, at once
        return [name for name, row in task_table.rows().items() if family_name in (None, row["family"])]
    return [task.name for task in tasks(family_name)]


def describe(name: str) -> dict[str, Any]:
    """Everything that is known of a task, as plain values.

    Returns:
        task, family, extra, licence, expert, max_steps (longest episode), the reference scores, view and versions; and of
        its environment: observation and action in words, their spaces, the parts of a step, `tokens_per_step` and
        `compact_tokens_per_step` [least, most].
        Where its package is not installed, `missing` holds the message.
    Raises:
        ValueError: no such task.
    """
    if name not in task_table.rows():
        task = get_task(name)   # raises for an unknown one, and names the nearest
        if task.family in FAMILIES:
            raise ValueError(f"{name} is not in {task_table.TABLE} yet; run: python -m calico.scripts.tasks --write")
        return describe_outside(task)
    about = dict(task_table.rows()[name])
    group = task_table.table()["families"][about["family"]]
    entry = _entry(about, group["extra"])
    if module := task_table.missing_module(entry["family"]):
        entry["missing"] = f"{group['title']} needs the package {module!r}, which is missing here; run: {group['install']}"
    return entry


def describe_outside(task: Task) -> dict[str, Any]:
    """The same of a task that does not come with Calico; its environment is made for it."""
    from calico.envs.interfaces import describe as interface_of

    try:
        return _entry({**task.record(), "interface": interface_of(task)}, family(task.family).extra)
    except MissingPackage as error:
        interface = {"observation": "?", "action": "?", "tokens_per_step": [0, 0], "compact_tokens_per_step": [0, 0]}
        return {**_entry({**task.record(), "interface": interface}, family(task.family).extra), "missing": str(error)}


def _entry(about: dict[str, Any], extra: str | None) -> dict[str, Any]:
    """What is told of a task, from its record and its interface."""
    name = about["name"]
    known = scores.recorded(about["scores_of"] or name)
    interface = about.pop("interface")
    return {"task": about.pop("name"), "family": about.pop("family"),
             **{key: interface[key] for key in ("observation", "action", "tokens_per_step", "compact_tokens_per_step")},
             "max_steps": about.pop("episode_limit"), "expert": about.pop("expert"),
             "random_score": known.random, "expert_score": known.expert, "human_score": known.human,
             "extra": extra, "licence": about.pop("licence"), **about,
             "versions": {package: version(package) for package in about["packages"]}, **interface}


def _print_family(name: str, entries: list[dict[str, Any]]) -> None:
    """A heading, what all of the family share in one line, and a table of the rest."""
    versions = ", ".join(f"{k} {v}" for k, v in {k: v for e in entries for k, v in e["versions"].items()}.items())
    licences = ", ".join(dict.fromkeys(entry["licence"] for entry in entries))
    columns = {column: [_cell(entry, column) for entry in entries] for column in COLUMNS}
    shared = {c: cells[0] for c, cells in columns.items() if len(entries) > 2 and len(set(cells)) == 1}
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200   # one line per task for grep and less
    title = task_table.table()["families"][name]["title"] if name in FAMILIES else family(name).title
    console.print(Text(f"{title}:", "bold"),
                  Text(f"{len(entries)} tasks, {versions}, licence {licences}", "dim"))
    if "missing" in entries[0]:
        console.print(Text("not installed", "bold"))
        note(entries[0]["missing"])
    told = [f"{column} {value}" for column, value in shared.items() if value]
    if told:
        console.print(Text(f"All of them: {', '.join(told)}", "dim"))
    shown = {column: cells for column, cells in columns.items() if column not in shared}
    lines = _lines(shown)
    if len(lines[0]) <= console.width:   # without rich's table, which takes half a second for all families
        console.print()
        console.print(Text(f"{lines[0]}\n {'─' * (len(lines[0]) - 1)}", "dim"))
        say(*lines[1:], end="\n\n")
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in shown:
        table.add_column(column, justify="right" if column in RIGHT else "left", no_wrap=column == "task", overflow="fold")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def _lines(columns: dict[str, list[str]]) -> list[str]:
    """The columns side by side, the header first."""
    padded = []
    for name, cells in columns.items():
        width = max(map(len, (name, *cells)))
        padded.append([cell.rjust(width) if name in RIGHT else cell.ljust(width) for cell in (name, *cells)])
    return [f" {'  '.join(row)}" for row in zip(*padded, strict=True)]


def _cell(entry: dict[str, Any], column: str) -> str:
    match column:
        case "task":
            return entry["task"]
        case "expert":
            return entry["expert"] or ""
        case _ if column in SCORES:
            value = entry[SCORES[column]]
            return "" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case "tokens/step" | "compact":
            least, most = entry["tokens_per_step" if column == "tokens/step" else "compact_tokens_per_step"]
            return str(most) if least == most else f"{least}-{most}"
        case _:
            return entry["observation" if column == "sees" else "action"]


if __name__ == "__main__":
    raise SystemExit(main())
