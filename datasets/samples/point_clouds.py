"""Point clouds, alone or named ones in a folder or a zip: .npy arrays (M, D) or (D, M), tables of numbers (.xyz, .pts), and
meshes (.off, .ply, .stl, .obj) sampled evenly.

Meshes are read by trimesh, the extra `points`; their points get the normals of the surface. A .ply of points alone keeps its
normals. Tables are divided by spaces, tabs, commas or semicolons; above the numbers may stand their names, x, y, z first.
"""

import codecs
import io
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizers.budget import check_npy
from ..file_store import FileSource, FileStore

MESHES = (".off", ".ply", ".stl", ".obj")
TABLES = (".xyz", ".pts")
SUFFIXES = (".npy", *TABLES, *MESHES)
MOST_NUMBERS = 32        # of a point: coordinates, normals, colours, features
CHANNELS = range(3, 10)  # numbers per point that are recognised in the wrong place
SAMPLED = 2048           # points taken from a mesh


def decode_cloud(data: bytes, suffix: str) -> np.ndarray:
    """Decode a file of one of SUFFIXES.

    Returns:
        float32 (M, D): coordinates first; of a mesh with faces D is 6, the last three are normals.
    Raises:
        ValueError: of another kind, broken, empty, without three coordinates per point, not finite.
        ImportError: a mesh without the extra `points`.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"a file {suffix or 'without ending'} is no point cloud; {', '.join(SUFFIXES)} are read")
    if suffix == ".npy":
        try:
            check_npy(io.BytesIO(data))
            cloud = np.load(io.BytesIO(data), allow_pickle=False)
        except Exception as error:    # its header is parsed as Python: SyntaxError, TokenError, MemoryError and more
            raise ValueError(f"not a readable .npy array ({' '.join(str(error).split()) or type(error).__name__})") from error
        return float32(channels_last(cloud))
    if suffix in TABLES:
        return float32(read_table(data))
    try:
        import trimesh
    except ImportError:
        raise ImportError(f'{suffix} files need trimesh; pip install "calico-agent[points]"') from None
    try:
        mesh: Any = trimesh.load(io.BytesIO(data), file_type=suffix[1:], process=False)
        if isinstance(mesh, trimesh.Scene):
            mesh = mesh.to_mesh()
        if not len(getattr(mesh, "faces", ())):
            return float32(np.concatenate([mesh.vertices, *stored_normals(mesh)], axis=1))
        points, faces = trimesh.sample.sample_surface(mesh, SAMPLED, seed=0)
        return float32(np.concatenate([points, mesh.face_normals[faces]], axis=1))
    except Exception as error:    # a parser per format, with errors of many kinds
        raise ValueError(f"not a readable {suffix} file ({' '.join(str(error).split()) or type(error).__name__})") from error


def read_table(data: bytes) -> np.ndarray:
    """The numbers of a table of text, float64 (rows, columns).

    Raises:
        ValueError: something else stands there, or rows of several lengths.
    """
    lines = [line for line in data.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip() and line[:1] not in b"#/"]
    words = lines[-1].replace(b";", b" ").split() if lines else []
    # 1,5 2,5 3,5: the commas of half of Europe stand within numbers, and would make six of these three
    comma = b"." if len(words) >= 3 and all(b"," in word.strip(b",") for word in words) else b" "
    rows = [line.replace(b",", comma).replace(b";", b" ").split() for line in lines]
    names = [word.strip(b'"\'').lower() for word in rows[0]] if rows else []
    if names[:3] == [b"x", b"y", b"z"] or (len(rows) > 1 and len(names) == 1):      # .pts begins with a count
        rows = rows[1:]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise ValueError(f"not a readable table of numbers: its rows have {' and '.join(map(str, lengths[:3]))} of them")
    try:
        return np.array(rows, np.float64)
    except ValueError as error:
        raise ValueError(f"not a readable table of numbers ({error})") from error


def stored_normals(points: Any) -> list[np.ndarray]:
    """The normals (M, 3) that a .ply of points holds beside them, in a list; an empty list where there are none."""
    stored = points.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    keys = ("nx", "ny", "nz")
    if stored is None or not set(keys) <= set(stored.dtype.names if isinstance(stored, np.ndarray) else stored):
        return []
    return [np.stack([np.asarray(stored[key], np.float64).reshape(-1) for key in keys], axis=1)]


def channels_last(cloud: np.ndarray) -> np.ndarray:
    """A cloud (..., M, D); one of (..., D, M), as PointNet takes them, is turned: D is small, and M larger."""
    if cloud.ndim >= 2 and cloud.shape[-2] in CHANNELS and cloud.shape[-1] >= CHANNELS.stop:
        return cloud.swapaxes(-1, -2)
    return cloud


def float32(cloud: np.ndarray) -> np.ndarray:
    """A checked cloud as float32; ValueError where that cannot hold its numbers."""
    with np.errstate(over="ignore"):
        return check_cloud(check_cloud(cloud).astype(np.float32))


def check_cloud(cloud: np.ndarray) -> np.ndarray:
    """The same cloud.

    Raises:
        ValueError: not (M, 3 or more) numbers, none, or one that is not finite.
    """
    if cloud.ndim != 2 or cloud.shape[1] < 3 or not len(cloud) or cloud.dtype.kind not in "fiu":
        raise ValueError(f"a point cloud is (points, 3 or more) numbers, got {cloud.dtype} {cloud.shape}")
    if cloud.shape[1] > MOST_NUMBERS:
        raise ValueError(f"a point has {cloud.shape[1]} numbers, at most {MOST_NUMBERS} are expected; are points and numbers "
                         f"exchanged? A cloud is (points, numbers per point)")
    if not np.isfinite(cloud).all():
        raise ValueError(f"{int((~np.isfinite(cloud)).any(axis=1).sum())} of {len(cloud)} points are not finite")
    return cloud


class CloudStore(FileStore):
    """Named point clouds; the latest ones are kept decoded."""

    what = "point cloud"
    suffixes = SUFFIXES

    def __init__(self, path: str | Path | FileSource) -> None:
        super().__init__(path, cache_bytes=1 << 29)

    def decode(self, data: bytes, name: str) -> np.ndarray:
        return decode_cloud(data, Path(name).suffix.lower())
