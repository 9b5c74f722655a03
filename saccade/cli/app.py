"""The command's root: where the services are, and the options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli.output import parse_json
from saccade.client import DEFAULT_ADDRESSES, Client
from saccade.common.v1 import types_pb2
from saccade.credentials import tls_credentials
from saccade.filters import all_of, tags
from saccade.requests import make_filter

__all__ = [
    "DEFAULT_COLLECTION",
    "CollectionOption",
    "FilterOption",
    "JsonOption",
    "TagOption",
    "app",
    "client_of",
    "combined_filter",
]

app = typer.Typer(
    name="saccade",
    help="Find images by what is in them.",
    epilog=(
        "Exit codes: 0 all well; 1 some images could not be stored, or a service is not ready; 2 wrong usage; "
        "3 refused by a service; 4 unreachable, overloaded or too late; 130 interrupted."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

CollectionOption = Annotated[
    str, typer.Option("--collection", "-c", envvar="SACCADE_COLLECTION", help="The collection's name.")
]
DEFAULT_COLLECTION = "demo"
"""Where commands that change nothing, or one image, look when no collection is named: what `make demo` fills."""

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to standard output instead of a table.")]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter", help='Which images count, as JSON: {"metadata": {"path": ["year"], "range": {"min": 2020}}}.'
    ),
]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Only images with this tag; may be repeated.")]


@app.callback()
def root(
    context: typer.Context,
    *,
    embedder_address: Annotated[
        str, typer.Option(envvar="SACCADE_EMBEDDER_ADDRESS", help="Where the embedder is.")
    ] = DEFAULT_ADDRESSES["embedder"],
    ingest_address: Annotated[
        str, typer.Option(envvar="SACCADE_INGEST_ADDRESS", help="Where the ingest service is.")
    ] = DEFAULT_ADDRESSES["ingest"],
    query_address: Annotated[
        str, typer.Option(envvar="SACCADE_QUERY_ADDRESS", help="Where the query service is.")
    ] = DEFAULT_ADDRESSES["query"],
    timeout: Annotated[float, typer.Option(min=0.1, help="Longest wait for one call, in seconds.")] = 60.0,
    key: Annotated[
        str,
        typer.Option(
            envvar="SACCADE_API_KEY",
            show_envvar=True,
            help="API key or token; better in the variable, or @FILE, than on a command line that others see.",
        ),
    ] = "",
    ca: Annotated[
        str, typer.Option(envvar="SACCADE_CA", help="TLS, with services known by the authorities in this PEM file.")
    ] = "",
    cert: Annotated[str, typer.Option(envvar="SACCADE_CERT", help="Client certificate, a PEM file.")] = "",
    cert_key: Annotated[str, typer.Option(envvar="SACCADE_CERT_KEY", help="Its private key, a PEM file.")] = "",
    tls: Annotated[bool, typer.Option("--tls", envvar="SACCADE_TLS", help="TLS, with public authorities.")] = False,
) -> None:
    """Find images by what is in them."""
    client = Client(
        embedder=embedder_address,
        ingest=ingest_address,
        query=query_address,
        key=_key(key),
        credentials=tls_credentials(ca, cert=cert, cert_key=cert_key, tls=tls),
        timeout_s=timeout,
    )
    context.obj = context.with_resource(client)


def _key(given: str) -> str:
    """The key itself, or what is in the file that `@FILE` names."""
    return Path(given[1:]).read_text().strip() if given.startswith("@") else given.strip()


def client_of(context: typer.Context) -> Client:
    """The client that the root options describe."""
    client: Client = context.obj
    return client


def combined_filter(text: str, names: list[str] | None) -> types_pb2.Filter | None:
    """--filter and --tag together; ValueError where --filter is no JSON or does not fit the contract."""
    filters = [tags(*names, all=True)] if names else []
    if text:
        given = make_filter(parse_json(text, "--filter"))
        filters += [given] if given else []
    if len(filters) > 1:
        return all_of(*filters)
    return filters[0] if filters else None
