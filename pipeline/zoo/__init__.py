"""Models and clips that cards describe: fetching, verifying, converting.

Importing it starts neither TensorFlow nor a process. `pipeline.zoo.tfjs.convert_tfjs` converts a user's own model.
"""

from pipeline.cache import CACHE_VARIABLE, cache_dir
from pipeline.zoo.obtain import is_cached, obtain_media, obtain_model
from pipeline.zoo.progress import Progress

__all__ = ["CACHE_VARIABLE", "Progress", "cache_dir", "is_cached", "obtain_media", "obtain_model"]
