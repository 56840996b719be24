"""The notebook of the documentation, and the Python API in a Jupyter kernel."""

import threading
import time
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from small_sweep import TINY

from resnet_sweep import load_run

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def client(notebook: nbformat.NotebookNode, folder: Path, **options: object) -> NotebookClient:
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, kernel_name="python3", resources=resources, **options)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_plain_lines_and_tables(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    expected = [output.output_type for output in outputs(notebook) if "data" in output]
    client(notebook, tmp_path, timeout=300).execute()
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
    cell = new_code_cell(
        "import resnet_sweep\n"
        f"resnet_sweep.train([*{TINY!r}, 'trainer.epochs=100000'], directory='run')"
    )
    notebook = new_notebook(cells=[cell, new_code_cell("resnet_sweep.load_run('run').state")])
    kernel = client(notebook, tmp_path, timeout=120, allow_errors=True)

    def interrupt() -> None:
        while not (tmp_path / "run" / "checkpoints" / "best_model.pth").exists():
            time.sleep(0.1)
        kernel.km.interrupt_kernel()

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    kernel.execute()
    (error,) = (output for output in outputs(notebook) if output.output_type == "error")
    assert error.ename == "KeyboardInterrupt"
    assert notebook.cells[1].outputs[0].data["text/plain"] == "'interrupted'"
    assert load_run(tmp_path / "run").state == "interrupted"
