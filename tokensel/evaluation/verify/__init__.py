"""Proof on a checkpoint that reduction is right: each way through the engine against stock layers run by hand.

report = verify(load_model("/models/llava-1.5-7b-hf", dtype="float16", device="auto"))
report["passed"]
"""

from tokensel.evaluation.verify.run import CHECKS, verify

__all__ = ["CHECKS", "verify"]
