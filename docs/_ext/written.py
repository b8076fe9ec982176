"""Pages written from the package when the site is built: every public name, command, and key of a configuration."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

from docutils import nodes
from numpydoc.docscrape import NumpyDocString
from pydantic import BaseModel
from sphinx.application import Sphinx
from typer.main import get_command
from typer.testing import CliRunner

FOLDER = Path(__file__).resolve().parents[1] / "reference" / "written"
# The faces of the package, in the order in which a user meets them.
FACES = (
    "fastegnn_md",
    "fastegnn_md.integrators",
    "fastegnn_md.data",
    "fastegnn_md.harvest",
    "fastegnn_md.harvest.seeds_page",
    "fastegnn_md.training",
    "fastegnn_md.training.one_step",
    "fastegnn_md.training.calibration",
    "fastegnn_md.validation",
    "fastegnn_md.propagator",
    "fastegnn_md.models",
    "fastegnn_md.engines",
    "fastegnn_md.engines.ase",
    "fastegnn_md.engines.mdanalysis",
    "fastegnn_md.engines.openmm",
    "fastegnn_md.graph",
    "fastegnn_md.errors",
    "fastegnn_md.units",
    "fastegnn_md.papers.datasets.nbody",
    "fastegnn_md.papers.datasets.protein",
    "fastegnn_md.papers.datasets.water_box",
)


def public_names(face: str) -> list[str]:
    """Names that a face hands on; of a module without a list, those that it defines."""
    module = importlib.import_module(face)
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == face
    ]


def face_page(face: str, homes: dict[int, str]) -> str:
    """All names of a face: a table, then each with its whole docstring, where no face before has it.

    ``homes`` holds the faces of names so far, by identity, and gets those of this one.
    """
    module = importlib.import_module(face)
    values = {name: getattr(module, name) for name in public_names(face)}
    lines = [face, "=" * len(face), "", f".. currentmodule:: {face}", "", *inspect.getdoc(module).splitlines(), ""]
    here = [name for name, value in values.items() if homes.setdefault(id(value), face) == face]
    if here:
        lines += [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in here), ""]
    elsewhere = [f":py:obj:`{name} <{homes[id(values[name])]}.{name}>`" for name in values if name not in here]
    if elsewhere:
        lines += [f"Handed on from other faces: {', '.join(elsewhere)}.", ""]
    for name in here:
        value = values[name]
        kind = "data" if not callable(value) else "class" if isinstance(value, type) else "function"
        if isinstance(value, type) and issubclass(value, BaseException):
            kind = "exception"
        lines += [f".. auto{kind}:: {name}", *(["   :members:"] if kind == "class" else []), ""]
    return "\n".join(lines)


def command_line_page() -> str:
    """What ``fastegnn-md --help`` and ``fastegnn-md COMMAND --help`` print."""
    from fastegnn_md.cli import app

    def printed(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--help"], prog_name="fastegnn-md", env={"COLUMNS": "100"})
        return f"```text\n{done.output.strip()}\n```\n"

    parts = ["# The command line", "What `fastegnn-md --help` and `fastegnn-md COMMAND --help` print.", printed()]
    for name in get_command(app).commands:
        parts += [f"## {name}", printed(name)]
    return "\n\n".join(parts)


def configuration_page() -> str:
    """Tables of the keys of every configuration, from the models that check them."""
    from fastegnn_md.propagator import PropagatorConfig
    from fastegnn_md.training import TrainingConfig

    parts = [
        "# The configuration",
        "Keys of a training: of `train.yaml` (`train --config`), of `--set KEY=VALUE` and of `TrainingConfig`. Those "
        "of the propagator stand under `propagator:`, are `--set propagator.KEY=VALUE`, and are those of "
        "`PropagatorConfig`. Unknown keys are refused. Kinds have defaults of their own where the text says so.",
        "## Training",
        _keys(TrainingConfig),
        "## Propagator",
        _keys(PropagatorConfig),
    ]
    return "\n\n".join(parts)


def _keys(model: type[BaseModel]) -> str:
    said = {}
    for parameter in NumpyDocString(inspect.getdoc(model) or "")["Parameters"]:
        said |= dict.fromkeys(re.split(r",\s*", parameter.name), " ".join(" ".join(parameter.desc).split()))
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name == "propagator":
            continue
        meaning = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", field.description or said[name]).replace("``", "`")
        default = json.dumps(field.default, ensure_ascii=False)
        rows.append(f"| `{name}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _write(app: Sphinx) -> None:
    homes: dict[int, str] = {}
    pages = {f"{face}.rst": face_page(face, homes) for face in FACES}
    pages |= {"command-line.md": command_line_page(), "configuration.md": configuration_page()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for former in FOLDER.iterdir():
        if former.name not in pages:
            former.unlink()
    for name, text in pages.items():
        file = FOLDER / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _bars(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Docstrings write |x| for a length; to Sphinx this is the name of a substitution unless the bars are escaped."""
    indent: int | None = None  # of the line that announced a literal block
    for place, line in enumerate(lines):
        own = len(line) - len(line.lstrip())
        if indent is not None and line.strip() and own <= indent:
            indent = None
        if indent is None:
            parts = line.split("``")
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[place] = "``".join(parts)
            if line.rstrip().endswith("::"):
                indent = own


def _no_way_back(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Citations of docstrings would link back to places that numpydoc writes for LaTeX alone."""
    for citation in tree.findall(nodes.citation):
        citation["backrefs"] = []


def setup(app: Sphinx) -> dict[str, bool]:
    """Extension of Sphinx."""
    app.connect("builder-inited", _write, priority=100)
    app.connect("autodoc-process-docstring", _bars, priority=900)  # after numpydoc
    app.connect("doctree-resolved", _no_way_back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
