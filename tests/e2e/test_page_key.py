"""The web page where the gateway asks who calls: a gateway of its own with keys, over the services of the stack."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from saccade.keys import create_key
from services.stack.processes import Process, free_port, http_ok
from services.stack.stack import Stack

PATIENCE_MS = 60_000


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(keys_file: Path) -> str:
    return create_key(keys_file, "visitor", scope="read", collections=["demo"])[0]


@pytest.fixture
def address(stack: Stack, tmp_path: Path, keys_file: Path, key: str) -> Iterator[str]:
    assert key
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    env |= {
        "SACCADE_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "SACCADE_GATEWAY_METRICS_LISTEN": "",
        "SACCADE_EMBEDDER_ADDRESS": f"dns:///{stack.embedder}",
        "SACCADE_INGEST_ADDRESS": f"dns:///{stack.ingest}",
        "SACCADE_QUERY_ADDRESS": f"dns:///{stack.query}",
        "SACCADE_OBJECTS_URL": f"file://{tmp_path}/objects",
        # Where the services' presigned addresses lead.
        "SACCADE_PUBLIC_URL": stack.gateway_url,
        "SACCADE_AUTH": "keys",
        "SACCADE_KEYS_FILE": str(keys_file),
    }
    command = [sys.executable, "-m", "services.gateway"]
    with Process(command, name="gateway", ready=lambda: http_ok(port, "/healthz", "127.0.0.1"), env=env):
        yield f"http://127.0.0.1:{port}"


def test_the_page_asks_for_a_key_and_keeps_it_as_long_as_its_tab(browser: Browser, address: str, key: str) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    shown: list[str] = []
    page.on("request", lambda request: shown.append(f"{request.url} {request.headers.get('authorization', '')}"))
    page.goto(f"{address}/?c=demo")
    question = page.locator("#key-dialog")
    expect(question).to_be_visible(timeout=PATIENCE_MS)

    page.fill("#key", f"{key[:-1]}x")
    page.press("#key", "Enter")
    expect(page.locator("#key-why")).to_contain_text("not known", timeout=PATIENCE_MS)
    page.fill("#key", key)
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector(".card img.loaded, #error:not([hidden])")
    expect(page.locator("#error")).to_be_hidden()
    page.fill("#text", "an owl")
    page.press("#text", "Enter")
    page.wait_for_selector("#results:not([aria-busy]) .card .score")

    # It goes to the API and nowhere else: pictures come by addresses of their own.
    for line in shown:
        url, _, header = line.partition(" ")
        assert key not in url
        assert (key in header) <= url.startswith(f"{address}/v1/")
    assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [[key], 0, ""]

    page.reload()
    page.wait_for_selector(".card .score")
    other = context.new_page()
    other.set_default_timeout(PATIENCE_MS)
    other.goto(address)
    expect(other.locator("#key-dialog")).to_be_visible(timeout=PATIENCE_MS)
    other.get_by_role("button", name="Not now").click()
    expect(other.locator("#error")).to_contain_text("A key is needed", timeout=PATIENCE_MS)

    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#key-dialog")).to_be_visible(timeout=PATIENCE_MS)
    context.close()
