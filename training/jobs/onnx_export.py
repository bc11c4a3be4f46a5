"""Networks as ONNX files, and the check that such a file says what the network says, whatever the number of rows.

A network is exported at one number of rows and checked at others: a size that tracing turned into a constant shows
there, and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.runtime import onnx_session
from training.jobs.served_networks import ServedNetwork

EXPORTED_ROWS: Final = 2
OPSET: Final = 17


class ExportError(RuntimeError):
    """A network cannot be written as ONNX, or its file cannot be read; the message names the network."""


class OnnxNetwork:
    """An exported network in onnxruntime, on the CPU."""

    def __init__(self, name: str, path: Path, outputs: tuple[str, ...], threads: int = 1) -> None:
        """Open the file.

        Args:
            name: Name of the network, for messages.
            path: The file.
            outputs: Names of the outputs.
            threads: Threads inside an operator.

        Raises:
            ExportError: onnxruntime does not take the file.
        """
        try:
            self._session: Any = onnx_session(path, threads, "cpu")
        except Exception as error:
            raise ExportError(f"onnxruntime does not take {name}: {_first_line(error)}") from error
        self._name, self._outputs = name, list(outputs)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the network on arrays by input name; the outputs in order.

        Args:
            feeds: One array for each input.

        Returns:
            The outputs.

        Raises:
            ExportError: The network does not run on these arrays.
        """
        try:
            answers: list[NDArray[Any]] = self._session.run(self._outputs, dict(feeds))
        except Exception as error:
            rows = {name: value.shape for name, value in feeds.items()}
            raise ExportError(f"{self._name} does not run as ONNX on {rows}: {_first_line(error)}") from error
        return answers

    def answer(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run the network on tensors by input name; the outputs in order."""
        return tuple(torch.from_numpy(output) for output in self.run(as_feeds(inputs)))


def as_feeds(inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Turn inputs into the arrays that onnxruntime takes."""
    return {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}


def export_onnx(served: ServedNetwork, path: Path) -> None:
    """Write a network as ONNX with a free number of rows.

    Args:
        served: The network; it needs `EXPORTED_ROWS` rows of inputs.
        path: File to write.

    Raises:
        ExportError: The network has an operation or a form that ONNX lacks, or too few rows.
    """
    if served.rows < EXPORTED_ROWS:
        raise ExportError(f"{served.name} is exported at {EXPORTED_ROWS} rows, got {served.rows}")
    inputs = {name: value.clone() for name, value in served.take(0, EXPORTED_ROWS).items()}
    axes = {name: {0: "rows"} for name in (*inputs, *served.outputs) if name not in served.shared}
    if served.has_free_sides:
        axes[next(iter(inputs))] |= {2: "height", 3: "width"}
        for name in served.outputs:
            axes[name] |= {2: f"{name}_height", 3: f"{name}_width"}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        # Tracing warns of every size that becomes a constant; `parity` shows where the number of rows did.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                served.network,
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                input_names=list(inputs),
                output_names=list(served.outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
            )
        except Exception as error:
            path.unlink(missing_ok=True)
            raise ExportError(f"{served.name} cannot be exported: {_first_line(error)}") from error


def parity(served: ServedNetwork, exported: OnnxNetwork, rows: tuple[int, ...] = (1, 5)) -> float:
    """Compare an exported network with torch in float32, at numbers of rows other than the exported one.

    Args:
        served: The network.
        exported: Its file.
        rows: Numbers of rows, each at most those of the network's inputs.

    Returns:
        Largest absolute difference of all outputs.

    Raises:
        ExportError: The file does not run, or gives another shape.
    """
    worst = 0.0
    for count in rows:
        inputs = served.take(0, count)
        pairs = [(inputs, served.answer(inputs))]
        if served.has_free_sides:
            larger = {name: F.pad(value, (0, 13, 0, 7)) for name, value in inputs.items()}
            pairs.append((larger, served.answer(larger)))
        for shown, wanted in pairs:
            for output, expected, found in zip(served.outputs, wanted, exported.answer(shown), strict=True):
                if expected.shape != found.shape:
                    sizes = f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
                    raise ExportError(f"{served.name} as ONNX gives {output} of {sizes}")
                worst = max(worst, float((expected.float() - found).abs().max()))
    return worst


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
