"""What `calico push` sends: a network with its card, a data set as Parquet with its card.

Cards are Hugging Face's (YAML above Markdown), made with huggingface_hub's own classes. A network's `model-index` has the score
of every task that was measured; without an evaluation there is none, and the card says so.
"""

import io
import json
import os
import tempfile
import wave
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calico.agent import checkpoint
from calico.agent.agent import SHIPPED, located
from calico.datasets.documents import Caption, CaptionReader, Dialogue, DialogueReader
from calico.datasets.episodes import EpisodeReader
from calico.datasets.formats import hub
from calico.datasets.formats.parquet_part import sidecar_path
from calico.datasets.images import encode_file
from calico.datasets.open_data import open_data
from calico.datasets.reader import Reader
from calico.envs import task_table
from calico.scripts.common import console
from calico.scripts.evaluation.all_suites import results_folder
from calico.scripts.evaluation.card import CARD, README, card_of, readme
from calico.tokenizers.tokens import SOUND_RATE

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])     # a picture or sound in a row, as Hugging Face stores it
GROUP_BYTES = 1 << 26      # of files in one group of rows
LONGEST = 600.0            # seconds of a sound, all that a file may have
KINDS = {"image": ("images", "Image"), "audio": ("audios", "Audio")}


def is_run(what: str) -> bool:
    """Whether a path, or a name, holds a network."""
    path = Path(what)
    if not path.exists():
        return what in SHIPPED
    return path.is_dir() and ((path / checkpoint.MANIFEST).exists() or (path / "checkpoints").is_dir())


# ---- networks


def push_run(run: str, name: str, *, private: bool = False, film: Path | None = None, optimizer: bool = False) -> str:
    """Upload a network with its card; returns its address.

    Raises:
        ValueError: no such run, a damaged file, a film that is none; the Hub's refusal.
    """
    saved = checkpoint.load(located(run), only=())
    try:
        card: dict[str, Any] | None = {**card_of(run), "name": name.partition("/")[2]}
    except ValueError as error:
        if "was not evaluated yet" not in str(error):
            raise
        console.note(f"{run} was not evaluated, so its card has no scores; `calico evaluate {run}` measures them")
        card = None
    film = film or film_of(run)
    files: dict[str, bytes] = {}
    if film is not None:
        if film.suffix.lower() not in (".gif", ".mp4") or not film.is_file():
            raise ValueError(f"--film {film} is no GIF or MP4; `calico rollout {run} TASK --gif films` makes one")
        files["film" + film.suffix.lower()] = film.read_bytes()
    if card is not None:
        files[CARD] = json.dumps(card, indent=1).encode()
    files[README] = model_card(name, card, saved, next((file for file in files if file.startswith("film.")), None)).encode()
    return checkpoint.push_to_hub(located(run), name, private=private, optimizer=optimizer, files=files)


def film_of(run: str) -> Path | None:
    """The newest GIF among a run's results."""
    folders = [folder for folder in (Path(run), results_folder(Path(run))) if folder.is_dir()]
    found = {path for folder in folders for pattern in ("*.gif", "films/*.gif") for path in folder.glob(pattern)}
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def model_card(name: str, card: Mapping[str, Any] | None, saved: checkpoint.Checkpoint, film: str | None) -> str:
    """README.md: what the Hub reads, then the film, how it is used, and the scores."""
    from huggingface_hub import EvalResult, ModelCardData

    tasks = saved.documents.get("tasks", {})
    results = [] if card is None else [
        EvalResult(task_type="reinforcement-learning", task_name="reinforcement learning", dataset_type=task, dataset_name=task,
                   metric_type="mean_reward", metric_name="mean return", metric_value=round(float(about["score"]), 4),
                   metric_args={"episodes": about["episodes"], "random": about["random"], "expert": about["expert"]})
        for task, about in card["scores"].items()]
    short = name.partition("/")[2]
    data = ModelCardData(
        library_name="calico", pipeline_tag="reinforcement-learning" if tasks else "image-text-to-text",
        tags=["calico", "gato", "generalist-agent", *sorted({family_of(task) for task in tasks})],
        model_name=short if results else None, eval_results=results or None)
    body = readme(card) if card is not None else f"# {short}\n\nIt was not evaluated yet.\n"
    title, _, rest = body.partition("\n")
    shown = [] if film is None else ["", f"![It plays]({film})" if film.endswith(".gif") else
                                     f'<video src="{film}" controls autoplay muted loop></video>']
    first = min(tasks, default="TASK")
    use = ["", "## How it is used", "", "```bash", "pip install calico-agent", *(
        [f"calico rollout {name} {first} --gif films"] if tasks else []), f"calico chat {name}", "```", "", "```python",
        "import calico", "", f'agent = calico.load("{name}")', *(
            [f'policy, env = agent.policy("{first}"), agent.make("{first}")'] if tasks else []), "```"]
    return "\n".join(["---", data.to_yaml(), "---", "", title, *shown, rest.rstrip(), *use]) + "\n"


