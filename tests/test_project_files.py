"""What the registry of MDAnalysis and the place of the issues read of this project."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))

# Keys of the registry's template: their types, and whether they must be there.
TEXT, LIST = str, list
REQUIRED = {
    "project_name": TEXT,
    "authors": LIST,
    "maintainers": LIST,
    "description": TEXT,
    "keywords": LIST,
    "license": TEXT,
    "project_home": TEXT,
    "documentation_home": TEXT,
    "documentation_type": TEXT,
    "python_requires": TEXT,
    "src_install": LIST,
    "import_name": TEXT,
    "mdanalysis_requires": TEXT,
    "run_tests": LIST,
    "test_dependencies": LIST,
    "project_org": TEXT,
}
OPTIONAL = {
    "install": LIST,
    "development_status": TEXT,
    "publications": LIST,
    "community_home": TEXT,
    "changelog": TEXT,
}


def test_mdakit_metadata_has_the_keys_of_the_registry_and_agrees_with_pyproject():
    kit = yaml.safe_load((ROOT / "mdakit/metadata.yaml").read_text(encoding="utf-8"))
    assert set(REQUIRED) <= set(kit) <= {*REQUIRED, *OPTIONAL}
    for key, value in kit.items():
        assert isinstance(value, {**REQUIRED, **OPTIONAL}[key]), key
        assert not isinstance(value, list) or all(isinstance(one, str) for one in value), key
    # The registry makes commands of installation lower case, and a clone of the home's address and ".git".
    commands = [*kit["install"], *kit["src_install"], *kit["test_dependencies"]]
    assert all(one.replace("OWNER", "owner").islower() for one in commands)
    assert not kit["project_home"].endswith("/")
    # Tests run with what was installed before: a link in their dependencies would put other code in its place.
    assert not any("git+" in one for one in kit["test_dependencies"])
    assert kit["license"] == PROJECT["license"]
    assert SpecifierSet(kit["python_requires"]) == SpecifierSet(PROJECT["requires-python"])
    (mdanalysis,) = [line for line in PROJECT["dependencies"] if line.startswith("MDAnalysis")]
    assert mdanalysis == f"MDAnalysis{kit['mdanalysis_requires']}"
    assert kit["development_status"] in PROJECT["classifiers"]
    assert kit["authors"] == [author["name"] for author in PROJECT["authors"]]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.name)
def test_issue_templates_are_forms(template):
    form = yaml.safe_load(template.read_text(encoding="utf-8"))
    if template.name == "config.yml":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
