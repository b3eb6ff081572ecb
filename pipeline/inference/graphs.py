"""Checks and transformations of TensorFlow graphs that all formats share."""

from __future__ import annotations

import logging
from typing import Any

from pipeline.errors import ModelError

log = logging.getLogger(__name__)

# Ops that call back into Python: a graph that needs them is not a graph alone.
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def check_ops(graph_def: Any, *, model: str) -> None:
    """Refuses graphs that call Python code, or need ops that this TensorFlow does not have.

    Raises:
        ModelError: naming the ops.
    """
    from tensorflow.python.framework import op_def_registry

    functions = {f.signature.name for f in graph_def.library.function}
    ops = {node.op for node in graph_def.node}
    ops.update(node.op for f in graph_def.library.function for node in f.node_def)
    if python := sorted(ops & _PYTHON_OPS):
        raise ModelError(
            f"model {model}: its graph calls Python code (op {', '.join(python)}), which is not run",
            remedy="export it without tf.py_function and tf.numpy_function",
        )
    if unknown := sorted(op for op in ops - functions if op_def_registry.get(op) is None):
        raise ModelError(
            f"model {model}: needs ops that TensorFlow does not have: {', '.join(unknown)}",
            remedy="export it without them; they come from an extension library or another version of TensorFlow",
        )


def freeze(tf: Any, function: Any) -> Any:
    """A concrete function with its variables as constants; the same function where that is impossible.

    With constants TensorFlow folds batch normalisation into convolutions: a quarter less time for a MobileNetV2 on the
    CPU. Lookup tables and graphs beyond 2 GB cannot be frozen.

    Args:
        tf: TensorFlow's module.
        function: A concrete function of one tensor that returns a flat tuple of tensors.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    except Exception as e:
        log.debug("the graph cannot be frozen and runs as it is: %s", e)
        return function
    if len(frozen.inputs) != 1:
        log.debug("the graph captures resources that are no variables; it runs as it is")
        return function
    spec = tf.TensorSpec.from_tensor(function.inputs[0])

    def run(pixels: Any) -> Any:
        return frozen(pixels)

    # Called directly, a frozen function prints its argument into a message that nobody sees: 2 ms a call.
    return tf.function(run, input_signature=[spec], autograph=False).get_concrete_function()
