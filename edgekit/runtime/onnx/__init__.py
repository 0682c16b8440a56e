"""ONNX files in ONNX Runtime and OpenVINO."""
