"""`python -m services.stack run|demo|smoke`: all of Saccade on this machine.

run     start everything, stay until Ctrl-C
demo    the same, and load the gallery of demo scenes
smoke   a fresh stack on free ports, one search of each kind, every answer checked

Exit codes: 0 stopped as asked, or all answers right; 1 something could not start, ended by itself, or answered wrong.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from saccade.calls import Service
from saccade.client import DEFAULT_ADDRESSES
from saccade.errors import ApiError
from saccade.keys import KeyFileError
from saccade.labels import Label, LabelsError
from services.common.settings import load_settings
from services.stack import gallery
from services.stack.console import Screen
from services.stack.engines import EngineMissing
from services.stack.lock import DataInUse
from services.stack.processes import ProcessError
from services.stack.settings import StackSettings
from services.stack.smoke import run_smoke
from services.stack.stack import PortBusy, Stack

_POLL_S = 0.2
_SEGMENTS_S = 3600.0

app = typer.Typer(help="Saccade on one machine.", no_args_is_help=True, pretty_exceptions_enable=False)


class _Stop(BaseException):
    """Ctrl-C or SIGTERM."""


@app.command()
def run() -> None:
    """Start everything, print the address, stay until Ctrl-C."""
    _serve(with_gallery=False)


@app.command()
def demo() -> None:
    """Start everything, load the gallery, print sample searches, stay until Ctrl-C."""
    _serve(with_gallery=True)


@app.command()
def smoke(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the processes write.")] = False,
) -> None:
    """Start a fresh stack, run one search of each kind over gRPC and HTTP, and check the answers."""
    settings = load_settings(StackSettings, "stack")
    with _signals():
        if not run_smoke(settings, os.environ, Screen(quiet=not verbose)):
            raise typer.Exit(1)


def _serve(*, with_gallery: bool) -> None:
    settings, screen = load_settings(StackSettings, "stack"), Screen()
    stack = Stack(settings, os.environ, show=screen.show, progress=screen.starting)
    try:
        with _signals(), stack:
            screen.say(f"\nSaccade is at {stack.gateway_url}   (API page: {stack.gateway_url}/docs)\n")
            if stack.key:
                screen.say(f"API key of this run, for the page, or for the command line:\n  {key_export(stack)}\n")
            errors: list[Exception] = []
            if with_gallery:
                threading.Thread(target=_load, args=(stack, settings, screen, errors), daemon=True).start()
            _stay(stack, screen, errors)
    except _Stop:
        screen.done()
        screen.say("stopped")


def _stay(stack: Stack, screen: Screen, errors: list[Exception]) -> None:
    """Until a signal raises _Stop, or something goes wrong."""
    pause = threading.Event()
    while True:
        if errors:
            raise errors[0]
        if process := stack.failed():
            screen.died(process)
            raise typer.Exit(1)
        pause.wait(_POLL_S)


def _load(stack: Stack, settings: StackSettings, screen: Screen, errors: list[Exception]) -> None:
    """Load the gallery, on a thread; what goes wrong is handed to the main thread."""
    try:
        labels = gallery.gallery_labels(settings.demo_dir)
        with stack.client() as client:
            gallery.prepare(client, settings.demo_dir)
            loaded = gallery.load(client, labels, progress=screen.counting("gallery: searchable", len(labels)))
            screen.done()
            screen.say(
                f"the gallery is searchable: {loaded.stored} scenes stored, {loaded.existed} were there, "
                f"{loaded.seconds:.0f} s\n"
                "segments follow: searches by region or --mode segment find more as they come\n\n"
                f"{samples(stack, labels)}\n"
            )
            count = screen.counting("gallery: segmented", len(labels))
            gallery.wait_for_segments(
                client, timeout_s=_SEGMENTS_S, progress=lambda pending: count(len(labels) - pending)
            )
            screen.done()
            screen.say(f"all segments are searchable too; Ctrl-C stops everything   {stack.gateway_url}")
    except Exception as exc:
        errors.append(exc)


def samples(stack: Stack, labels: Sequence[Label]) -> str:
    """Searches to try, made from the gallery's own labels."""
    scene = next(label for label in labels if len(label.objects) > 1)
    first, second = scene.objects[:2]
    box = ",".join(f"{side:.2f}" for side in first.box)
    search = f"saccade search -c {gallery.COLLECTION}"
    searches = [
        f'{search} --text "{first.name} and {second.name}"',
        f'{search} --text "{first.name}" --not "{second.name}" --mode segment',
        f"{search} --image {os.path.relpath(scene.path)} --box {box}",
        f'{search} --like {scene.id} --tag "{first.name}"',
        "saccade status",
    ]
    addresses: dict[Service, str] = {"embedder": stack.embedder, "ingest": stack.ingest, "query": stack.query}
    moved = [f"export SACCADE_{n.upper()}_ADDRESS={a}" for n, a in addresses.items() if a != DEFAULT_ADDRESSES[n]]
    key_exports = [key_export(stack)] if stack.key else []
    return "\n".join(
        f"  {line}" for line in [stack.gateway_url, *_activation(Path(sys.prefix)), *moved, *key_exports, *searches]
    )


def key_export(stack: Stack) -> str:
    """How a shell hands the stack's API key to the command line."""
    return f"export SACCADE_API_KEY={stack.key}"


def _activation(environment: Path) -> list[str]:
    """How another terminal finds the command: it is told where the environment is the .venv that make made."""
    ours = environment.resolve() == (Path(__file__).parents[2] / ".venv").resolve()
    return [f"source {os.path.relpath(environment)}/bin/activate"] if ours else []


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise _Stop, once; afterwards they are ignored, so that the way down is not cut short."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise _Stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _main() -> int:
    try:
        app(prog_name="python -m services.stack")
    except (
        ApiError,
        DataInUse,
        EngineMissing,
        KeyFileError,
        LabelsError,
        PortBusy,
        ProcessError,
        gallery.GalleryError,
    ) as exc:
        sys.stderr.write(f"saccade stack: {exc}\n")
        return 1
    except _Stop:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main())
