"""TensorFlow models: loading, checking, calling."""
