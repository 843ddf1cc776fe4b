"""A quick, single check whether a hub checkpoint is available, made before any client starts its slow retries."""

from functools import cache
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tokensel.errors import TokenselError, first_line

# Time limit of the request.
REACH_SECONDS = 5.0


@cache
def hub_options(path: str, revision: str | None = None) -> dict[str, Any]:
    """The arguments of from_pretrained for a hub id: revision, and local_files_only if the hub cannot be reached.

    Raises TokenselError, in one line that says what to do, for a checkpoint that neither the hub nor the cache has.
    """
    options: dict[str, Any] = {"revision": revision}
    folder = "or set model.path to a folder that holds the checkpoint"
    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(path, revision=revision, timeout=REACH_SECONDS)
        except GatedRepoError as error:
            raise TokenselError(
                f"model.path={path}: is gated; request access on its page and set HF_TOKEN to your token, {folder}"
            ) from error
        except RevisionNotFoundError as error:
            raise TokenselError(f"model.revision={revision}: {path} has no such branch, tag or commit") from error
        except RepositoryNotFoundError as error:
            raise TokenselError(
                f"model.path={path}: no such folder, and no such checkpoint on the hub; if it is private, set "
                f"HF_TOKEN, {folder}"
            ) from error
        except Exception as error:  # the hub's clients raise many classes of network errors
            reason = f"the hub cannot be reached ({type(error).__name__}: {first_line(error)})"
        else:
            return options
    else:
        reason = "HF_HUB_OFFLINE is set"
    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return options | {"local_files_only": True}
    raise TokenselError(
        f"model.path={path}: {reason}, and the cache lacks this checkpoint; set HF_HOME to a cache that has it, "
        f"{folder}"
    )
