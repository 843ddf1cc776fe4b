"""A checkpoint that the hub does not give ends quickly in one line; an earlier download stays usable."""

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tokensel import TokenselError
from tokensel.models import hub, load_model
from tokensel.models.hub import hub_options

RESPONSE = httpx.Response(404, request=httpx.Request("GET", "hub://models"))


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Returns a function that makes the hub raise an error, or answer."""
    hub_options.cache_clear()
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *names, **_: None)

    def answers(error=None):
        def model_info(self, path, revision=None, timeout=None):
            assert timeout == hub.REACH_SECONDS
            if error is not None:
                raise error

        monkeypatch.setattr(hub.HfApi, "model_info", model_info)

    yield answers
    hub_options.cache_clear()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GatedRepoError("no", response=RESPONSE), "model.path=some/model: is gated; request access"),
        (
            RepositoryNotFoundError("no", response=RESPONSE),
            "model.path=some/model: no such folder, and no such",
        ),
        (
            RevisionNotFoundError("no", response=RESPONSE),
            "model.revision=v9: some/model has no such branch",
        ),
        (
            httpx.ConnectError("refused\nmore"),
            "the hub cannot be reached (ConnectError: refused), and the cache",
        ),
        (TimeoutError(), "the hub cannot be reached (TimeoutError: TimeoutError)"),
    ],
)
def test_each_failure_is_one_line(online, error, expected):
    online(error)
    with pytest.raises(TokenselError) as caught:
        load_model("some/model", revision="v9")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_says_that_offline_mode_is_set(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TokenselError, match="HF_HUB_OFFLINE is set, and the cache lacks this checkpoint; set HF_HOME"):
        load_model("some/model")


def test_an_earlier_download_is_used_where_the_hub_cannot_be_reached(online, monkeypatch):
    online(httpx.ConnectError("refused"))
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda path, name, revision=None: f"cache/{path}/{name}")
    assert hub_options("some/model", "v9") == {"revision": "v9", "local_files_only": True}


def test_a_reachable_hub_needs_no_options(online):
    online()
    assert hub_options("some/model", None) == {"revision": None}
