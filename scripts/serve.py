"""`calico serve [RUN]`: a network over HTTP, for programs: OpenAI's chat protocol, and control loops over WebSocket.

    calico serve                                                  # the network that comes with Calico, on 127.0.0.1:8000
    calico serve runs/demo --port 9000
    CALICO_TOKEN=a-long-secret calico serve --host 0.0.0.0        # other machines: only with a token

Routes: /v1/chat/completions and /v1/models as OpenAI's, /v1/act (WebSocket and POST) and /v1/tasks for control loops, /health,
/metrics for Prometheus, /docs. docs/serve.md shows each with an example. Ctrl-C ends it.
"""

from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("serve", __doc__)
    parser.add_argument("run", nargs="?", default=DEFAULT_RUN, help=HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="(default 8000; 0: any that is free)")
    parser.add_argument("--max-sessions", type=int, default=64, help="control loops at once (default 64)")
    parser.add_argument("--max-waiting", type=int, default=16, help="chats that wait for their turn (default 16)")
    parser.add_argument("--max-mb", type=int, default=16, help="megabytes of a request (default 16)")
    parser.add_argument("--max-pixels", type=int, default=1 << 24, help="of all pictures of a request (default 16777216)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS",
                        help="of sending a request, and of writing a reply, which then ends (default 60)")
    parser.add_argument("--idle", type=float, default=300.0, metavar="SECONDS",
                        help="after which a session without a word ends (default 300)")
    console.add_common(parser, "--device")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "max_sessions", "max_waiting", "max_mb", "max_pixels")
    if not arguments.timeout > 0 or not arguments.idle > 0:
        raise ValueError(f"--timeout {arguments.timeout:g} and --idle {arguments.idle:g} must be above 0 seconds")
    if not 0 <= arguments.port < 1 << 16:
        raise ValueError(f"--port {arguments.port} must be within 0 and 65535")
    for module in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
        console.check_installed(module, "serve", f"serving needs the package {module.replace('_', '-')}")

    from calico.scripts.serving import running  # late: it loads torch
    from calico.scripts.serving.limits import Limits

    limits = Limits(sessions=arguments.max_sessions, waiting=arguments.max_waiting, bytes=arguments.max_mb * 1_000_000,
                    pixels=arguments.max_pixels, seconds=arguments.timeout, idle=arguments.idle)
    running.serve(arguments.run, arguments.host, arguments.port, limits, device=arguments.device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
