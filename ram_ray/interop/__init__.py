"""Released checkpoints and annotations to ours, bundles to ONNX."""
