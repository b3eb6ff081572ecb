"""From decoded pictures to the model's input, and from the model's coordinates back to the picture's."""
