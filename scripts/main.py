"""`calico <verb> ...`: finds the verb's file in scripts/ and hands the rest of the command line to it.

Only the chosen verb is imported, so `calico --help` and mistyped verbs answer at once, without loading torch.

    calico --help
    calico tasks --family classic
"""

import importlib
import os
import sys
from importlib import metadata

from calico.tokenizers.spelling import nearest

# Environments multiply small matrices with NumPy while torch's threads wait for the next forward: two pools of threads that
# spin on the same cores. Measured with 20 rows of Atari on 2 cores: 56 ms a step with both, 23 ms with torch's alone.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# verb -> one line for `calico --help`. The file is calico/scripts/<verb>.py with `main(argv) -> int | None`.
VERBS = {
    "demo": "collect, train, play, caption and chat in one go, and write a report (CPU, minutes)",
    "tasks": "what can be played here: spaces, tokens per timestep, experts, reference scores",
    "score": "what random play and the experts reach: the ends of every score's scale",
    "collect": "demonstrations from a task's expert, as Parquet episodes",
    "import": "episodes of Minari, JAT, D4RL or LeRobot, as Calico's own",
    "export": "episodes as a Minari or LeRobot data set",
    "check": "read data once: what is broken, doubled, too long; or play an environment of your own",
    "tokenizer": "learn text pieces: calico tokenizer train FILES --vocab N --out FILE",
    "train": "one mixture, one model: calico train CONFIG [key=value ...]",
    "rollout": "let a trained run play tasks",
    "serve": "a network over HTTP: OpenAI's chat protocol, control loops over WebSocket",
    "improve": "play, be corrected by the expert, learn, again: better scores on tasks of your choice",
    "average": "the mean of several networks' weights, which often plays better than each",
    "fewshot": "how well a network learns new tasks from few demonstrations, beside simpler ways",
    "evaluate": "every ability of one checkpoint: scores, captions, questions, chat, text, report",
    "card": "what a network can do: the score of every task, data, licences",
    "push": "give a network or a data set to others, on the Hugging Face Hub",
    "caption": "describe pictures",
    "vqa": "answer a question about a picture",
    "chat": "talk to a run",
    "app": "a run in the browser: play, talk, see, tokens, teach, Perceivers, encoders",
    "inspect": "a task's episode, a dataset or a document as coloured tokens",
    "pretrain": "data2vec: an encoder from pictures, sounds or texts without labels",
    "finetune": "classes on top of a pre-trained encoder",
    "probe": "how good a pre-trained encoder's vectors are, beside an untrained one's",
    "perceive": "the Perceiver's tasks: classify text, pictures, sounds, points; fill-mask; flow; ...",
    "bench": "speed and memory, ratios side by side",
}


def usage() -> str:
    """The text of `calico --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return ("usage: calico VERB [options]\n\n"
            "Calico, a Gato-style generalist agent: one network, one set of weights, one token stream.\n\n"
            f"{verbs}\n\n"
            "calico VERB --help shows a verb's options and an example. First command to try: calico demo")


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: the words after `calico`; None takes the process's command line.
    Returns:
        The exit code: 0 done, 2 wrong input, 130 stopped with Ctrl-C; else what the verb returns.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words:
        print(usage(), file=sys.stderr)
        return 2
    verb, rest = words[0], words[1:]
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0
    if verb in ("-V", "--version"):
        print(f"calico {metadata.version('calico-agent')}")
        return 0
    if verb not in VERBS:
        close = nearest(verb, VERBS, cutoff=0.5)
        hint = f"; did you mean `calico {close[0]}`?" if close else ""
        print(f"calico: unknown verb {verb!r}{hint} There are: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    from calico.scripts.common.console import run_command  # here and not above: it loads rich

    return run_command(importlib.import_module(f"calico.scripts.{verb}").main)(rest)


if __name__ == "__main__":
    raise SystemExit(main())
