"""The recipe of a million neurons at a tenth of its width, on digits: it learns, and its memory follows the connections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys
from itop.cli.main import main
status = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
raise SystemExit(status)
"""


def train(folder: Path, *arguments: str) -> float:
    """The peak of the process in MiB."""
    command = ["train", "--recipe", "million-neurons", "--model", "mlp:60000,60000", "--data", "digits", "--quiet"]
    command += ["--sparsity", "0.9995", "--epochs", "3", "--max-steps", "100", "--update-every", "25", "--threads", "1"]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command, "--no-tensorboard", "--out", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout.split("peak")[-1])


def test_a_wide_network_that_never_exists_in_its_dense_form_learns(tmp_path: Path) -> None:
    peak = train(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"]["mean"] > 0.8
    assert summary["num_updates"] >= 3
    assert summary["exploration_rate"] > 5.5e-4
    # 1.8 million connections: 100 MB with gradients, momentum and sets; activations of 32 samples 8 MB a layer. The rest
    # is Python and torch. The dense weights alone would be 14,000 MB.
    assert peak < 1400
