"""The card of a network: its figures from the latest evaluation, the data that it was made of, and what it cannot do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calico.agent import checkpoint
from calico.agent.agent import ACTING, Agent, located
from calico.envs import task_table
from calico.scripts.common import console
from calico.scripts.evaluation.all_suites import SUMMARY, results_folder

CARD, README = "card.json", "README.md"
PACKED = ("model", "vocabulary", "tasks", "encoders", "state", checkpoint.BEFORE)    # what acting needs, and its origin
LIMITS = (
    "It plays the tasks below in the views that it was trained with, and no others.",
    "It knows grounded captions, questions and small talk about the worlds that are named; of other pictures and topics it "
    "knows nothing, and it makes things up.",
    "Scores are means over the seeds given; a task below half of the expert is not played well, and is listed all the same.")


def pack(run: str, out: Path, temperature: float | None = None) -> Path:
    """See checkpoint.pack; of each source the data's name stays, its path does not.

    Args:
        temperature: of its actions, unless somebody asks for another one.
    """
    saved = checkpoint.load(located(run), only=("model",))
    data = saved.documents.get("config", {}).get("data", {})
    documents = {stem: saved.documents[stem] for stem in PACKED if stem in saved.documents}
    documents["sources"] = [Path(source["path"]).name for source in data.get("sources", ()) if source.get("weight")]
    if temperature is not None:
        documents[ACTING] = {"temperature": temperature}
    return checkpoint.pack(saved, out, documents)


def card_of(run: str, measured: bool = False) -> dict[str, Any]:
    """A network's card: the one in its folder, or one made from its latest evaluation.

    Args:
        measured: make it anew.
    Raises:
        ValueError: the network was not evaluated yet.
    """
    saved = checkpoint.load(located(run), only=())         # the card alone needs no weights
    if not measured and "card" in saved.documents:
        return dict(saved.documents["card"])
    agent, path = Agent.load(run), results_folder(Path(run)) / SUMMARY
    try:
        found = json.loads(path.read_text())
    except OSError:
        raise ValueError(f"{run} was not evaluated yet; run `calico evaluate {run}` first") from None
    if found["network"] != agent.fingerprint():
        raise ValueError(f"{path} is of other weights than {run} has now; run `calico evaluate {run}` again")
    scores = {name: {"family": task["family"], "score": task["score"], "interval": task["interval"], "random": task["random"],
                     "expert": task["expert"], "episodes": task["episodes"],
                     "of_expert": None if task["normalised"] is None else round(task["normalised"] / 100, 4)}
              for name, task in found.get("tasks", {}).items()}
    families = {name: {"tasks": group["tasks"], "share_at_50": group["share_at_50"],
                       "interquartile_mean": fractions(group["interquartile_mean"])}
                for name, group in found.get("aggregates", {}).items()}
    everything = families.pop("all", {})
    weights = sum(file.stat().st_size for file in saved.path.iterdir() if file.is_file())
    trained = sorted({task_table.rows()[name]["licence"] or "unstated" for name in scores})
    spent = checkpoint.spent(saved)
    known = {task_table.rows()[name]["family"] for name in agent.tasks if name in task_table.rows()}
    return {"name": Path(run).name, "tasks": len(agent.tasks), "families": len(known), "evaluated": len(scores),
            "share_at_50": everything.get("share_at_50"),
            "interquartile_mean": everything.get("interquartile_mean", {}).get("value"),
            "interquartile_mean_95": everything.get("interquartile_mean"),
            "caption_accuracy": found.get("caption_accuracy"), "question_accuracy": found.get("question_accuracy"),
            "parameters": agent.model.parameter_count(), "bytes": weights, "tokens": int(spent["tokens"]),
            "training_hours": round(spent["seconds"] / 3600, 2), "episodes": found["episodes"],
            "max_steps": found.get("max_steps"),
            "temperature": found["sampling"]["temperature"], "by_family": families, "scores": scores,
            "data": saved.documents.get("sources", []), "licences": trained, "limits": list(LIMITS)}


def fractions(estimate: Mapping[str, float]) -> dict[str, float]:
    """An estimate in per cent as fractions."""
    return {name: round(value / 100, 4) for name, value in estimate.items()}


def write(run: str, card: Mapping[str, Any]) -> list[Path]:
    """Put a card into the network's folder; returns the files."""
    folder = checkpoint.find(located(run))
    checkpoint.add(folder, {CARD: json.dumps(card, indent=1).encode(), README: readme(card).encode()})
    return [folder / CARD, folder / README]


def readme(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [f"# {card['name']}", "", *(f"- {line}" for line in summary(card)), "", "## What it cannot do", "",
             *(f"- {line}" for line in card["limits"]), "", "## Data", "",
             "Demonstrations that `calico collect` makes with the experts of the package, and pictures, captions and dialogues "
             f"that it draws. Licences of the environments: {', '.join(card['licences'])}.", "", "## Families", "",
             "| family | tasks | half of expert | interquartile mean |", "|---|---|---|---|"]
    lines += [f"| {name} | {group['tasks']} | {percent(group['share_at_50'])} | {estimate(group['interquartile_mean'])} |"
              for name, group in card["by_family"].items()]
    lines += ["", "## Tasks", "",
              f"Mean return over {card['episodes']} episodes or more with seeds that no demonstration was made from"
              + (f", each of {card['max_steps']:,} steps at most." if card["max_steps"] else "."), "",
              "| task | return | ± 95 % | random | expert | of expert |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {task['score']:.2f} | {task['interval']:.2f} | {task['random']:.2f} | {task['expert']:.2f} | "
              f"{percent(task['of_expert'])} |" for name, task in card["scores"].items()]
    return "\n".join(lines) + "\n"


def summary(card: Mapping[str, Any]) -> list[str]:
    """The card in a few lines."""
    measured = "" if card["evaluated"] == card["tasks"] else f", {card['evaluated']} of them measured"
    lines = [f"{card['parameters']:,} parameters, {card['bytes'] / 1e6:.1f} MB, trained on {card['tokens'] / 1e6:.0f} million "
             f"tokens in {card['training_hours']:.1f} hours",
             f"{card['tasks']} tasks of {card['families']} families{measured}; {percent(card['share_at_50'])} at half of the "
             "expert's score or more"]
    if card["interquartile_mean_95"]:
        lines.append(f"interquartile mean of expert-normalised scores {estimate(card['interquartile_mean_95'])}, at "
                     f"temperature {card['temperature']:g}")
    for name, words in (("caption_accuracy", "captions"), ("question_accuracy", "answers")):
        if card[name] is not None:
            lines.append(f"{percent(card[name])} of its {words} about drawn pictures are right")
    return lines


def show(card: Mapping[str, Any]) -> None:
    """The card as tables."""
    console.say(card["name"])
    for line in summary(card):
        console.say(f"  {line}")
    console.print_table(("family", "tasks", "half of expert", "interquartile mean"), [
        (name, group["tasks"], percent(group["share_at_50"]), estimate(group["interquartile_mean"]))
        for name, group in card["by_family"].items()])
    console.note(f"calico card {card['name']} --json has the score of every task")


def percent(fraction: float | None) -> str:
    """0.873 -> "87 %"."""
    return "–" if fraction is None else f"{100 * fraction:.0f} %"


def estimate(found: Mapping[str, float]) -> str:
    """A fraction with its 95 % interval."""
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
