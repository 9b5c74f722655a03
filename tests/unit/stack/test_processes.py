import sys

from services.stack.processes import Process, wait_until

SHOW = [sys.executable, "-c", "import os; print(os.environ['ONE'], os.environ.get('TWO'), flush=True)"]


def test_a_variant_differs_in_its_environment_alone() -> None:
    usual = Process(SHOW, ready=lambda: True, env={"ONE": "1"}, name="show")
    other = usual.variant({"TWO": "2"})
    for process, said in ((usual, "1 None"), (other, "1 2")):
        process.launch()
        assert wait_until(lambda process=process, said=said: process.output == said, timeout_s=30)  # type: ignore[misc]
        process.stop()
    assert (usual.output, other.output, other.name) == ("1 None", "1 2", "show")
