"""An embedder as a process of its own, for tests."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

from services.common.embedder_client import EmbedderClient
from services.common.errors import Unavailable
from tests.engines import free_ports

__all__ = ["EmbedderProcess", "embedder", "environment"]

START_S = 90


class EmbedderProcess:
    """A running one."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, metrics_port: int) -> None:
        self.process = process
        self.port = port
        self._metrics_port = metrics_port
        self.client = EmbedderClient(f"dns:///127.0.0.1:{port}", timeout_s=60)

    def memory_mib(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match
        return int(match[1]) / 1024

    def metrics(self) -> str:
        """What its metrics endpoint says."""
        with urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    async def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with other settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    return {**others, **settings}


@asynccontextmanager
async def embedder(**settings: str) -> AsyncIterator[EmbedderProcess]:
    """Run one with `SACCADE_...` settings, ready; killed at the end if it still runs."""
    port, metrics_port = free_ports(2)
    settings |= {"SACCADE_LISTEN": f"127.0.0.1:{port}", "SACCADE_METRICS_LISTEN": f"127.0.0.1:{metrics_port}"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.embedder", env=environment(settings))
    running = EmbedderProcess(process, port, metrics_port)
    try:
        async with asyncio.timeout(START_S):
            while True:
                assert process.returncode is None, "the embedder ended at once"
                try:
                    await running.client.get_model()
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)
        yield running
    finally:
        await running.client.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
