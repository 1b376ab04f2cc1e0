"""The notebooks are committed without outputs, and run from top to bottom without a network."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = "02_attention"  # runs always; the others are slow


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["01_loss", "02_attention", "03_checkpoints", "04_objectives"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_but_the_source_is_committed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert "def " not in cell.source  # what is computed lives in research/analysis
    assert path.read_text() == nbformat.writes(notebook) + "\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the small runs of all notebooks are made, anew."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path.stem == QUICK else pytest.mark.slow) for path in NOTEBOOKS],
)
def test_it_runs(path, cache, monkeypatch):
    monkeypatch.setenv("RESEARCH_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.delenv("XLA_FLAGS")  # one device, as on a laptop
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    drawing = [cell for cell in notebook.cells if cell.cell_type == "code" and "plots." in cell.source]
    assert len(pictures) >= len(
        [cell for cell in drawing if "import" not in cell.source and "if kept" not in cell.source]
    )
