"""Which operations run in half precision, and which of their inputs and outputs change with them."""

from __future__ import annotations

from functools import cache
from typing import Any

# Nearly all of the work, and what tensor cores are for; they add up in float32 whatever goes in and comes out.
COMPUTE = frozenset(
    {
        "BatchMatMul",
        "BatchMatMulV2",
        "Conv2D",
        "Conv2DBackpropInput",
        "Conv3D",
        "DepthwiseConv2dNative",
        "MatMul",
    }
)

# Rounded once per element: as good as the rounding of the values that they get from the operations above.
ELEMENTWISE = frozenset(
    {
        "Add",
        "AddN",
        "AddV2",
        "AvgPool",
        "BiasAdd",
        "Elu",
        "FusedBatchNormV3",
        "LeakyRelu",
        "Maximum",
        "Minimum",
        "Mul",
        "Neg",
        "Relu",
        "Relu6",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sub",
        "Tanh",
    }
)

# Values come out as they went in.
MOVING = frozenset(
    {
        "BatchToSpaceND",
        "ConcatV2",
        "DepthToSpace",
        "ExpandDims",
        "Identity",
        "Max",
        "MaxPool",
        "MirrorPad",
        "Pack",
        "Pad",
        "PadV2",
        "Reshape",
        "ResizeNearestNeighbor",
        "ReverseV2",
        "Slice",
        "SpaceToBatchND",
        "SpaceToDepth",
        "Split",
        "SplitV",
        "Squeeze",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unpack",
    }
)

HALF_CAPABLE = COMPUTE | ELEMENTWISE | MOVING
_TYPE_ATTRIBUTE = "T"


def half_inputs(node: Any) -> list[int]:
    """Which of a node's data inputs are of the type that changes."""
    return [
        i for i, attribute in enumerate(_flat(node, _definition(node.op).input_arg)) if attribute == _TYPE_ATTRIBUTE
    ]


def half_outputs(node: Any) -> list[int]:
    """Which of a node's outputs are of the type that changes."""
    return [
        i for i, attribute in enumerate(_flat(node, _definition(node.op).output_arg)) if attribute == _TYPE_ATTRIBUTE
    ]


def set_type(node: Any, enum: int) -> None:
    """Makes the node compute in another type."""
    node.attr[_TYPE_ATTRIBUTE].type = enum


def is_type(node: Any, enum: int) -> bool:
    """Whether the node computes in this type."""
    return _TYPE_ATTRIBUTE in node.attr and node.attr[_TYPE_ATTRIBUTE].type == enum


@cache
def _definition(op: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(op)


def _flat(node: Any, arguments: Any) -> list[str]:
    """For each input or output tensor the name of the attribute that gives its type, or ''."""
    flat: list[str] = []
    for argument in arguments:
        count = node.attr[argument.number_attr].i if argument.number_attr else 1
        flat += [argument.type_attr] * count
    return flat
