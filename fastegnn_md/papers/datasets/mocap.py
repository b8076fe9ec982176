"""Motion capture: skeletons and motions of the CMU database (``.asf``, ``.amc``) as moving points.

http://mocap.cs.cmu.edu; the format is that of Acclaim. EGHN (Han et al., NeurIPS 2022) learns subject 35 walking and
subject 9 running.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import DataError

_AXES = {"rx": 0, "ry": 1, "rz": 2}


@dataclass
class _Bone:
    """A bone of a skeleton; its point is the end away from the root."""

    name: str
    direction: np.ndarray
    length: float
    frame: np.ndarray  # rotation of its own axes in the rest pose, (3, 3)
    freedoms: tuple[str, ...]
    parent: int = -1


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Bones of a subject, parents before children; the first is the root, a point.

    Attributes
    ----------
    names : tuple of str
    edges : ndarray of int64, shape (joints − 1, 2)
        Parent and child of each bone.
    """

    names: tuple[str, ...]
    edges: np.ndarray
    bones: tuple[_Bone, ...]
    path: Path
    degrees: bool


def read_skeleton(path: str | os.PathLike[str]) -> Skeleton:
    """Read an ``.asf`` file.

    Raises
    ------
    DataError
        If it is missing or is not such a file, or turns its axes in another order than XYZ.
    """
    path = Path(path)
    lines = _lines(path)
    sections = _sections(lines)
    for needed in ("root", "bonedata", "hierarchy"):
        if needed not in sections:
            raise DataError(f"{path} has no section ':{needed}'; it is not a skeleton (.asf), or it is truncated")
    try:
        bones = [_root(sections["root"], path)]
        bones += [_bone(block, path) for block in _blocks(sections["bonedata"])]
        places = {bone.name: place for place, bone in enumerate(bones)}
        order = ["root"]
        for parent, *children in (line.split() for line in _inside(sections["hierarchy"])):
            for child in children:
                bones[places[child]].parent = places[parent]
                order.append(child)
        if sorted(order) != sorted(places):
            raise DataError(f"{path}: the hierarchy does not lead to each bone once; the file is damaged")
        new = {places[name]: place for place, name in enumerate(order)}
        ordered = [bones[places[name]] for name in order]
        for bone in ordered[1:]:
            bone.parent = new[bone.parent]
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read as a skeleton (.asf): {error!r}; fetch it again") from error
    edges = np.array([[bone.parent, place] for place, bone in enumerate(ordered) if place], dtype=np.int64)
    radians = any(line.split() == ["angle", "rad"] for line in sections.get("units", []))
    return Skeleton(tuple(order), edges.reshape(-1, 2), tuple(ordered), path, not radians)


def read_motion(path: str | os.PathLike[str], skeleton: Skeleton) -> np.ndarray:
    """Positions of the joints in every frame of an ``.amc`` file, in the unit of the skeleton.

    The end of a bone lies at p = p_parent + M l d with M = M_parent C R C⁻¹: d and l its direction and length at rest,
    C the rotation of its axes, R that of the frame.

    Returns
    -------
    ndarray of float64, shape (frames, joints, 3)

    Raises
    ------
    DataError
        If it is missing, truncated, or moves other bones than the skeleton has.
    """
    path = Path(path)
    frames: list[dict[str, np.ndarray]] = []
    for number, line in enumerate(_lines(path), start=1):
        if line.startswith((":", "#")):
            continue
        name, *values = line.split()
        if name.isdigit() and not values:
            frames.append({})
            continue
        try:
            if not frames:
                raise ValueError("it comes before the first frame")
            frames[-1][name] = np.array(values, dtype=np.float64)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: cannot read {line!r} ({error}); fetch the file again") from error
    if not frames:
        raise DataError(f"{path} holds no frame; it is not a motion (.amc), or it is empty")
    turns = _turns(frames, skeleton, path)
    positions = np.empty((len(frames), len(skeleton.bones), 3))
    positions[:, 0] = [frame["root"][:3] for frame in frames]
    matrices: list[np.ndarray] = []
    for place, bone in enumerate(skeleton.bones):
        local = bone.frame @ turns[:, place] @ bone.frame.T
        matrices.append(local if place == 0 else matrices[bone.parent] @ local)
        if place:
            positions[:, place] = positions[:, bone.parent] + bone.length * matrices[place] @ bone.direction
    return positions


