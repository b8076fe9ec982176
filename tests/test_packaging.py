"""What is shipped: wheel and sdist against the tree, optional components, the recipe, the rule about skips."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fastegnn_md
from fastegnn_md._extras import EXTRA_OF

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Folder in the tree -> folder in the installed package.
FOLDERS = {ROOT / "fastegnn_md": Path("fastegnn_md"), ROOT / "integrators": Path("fastegnn_md/integrators")}
WITH_THE_SDIST = ("CHANGELOG.md", "CITATION.cff", "constraints.txt")
# Extras that nobody installs by conda: for developers, a helper of the compiler, what its torch brings along.
NOT_FOR_CONDA = ("compile", "demo", "dev", "docs", "gpu", "test")
# Importable name -> name on PyPI, and name on PyPI -> name on conda-forge, where they differ.
DISTRIBUTIONS = {"yaml": "pyyaml"}
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "openmmtorch": "openmm-torch",
    "torch-scatter": "pytorch_scatter",
    "tblite": "tblite-python",
    "torch": "pytorch",
    "vesin": "python-vesin",
}


def shipped_files() -> list[str]:
    """Every file of the package folders, by its path in the wheel."""
    return sorted(
        (target / file.relative_to(folder)).as_posix()
        for folder, target in FOLDERS.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )


def modules() -> list[str]:
    names = (
        Path(name).with_suffix("").as_posix().replace("/", ".") for name in shipped_files() if name.endswith(".py")
    )
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def run(*command: object, **kwargs) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **kwargs)
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result


def python(code: str, **kwargs) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    return run(sys.executable, "-c", code, **kwargs).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from the sdist of a copy of the tree: what is missing in either shows."""
    folder = tmp_path_factory.mktemp("dist")
    tree = folder / "tree"
    for name in ("fastegnn_md", "integrators"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", *WITH_THE_SDIST):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(
        ROOT / "tests", tree / "tests", ignore=lambda folder, names: {n for n in names if n != Path(__file__).name}
    )
    python(f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})", cwd=tree)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    assert {"fastegnn_md", "integrators", *WITH_THE_SDIST} <= {one.name for one in source.iterdir()}
    assert not (source / "tests").exists(), "tests without their helpers and data"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source)
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_holds_every_file_of_the_tree_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        size = sum(one.file_size for one in archive.infolist())
        largest = max(archive.infolist(), key=lambda one: one.file_size)
    assert sorted(names) == shipped_files()
    assert {"fastegnn_md/py.typed", "fastegnn_md/assets/models/copper-emt.safetensors"} <= set(names)
    assert any(name.endswith(".cpp") for name in names)
    assert size < 16e6, "the wheel is downloaded by everybody"
    assert largest.file_size < 2e6, largest.filename


def test_package_from_the_wheel_finds_its_integrators(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); "
        "import fastegnn_md, fastegnn_md.integrators, fastegnn_md.integrators.ase.dynamics, importlib.util; "
        "assert importlib.util.find_spec('integrators') is None; "
        "print(fastegnn_md.__version__, fastegnn_md.integrators.ase.dynamics.__file__)"
    )
    version, file = python(code, cwd=tmp_path).split()
    assert version == PROJECT["version"]
    assert Path(file) == tmp_path / "site/fastegnn_md/integrators/ase/dynamics.py"


def test_every_file_that_names_the_version_names_the_same_one():
    version = PROJECT["version"]
    assert fastegnn_md.__version__ == version, "the installed package is older than the tree: pip install -e ."
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", changelog, re.MULTILINE)
    assert released[0] == (version, str(citation["date-released"]))
    assert citation["version"] == version
    assert (
        yaml.safe_load((ROOT / "conda-recipe/recipe.yaml").read_text(encoding="utf-8"))["context"]["version"] == version
    )
    assert changelog.count("## [Unreleased]") == 1
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{version}]")


@pytest.mark.parametrize("name", modules())
def test_module_imports_and_its_doctests_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_nothing_imports_integrators_by_its_place_in_the_tree():
    wrong = ("import " + "integrators", "from " + "integrators")
    for folder in ("fastegnn_md", "integrators", "tests", "examples", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith(wrong)]
            assert not lines, f"{file}: {lines}; import fastegnn_md.integrators"


