"""Released checkpoints and annotations in the formats of this package; bundles as ONNX."""
