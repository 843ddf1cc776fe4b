"""ApET: the vision stage on the tower's features, the stages inside the decoder on a part of its sequence."""

import torch
from torch import Tensor

from helpers.official import Case, assert_close, assert_same, assert_same_set
from tokensel.functional import distant_points, reconstruction_errors
from tokensel.methods import make_method
from tokensel.testing import make_context


def check(case: Case) -> None:
    options = {name: case.settings[key] for name, key in OPTIONS.items()}
    stage, basis = case.settings["stage"], case["basis"]
    if stage == "vision":
        tokens, kept, before, end = case["features"], case.settings["visual_token_num"], 0, case.settings["n"]
    else:
        kept, before = case.settings["tokens"], case.settings["before"]
        end = before + case.settings["n"]
        tokens = case["hidden"][before:end]
    assert_same(distant_points(tokens[None], len(basis), basis[:1])[0], basis, "basis")
    if "errors" in case:
        errors = reconstruction_errors(tokens[None], basis[None], options["ridge"])[0]
        assert_close(errors, case["errors"], "errors", 1e-3, 1e-3)
    vision = {"vision_features": tokens[None]} if stage == "vision" else {}
    method = make_method("apet", blend=0.5 if stage == "qwen_llm" else 1.0, **options)
    context = make_context(kept, tokens=tokens[None], layer=0 if vision else 16, **vision)
    selection = method.select(context)
    if vision and selection.indices[0].tolist() != case["kept"].tolist():
        # Of equal tokens torch.topk takes any; they are the same choice.
        first = (tokens[:, None] == tokens[None]).all(-1).to(torch.uint8).argmax(1)
        assert_same_set(first[selection.indices[0]], first[case["kept"]], "kept, up to equal tokens")
        apart = torch.cdist(selection.values[0].double(), case["out"].double())
        assert apart.amin(0).amax() < 1e-3, f"out: a row is {apart.amin(0).amax()} from ours"
        assert apart.amin(1).amax() < 1e-3, f"out: ours has a row that is {apart.amin(1).amax()} from it"
        return
    assert_same(selection.indices[0], case["kept"], "kept")
    if vision:
        assert_close(selection.values[0], case["out"], "out")
    else:
        assert_close(sequence(case["hidden"], before, end, selection.values[0]), case["out"], "out")
    if stage == "qwen_llm":
        positions = torch.arange(len(case["hidden"]))
        kept_positions = sequence(positions, before, end, positions[before:end][selection.indices[0]])
        assert_same(kept_positions, case["position_ids"], "position_ids")
    else:
        assert method.default_position == "renumber"


OPTIONS = {"basis": "basis_token_num", "start": "first_basis", "ridge": "ridge"}


def sequence(hidden: Tensor, before: int, end: int, survivors: Tensor) -> Tensor:
    """The whole sequence afterwards: the text untouched, the survivors in the picture's place."""
    return torch.cat([hidden[:before], survivors, hidden[end:]])