BLOCK_EXTRAS = """
import importlib, json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
from fastegnn_md.errors import MissingDependencyError
import fastegnn_md, fastegnn_md.data, fastegnn_md.models, fastegnn_md.engines.mdanalysis, fastegnn_md.integrators.guards
fastegnn_md.State, fastegnn_md.Propagator
messages = {{}}
for module, use in {uses!r}:
    try:
        eval(use, {{"engine": importlib.import_module(module)}})
    except MissingDependencyError as error:
        messages[f"{{module}}: {{use}}"] = str(error)
print(json.dumps(messages))
"""


@pytest.mark.parametrize(
    ("blocked", "extra", "uses"),
    [
        (
            set(EXTRA_OF),
            "ase",
            [
                ("fastegnn_md.engines", "engine.LearnedStepper"),
                ("fastegnn_md.engines.ase.stepper", "engine.LearnedStepper"),
                ("fastegnn_md.integrators", "engine.LearnedDynamics"),
                ("fastegnn_md.integrators.ase.dynamics", "engine.LearnedDynamics"),
            ],
        ),
        (
            {"e3nn"},
            "tfn",
            [
                ("fastegnn_md.models", "engine.build_model('tfn', node_features=1)"),
                ("fastegnn_md.models", "engine.build_model('se3-transformer', node_features=1)"),
            ],
        ),
        (
            {"openmm"},
            "openmm",
            [
                ("fastegnn_md.engines", "engine.OpenMMCalculator(None)"),
                ("fastegnn_md.engines.openmm", "engine.OpenMMCalculator(None)"),
            ],
        ),
    ],
    ids=["all", "tfn", "openmm"],
)
def test_base_package_works_without_extras_and_using_one_names_it(tmp_path, blocked, extra, uses):
    messages = json.loads(python(BLOCK_EXTRAS.format(blocked=blocked, uses=uses), cwd=tmp_path))
    for module, use in uses:
        assert f"fastegnn-md[{extra}]" in messages.get(f"{module}: {use}", "no error"), f"{module}: {use}"


@pytest.mark.slow
def test_no_module_opens_a_connection_when_imported(tmp_path):
    code = f"""
import importlib, socket

def refuse(*arguments):
    raise RuntimeError(f"network access while importing: {{arguments}}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
for name in {modules()!r}:
    importlib.import_module(name)
"""
    python(code, cwd=tmp_path)


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def test_constraints_pin_every_dependency_within_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = requirements([line for line in lines if line and not line.startswith("#")])
    wanted = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for name, requirement in requirements([line for group in wanted for line in group]).items():
        if name == PROJECT["name"]:
            continue
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{pins[name]} is not {requirement}"


def test_every_dependency_has_a_lowest_version():
    """One without takes a resolution of the lowest versions to the first release there was."""
    lines = [*PROJECT["dependencies"], *(line for group in PROJECT["optional-dependencies"].values() for line in group)]
    for name, requirement in requirements(lines).items():
        assert name == PROJECT["name"] or ">=" in str(requirement.specifier), f"{requirement} has no lowest version"


