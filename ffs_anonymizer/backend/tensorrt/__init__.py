"""TensorRT: engines built, kept and run."""
