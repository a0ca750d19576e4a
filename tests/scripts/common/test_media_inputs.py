"""Pictures and sounds on the command line: what was done to them is said."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.scripts.common.media_inputs import read_shown


def test_what_a_user_should_know_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_shown(tmp_path / "a.gif") == (255, 0, 0)).all()
    assert "a.gif holds several pictures, the first one is used" in capsys.readouterr().err
    pytest.importorskip("av")
    data = (2 * np.sin(np.arange(4000))).astype("<f4").tobytes()
    out = io.BytesIO(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack(
        "<IHHIIHHI", 16, 3, 1, 16000, 64000, 4, 32, struct.unpack("<I", b"data")[0]) + struct.pack("<I", len(data)) + data)
    (tmp_path / "a.wav").write_bytes(out.getvalue())
    assert np.abs(read_shown(tmp_path / "a.wav")).max() == 1
    assert "a.wav is louder than [-1, 1] and was clipped" in capsys.readouterr().err
