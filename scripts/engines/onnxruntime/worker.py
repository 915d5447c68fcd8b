"""The ONNX Runtime engine: answers the harness with the model in model.py."""

from _shared import hello, serve

harness = hello("onnxruntime")

from model import OnnxRuntime

serve(harness, OnnxRuntime)
