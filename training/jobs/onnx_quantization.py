"""Eight-bit ONNX files: static quantization with scales from example rows.

Weights are signed with one scale per output channel, activations unsigned with one scale per tensor, written as
quantize-dequantize pairs that onnxruntime fuses (Jacob et al., 2018, section 2; the tool is onnxruntime's own).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.jobs.onnx_export import ExportError, as_feeds
from training.jobs.served_networks import ServedNetwork

_CALIBRATION_ROWS = 4  # of one pass


def can_quantize() -> bool:
    """Whether the packages that quantization needs, `onnx` and `sympy`, are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "sympy"))


def quantize_onnx(served: ServedNetwork, path: Path, target: Path) -> None:
    """Write the eight-bit form of an exported network.

    Args:
        served: The network, with the rows that set the scales.
        path: Its float32 file.
        target: File to write.

    Raises:
        ExportError: onnxruntime cannot quantize the network.
    """
    tool = importlib.import_module("onnxruntime.quantization")
    prepare = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the tool warns on the root logger about what was prepared here
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            prepared = Path(folder) / "prepared.onnx"
            # symbolic inference fails on the denoiser and then writes its file into the working directory
            prepare(str(path), str(prepared), skip_symbolic_shape=True)
            tool.quantize_static(
                str(prepared),
                str(target),
                _reader(tool.CalibrationDataReader, served),
                quant_format=tool.QuantFormat.QDQ,
                activation_type=tool.QuantType.QUInt8,
                weight_type=tool.QuantType.QInt8,
                per_channel=True,
            )
    except Exception as error:
        target.unlink(missing_ok=True)
        message = str(error).strip().splitlines() or ["no message"]
        raise ExportError(f"{served.name} cannot be quantized: {type(error).__name__}: {message[0]}") from error
    finally:
        root.setLevel(level)


def _reader(base: Any, served: ServedNetwork) -> Any:
    """A reader in the tool's own form: one pass of rows after the other, then None."""

    def passes() -> Iterator[Mapping[str, Any]]:
        for first in range(0, served.rows, _CALIBRATION_ROWS):
            yield as_feeds(served.take(first, first + _CALIBRATION_ROWS))

    rows = passes()
    kind = type("CropReader", (base,), {"get_next": lambda self: next(rows, None)})
    return kind()
