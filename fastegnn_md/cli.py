"""The command line: ``fastegnn-md``.

A user's mistake ends with exit code 2 and one line on stderr; ``--traceback`` before the command shows where it arose.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any

import typer

from .commands.adapt import adapt
from .commands.bench import bench
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.evaluate import evaluate, inspect
from .commands.harvest import harvest
from .commands.learn import learn
from .commands.models import models
from .commands.plot import plot
from .commands.run import run
from .commands.seeds import seeds
from .commands.suggest_lag import suggest_lag
from .commands.train import train
from .commands.validate import validate
from .errors import FastEGNNMDError, in_shell_words

_PROGRAM = "fastegnn-md"
_LONGEST = 4000  # characters of a message: it may quote what was given
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_TERMINATED = 143  # 128 + SIGTERM, by which schedulers ask for an end
_CONTINUE = {
    "train": "; continue with --resume",
    "bench": "; the same command continues",
    "harvest": "; every finished burst is kept, the same command continues",
    "seeds": "; every finished burst is kept, the same command continues",
    "adapt": "; what was done is kept, the same command continues",
}
# click's exceptions for wrong arguments; newer versions of typer carry click inside, older ones import it
_CLICK_EXCEPTION: type[Exception] = typer.BadParameter.__mro__[2]

_COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (
        train,
        """
        fastegnn-md train topology.pdb md.xtc --lag "10 fs" --select protein -o model.safetensors
        fastegnn-md train pairs.h5md --lag "8 fs" --kind force-start --updates 4000 -o model.safetensors
        fastegnn-md train pairs.h5md --lag "8 fs" --config train.yaml --set learning_rate=2e-3
        fastegnn-md train pairs.h5md --lag "8 fs" --from model.safetensors --set unroll=2 -o tuned.safetensors
        """,
    ),
    (
        harvest,
        """
        fastegnn-md harvest topology.pdb md.xtc --forcefield amber14-all.xml --constraints HBonds \\
            --burst "24 fs" --interval "8 fs" --temperature 300 --processes 2 -o pairs.h5md
        fastegnn-md harvest cluster.xyz md.xyz --engine ase --calculator emt -o pairs.h5md
        """,
    ),
    (
        adapt,
        """
        fastegnn-md adapt ethanol-xtb ethanol.xyz --calculator my_engine:calculator --target 0.05 --budget "1000 calls"
        fastegnn-md adapt model.safetensors start.xyz --calculator tblite --temperature 400 -o adapted.safetensors
        """,
    ),
    (
        learn,
        """
        fastegnn-md learn start.traj --calculator my_engine:calculator --lag "20 fs" --timestep "2 fs" \\
            --temperature 600 --time "100 ps" --set cutoff=5 -o run.traj
        fastegnn-md learn molecule.xyz --calculator tblite --model organic-xtb-4fs --timestep "0.5 fs" \\
            --temperature 350 --time "50 ps" -o run.xtc
        """,
    ),
    (
        suggest_lag,
        """
        fastegnn-md suggest-lag topology.pdb short.trr
        fastegnn-md suggest-lag pairs.h5md --json
        fastegnn-md suggest-lag topology.pdb md.xtc --select protein
        """,
    ),
    (
        run,
        """
        fastegnn-md run model.safetensors start.pdb --steps 1000 --temperature 300 -o out.xtc
        fastegnn-md run model.safetensors start.pdb --steps 1000 --temperature 300 --friction "10/ps" \\
            --forcefield amber14-all.xml --constraints HBonds -o out.xtc
        fastegnn-md run model.safetensors start.pdb --engine openmm --steps 11000 --temperature 300 \\
            --forcefield amber14-all.xml --constraints HBonds -o out.xtc
        """,
    ),
    (
        seeds,
        """
        fastegnn-md seeds flow.safetensors start.pdb --forcefield amber99sbildn.xml --forcefield amber99_obc.xml \\
            --constraints HBonds --temperature 300 --repeats 2 -o seeds
        fastegnn-md seeds flow.safetensors molecule.xyz --calculator tblite --timestep "1 fs" --temperature 300 \\
            --bonds guess -o seeds
        """,
    ),
    (
        evaluate,
        """
        fastegnn-md evaluate model.safetensors topology.pdb other.xtc
        fastegnn-md evaluate model.safetensors other.h5md --json
        fastegnn-md evaluate one.safetensors other.h5md --committee two.safetensors --committee three.safetensors
        """,
    ),
    (
        validate,
        """
        fastegnn-md validate model.safetensors --reference topology.pdb a.trr b.trr c.trr --temperature 300 \\
            --forcefield amber14-all.xml --constraints HBonds --require temperature,torsions -o validation
        fastegnn-md validate model.safetensors --reference topology.pdb md.xtc --learned learned.trr
        """,
    ),
    (inspect, "fastegnn-md inspect model.safetensors"),
    (models, "fastegnn-md models --json"),
    (plot, "fastegnn-md plot virtual-nodes model.safetensors start.pdb -o virtual.png"),
    (
        bench,
        """
        fastegnn-md bench table1 --budget "2 h" --processes 2
        fastegnn-md bench table1 --only "nbody fastegnn * p=1" --budget "30 min" --batch-size 10
        """,
    ),
    (
        demo,
        """
        fastegnn-md demo --output demo-output
        """,
    ),
    (doctor, "fastegnn-md doctor > doctor.txt"),
)

# Plain help: it is written for terminals, logs and pipes alike.
app: typer.Typer = typer.Typer(
    name=_PROGRAM, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
for _command, _examples in _COMMANDS:
    _lines = textwrap.indent(textwrap.dedent(_examples).strip(), "  ")
    # \b keeps click from joining the lines
    app.command(epilog=f"\b\nExamples:\n{_lines}")(_command)


def _print_version(value: bool) -> None:
    if value:
        from . import __version__

        typer.echo(f"{_PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(epilog="Times, lengths and frictions carry their unit: '10 fs', '5 A', '10/ps'.")
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", hidden=True)] = False,
) -> None:
    """Learned molecular-dynamics steps: train a propagator from a trajectory, step molecules with it."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave Python with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Default: those of the process.
    """
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    _prepare_streams()
    with warnings.catch_warnings(), _Terminations() as terminations:
        warnings.showwarning = _show_warning
        code = _run(arguments)
    if code in (_INTERRUPTED, _TERMINATED):
        command = next((name for name in _CONTINUE if name in arguments[:2]), None)
        how = "stopped by SIGTERM" if terminations.came or code == _TERMINATED else "interrupted"
        typer.echo(f"\n{_PROGRAM}: {how}{_CONTINUE[command] if command else ''}", err=True)
        code = _TERMINATED if terminations.came else code
    sys.exit(code)


class _Terminations:
    """Makes SIGTERM what Ctrl-C is: the command cleans up and ends. Commands that save more have their own way."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> _Terminations:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._before = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def _prepare_streams() -> None:
    """What a terminal or file cannot show becomes a question mark; what is closed swallows what is written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: "2>&-"
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _run(arguments: list[str]) -> int:
    """Exit code of a command."""
    try:
        code = app(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except _CLICK_EXCEPTION as error:
        return _fail(_wrong_arguments(error))
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FastEGNNMDError, OSError) as error:
        if "--traceback" in arguments:
            raise
        return _fail(_describe(error))
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED  # newer versions of typer return it
    except SystemExit as error:  # of training that was stopped
        code = error.code
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    typer.echo(f"{_PROGRAM}: error: {message}", err=True)
    return 2


def _wrong_arguments(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return _one_line(error.format_message()) + (f" (see {context.command_path} --help)" if context is not None else "")


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, FastEGNNMDError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return _one_line(in_shell_words(error))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    text = in_shell_words(message) if isinstance(message, Warning) else message
    typer.echo(f"{_PROGRAM}: warning: {_one_line(text)}", err=True)
