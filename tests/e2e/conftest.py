"""One stack with the demo's models for all end-to-end tests, its collection `demo` filled with 60 labelled scenes."""

import os
import shutil
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

from saccade import Client
from saccade.labels import Label
from services.stack import gallery
from services.stack.settings import StackSettings
from services.stack.smoke import SCENES
from services.stack.stack import Stack, temporary_stack
from tests.engines import not_installed

SWITCHES: Final = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="session")
def labels() -> list[Label]:
    """Labels of the scenes that are stored."""
    return gallery.gallery_labels(StackSettings().demo_dir, SCENES)


@pytest.fixture(scope="session")
def stack(labels: list[Label]) -> Iterator[Stack]:
    with temporary_stack(os.environ) as running:
        with running.client() as client:
            gallery.prepare(client, StackSettings().demo_dir)
            gallery.load(client, labels, wait="segmented")
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        not_installed("there is no chromium; make tools installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield browser
        browser.close()
