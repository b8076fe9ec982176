"""Execute the notebooks of the tutorials and keep what they print: `make notebooks`.

They run in a folder of their own, so that the files they write are gone afterwards. The site shows what is kept; a test
executes them anew.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parent / "tutorials"


def execute(notebook: Path, folder: Path, timeout: float = 600) -> nbformat.NotebookNode:
    """The notebook with new outputs, run in ``folder``; an error in a cell is raised."""
    node = nbformat.read(notebook, as_version=4)
    client = NotebookClient(node, timeout=timeout, resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in node.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":  # progress, and warnings that name folders of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return node


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all of them, in place."""
    for notebook in sorted(TUTORIALS.glob("*.ipynb")):
        if names and notebook.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            node = execute(notebook, Path(folder))
        nbformat.write(node, notebook)
        # the last picture of each, for the page of the examples
        shown = [
            output.data["image/png"] for cell in node.cells for output in cell.get("outputs", []) if "data" in output
        ]
        (TUTORIALS.parent / "pictures" / f"{notebook.stem}.png").write_bytes(base64.b64decode(shown[-1]))
        print(notebook.name)


if __name__ == "__main__":
    main(sys.argv[1:])
