"""`saccade vocabulary`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli.app import JsonOption, app, client_of
from saccade.cli.output import show_table, to_dict, write_json
from saccade.ingest.v1 import ingest_service_pb2 as ingest

__all__: list[str] = []

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="1 to 48 of a-z, 0-9 and '_', beginning with a letter.")
]

vocabulary = typer.Typer(help="Show a vocabulary, or make or replace one.", no_args_is_help=True)
app.add_typer(vocabulary, name="vocabulary")


@vocabulary.command()
def show(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a vocabulary."""
    _show(client_of(context).get_vocabulary(name), as_json=as_json)


@vocabulary.command()
def put(
    context: typer.Context,
    name: NameArgument,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="A line for each word: WORD or WORD,CATEGORY. Or JSON, as `show --json`."
        ),
    ],
    template: Annotated[
        list[str] | None, typer.Option(help="A sentence with one {} for the word, in place of the file's; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make or replace a vocabulary. Collections that have it keep their tags until `saccade retag`."""
    words, templates = read_vocabulary(file.read_text(encoding="utf-8"))
    kept = client_of(context).put_vocabulary(name, words, prompt_templates=template or templates)
    _show(kept, as_json=as_json)


def read_vocabulary(text: str) -> tuple[dict[str, str], list[str]]:
    """Word -> category, and templates, from a file's text; ValueError where it is JSON of another shape.

    JSON is what the contract's Vocabulary is: {"prompt_templates": [...], "entries": [{"name": ..., "category": ...}]};
    an entry may be just a word.
    """
    if not text.lstrip().startswith("{"):
        lines = [line.partition(",") for line in text.split("\n") if line.strip()]
        return {word.strip(): category.strip() for word, _, category in lines}, []
    try:
        value: Any = json.loads(text)
        templates = [str(template) for template in value.get("prompt_templates", [])]
        pairs = [
            (entry, "") if isinstance(entry, str) else (entry["name"], entry.get("category", ""))
            for entry in value["entries"]
        ]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise ValueError(
            'a vocabulary in JSON is {"prompt_templates": ["a photo of a {}"], "entries": [{"name": "owl", "category": '
            f'"bird"}}]}}; this one is not: {exc!r}'
        ) from exc
    return dict(pairs), templates


def _show(kept: ingest.Vocabulary, *, as_json: bool) -> None:
    if as_json:
        write_json(to_dict(kept))
        return
    rows = [[entry.name, entry.category] for entry in kept.entries]
    show_table(["word", "category"], rows, empty="no words")
