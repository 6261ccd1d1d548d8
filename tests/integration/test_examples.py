"""Every example runs as its line in examples/README.md says."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(r"^\| `([^`]+)` \|", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
PACKAGES = {
    "timm_training": "timm",
    "huggingface_trainer": "transformers",
    "accelerate_loop": "accelerate",
    "lightning_fit": "lightning",
}


def run(command: str, *options: str, folder: Path) -> str:
    """What the command prints; its files go into the folder."""
    program, *words = shlex.split(command)
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    launcher = [sys.executable, "-m", "torch.distributed.run"] if program == "torchrun" else [sys.executable]
    done = subprocess.run(
        [*launcher, *words, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done.stdout


def need(example: str) -> None:
    package = PACKAGES.get(example)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed")


def test_every_example_has_a_line() -> None:
    files = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert files == {Path(word).stem for line in COMMANDS for word in line.split() if word.endswith(".py")}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_runs_from_its_line_and_keeps_its_sparsity(command: str, tmp_path: Path) -> None:
    need(next(Path(word).stem for word in command.split() if word.endswith(".py")))
    last = run(command, folder=tmp_path).strip().splitlines()[-1]
    found = re.fullmatch(r"sparsity 0\.[89]00 after (\d+) updates", last)
    assert found, last
    assert int(found[1]) > 0


@pytest.mark.slow
def test_the_trainer_of_hugging_face_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    need("huggingface_trainer")
    command = "python examples/huggingface_trainer.py"
    whole = run(command, "--steps", "20", "--out", str(tmp_path / "whole"), folder=tmp_path)
    first = tmp_path / "whole" / "checkpoint-20"
    for path in first.iterdir():
        path.unlink()
    first.rmdir()
    resumed = run(command, "--steps", "20", "--out", str(tmp_path / "whole"), "--resume", folder=tmp_path)
    assert resumed.strip().splitlines()[-1] == whole.strip().splitlines()[-1]
    assert (first / "itop.pt").is_file()


@pytest.mark.slow
def test_lightning_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    need("lightning_fit")
    command = "python examples/lightning_fit.py"
    run(command, "--epochs", "1", "--out", str(tmp_path), folder=tmp_path)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    resumed = run(command, "--epochs", "2", "--out", str(tmp_path), "--resume", str(checkpoint), folder=tmp_path)
    assert "sparsity 0.900 after 4 updates" in resumed
