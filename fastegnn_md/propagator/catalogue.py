"""Trained propagators that come with the package, found by name.

A folder holds ``NAME.safetensors`` files and ``catalogue.json``, which says of each name what its file does not: the
system, where the training data came from, and what made the file. Time step, elements, kind and errors stand in the
manifest of the file and nowhere else.
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from ..errors import CheckpointError
from .file import Manifest, read_manifest

FOLDER = Path(str(files("fastegnn_md") / "assets" / "models"))

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class CatalogueEntry(BaseModel):
    """What the catalogue says of one model."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    system: _Text = Field(description="what it moves, for people")
    start: _Text | None = Field(default=None, description="structure to try it on: a file, seen from the folder")
    run: str = Field(default="", description="options of `fastegnn-md run` for that structure, beside steps and output")
    engine: _Text = Field(description="program that computed the forces of the training data")
    theory: _Text = Field(description="level of theory: method, force field, solvent")
    classical_timestep_fs: float = Field(gt=0, description="of the training trajectories")
    temperature_K: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        description="lowest and highest temperature of the training data"
    )
    command: _Text = Field(description="what made the file")
    seed: int = Field(ge=0, description="of its training")

    @model_validator(mode="after")
    def _ascending(self) -> CatalogueEntry:
        if self.temperature_K[0] > self.temperature_K[1]:
            raise ValueError("temperature_K is upside down; expected the lowest temperature first")
        return self


class Catalogue:
    """Names of trained propagators and their files.

    Parameters
    ----------
    folder : path, optional
        Default: that of the package.

    Attributes
    ----------
    entries : dict of str to CatalogueEntry

    Raises
    ------
    CheckpointError
        If the folder has no ``catalogue.json``, or that file is damaged.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder: Path = FOLDER if folder is None else Path(folder)
        path = self.folder / "catalogue.json"
        try:
            found = TypeAdapter(dict[_Name, CatalogueEntry]).validate_json(path.read_bytes())
            self.entries: dict[str, CatalogueEntry] = found
        except OSError as error:
            raise CheckpointError(f"cannot read the catalogue of models {path}: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(f"the catalogue of models {path} is damaged at {where!r}: {first['msg']}") from error

    def path(self, name: str) -> Path:
        """File of a model.

        Raises
        ------
        CheckpointError
            If the name is unknown; the message lists the known ones and the nearest.
        """
        if name in self.entries:
            return self.folder / f"{name}.safetensors"
        nearest = difflib.get_close_matches(name, self.entries, n=1)
        raise CheckpointError(
            f"{name!r} is neither a file nor one of the models of the package ({', '.join(self.entries) or 'none'})"
            + (f"; did you mean {nearest[0]!r}?" if nearest else "; give the path of a .safetensors file")
        )

    def start(self, name: str) -> Path:
        """File of the structure that comes with a model.

        Raises
        ------
        CheckpointError
            If the name is unknown, or the model has none.
        """
        self.path(name)  # says what is wrong with a name
        start = self.entries[name].start
        if start is None:
            raise CheckpointError(f"the model {name!r} comes without a structure to start from; give one of your own")
        return (self.folder / start).resolve()

    def manifest(self, name: str) -> Manifest:
        """What the file of a model says about itself; raises as :meth:`path` and :func:`.checkpoint.read_manifest`."""
        return read_manifest(self.path(name))


def is_file(model: str | Path) -> bool:
    """Whether a model given by path or by name is a path: what is there, has a folder, or ends in ``.safetensors``."""
    path = Path(model)
    return path.is_file() or len(path.parts) != 1 or path.suffix == ".safetensors"


def find_model(model: str | Path, catalogue: Catalogue | None = None) -> Path:
    """File of a model given by path or by name; a file that exists wins over a name.

    Parameters
    ----------
    model : str or Path
        What has a folder or ends in ``.safetensors`` is a path; anything else may be a name.
    catalogue : Catalogue, optional
        Default: that of the package.

    Raises
    ------
    CheckpointError
        If it is neither a file nor a known name.
    """
    if is_file(model):
        return Path(model)  # reading it says what is wrong with it
    return (catalogue or Catalogue()).path(str(model))
