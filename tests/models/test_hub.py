"""A checkpoint that the hub does not give ends in one line, quickly, and an earlier download goes on being used."""

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from tokensel import TokenselError
from tokensel.models import hub, load_model
from tokensel.models.hub import hub_options

RESPONSE = httpx.Response(404, request=httpx.Request("GET", "hub://models"))


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """A hub that raises what a test gives it."""
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
    ("error", "said"),
    [
        (GatedRepoError("no", response=RESPONSE), "model.path=some/model: is gated; ask for access"),
        (RepositoryNotFoundError("no", response=RESPONSE), "model.path=some/model: no folder here and none on the hub"),
        (RevisionNotFoundError("no", response=RESPONSE), "model.revision=v9: some/model has none of that name"),
        (
            httpx.ConnectError("refused\nmore"),
            "the hub cannot be reached (ConnectError: refused), and the cache",
        ),
        (TimeoutError(), "the hub cannot be reached (TimeoutError: TimeoutError)"),
    ],
)
def test_each_way_to_fail_is_one_line(online, error, said):
    online(error)
    with pytest.raises(TokenselError) as caught:
        load_model("some/model", revision="v9")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_by_choice_says_so(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TokenselError, match="HF_HUB_OFFLINE is set, and the cache has no such checkpoint; set HF_HOME"):
        load_model("some/model")


def test_what_was_downloaded_once_is_used_where_the_hub_is_out_of_reach(online, monkeypatch):
    online(httpx.ConnectError("refused"))
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda path, name, revision=None: f"cache/{path}/{name}")
    assert hub_options("some/model", "v9") == {"revision": "v9", "local_files_only": True}


def test_a_hub_that_answers_changes_nothing(online):
    online()
    assert hub_options("some/model", None) == {"revision": None}
