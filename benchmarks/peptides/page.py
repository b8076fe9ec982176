"""The tables of docs/generative.md from the results of ``judge.py`` and ``speed.py``.

    python benchmarks/peptides/page.py

prints them; a test compares the page with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
MODELS = {
    "`ala2-obc-10ps`, 300 K": "peptides_ala2_10ps",
    "`ala2-obc-100ps`, 300 K": "peptides_ala2_100ps",
    "10 ps, trained and run at 450 K": "peptides_ala2_450K_10ps",
}
LARGER = {
    "Ac-Ala3-NHMe, 10 ps, 300 K": "peptides_ala3_10ps",
    "the same at 450 K, collective noise": "peptides_ala3_450K_10ps",
}
ROWS = {
    "map": ("φ/ψ: Jensen-Shannon distance", "{:.3f}"),
    "transitions": ("basins one jump later: largest difference of a probability", "{:.3f}"),
    "two jumps": ("the same two jumps later", "{:.3f}"),
    "time scales": ("slow process: \\|ln t/t_ref\\|", "{:.2f}"),
    "detailed balance": ("net flux, standard errors", "{:.1f}"),
    "flips": ("stereocentres turned over", "{:.0f}"),
    "bonds": ("bonds, RMS about their means, Å", "{:.4f}"),
    "angles": ("angles, the same, degrees", "{:.2f}"),
    "energy": ("potential energy after relaxing, difference, kJ/mol", "{:.1f}"),
    "redraws": ("redraws per jump", "{:.3%}"),
    "early and late": ("first jumps against later ones, t", "{:.1f}"),
}
SPEEDS = {"10 ps": "peptides_speed_ala2_10ps", "100 ps": "peptides_speed_ala2_100ps"}
SOLVENTS = {"obc": "native OBC", "gbn2": "gbn2 (by the clock alone)"}


def read(name: str) -> dict[str, Any]:
    """A file of results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _rows(name: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read(name)["rows"]}


def judgement(models: dict[str, str] = MODELS) -> str:
    """Populations and rows of each model, with limits; values out of bounds are bold."""
    every = {title: _rows(name) for title, name in models.items()}
    lines = ["| | " + " | ".join(every) + " |", "|---" * (len(every) + 1) + "|"]
    jumps = " | ".join(f"{read(name)['jumps']:,}" for name in models.values())
    lines.append(f"| jumps | {jumps} |")
    tables = [rows["populations"]["tables"][0]["rows"] for rows in every.values()]
    for basins in zip(*tables, strict=True):
        cells = [f"{own:.3f} ± {error:.3f} ({truth:.3f} ± {its:.3f})" for _, own, error, truth, its, _ in basins]
        residues = {row[0].rpartition(" ")[0] for row in tables[0]}
        label = basins[0][0] if len(residues) > 1 else basins[0][0].rpartition(" ")[2]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    for key, (what, form) in ROWS.items():
        cells = []
        for rows in every.values():
            row = rows[key]
            text = "–" if row.get("value") is None else f"{form.format(row['value'])} ({form.format(row['limit'])})"
            cells.append(f"**{text}**" if row["verdict"] == "outside" else text)
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speeds() -> str:
    """Nanoseconds a minute and gains."""
    lines = ["| lag | solvent | classical | one replica | 64 replicas |", "|---|---|---|---|---|"]
    for lag, name in SPEEDS.items():
        for key, solvent in SOLVENTS.items():
            row = read(name)["solvents"][key]
            lines.append(
                f"| {lag} | {solvent} | {row['ns_per_minute_classical']:.2g} ns/min | "
                f"{row['ns_per_minute_one']:.0f} ns/min, {row['gain_of_one']:.0f} × | "
                f"{row['ns_per_minute_many']:.0f} ns/min, {row['gain_of_many']:.0f} × |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(judgement(), speeds(), judgement(LARGER), sep="\n\n")
