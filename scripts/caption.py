"""`calico caption RUN IMAGE...`: describe pictures.

    calico caption runs/demo room.png other.jpg
    calico caption runs/demo *.png --json

Larger pictures are reduced to `--max-side` pixels: an image costs one token per 16x16 pixels.
"""

from pathlib import Path

import numpy as np

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import Speaker
from calico.datasets.images import decode_file
from calico.scripts import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, describe, print."""
    parser = console.make_parser("caption", __doc__)
    parser.add_argument("run")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-side", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    pictures = [read_picture(path, arguments.max_side) for path in arguments.images]
    sampling = SamplingConfig(temperature=arguments.temperature, seed=arguments.seed)
    captions = Speaker(Agent.load(arguments.run, arguments.device), sampling).captions(pictures)
    described = list(zip(arguments.images, captions, strict=True))
    if arguments.json:
        console.print_json([{"image": str(path), "caption": text} for path, text in described])
        return 0
    for path, text in described:
        print(console.printable(f"{path}: {text}"))
    return 0


def read_picture(path: Path, max_side: int = 64) -> np.ndarray:
    """uint8 (H, W, 3) of an image file.

    Raises:
        ValueError: not an image, or too large a one; names the file.
    """
    if max_side < 1:
        raise ValueError(f"--max-side {max_side} must be at least 1 pixel")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a PNG, JPEG or WebP image")
    try:
        return decode_file(path.read_bytes(), max_side)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
