"""GROMACS trajectories looked through before MDAnalysis reads them: its reader trusts the lengths that a file gives.

A damaged frame of an XTC file makes it write beyond the memory of the frame, which ends Python, at once or later. Here
the lengths of every frame are followed and held against the file; coordinates are not decoded.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
from pathlib import Path
from typing import Any

from ..errors import DataError

_XTC, _LARGE_XTC, _TRR = 1995, 2023, 1993  # first number of a frame
_FIRST, _LAST = 9, 72  # places in the table of step widths that XTC files use
_PLAIN = 9  # atoms up to which an XTC frame is not compressed
_MOST_ATOMS = 1 << 29


class _Damaged(Exception):
    """What is wrong with a frame."""


def check_gromacs(*paths: Any) -> None:
    """Refuse XTC and TRR files whose frames do not fit their lengths; files of other formats are not looked at.

    A file is looked through once per process: a second for some million atoms times frames.

    Raises
    ------
    DataError
        If a frame is damaged; the message says which. A last frame that is cut off is left to the reader, which ends
        before it.
    """
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):  # arrays and streams, which MDAnalysis takes too
            continue
        if Path(path).suffix.lower() in (".xtc", ".trr") and Path(path).is_file():
            found = os.stat(path)
            problem = _problem(os.fspath(path), found.st_mtime_ns, found.st_size)
            if problem is not None:
                raise DataError(
                    f"{os.fspath(path)!r} is damaged at {problem}; take a copy that is whole, or write it again"
                )


def check_reader(reader: Any) -> None:
    """Refuse a reader of MDAnalysis whose files :func:`check_gromacs` refuses."""
    several = getattr(reader, "filenames", None)  # an array, of a chain of readers
    check_gromacs(*([getattr(reader, "filename", None)] if several is None else several))


@functools.lru_cache(maxsize=256)
def _problem(path: str, changed: int, size: int) -> str | None:
    if size == 0:
        return None
    frame = 0
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = 0
            atoms = None
            walk = _trr_frame if path.lower().endswith(".trr") else _xtc_frame
            while place < len(data):
                place, here = walk(data, place)
                if atoms is None:
                    atoms = here
                if here != atoms:
                    raise _Damaged(f"it has {here} atoms, the frames before have {atoms}")
                frame += 1
    except _Damaged as error:
        return f"frame {frame}: {error}"
    except EOFError:
        return f"frame {frame}: the file ends within it" if frame == 0 else None
    except OSError as error:
        raise DataError(f"cannot read {path!r}: {error.strerror or error}") from error
    return None


def _take(layout: str, data: mmap.mmap, place: int) -> tuple[int, ...]:
    if place + struct.calcsize(layout) > len(data):
        raise EOFError
    return struct.unpack_from(layout, data, place)


def _xtc_frame(data: mmap.mmap, place: int) -> tuple[int, int]:
    """End of a frame and its number of atoms."""
    magic, atoms = _take(">2i", data, place)
    if magic not in (_XTC, _LARGE_XTC):
        raise _Damaged("it does not begin as a frame")
    (repeated,) = _take(">i", data, place + 52)
    if not 0 < atoms <= _MOST_ATOMS or repeated != atoms:
        raise _Damaged(f"it has {atoms} atoms and coordinates of {repeated}")
    place += 56
    if atoms <= _PLAIN:
        _take(f">{3 * atoms}f", data, place)
        return place + 12 * atoms, atoms
    precision, *bounds, width = _take(">f7i", data, place)
    (size,) = _take(">q" if magic == _LARGE_XTC else ">i", data, place + 32)
    place += 40 if magic == _LARGE_XTC else 36
    sizes = [high - low + 1 for low, high in zip(bounds[:3], bounds[3:], strict=True)]
    longest = 4 * int(3.6 * atoms) - 12  # what the reader has room for, a fifth more than all atoms in full
    if not precision > 0 or min(sizes) <= 0 or max(sizes) >= 1 << 32 or not 0 <= size <= longest:
        raise _Damaged("its precision, bounds or length are none")
    if not _FIRST <= width <= _LAST:
        raise _Damaged("the width of its steps is none")
    end = place + (size + 3) // 4 * 4
    if end > len(data):
        raise EOFError
    full = sum(one.bit_length() for one in sizes) if max(sizes) > 0xFFFFFF else _product(sizes).bit_length()
    _follow(data[place : place + size] + b"\0\0\0", atoms, full, width)
    return end, atoms


def _product(sizes: list[int]) -> int:
    return sizes[0] * sizes[1] * sizes[2]


def _follow(packed: bytes, atoms: int, full: int, width: int) -> None:
    """Add up the bits of a compressed frame: each group is an atom in full, and up to ten by short steps from it."""
    bits = 8 * (len(packed) - 3)
    place = done = run = 0
    while done < atoms:
        place += full
        if place + 6 > bits + 7:
            raise _Damaged("its coordinates take more than their length")
        six = ((packed[place >> 3] << 8 | packed[(place >> 3) + 1]) >> (10 - (place & 7))) & 63
        place += 1
        done += 1
        change = 0
        if six & 32:
            place += 5
            run, change = divmod(six & 31, 3)
            change -= 1
        done += run
        place += run * width
        width += change
        if not _FIRST <= width <= _LAST:
            raise _Damaged("the width of its steps is none")
    if done > atoms or place > bits:
        raise _Damaged("its coordinates are of more atoms, or take more than their length")


def _trr_frame(data: mmap.mmap, place: int) -> tuple[int, int]:
    """End of a frame and its number of atoms."""
    magic, _, length = _take(">3i", data, place)
    if magic != _TRR or not 0 < length < 1000:
        raise _Damaged("it does not begin as a frame")
    place += 12 + (length + 3) // 4 * 4
    fields = _take(">13i", data, place)
    box, others, vectors, atoms = fields[2], fields[3:7], fields[7:10], fields[10]
    if not 0 < atoms <= _MOST_ATOMS or min(*fields[:10]) < 0:
        raise _Damaged(f"it has {atoms} atoms, or lengths below zero")
    one = next((size for size in vectors if size), 0) // (3 * atoms) or box // 9
    fits = one in (4, 8) and box in (0, 9 * one) and all(size in (0, 3 * atoms * one) for size in vectors)
    if not fits or any(size not in (0, 9 * one) for size in fields[3:5]) or fields[0] or fields[1] or any(others[2:]):
        raise _Damaged("its lengths do not fit its atoms")
    end = place + 52 + 2 * one + sum(fields[:10])
    if end > len(data):
        raise EOFError
    return end, atoms
