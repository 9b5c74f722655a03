"""`saccade keys`: the file of API keys that the services read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.app import JsonOption, app
from saccade.cli.output import note, show_table, write_json
from saccade.keys import SCOPES, KeyEntry, create_key, read_keys, revoke_key

__all__: list[str] = []

FileOption = Annotated[
    Path, typer.Option("--file", envvar="SACCADE_KEYS_FILE", dir_okay=False, help="The file of API keys.")
]

keys = typer.Typer(
    help="Make, list and revoke API keys in the file that the services read (SACCADE_KEYS_FILE). It holds no secrets.",
    no_args_is_help=True,
)
app.add_typer(keys, name="keys")


@keys.command()
def create(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who gets it; stands in the services' audit log.")],
    file: FileOption,
    scope: Annotated[str, typer.Option(help=f"What it allows: {', '.join(SCOPES)}; each includes those before it.")],
    collection: Annotated[
        list[str], typer.Option("--collection", "-c", help="Where: a name or a pattern such as 'team_*'; repeatable.")
    ],
    days: Annotated[float, typer.Option(min=0, help="How long it is good, in days; 0: until it is revoked.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Calls a second; 0: what the services allow everyone.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: the file keeps only a hash of it."""
    ends = datetime.now(UTC) + timedelta(days=days) if days else None
    key, entry = create_key(file, name, scope=scope, collections=collection, expires_at=ends, calls_per_second=rate)
    if as_json:
        write_json({"key": key} | _shown(entry))
        return
    typer.echo(key)
    note(f"{file} has the key {name!r} now; keep it, it is shown this once. Services see it within a second.")


@keys.command("list")
def list_(*, file: FileOption, as_json: JsonOption = False) -> None:
    """List the keys, those that are revoked or over too."""
    entries = read_keys(file)
    if as_json:
        write_json([_shown(entry) for entry in entries])
        return
    show_table(
        ["id", "name", "scope", "collections", "made", "good until", "rate", "state"],
        [
            [
                entry.id,
                entry.name,
                entry.scope,
                " ".join(entry.collections),
                entry.created_at,
                entry.expires_at or "",
                f"{entry.calls_per_second:g}" if entry.calls_per_second else "",
                _state(entry),
            ]
            for entry in entries
        ],
        empty="no keys",
    )


@keys.command()
def revoke(
    *,
    key: Annotated[str, typer.Argument(metavar="NAME", help="The key's name or id.")],
    file: FileOption,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: calls with it are refused within a second, streams under way end."""
    entry = revoke_key(file, key)
    if as_json:
        write_json(_shown(entry))
    else:
        note(f"revoked {entry.name!r} ({entry.id})")


def _shown(entry: KeyEntry) -> dict[str, object]:
    """What is no secret; the hash of a key that nobody can guess is none either, and is of no use."""
    return {
        "id": entry.id,
        "name": entry.name,
        "scope": entry.scope,
        "collections": list(entry.collections),
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "calls_per_second": entry.calls_per_second,
        "revoked_at": entry.revoked_at,
        "state": _state(entry),
    }


def _state(entry: KeyEntry) -> str:
    if entry.revoked_at:
        return "revoked"
    over = entry.expires is not None and entry.expires <= datetime.now(UTC).timestamp()
    return "over" if over else "good"
