"""The YAML: its models, its loading, its errors, its JSON Schema."""