def _turns(frames: list[dict[str, np.ndarray]], skeleton: Skeleton, path: Path) -> np.ndarray:
    """Rotation of every bone in every frame, shape (frames, joints, 3, 3)."""
    angles = np.zeros((len(frames), len(skeleton.bones), 3))
    for index, frame in enumerate(frames):
        for place, bone in enumerate(skeleton.bones):
            if not bone.freedoms:
                continue
            values = frame.get(bone.name)
            wanted = len(bone.freedoms) + (3 if place == 0 else 0)
            if values is None or len(values) != wanted or not np.isfinite(values).all():
                raise DataError(
                    f"{path}: frame {index + 1} gives {bone.name!r} {0 if values is None else len(values)} numbers, "
                    f"{skeleton.path.name} wants {wanted}; the motion is truncated or of another subject"
                )
            for freedom, value in zip(bone.freedoms, values[-len(bone.freedoms) :], strict=True):
                angles[index, place, _AXES[freedom]] = value
    return euler_matrices(np.deg2rad(angles) if skeleton.degrees else angles)


def euler_matrices(angles: np.ndarray) -> np.ndarray:
    """R_z(γ) R_y(β) R_x(α) of angles (..., 3) in radians, shape (..., 3, 3): about fixed axes, x first."""
    (ca, cb, cc), (sa, sb, sc) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    rows = [
        [cb * cc, sa * sb * cc - ca * sc, ca * sb * cc + sa * sc],
        [cb * sc, sa * sb * sc + ca * cc, ca * sb * sc - sa * cc],
        [-sb, sa * cb, ca * cb],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {error}; skeletons and motions come from http://mocap.cs.cmu.edu"
        ) from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _sections(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith(":"):
            current = found.setdefault(line[1:].split()[0], [])
        else:
            current.append(line)
    return found


def _inside(lines: list[str]) -> list[str]:
    """What stands between the first ``begin`` and its ``end``."""
    return lines[lines.index("begin") + 1 : lines.index("end")]


def _blocks(lines: list[str]) -> list[dict[str, list[str]]]:
    """Words of every line of every ``begin``-``end`` block by their first word; lines that continue a list are left."""
    blocks: list[dict[str, list[str]]] = []
    for line in lines:
        if line == "begin":
            blocks.append({})
        elif line != "end":
            key, *words = line.split()
            blocks[-1][key] = words
    return blocks


def _root(lines: list[str], path: Path) -> _Bone:
    words = {line.split()[0]: line.split()[1:] for line in lines}
    freedoms = tuple(one.lower() for one in words["order"] if one.lower() in _AXES)
    if tuple(one.lower() for one in words["order"][:3]) != ("tx", "ty", "tz"):
        raise DataError(f"{path}: the root moves in the order {' '.join(words['order'])}; expected TX TY TZ first")
    _check_order(words["axis"][0], path)
    frame = euler_matrices(np.deg2rad(np.array(words["orientation"], dtype=np.float64)))
    return _Bone("root", np.zeros(3), 0.0, frame, freedoms)


def _bone(block: dict[str, list[str]], path: Path) -> _Bone:
    _check_order(block["axis"][3], path)
    frame = euler_matrices(np.deg2rad(np.array(block["axis"][:3], dtype=np.float64)))
    direction = np.array(block["direction"], dtype=np.float64)
    return _Bone(block["name"][0], direction, float(block["length"][0]), frame, tuple(block.get("dof", [])))


def _check_order(order: str, path: Path) -> None:
    if order.upper() != "XYZ":
        raise DataError(f"{path}: axes turn in the order {order}; this reader knows XYZ, which all of CMU's files have")
