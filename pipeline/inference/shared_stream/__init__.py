"""TensorFlow's CUDA stream, shared with everything else that works on the device.

TensorFlow cannot be given a stream, so it gives its own: decoder, kernels and copies are put on it too, and what was
enqueued first runs first. Nothing between the stages waits, and arrays pass in and out of TensorFlow without a copy.
"""

from pipeline.inference.shared_stream.call import PreparedCall
from pipeline.inference.shared_stream.stream import SharedStream, free_memory, limit_cupy, open_shared_stream

__all__ = ["PreparedCall", "SharedStream", "free_memory", "limit_cupy", "open_shared_stream"]
