"""The PyTorch engine: answers the harness with the model in model.py."""

from _shared import hello, serve

harness = hello("pytorch")

from bert import Bert
from model import Model

serve(harness, Model, Bert)
