"""Where runs go in W&B: project, entity and mode; and whether anyone is logged in."""

import os
from dataclasses import dataclass
from typing import Any

from runners.wandb_logging.trial import Trial
from tokensel.errors import TokenselError

NOT_LOGGED_IN = "not logged in to W&B: run `wandb login` or set WANDB_API_KEY"


@dataclass(frozen=True)
class Destination:
    """Where runs go.

    mode       online, offline or disabled
    pictures   how many questions of a point are logged with a picture
    report     whether the sweep's run has the report: not where nobody is logged in and nobody asked for W&B
    sweep      the W&B sweep that an agent's job belongs to, or None
    """

    project: str
    entity: str | None
    mode: str
    pictures: int
    sweep: str | None = None
    report: bool = True

    @classmethod
    def from_options(cls, options: dict[str, Any], trial: Trial | None) -> "Destination":
        """The destination that conf/logger's options describe. A trial logs to the project of its W&B sweep."""
        asked = options["mode"] or os.environ.get("WANDB_MODE") or ("online" if logged_in() else None)
        mode = asked or "offline"
        project, entity = options["project"], options["entity"]
        if trial:
            project, entity = trial.project or project, trial.entity or entity
        return cls(project, entity, mode, options["pictures"], trial.sweep if trial else None, bool(asked))


def check_names(given: dict[str, str]) -> None:
    """Raises TokenselError if `project` or `entity` is empty or has a character that W&B refuses."""
    for key in ("project", "entity"):
        if key in given and (not given[key] or set(given[key]) & set("/\\#?%:")):
            raise TokenselError(f"{key}={given[key]}: must be a name, without any of / \\ # ? % :")


def logged_in() -> bool:
    """Whether W&B would find an API key, in the environment or where `wandb login` stores it. Contacts no server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        return bool(read_netrc_auth(host=os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url))
    except wandb.errors.AuthenticationError:  # the stored value is not a valid key
        return False