def test_every_imported_library_is_a_declared_dependency():
    lines = [*PROJECT["dependencies"], *(line for group in PROJECT["optional-dependencies"].values() for line in group)]
    declared = set(requirements(lines)) | {"fastegnn-md"}
    for file in (file for folder in FOLDERS for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                assert canonicalize_name(DISTRIBUTIONS.get(name, name)) in declared, f"{file} imports {name}"


def test_malicious_lightning_releases_are_excluded():
    lightning = requirements(PROJECT["optional-dependencies"]["train"])["lightning"]
    assert list(lightning.specifier.filter(["2.6.1", "2.6.2", "2.6.3", "2.6.6"])) == ["2.6.1", "2.6.6"]


def test_optional_components_are_in_the_extra_their_message_names():
    for component, extra in EXTRA_OF.items():
        assert canonicalize_name(component) in requirements(PROJECT["optional-dependencies"][extra])


def test_conda_recipe_agrees_with_pyproject():
    recipe = yaml.safe_load((ROOT / "conda-recipe/recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == PROJECT["version"]
    assert PROJECT["requires-python"] == f">={recipe['context']['python_min']}"
    python_line, *lines = recipe["requirements"]["run"]
    assert python_line == "python >=${{ python_min }}"
    base = requirements(PROJECT["dependencies"])
    expected = {CONDA_NAMES.get(name, name): str(requirement.specifier) for name, requirement in base.items()}
    assert {name: str(line.specifier) for name, line in requirements(lines).items()} == expected
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert dict([entry.split(" = ")]) == PROJECT["scripts"]


def test_conda_recipe_holds_every_extra_to_the_versions_of_pyproject():
    recipe = yaml.safe_load((ROOT / "conda-recipe/recipe.yaml").read_text(encoding="utf-8"))
    held = {name: str(line.specifier) for name, line in requirements(recipe["requirements"]["run_constraints"]).items()}
    base = requirements(PROJECT["dependencies"])
    expected = {
        canonicalize_name(CONDA_NAMES.get(name, name)): str(requirement.specifier)
        for extra, lines in PROJECT["optional-dependencies"].items()
        if extra not in NOT_FOR_CONDA
        for name, requirement in requirements(lines).items()
        if name != PROJECT["name"] and name not in base
    }
    assert held == expected
    host = requirements([line for line in recipe["requirements"]["host"] if not line.startswith("python ")])
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert str(host["setuptools"].specifier) == str(requirements(build_system["requires"])["setuptools"].specifier)


def test_conda_recipe_has_the_shape_of_recipe_format_1():
    recipe = yaml.safe_load((ROOT / "conda-recipe/recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["schema_version"] == 1
    allowed = {
        "context": {"version", "python_min"},
        "package": {"name", "version"},
        "source": {"path"},
        "build": {"number", "noarch", "script", "python"},
        "requirements": {"host", "run", "run_constraints"},
        "about": {"summary", "license", "license_file"},
    }
    assert set(recipe) == {"schema_version", "tests", *allowed}
    for section, keys in allowed.items():
        assert set(recipe[section]) <= keys, section
    assert all(len(set(one) & {"python", "script"}) == 1 for one in recipe["tests"])


WAYS_TO_SKIP = {
    "fixture": "def test_it(require):\n    require('no_such_component')\n",
    "module": "import pytest\npytest.skip('missing: a whole file', allow_module_level=True)\n",
    "importorskip": "import pytest\npytest.importorskip('no_such_component')\n",
    "mark": "import pytest\n@pytest.mark.skipif(True, reason='missing: something')\ndef test_it(): ...\n",
}


@pytest.mark.parametrize("ci", ["true", ""])
def test_a_skip_for_a_missing_component_fails_in_ci_only(tmp_path, ci):
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    for way, body in WAYS_TO_SKIP.items():
        (tmp_path / f"test_{way}.py").write_text(body, encoding="utf-8")
    options = ["-p", "no:cacheprovider", "--import-mode=importlib", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)]
    environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    if ci:
        assert result.returncode == 1, result.stdout
        for way in WAYS_TO_SKIP:
            line = rf"^(FAILED|ERROR) test_{way}\.py.*not allowed with CI=true"
            assert re.search(line, result.stdout, re.MULTILINE), way
    else:
        assert result.returncode == 0, result.stdout
        assert "4 skipped" in result.stdout


def test_a_component_that_is_installed_but_broken_is_an_error_not_a_skip(require, tmp_path, monkeypatch):
    (tmp_path / "broken_component.py").write_text("import no_such_component\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_component"):
        require("broken_component")


@pytest.mark.skipif(shutil.which("make") is None, reason="missing: make (apt-get install make)")
def test_make_lists_its_targets():
    targets = run("make", "help", cwd=ROOT).stdout
    assert all(
        f"  {name} " in targets for name in ("install", "demo", "test", "test-fast", "lint", "type", "scatter-wheel")
    )


def test_pre_commit_runs_the_ruff_of_the_constraints():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (rev,) = [repo["rev"] for repo in config["repos"] if repo["repo"].endswith("ruff-pre-commit")]
    assert f"ruff=={rev.removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