def family_of(task: str) -> str:
    row = task_table.rows().get(task)
    return str(row["family"]) if row else "own-environment"


# ---- data sets


def push_data(path: str, name: str, *, private: bool = False) -> str:
    """Upload a data set as Parquet with its card; returns its address.

    Raises:
        ValueError: nothing that can be read; the Hub's refusal.
    """
    reader = open_data(path, max_side=None, max_seconds=LONGEST)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir()
        if isinstance(reader, EpisodeReader):
            for file in parts_of(reader.path):
                os.symlink(file.resolve(), folder / file.name)
        else:
            write_table(reader, folder / "data.parquet")
        (folder / README).write_text(data_card(name, reader), encoding="utf-8")
        return hub.upload(folder, name, kind="dataset", private=private, message="Calico data set")


def parts_of(path: Path) -> list[Path]:
    """The tables of a data set of episodes, and what lies beside each."""
    tables = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    return [file for table in tables for file in (table, sidecar_path(table)) if file.exists()]


def write_table(reader: Reader[Any], path: Path) -> None:
    """Documents as one Parquet file, pictures and sounds inside, with page checksums.

    Raises:
        ValueError: documents of a kind that has no columns here.
    """
    schema, rows = columns_of(reader)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer, console.progress(
            "write", total=len(reader), unit="documents") as bar:
        group: list[dict[str, Any]] = []
        held = 0
        for row in rows:
            group.append(row)
            held += size_of(row)
            if held >= GROUP_BYTES or len(group) >= 1000:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, held = [], 0
            bar.advance()
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))


def size_of(value: Any) -> int:
    """Bytes of the files and texts in a row, about."""
    match value:
        case dict():
            return sum(map(size_of, value.values()))
        case list():
            return sum(map(size_of, value))
        case str() | bytes():
            return len(value)
    return 8


def columns_of(reader: Reader[Any]) -> tuple[pa.Schema, Iterator[dict[str, Any]]]:
    """The columns of a table of documents, with what the Hub's viewer is told of them, and its rows."""
    if isinstance(reader, CaptionReader):
        fields = [("image", FILE), ("captions", pa.list_(pa.string()))]
        return schema_of(fields, {"image": "Image"}), caption_rows(reader)
    if isinstance(reader, DialogueReader):
        plain = all(isinstance(message["content"], str) for number in range(len(reader))
                    for message in reader[number].messages) if not (reader.has_pictures or reader.has_sounds) else False
        content = pa.string() if plain else pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
        fields = [("messages", pa.list_(pa.struct([("role", pa.string()), ("content", content)])))]
        features = {}
        for has, (column, feature) in zip((reader.has_pictures, reader.has_sounds), KINDS.values(), strict=True):
            if has:
                fields.append((column, pa.list_(FILE)))
                features[column] = feature
        return schema_of(fields, features), dialogue_rows(reader, plain)
    return schema_of([("text", pa.string())], {}), ({"text": str(text)} for text in all_of(reader))


