"""What every command shares: its parser, its errors, its progress and its output.

    @console.run_command
    def main(argv: list[str] | None = None) -> int:
        parser = console.make_parser("collect", __doc__)
        ...
        with console.progress("collect", total=episodes, unit="episodes") as bar:
            bar.advance(note="return 412")
        console.wrote(folder)

Results go to stdout and nothing else does, so that `--json` can be piped; progress, notes and errors go to stderr. What is
printed may hold names and texts of foreign files, so all that is here goes through `printable`, and commands use nothing else.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import json
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from calico.tokenizers.spelling import did_you_mean

DEBUG = "CALICO_DEBUG"   # set to 1, errors come with their traceback
WRONG_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143   # exit codes: argparse's, and what a shell reports after the signals

Main = Callable[..., int | None]   # (argv: list[str] | None = None) -> exit code, None for 0


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviated options, and options anywhere among the positional words."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Plain parse_args stops filling `key=value ...` at the first option between the words (bpo-15112).
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2; a mistyped option names the nearest."""
        if unknown := re.search(r"unrecognized arguments: .*?(--[\w-]+)", message):
            message += did_you_mean(unknown[1], self._option_string_actions)
        self.exit(WRONG_INPUT, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def make_parser(command: str, doc: str | None) -> Parser:
    """The parser of `calico <command>`.

    Args:
        doc: the script's docstring; its first paragraph opens the help, the rest (examples to paste) closes it.
    """
    summary, _, rest = inspect.cleandoc(doc or "").partition("\n\n")
    return Parser(prog=f"calico {command}", description=summary, epilog=rest or None, allow_abbrev=False,
                  formatter_class=argparse.RawDescriptionHelpFormatter)


def chosen_device(name: str) -> str:
    """The device that --device means here, said in one line. It loads torch: to be called when all words are known to be right.

    Raises:
        ValueError: it cannot be used.
    """
    from calico.agent.hardware import device_words, usable_device

    device = usable_device(name)
    if os.environ.get("RANK", "0") == "0":
        note(f"device: {device_words(device)}")
    return str(device)


# Options that several commands have: the same word means the same in each.
COMMON: dict[str, dict[str, Any]] = {
    "overrides": {"nargs": "*", "default": [], "metavar": "key=value", "help": "settings that win over the file's"},
    "--max-side": {"type": int, "metavar": "PIXELS", "help": "of pictures; default: what the run was trained with"},
    "--seed": {"type": int, "default": 0, "help": "(default 0)"},
    "--device": {"default": "auto", "help": "auto (default), the first there of cuda, mps, cpu; or one of these, or cuda:1"},
    "--json": {"action": "store_true", "help": "print JSON"},
    "--data-changed": {"action": "store_true",
                       "help": "continue a run though its data were mended or have grown since it began"},
    "--last-good": {"action": "store_true",
                    "help": "continue a run from its newest checkpoint that is whole, where the latest is damaged"}}


def add_common(parser: argparse.ArgumentParser, *options: str) -> None:
    """Add some of COMMON."""
    for option in options:
        parser.add_argument(option, **COMMON[option])


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raise ValueError unless each of these options is at least 1 or not given."""
    for name in names:
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise ValueError(f"--{name.replace('_', '-')} {number} must be at least 1")


def check_installed(module: str, extra: str, what: str, rest: str = "") -> None:
    """Raise ImportError, with the command that installs it, where a package of an extra is missing; it is not imported."""
    if sys.modules.get(module, module) is None or importlib.util.find_spec(module) is None:
        raise ImportError(f'{what}; run: pip install "calico-agent[{extra}]" {rest}'.rstrip())


def run_command(main: Main) -> Callable[..., int]:
    """Decorate a script's main(argv): what users can cause becomes one line on stderr and exit code 2.

    That is ValueError (CheckpointError is one), OSError, FloatingPointError, and ImportError that says what to install.
    All else is our mistake and keeps its traceback; CALICO_DEBUG=1 shows it for every error. Ctrl-C gives exit code 130,
    SIGTERM 143.
    """
    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        command = f"calico {_command_name(main)}"
        sys.excepthook = _print_exception
        try:
            with _terminable(), _printable_warnings():
                code = main(argv)
            sys.stdout.flush()   # a closed pipe shows here, not while Python exits
            return code or 0
        except KeyboardInterrupt as stopped:
            print(f"{command}: stopped", file=sys.stderr)
            return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
        except BrokenPipeError:   # `calico tasks | head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (ValueError, OSError, FloatingPointError, ImportError) as error:
            if isinstance(error, ImportError) and "pip install" not in str(error):
                raise
            if os.environ.get(DEBUG) == "1":
                _print_exception(*sys.exc_info())
            rank = os.environ.get("RANK", "") if os.environ.get("WORLD_SIZE", "1") != "1" else ""
            if not (rank and rank != "0" and getattr(error, "of_all_ranks", False)):
                print(f"{command}: {f'rank {printable(rank)}: ' if rank else ''}{one_line(error)}", file=sys.stderr, flush=True)
            if rank and getattr(error, "leaves_at_once", False):
                sys.stdout.flush()
                os._exit(WRONG_INPUT)
            return WRONG_INPUT
    return wrapped


def _print_exception(*error: Any) -> None:
    print(printable("".join(traceback.format_exception(*error)), keep="\n"), end="", file=sys.stderr)


@contextlib.contextmanager
def _printable_warnings() -> Iterator[None]:
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {printable(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


class Terminated(KeyboardInterrupt):
    """SIGTERM, of a batch system or `kill`: ends a command as Ctrl-C does, so that what is finished is written."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(*_: Any) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _command_name(main: Main) -> str:
    """The script's file name, also when it runs as `python -m calico.scripts.train`."""
    module = main.__module__
    if module == "__main__":
        spec = sys.modules["__main__"].__spec__
        module = spec.name if spec else Path(sys.argv[0]).stem
    return module.rpartition(".")[2]


def one_line(error: BaseException) -> str:
    """The message without line breaks; for a file, the system's words and the path."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return printable(f"{error.strerror}: {error.filename}")
    return printable(" ".join(str(error).split())) or type(error).__name__


class Bar:
    """Counts what is done; drawn as a bar on a terminal, as a line every few seconds in a log."""

    def __init__(self, start: float, total: float | None, show: Callable[["Bar"], None]) -> None:
        self.done, self.total = start, total
        self.note = ""
        self._show = show

    def advance(self, amount: float = 1, note: str = "") -> None:
        """`amount` more is done; `note` (such as "loss 1.23") stays until the next one."""
        self.update(self.done + amount, note)

    def update(self, done: float, note: str = "", total: float | None = None) -> None:
        """So much is done in all: for loops that count themselves, or continue somewhere in the middle.

        total: how much there is, as far as is known by now; None: as before.
        """
        self.done, self.note, self.total = done, printable(note) or self.note, total or self.total
        self._show(self)


@contextlib.contextmanager
def progress(description: str, total: float | None = None, unit: str = "", *, start: float = 0, every: float = 5.0,
             stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> Iterator[Bar]:
    """Show progress on stderr while the block runs.

    Args:
        total: how much there is; None if unknown.
        unit: what is counted, in the plural: "steps".
        start: how much was done before, in a resumed loop.
        every: seconds between lines where stderr is not a terminal; the last line always comes.
        stream, clock: for tests.
    """
    if _silent:
        yield Bar(start, total, lambda bar: None)
        return
    stream, description, unit = stream or sys.stderr, printable(description), printable(unit)
    console = Console(file=stream, highlight=False)
    if stream.isatty() and not console.is_dumb_terminal:
        with _drawn(description, total, unit, start, console) as bar:
            yield bar
    else:
        bar = _Log(description, total, unit, start, every, stream, clock)
        yield bar
        bar.print(ended=True)


@contextlib.contextmanager
def _drawn(description: str, total: float | None, unit: str, start: float, console: Console) -> Iterator[Bar]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
               TextColumn("{task.fields[unit]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[note]}", markup=False))
    # rich moves prints to its own stream, above the bar: not when stdout is a pipe and belongs to a machine.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as drawn:
        task = drawn.add_task(description, total=total, completed=start, unit=unit, note="")  # type: ignore[arg-type]
        yield Bar(start, total, lambda bar: drawn.update(task, completed=bar.done, total=bar.total, note=bar.note))


class _Log(Bar):
    """Progress as lines: "train: 120 of 1000 steps (12 %), 3.2/s, 275 s left, loss 1.23"."""

    def __init__(self, description: str, total: float | None, unit: str, start: float, every: float, stream: TextIO,
                 clock: Callable[[], float]) -> None:
        super().__init__(start, total, lambda _: self.print_if_due())
        self.description, self.unit, self.start = description, unit, start
        self.every, self.stream, self.clock = every, stream, clock
        self.began = self.printed = clock()

    def print_if_due(self) -> None:
        if self.clock() - self.printed >= self.every:
            self.printed = self.clock()
            self.print()

    def print(self, ended: bool = False) -> None:
        seconds = self.clock() - self.began
        rate = (self.done - self.start) / seconds if seconds > 0 else 0.0
        parts = [f"{self.description}: {self.done:,.12g}"]
        if self.total:
            parts[0] += f" of {self.total:,.12g} {self.unit}".rstrip() + f" ({100 * self.done / self.total:.0f} %)"
        else:
            parts[0] += f" {self.unit}".rstrip()
        if ended:
            parts[0] += f" in {_duration(seconds)}"
        if rate > 0:
            parts.append(f"{rate:.3g}/s")
        if self.total and rate > 0 and not ended:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        print(", ".join([*parts, *([self.note] if self.note else [])]), file=self.stream, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table on stdout: numbers to the right, four digits of a float, None as a dash; not wrapped in a file or a pipe.

    Cells are shown as they are: what looks like markup or steers a terminal in a task's name or a caption does not act.
    """
    if _silent:
        return
    rows = [list(row) for row in rows]
    table = Table(title=Text(printable(title)) if title else None, title_justify="left")
    for i, column in enumerate(columns):
        filled = [row[i] for row in rows if row[i] is not None]
        is_number = bool(filled) and all(isinstance(value, Real) and not isinstance(value, bool) for value in filled)
        table.add_column(Text(printable(column)), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=10**6)).maximum)
    console.print(table)


