"""The OpenVINO engine: answers the harness with the model in model.py."""

from _shared import hello, serve

harness = hello("openvino")

from model import OpenVino

serve(harness, OpenVino)
