"""The notebooks below `examples/`, executed as they stand; the environment makes their runs
short."""

from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
SHORT = {
    "LOOP__ROUNDS": "2", "ROLLOUT__IMAGES": "8", "ROLLOUT__BATCH": "8", "LEARNER__BATCH": "8",
    "CRITIC__WARMUP_IMAGES": "16", "CRITIC__WARMUP_STEPS": "2", "CRITIC__STEPS": "1",
    "SELECTION__IMAGES": "8", "SELECTION__FLOOR": "0", "EVALUATION__TARGET_IMAGES": "16",
    "EVALUATION__OTHER_IMAGES": "1",
}  # fmt: skip


def test_there_are_three_and_each_shows_what_it_gave() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["first-run", "own-reward", "reading-a-report"]
    for file in NOTEBOOKS:
        cells = [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells), f"{file.name} is saved without a run"
        assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
        assert str(ROOT) not in file.read_text()


@pytest.mark.slow
def test_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SHORT.items():
        monkeypatch.setenv(f"RL_UNLEARN__{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    for file in NOTEBOOKS:  # in this order: the last reads the first one's run
        notebook = nbformat.read(file, 4)
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
        shown = [out for cell in notebook.cells for out in cell.get("outputs", ())]
        assert not [out for out in shown if out.get("name") == "stderr"], file.name
        assert any("image/png" in out.get("data", {}) for out in shown) or "own" in file.name
    assert {"first-run", "own-reward"} <= {path.name for path in (tmp_path / "outputs").iterdir()}