def schema_of(fields: list[tuple[str, pa.DataType]], files: Mapping[str, str]) -> pa.Schema:
    """A schema that says, in Hugging Face's manner, which columns are pictures and sounds."""
    features = {name: {"_type": files[name]} if not pa.types.is_list(kind) else {"_type": "List",
                                                                                "feature": {"_type": files[name]}}
                for name, kind in fields if name in files}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if len(features) == len(fields) else None
    return pa.schema(fields, metadata=metadata)


def all_of(reader: Reader[Any]) -> Iterable[Any]:
    return (reader[number] for number in range(len(reader)))


def caption_rows(reader: CaptionReader) -> Iterator[dict[str, Any]]:
    for caption in all_of(reader):
        assert isinstance(caption, Caption)
        yield {"image": {"bytes": encode_file(caption.image), "path": None}, "captions": list(caption.captions)}


def dialogue_rows(reader: DialogueReader, plain: bool) -> Iterator[dict[str, Any]]:
    for dialogue in all_of(reader):
        assert isinstance(dialogue, Dialogue)
        files: dict[str, list[dict[str, Any]]] = {"images": [], "audios": []}
        messages = []
        for message in dialogue.messages:
            content = message["content"]
            entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for entry in entries:
                if entry["type"] == "image":
                    files["images"].append({"bytes": encode_file(dialogue.images[entry["image"]]), "path": None})
                elif entry["type"] == "audio":
                    files["audios"].append({"bytes": encode_sound(dialogue.sounds[entry["audio"]]), "path": None})
            shown = content if plain else [{"type": entry["type"], "text": entry.get("text")} for entry in entries]
            messages.append({"role": message["role"], "content": shown})
        yield {"messages": messages, **{column: found for column, found in files.items() if found}}


def encode_sound(samples: np.ndarray) -> bytes:
    """A WAV file of 16 bits of float (samples,) at SOUND_RATE."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SOUND_RATE)
        out.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def data_card(name: str, reader: Reader[Any]) -> str:
    """README.md: what the Hub reads, then what the data are and how they are used."""
    from huggingface_hub import DatasetCardData

    episodes = isinstance(reader, EpisodeReader)
    task = reader.task["name"] if reader.task is not None else None
    kinds = {EpisodeReader: "reinforcement-learning", CaptionReader: "image-to-text", DialogueReader: "text-generation"}
    data = DatasetCardData(
        task_categories=[next((kind for form, kind in kinds.items() if isinstance(reader, form)), "text-generation")],
        tags=["calico", *([family_of(task)] if task else [])], size_categories=[size_category(len(reader))],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "*.parquet"}]}])
    about = [f"- {len(reader):,} {'episodes of ' + str(task) if episodes else 'documents: ' + reader.format}"]
    if isinstance(reader, EpisodeReader):
        lengths, scores = reader.lengths, reader.scores
        about += [f"- {int(lengths.sum()):,} steps; mean return {float(scores.mean()):.2f}, from {float(scores.min()):.2f} to "
                  f"{float(scores.max()):.2f}", f"- played by {reader.task.get('expert') or 'somebody'}"]
        if row := task_table.rows().get(str(task)):
            about.append(f"- licence of the environment: {row['licence'] or 'unstated'}")
    lines = ["---", data.to_yaml(), "---", "", f"# {name.partition('/')[2]}", "", *about, "", "```bash",
             f"calico inspect {name}", f"calico train tiny 'data.sources=[{{path: {name}}}]' out=runs/mine", "```", "",
             "```python", "import datasets", "", f'rows = datasets.load_dataset("{name}", split="train")', "```"]
    return "\n".join(lines) + "\n"


def size_category(count: int) -> str:
    """Hugging Face's word for so many rows."""
    borders = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((word for border, word in borders if count < border), "1M<n<10M")
