"""How far a long run is: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from tqdm import tqdm

_EVERY = 30.0  # seconds between two lines
_LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit}s, {percentage:.0f} %, {elapsed} so far, {remaining} left, "
    "{rate_fmt}{postfix}"
)
_UNKNOWN = "{desc}: {n_fmt} {unit}s, {elapsed} so far, {rate_fmt}{postfix}"


Bar: TypeAlias = "tqdm[Any]"  # for annotations


class Lines(tqdm):
    """A bar of tqdm that writes whole lines: one at its beginning, one now and then, one at its end."""

    def __init__(self, *arguments: Any, **options: Any):
        calm = {"mininterval": _EVERY, "maxinterval": 2 * _EVERY}
        ends = options.get("total") is not None or (bool(arguments) and hasattr(arguments[0], "__len__"))
        super().__init__(*arguments, **{**options, **calm, "bar_format": _LINE if ends else _UNKNOWN})

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """What writes a state of the bar."""

        def write(text: str) -> None:
            text = re.sub(r", \? left, \?\w+/s", "", text)  # at the beginning
            text = re.sub(r" +(\d[\d.]*)([a-z]\w*/s)", r" \1 \2", text)
            if text.strip():
                with contextlib.suppress(OSError):  # whoever read it has left: no reason to end a run
                    file.write(text.strip().removeprefix(": ") + "\n")
                    file.flush()

        return write

    def moveto(self, n: int) -> None:
        """Stay: lines have no place of their own, a bar within another one neither."""

    @classmethod
    @contextlib.contextmanager
    def external_write_mode(cls, file: Any = None, nolock: bool = False) -> Iterator[None]:
        """Let others write (``bar.write``): there is no bar to take away, and none to put back."""
        yield

    def close(self) -> None:
        """Write the last line, with the speed of all of it."""
        self._ema_dt = lambda: None  # as tqdm does for a bar that stays
        said = not self.disable and self.last_print_n == self.n > self.initial
        if not self.disable and not said and self._time() - self.start_t >= self.delay:
            self.refresh()
        self.sp, self.fp = lambda text: None, io.StringIO()  # tqdm would clear a line of a terminal
        super().close()


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """A bar as ``tqdm`` makes it where standard error is a terminal, else one of :class:`Lines`."""
    stream = sys.stderr
    on_terminal = stream is not None and hasattr(stream, "isatty") and stream.isatty()
    if stream is None:
        options["disable"] = True
    return tqdm(*arguments, **options) if on_terminal else Lines(*arguments, **options)
