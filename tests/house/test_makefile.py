"""The targets that must not pass where they check nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_check_fails_with_a_sentence_where_there_is_no_gpu(tmp_path: Path) -> None:
    def check() -> subprocess.CompletedProcess[str]:
        command = ["make", "--no-print-directory", "gpu-check", f"VENV={tmp_path}"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    missing = check()
    assert missing.returncode != 0
    assert f"no environment in {tmp_path}" in missing.stdout
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (tmp_path / "bin" / "python").chmod(0o755)
    found = check()
    assert found.returncode != 0
    assert "gpu-check needs a CUDA device" in found.stderr
    assert "nothing was checked" in found.stderr
    assert "passed" not in found.stdout
