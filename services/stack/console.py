"""What `python -m services.stack` shows: the processes' lines with their names in front, and how far things are."""

import datetime
import sys
import threading
from collections.abc import Callable

from honcho.colour import get_colours
from honcho.printer import Message, Printer
from rich.console import Console
from rich.status import Status

from services.stack.processes import Process

__all__ = ["Screen"]


class Screen:
    """Lines of the processes on standard output; a live line, where there is a terminal, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        """With `quiet` the processes' lines are not shown."""
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._printer = Printer(_Standard(), width=8)
        self._colours = get_colours()
        self._colour_of: dict[str, str] = {}
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._said: set[str] = set()

    def show(self, name: str, line: str) -> None:
        """A line that a process wrote; from any thread."""
        if self._quiet:
            return
        with self._lock:
            colour = self._colour_of.setdefault(name, next(self._colours))
            self._printer.write(Message("line", line, datetime.datetime.now(), name, colour))

    def starting(self, ready: dict[str, bool], seconds: float) -> None:
        """How far the start is; a live line on a terminal, else a line for each process that is ready."""
        if self._console.is_terminal:
            marks = "  ".join(f"{name} {'[green]ready[/]' if up else '...'}" for name, up in ready.items())
            self._live(f"starting, {seconds:.0f} s   {marks}")
            if all(ready.values()):
                self.done()
        for name in [name for name, up in ready.items() if up and name not in self._said]:
            self._said.add(name)
            if not self._console.is_terminal:
                self.say(f"{name} is ready after {seconds:.1f} s")

    def counting(self, what: str, total: int) -> Callable[[int], None]:
        """Something to call with how many of `total` are done."""
        every = max(1, total // 10)

        def progress(done: int) -> None:
            if self._console.is_terminal:
                self._live(f"{what} {done}/{total}")
            elif done % every == 0 or done == total:
                self.say(f"{what} {done}/{total}")

        return progress

    def say(self, sentence: str) -> None:
        """A line of our own."""
        with self._lock:
            self._console.print(sentence, highlight=False, soft_wrap=True, markup=False)

    def done(self) -> None:
        """Take the live line away."""
        if self._status:
            self._status.stop()
            self._status = None

    def died(self, process: Process) -> None:
        """Say that a process ended by itself, with its last lines."""
        self.done()
        self.say(f"{process.name} has ended by itself; everything is stopped. {process.last_words()}")

    def _live(self, text: str) -> None:
        if self._status is None:
            self._status = Status(text, console=self._console)
            self._status.start()
        self._status.update(text)


class _Standard:
    """Standard output as it is at the time: a live line stands in for it meanwhile."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return sys.stdout.isatty()