def print_result(found: Any, as_json: bool, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """JSON for programs, else a table."""
    if as_json:
        print_json(found)
    else:
        print_table(columns, rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, Real) and not isinstance(value, Integral) else printable(str(value))


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters spelled out, except those in `keep`: foreign text must not steer the terminal."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def print_json(value: Any) -> None:
    """One strict JSON document on stdout; NumPy and torch numbers, dataclasses and paths become plain values."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    if not text.replace("\n", "").isprintable():     # JSON itself lets through what is not ASCII, such as U+009B
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    if not _silent:
        print(text)


def jsonable(value: Any) -> Any:
    """The same tree in plain values that strict JSON has; None for NaN and infinities."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):   # NumPy arrays and scalars, tensors
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def say(*lines: str, end: str = "\n") -> None:
    """Lines on stdout."""
    if not _silent:
        print("\n".join(map(printable, lines)), end=end)


def note(message: str) -> None:
    """A line for people, on stderr."""
    if not _silent:
        print(printable(message), file=sys.stderr, flush=True)


_silent = False


def quiet_ranks() -> None:
    """Before torch is loaded: under torchrun its C++ warns on each rank that every weight was used, as it should be."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def be_silent() -> None:
    """From now on no results, notes or progress of this process: of several that do one thing the first one speaks."""
    global _silent
    _silent = True


def wrote(*paths: Path | str) -> None:
    """The last line of a command, on stderr: what was written where, and how much. The paths must exist."""
    sys.stdout.flush()   # keeps the order where both streams are one terminal
    if _silent:          # another rank may be writing there still
        return
    for path in map(Path, paths):
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
        count = f"{len(files)} file{'s' * (len(files) != 1)}, " if path.is_dir() else ""
        note(f"wrote {path} ({count}{_bytes(size)})")


def _bytes(size: float) -> str:
    units = ["bytes", "kB", "MB", "GB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{float(f'{size:.3g}'):,g} {units[0]}"


def with_progress(description: str, unit: str = "samples") -> Callable[[Iterable[Any]], Iterator[Any]]:
    """A function that passes on what it is given, item by item, and shows how far it is."""
    def pass_through(items: Iterable[Any]) -> Iterator[Any]:
        items = list(items)
        with progress(description, total=len(items), unit=unit) as bar:
            for item in items:
                yield item
                bar.advance()
    return pass_through


def add_old_spellings(parser: argparse.ArgumentParser, spellings: Mapping[str, str]) -> None:
    """Options that have become fields of the config end with one line that names the field.

    Args:
        spellings: option -> key, {"--steps": "training.steps"}, or the whole new spelling: {"--no-mirror": "mirror=false"}.
    """
    class Moved(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                     option: str | None = None) -> None:
            new = spellings[str(option)]
            parser.error(f"{option} is now {new}" + ("" if "=" in new else f"={values or '...'}"))

    for option, new in spellings.items():
        parser.add_argument(option, action=Moved, nargs=0 if "=" in new else "?", help=argparse.SUPPRESS)
