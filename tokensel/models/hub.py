"""Whether a checkpoint on the hub can be had, asked once and quickly, before anything retries for a minute."""

from functools import cache
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tokensel.errors import TokenselError, first_line

# As long as one question to the hub may take.
REACH_SECONDS = 5.0


@cache
def hub_options(path: str, revision: str | None = None) -> dict[str, Any]:
    """What from_pretrained is told of a hub id: the revision, and to keep to the cache where the hub cannot be reached.

    Raises TokenselError, in one line that says how to go on, for a checkpoint that neither hub nor cache holds.
    """
    options: dict[str, Any] = {"revision": revision}
    folder = "or set model.path to a folder that holds the checkpoint"
    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(path, revision=revision, timeout=REACH_SECONDS)
        except GatedRepoError as error:
            raise TokenselError(
                f"model.path={path}: is gated; ask for access on its page and set HF_TOKEN to your token, {folder}"
            ) from error
        except RevisionNotFoundError as error:
            raise TokenselError(f"model.revision={revision}: {path} has none of that name") from error
        except RepositoryNotFoundError as error:
            raise TokenselError(
                f"model.path={path}: no folder here and none on the hub; if it is private, set HF_TOKEN, {folder}"
            ) from error
        except Exception as error:  # whatever the network and the clients' own classes make of it
            reason = f"the hub cannot be reached ({type(error).__name__}: {first_line(error)})"
        else:
            return options
    else:
        reason = "HF_HUB_OFFLINE is set"
    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return options | {"local_files_only": True}
    raise TokenselError(
        f"model.path={path}: {reason}, and the cache has no such checkpoint; set HF_HOME to a cache with it, {folder}"
    )
