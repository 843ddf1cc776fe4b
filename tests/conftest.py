"""Settings for every test: one thread (small tensors gain nothing from two), quiet and repeatable hypothesis."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("tokensel", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("tokensel")
