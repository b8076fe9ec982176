"""Skeletons and motions of CMU's motion capture, on a small one whose joints can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fastegnn_md.errors import DataError
from fastegnn_md.papers.datasets.mocap import euler_matrices, read_motion, read_skeleton
from fastegnn_md.papers.datasets.motion_steps import WALK, MotionBenchmark, motion_steps
from fastegnn_md.papers.tables.data import motion_graphs

SKELETON = """# comment
:version 1.10
:name VICON
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
   anything here
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name thigh
     direction 0 -1 0
     length 2.0
     axis 0 0 0  XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
     id 2
     name shin
     direction 0 -1 0
     length 1.5
     axis 0 0 90  XYZ
    dof rx
    limits (-10.0 170.0)
  end
  begin
     id 3
     name head
     direction 0 1 0
     length 0.5
     axis 0 0 0  XYZ
  end
:hierarchy
  begin
    root thigh head
    thigh shin
  end
"""
MOTION = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 0 0 0
thigh 0 0 0
shin 0
2
root 1 2 3 0 0 90
thigh 90 0 0
shin 90
"""


@pytest.fixture
def files(tmp_path):
    skeleton, motion = tmp_path / "01.asf", tmp_path / "01_01.amc"
    skeleton.write_text(SKELETON)
    motion.write_text(MOTION)
    return skeleton, motion


def test_joints_worked_out_by_hand(files):
    skeleton = read_skeleton(files[0])
    assert skeleton.names == ("root", "thigh", "head", "shin")
    assert skeleton.edges.tolist() == [[0, 1], [0, 2], [1, 3]]
    x = read_motion(files[1], skeleton)
    np.testing.assert_allclose(x[0], [[1, 2, 3], [1, 0, 3], [1, 2.5, 3], [1, -1.5, 3]], atol=1e-12)
    # The thigh turns by 90° about x, from −y to −z; then all turns by 90° about z, which leaves −z.
    # The head goes from +y to −x. The shin turns about its own x axis, which is y (axis 0 0 90): −y stays −y for it,
    # and the turn of the thigh and of the root bring it to −z as well.
    np.testing.assert_allclose(x[1], [[1, 2, 3], [1, 2, 1], [0.5, 2, 3], [1, 2, -0.5]], atol=1e-12)


def test_bones_keep_their_lengths(files):
    skeleton = read_skeleton(files[0])
    rng = np.random.default_rng(0)
    lines = []
    for frame in range(20):
        angles = rng.uniform(-180, 180, size=7)
        lines += [f"{frame + 1}", "root 0 0 0 {} {} {}".format(*angles[:3])]
        lines += ["thigh {} {} {}".format(*angles[3:6]), f"shin {angles[6]}"]
    files[1].write_text("\n".join(lines))
    x = read_motion(files[1], skeleton)
    lengths = np.linalg.norm(x[:, skeleton.edges[:, 0]] - x[:, skeleton.edges[:, 1]], axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to([2.0, 0.5, 1.5], lengths.shape), rtol=1e-12)


def test_rotations_are_about_fixed_axes_x_first():
    turn = euler_matrices(np.array([np.pi / 2, 0.0, np.pi / 2]))
    np.testing.assert_allclose(turn @ [0, 1, 0], [0, 0, 1], atol=1e-15)  # y to z about x, where z leaves it
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-15)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", ":other", "no section ':hierarchy'"),
        ("axis XYZ", "axis ZYX", "order ZYX"),
        ("order TX TY TZ", "order TZ TY TX", "expected TX TY TZ"),
        ("direction 0 1 0", "direction 0 up 0", "cannot be read as a skeleton"),
        ("    thigh shin\n", "", "does not lead to each bone"),
        ("    thigh shin\n", "    thigh shin foot\n", "cannot be read as a skeleton"),
    ],
)
def test_damaged_skeletons(files, old, new, message):
    files[0].write_text(SKELETON.replace(old, new))
    with pytest.raises(DataError, match=message):
        read_skeleton(files[0])


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        (MOTION[: MOTION.rindex("shin")], "frame 2 gives 'shin' 0 numbers"),
        (MOTION.replace("thigh 90 0 0", "thigh 90 0"), "frame 2 gives 'thigh' 2 numbers"),
        (MOTION.replace("shin 90", "shin x"), "line 10"),
        ("root 1 2 3 0 0 0\n", "before the first frame"),
        ("", "holds no frame"),
    ],
)
def test_damaged_motions(files, motion, message):
    skeleton = read_skeleton(files[0])
    files[1].write_text(motion)
    with pytest.raises(DataError, match=message):
        read_motion(files[1], skeleton)


def test_missing_files(files, tmp_path):
    with pytest.raises(DataError, match=r"mocap\.cs\.cmu\.edu"):
        read_skeleton(tmp_path / "none.asf")
    with pytest.raises(DataError, match=r"mocap\.cs\.cmu\.edu"):
        read_motion(tmp_path / "none.amc", read_skeleton(files[0]))


def test_starts_of_trials(tmp_path):
    (tmp_path / "35.asf").write_text(SKELETON)
    rng = np.random.default_rng(0)
    for trial in range(1, 5):
        lines = []
        for frame in range(40 + trial):
            places = " ".join(f"{value:.6f}" for value in rng.normal(size=3))
            lines += [f"{frame + 1}", f"root {places} 0 0 0", "thigh 0 0 0", "shin 0"]
        (tmp_path / f"35_{trial:02d}.amc").write_text("\n".join(lines))
    benchmark = MotionBenchmark("35", (2, 1, 1), window=300, starts=5)
    parts = motion_steps(tmp_path, benchmark)
    skeleton = read_skeleton(tmp_path / "35.asf")
    motions = [read_motion(tmp_path / f"35_{trial:02d}.amc", skeleton) for trial in range(1, 5)]
    seen = {}
    for name, one in parts.items():
        assert one.x.shape == ((10 if name == "train" else 5), 4, 3)
        for x, v, target in zip(one.x, one.v, one.target, strict=True):
            (found,) = [
                (trial, frame)
                for trial, motion in enumerate(motions)
                for frame in range(len(motion))
                if np.allclose(motion[frame], x, atol=1e-5)
            ]
            motion = motions[found[0]]
            np.testing.assert_allclose(v, motion[found[1] + 1] - motion[found[1]], atol=1e-5)
            np.testing.assert_allclose(target, motion[found[1] + 30], atol=1e-5)
            seen.setdefault(name, set()).add(found[0])
    assert sorted(trial for trials in seen.values() for trial in trials) == [0, 1, 2, 3]
    graphs = motion_graphs(parts["train"])
    batch = graphs.batch([3, 4], local=True)
    assert batch.local_edge_index.T.tolist() == [
        [i + shift, j + shift] for shift in (0, 4) for i, j in ((0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (3, 1))
    ]
    pairs = {tuple(edge): hops for edge, hops in zip(batch.edge_index.T.tolist(), batch.edge_attr[:, 2], strict=True)}
    assert {edge for edge, hops in pairs.items() if hops == 2 and max(edge) < 4} == {(0, 3), (3, 0), (1, 2), (2, 1)}
    with pytest.raises(DataError, match="has 4 files"):
        motion_steps(tmp_path, WALK)
