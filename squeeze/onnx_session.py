"""Running an ONNX file in ONNX Runtime on a model's inputs."""

from pathlib import Path

import numpy as np
import onnxruntime

from squeeze.blame import first_line
from squeeze.errors import InputError
from squeeze.task import Inputs, tensors_of


def open_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        path: The ONNX file.
        threads: How many work on one operator; None lets ONNX Runtime choose.

    Raises:
        InputError: There is no such file, or ONNX Runtime cannot load it.
    """
    if not path.is_file():
        raise InputError(f"{path}: must be an ONNX file, got nothing there; export the model first.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    # Threads that spin on after a run would slow down whatever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = first_line(error)
        raise InputError(f"{path}: must be loadable by ONNX Runtime, got {first}; export the model again.") from error


def feed(session: onnxruntime.InferenceSession, inputs: Inputs) -> dict[str, np.ndarray]:
    """The tensors of a model's inputs by the names an ONNX file gives them.

    The keys of a dict are names; all else goes by order.

    Raises:
        InputError: The file takes other inputs.
    """
    wanted = [value.name for value in session.get_inputs()]
    tensors = tensors_of(inputs)
    if isinstance(inputs, dict) and set(wanted) <= set(inputs):
        tensors = tensors_of([inputs[name] for name in wanted])
    if len(tensors) != len(wanted):
        raise InputError(
            f"inputs: the ONNX file must be fed {', '.join(wanted) or 'nothing'}, got {len(tensors)} tensors; "
            "use the inputs it was exported with."
        )
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(wanted, tensors, strict=True)}
