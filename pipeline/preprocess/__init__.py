"""From pictures to the model's input tensor."""
