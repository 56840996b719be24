"""The notebook of the documentation, and the Python API in a Jupyter kernel."""

import time
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from small_sweep import TINY

from resnet_sweep import load_run

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_plain_lines_and_tables(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    expected = [output.output_type for output in outputs(notebook) if "data" in output]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    found = outputs(notebook)
    assert [output.output_type for output in found if "data" in output] == expected
    printed = "".join(output.text for output in found if output.output_type == "stream")
    assert printed.count("epoch 4/4") == 1
    # Escape sequences would move the cursor of a terminal.
    assert "\x1b" not in printed
    shown = [output.data["text/html"] for output in found if "text/html" in output.get("data", {})]
    assert len(shown) >= 5
    assert all("<table" in html for html in shown)


@pytest.mark.slow
def test_an_interrupted_kernel_saves_the_run_and_raises(tmp_path: Path) -> None:
    manager, kernel = start_new_kernel(cwd=str(tmp_path))
    try:
        # After an error, a kernel refuses the requests that it holds, unless this is switched off.
        kernel.execute(
            "import resnet_sweep\n"
            f"resnet_sweep.train([*{TINY!r}, 'trainer.epochs=100000'], directory='run')",
            stop_on_error=False,
        )
        while not (tmp_path / "run" / "checkpoints" / "best_model.pth").exists():
            assert manager.is_alive()
            time.sleep(0.1)
        manager.interrupt_kernel()
        content = kernel.get_shell_msg(timeout=120)["content"]
        assert content["ename"] == "KeyboardInterrupt"
        assert load_run(tmp_path / "run").state == "interrupted"
        # The kernel can train again.
        kernel.execute(f"resnet_sweep.train([*{TINY!r}, 'trainer.epochs=1'])")
        assert kernel.get_shell_msg(timeout=120)["content"]["status"] == "ok"
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
