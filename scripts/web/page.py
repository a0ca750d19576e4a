"""The page of `calico app`: its tabs in order of use, its looks, and the server.

Nothing is loaded from other machines: no fonts, no analytics. The server listens on the loopback address alone.
"""

import html
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import calico
from calico.datasets.images import MAX_PIXELS
from calico.scripts.common import console
from calico.scripts.web import encoders, mcp_tools, perceivers, play, see, talk, teach, tokens
from calico.scripts.web.desk import Desk

LARGEST_UPLOAD = "64mb"
CSS = Path(__file__).parent.parent / "templates" / "app.css"


def serve(run: str, *, port: int, host: str, open_browser: bool, out: Path, runs: Path, tasks: Sequence[str] = (),
          device: str = "cpu", mcp: bool = False) -> None:
    """Load the run and serve its page until Ctrl-C or SIGTERM.

    Args:
        mcp: with tools for assistants, see mcp_tools.py.
    Raises:
        ValueError: no such run, or a damaged one, or no such device.
    """
    agent = calico.load(run, device=device)
    desk = Desk(agent=agent, run=run, out=out, runs=runs, tasks=tasks, device=console.chosen_device(device))
    page = build(desk, mcp)
    try:
        launch(page, port=port, host=host, open_browser=open_browser, mcp=mcp)
        if mcp:
            console.note(f"tools for assistants (MCP, streamable HTTP): http://{host}:{port}{mcp_tools.PATH}")
        console.say(f"{run} is at http://{host}:{port} (Ctrl-C ends)")
        threading.Event().wait()
    finally:
        desk.close()
        page.close(verbose=False)


def build(desk: Desk, mcp: bool = False) -> Any:
    """The page as a gradio.Blocks; mcp: with tools for assistants."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"     # read when Gradio is imported
    import gradio as gr

    with gr.Blocks(title="Calico", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=False) as page:
        gr.HTML(heading(desk), elem_classes="heading")
        with gr.Tab("Play"):
            play.build(desk, page)
        with gr.Tab("Talk"):
            talk.build(desk)
        with gr.Tab("See"):
            see.build(desk)
        with gr.Tab("Tokens"):
            tokens.build(desk)
        with gr.Tab("Teach"):
            teach.build(desk)
        with gr.Tab("Perceiver"):
            perceivers.build(desk)
        with gr.Tab("Encoders") as tab:
            encoders.build(desk, tab)

        def left(request: gr.Request) -> None:
            desk.leave(request)

        page.unload(left)
        if mcp:
            mcp_tools.build(desk, page)
    return page


def heading(desk: Desk) -> str:
    """The run in one line."""
    millions = sum(weights.numel() for weights in desk.agent.network.model.parameters()) / 1e6
    return (f"<h1>Calico</h1><p>{html.escape(desk.run)}: one network of {millions:.1f} million parameters, "
            f"{len(desk.agent.tasks)} tasks</p>")


def launch(page: Any, *, port: int, host: str = "127.0.0.1", open_browser: bool = False, mcp: bool = False) -> None:
    """Begin to serve, in threads of their own."""
    import gradio as gr
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS          # Gradio opens uploads by itself, before datasets/images.py refuses them
    logging.getLogger("httpx").setLevel(logging.WARNING)
    system = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "DejaVu Sans", "sans-serif"]
    theme = gr.themes.Default(primary_hue="orange", secondary_hue="orange", neutral_hue="stone", font=system,
                              font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"])
    page.launch(server_name=host, server_port=port, inbrowser=open_browser, prevent_thread_lock=True, quiet=True,
                show_error=True, share=False, ssr_mode=False, enable_monitoring=False, max_file_size=LARGEST_UPLOAD,
                footer_links=[], mcp_server=mcp, theme=theme, css=CSS.read_text(), head=teach.KEYS)
