"""TensorFlow models: what a file declares, whether the configuration fits it, loading it, calling it.

Importing this package or any of its modules does not import TensorFlow; loading a model does.
"""

from pipeline.inference.model import TensorFlowModel
from pipeline.inference.signature import ModelDescription, resolve_input
from pipeline.inference.suggest import suggest_yaml
from pipeline.inference.tensorflow import describe_model, load_model

__all__ = ["ModelDescription", "TensorFlowModel", "describe_model", "load_model", "resolve_input", "suggest_yaml"]
