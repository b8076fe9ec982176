"""The documentation site: every page has a place, what pages say can be typed, links and pictures are there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WRITTEN_BY_BUILD = {"_build", "written", "_ext", "_static"}
PAGES = sorted(
    page
    for ending in ("md", "ipynb")
    for page in DOCS.rglob(f"*.{ending}")
    if WRITTEN_BY_BUILD.isdisjoint(page.relative_to(DOCS).parts)
)
NOTEBOOKS = [page for page in PAGES if page.suffix == ".ipynb"]


def text_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_is_in_the_contents(page):
    named = re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert page.relative_to(DOCS).with_suffix("").as_posix() in {*named, "index"}, (
        "add it to a toctree of docs/index.md"
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", text_of(page)):
        if "written/" not in target:
            assert (page.parent / target).exists(), target


def commands(page: Path) -> list[list[str]]:
    """Command lines of the program in the blocks of a page."""
    blocks = re.findall(r"^ *```(?:console|bash)\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fastegnn-md ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_and_their_options_exist(page):
    from typer.main import get_command

    from fastegnn_md.cli import app

    known = get_command(app).commands
    for _, command, *arguments in commands(page):
        assert command in known
        options = {name for parameter in known[command].params for name in parameter.opts} | {"--help"}
        given = {part.partition("=")[0] for part in arguments if re.match(r"--?[a-z]", part)}
        assert given <= options, f"{command}: {sorted(given - options)}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name in ("howto", "tutorials")], ids=name_of)
def test_what_python_blocks_import_exists(page):
    for block in re.findall(r"^( *)```python\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE):
        code = re.sub(rf"^{block[0]}", "", block[1], flags=re.MULTILINE)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "fastegnn_md":
                # by name: some modules need extras that are not installed everywhere
                module = importlib.import_module(node.module)
                assert {alias.name for alias in node.names} <= set(dir(module))


@pytest.fixture(scope="module")
def written(require):
    """The extension of the site that writes the reference."""
    require("sphinx")
    require("numpydoc")
    spec = importlib.util.spec_from_file_location("written", DOCS / "_ext" / "written.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imports(code: str) -> list[tuple[str, str]]:
    """Modules of the package that a program imports from, with the names."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "fastegnn_md"
        for alias in node.names
    ]


def programs(page: Path) -> list[str]:
    """Python blocks of a page, or the cells of a notebook."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":
        return [text]
    return [textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES, *sorted(ROOT.glob("examples/*.py"))], ids=lambda page: page.stem
)
def test_what_pages_and_examples_import_is_in_the_reference(page, written, require):
    used = [one for code in programs(page) for one in imports(code)]
    for module, name in used:
        assert module in written.FACES, module
        if module.startswith("fastegnn_md.engines"):
            require(module.rpartition(".")[2].replace("mdanalysis", "MDAnalysis"))
        value = getattr(importlib.import_module(module), name)
        assert name in written.public_names(module) or isinstance(value, float), (module, name)


def test_every_module_that_lists_its_names_is_in_the_reference(written):
    inside = {"fastegnn_md.commands.demo", "fastegnn_md.engines.ase.stepper"}  # handed on by others
    listing = set()
    for root, package in ((ROOT / "fastegnn_md", "fastegnn_md"), (ROOT / "integrators", "fastegnn_md.integrators")):
        for file in root.rglob("*.py"):
            if re.search(r"^(__getattr__, .*)?__all__\b", file.read_text(encoding="utf-8"), re.MULTILINE):
                parts = file.relative_to(root).with_suffix("").parts
                listing.add(".".join((package, *(part for part in parts if part != "__init__"))))
    assert len(listing) > 10
    assert listing - inside <= set(written.FACES)


def test_the_page_of_python_names_every_face(written):
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert [face for face in written.FACES if f"(written/{face}.rst)" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_tutorials_run_without_an_error(notebook, require, tmp_path):
    for component in ("nbclient", "ipykernel", "openmm", "ase", "lightning", "matplotlib"):
        require(component)
    program = (
        "import sys; from pathlib import Path; from execute import execute; "
        f"execute(Path({str(notebook)!r}), Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"OPENMM_DEFAULT_PLATFORM": "CPU", "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_tutorials_keep_what_they_print_and_name_no_place_of_a_machine(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join("".join(output.get("text", "")) for output in outputs)
    assert not re.search(r"/(home|tmp|work|Users)/", said)
    assert all(output["output_type"] != "error" for output in outputs)


class Links(HTMLParser):
    """Addresses, pictures and anchors of a page."""

    def __init__(self, page: Path):
        super().__init__()
        self.addresses: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif (tag, name) in {("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")} and value:
                self.addresses.add(value)
            elif name == "srcset":
                self.addresses |= {part.split()[0] for part in value.split(",")}


@pytest.fixture(scope="module")
def site(require, tmp_path_factory) -> Path:
    """The site, built with warnings as errors."""
    for component in ("sphinx", "myst_nb", "numpydoc", "furo", "openmm", "ase", "lightning", "matplotlib"):
        require(component)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", out / "doctrees", DOCS]
    done = subprocess.run([*command, out / "html"], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
    return out / "html"


@pytest.mark.slow
def test_links_and_pictures_of_the_site_are_there(site):
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    broken = []
    for page, links in pages.items():
        for address in links.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            lost = parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors
            if not target.exists() or lost:
                broken.append((page.name, address))
    assert not broken


@pytest.mark.slow
def test_the_reference_has_every_public_name(site, written):
    for face in written.FACES:
        text = (site / f"reference/written/{face}.html").read_text(encoding="utf-8")
        assert [name for name in written.public_names(face) if f"{name}</span>" not in text] == []


@pytest.mark.slow
def test_search_finds_a_command_and_a_class(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for word in ("guardset", "adapt", "audit", "my molecul"):
        assert word.split()[0] in index
