"""Eight bits instead of 32: weights per channel, activations by the range that real records give them. Needs `onnx`.

Whole operators in int8 (`QOperator`) rather than pairs of quantise and dequantise: the files are smaller, and onnxruntime takes
graphs whose normalisation the other form refuses.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgehold.core.errors import ConfigError
from edgehold.core.onnx_graphs import INPUT, clean, shortened
from edgehold.core.onnx_run import BATCH
from edgehold.core.vectors import Array

CALIBRATION = 256
"""Records that give the ranges."""


def quantised(graph: bytes, records: Array) -> bytes:
    """The graph in int8. records: at least one real one, (n, ...), of which no value but the ranges is kept.

    `ConfigError` where onnxruntime cannot quantise anything in it.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not len(records):
        raise ConfigError("int8 needs real records to calibrate with, and the server's copy of the task has none", field="int8")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._parts: Iterator[Any] = iter(
                [{INPUT: records[start : start + BATCH]} for start in range(0, len(records), BATCH)]
            )

        def get_next(self) -> Any:
            return next(self._parts, None)

    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # it advises on its own options
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(graph)
            quantize_static(
                source, target, Reader(), quant_format=QuantFormat.QOperator, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            made = onnx.load(str(target))
    except ConfigError:
        raise
    except Exception as error:  # the quantiser has errors of all kinds
        raise ConfigError(
            f"onnxruntime cannot quantise this network: {error}; export it without --int8", field="int8"
        ) from None
    finally:
        root.setLevel(before)
    if not any(one.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for one in made.graph.initializer):
        raise ConfigError("nothing in this network could be quantised; export it without --int8", field="int8")
    shortened(made)
    return clean(made)
