"""vramline: video analytics that never leaves the GPU. Importing it starts no CUDA, no TensorFlow and no thread."""

__version__ = "0.1.0"
