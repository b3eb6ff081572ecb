"""Coming and going at run time: the interface that the Python API, the HTTP interface and the reload share."""
