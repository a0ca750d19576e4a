"""`calico app [RUN]`: a run in the browser: watch it play, teach it, talk to it, show it pictures, look at its tokens.

    calico app                        # the network that comes with Calico, at http://127.0.0.1:7860
    calico app runs/demo --open       # another run, and the browser is opened
    calico app --mcp                  # and tools for assistants: caption, answer, chat, play a task (Model Context Protocol)
    calico app --port 7861 --out lessons --task my_module:MyGrid-v0     # and a grid task of your own to be taught

The page is served to this machine alone and loads nothing from others. What you teach is kept under --out: demonstrations that
`calico train` takes, and the runs that were trained on them. Perceivers and encoders that were trained in --runs are offered on
the page. Needs the extra `web`, and `mcp` for --mcp. Ctrl-C ends it.
"""

from pathlib import Path

from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP
from calico.scripts.serving.ports import listening

HOST, PORT = "127.0.0.1", 7860


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Check what can be checked at once, load the run, serve until Ctrl-C."""
    parser = console.make_parser("app", __doc__)
    parser.add_argument("run", nargs="?", default=DEFAULT_RUN, help=HELP)
    parser.add_argument("--port", type=int, default=PORT, help=f"(default {PORT})")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--out", type=Path, default=Path("runs/taught"), metavar="DIR",
                        help="where what you teach is kept (default runs/taught)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR",
                        help="where Perceivers and encoders are looked for (default runs)")
    parser.add_argument("--task", action="append", default=[], metavar="MODULE:ENV",
                        help="a grid task of your own, to be taught; may be repeated")
    parser.add_argument("--mcp", action="store_true", help="serve caption, answer, chat and play_task as tools, too, at "
                        "/gradio_api/mcp/ (Model Context Protocol)")
    console.add_common(parser, "--device")
    arguments = parser.parse_args(argv)
    check_port(arguments.port)                # before torch and Gradio are loaded, which takes seconds
    console.check_installed("gradio", "web", "the page needs the package gradio")

    if arguments.mcp:
        console.check_installed("mcp", "mcp", "--mcp needs the package mcp")

    from calico.scripts.web.page import serve  # late: it loads torch

    serve(arguments.run, port=arguments.port, host=HOST, open_browser=arguments.open, out=arguments.out, runs=arguments.runs,
          tasks=arguments.task, device=arguments.device, mcp=arguments.mcp)
    return 0


def check_port(port: int) -> None:
    """Raise ValueError where nothing can listen there."""
    if not 1 <= port <= 65535:
        raise ValueError(f"--port {port} must be 1 to 65535, such as {PORT}")
    listening(HOST, port).close()


if __name__ == "__main__":
    raise SystemExit(main())
