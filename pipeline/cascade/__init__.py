"""The cascade: models that look at the crops of detections. `docs/cascade.md` says how it behaves."""
