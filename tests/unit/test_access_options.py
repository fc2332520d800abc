"""From the spec to who may ask: what ``application`` gives the servers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from specml import application
from specml.errors import DeployFailed
from specml.serving.app import Args
from specml.serving.auth import SCOPES
from specml.spec import Scope
from tests.conftest import spec_of

LONG = "a-key-that-is-long-enough"


def args(host: str = "", **serving: Any) -> dict[str, Any]:
    found = application.options(spec_of(serving=serving), host=host)
    Args.model_validate(found)
    return found


def test_the_spec_and_the_server_know_the_same_scopes() -> None:
    assert get_args(Scope) == SCOPES


def test_keys_are_told_by_name_and_only_what_differs() -> None:
    keys = {
        "web": {"token": "${secret:WEB}", "scopes": ["predict"], "until": "2999-12-31"},
        "all": {"token": "${secret:ALL}"},
    }
    assert args(auth={"keys": keys, "tokens": "${secret:TOKENS}"})["auth"]["keys"] == {
        "tokens": {"env": "TOKENS"},
        "web": {"env": "WEB", "scopes": ["predict"], "until": "2999-12-31"},
        "all": {"env": "ALL"},
    }


def test_a_command_asks_with_the_key_that_is_good_for_most() -> None:
    keys = {"m": {"token": "${secret:M}", "scopes": ["metrics"]}, "p": {"token": "${secret:P}", "scopes": ["predict"]}}
    auth = spec_of(serving={"auth": {"keys": keys}}).serving.auth
    assert auth is not None
    assert (auth.variable("predict", "describe"), auth.variable("metrics")) == ("P", "M")


def test_a_command_asks_with_a_key_that_is_still_accepted() -> None:
    old, new = ({"token": "${secret:OLD}", "until": "2020-01-01"}, {"token": "${secret:NEW}", "scopes": ["predict"]})
    auth = spec_of(serving={"auth": {"keys": {"old": old, "new": new}}}).serving.auth
    assert auth is not None
    assert auth.variable("predict", "explain") == "NEW"
    auth = spec_of(serving={"auth": {"keys": {"old": old}}}).serving.auth
    assert auth is not None
    assert auth.variable("predict") == "OLD"


def test_names_are_asked_for_where_keys_are_not() -> None:
    assert "hosts" not in args()
    assert args("127.0.0.1")["hosts"] == ["localhost", "127.0.0.1", "::1"]
    assert args("10.1.2.3")["hosts"] == ["localhost", "127.0.0.1", "::1", "10.1.2.3"]
    assert "hosts" not in args("10.1.2.3", auth={"tokens": "${secret:TOKENS}"})
    assert args("10.1.2.3", hosts=["models.example.org"])["hosts"] == ["models.example.org"]


def test_limits_and_what_errors_tell() -> None:
    found = args(rate_limit={"rows": 100, "burst": "5s"}, unknown_fields="ignore", error_detail="none")
    assert found["rate_limit"] == {"requests": None, "rows": 100.0, "burst": 5.0}
    assert (found["ignore_unknown"], found["error_detail"]) == (True, False)
    assert not {"rate_limit", "ignore_unknown", "error_detail"} & args().keys()


@pytest.mark.parametrize(
    ("serving", "key", "what"),
    [
        ({"auth": {}}, ("serving", "auth"), "names no key"),
        ({"rate_limit": {}}, ("serving", "rate_limit"), "limits nothing"),
        (
            {"auth": {"keys": {"web": {"token": "${secret:A}", "scopes": []}}}},
            ("serving", "auth", "keys", "web", "scopes"),
            "good for nothing",
        ),
        (
            {"auth": {"tokens": "${secret:A}", "keys": {"tokens": {"token": "${secret:B}"}}}},
            ("serving", "auth", "keys", "tokens"),
            "without a name",
        ),
        (
            {"auth": {"tokens": "${secret:A}", "keys": {"web": {"token": "${secret:A}"}}}},
            ("serving", "auth", "keys", "web", "token"),
            "same variable as tokens",
        ),
    ],
)
def test_what_contradicts_is_told(serving: dict[str, Any], key: tuple[str, ...], what: str) -> None:
    (found,) = spec_of(serving=serving).contradictions()
    assert found.key == key
    assert what in found.what


def test_a_deploy_gives_digests_of_the_living_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB", f"{LONG},{LONG}-2")
    monkeypatch.delenv("OLD", raising=False)
    today = datetime.now(UTC).date().isoformat()
    keys = {"web": {"env": "WEB", "until": today}, "old": {"env": "OLD", "until": "2020-01-01"}}
    found = application._settled(keys, {})
    assert found.keys() == {"web"}
    assert len(found["web"]["digests"]) == 2
    assert LONG not in str(found)
    assert application._settled(keys, found) == found  # the salt stays, and so what is live
    with pytest.raises(DeployFailed, match="every key has expired"):
        application._settled({"old": keys["old"]}, {})
    monkeypatch.setenv("WEB", f"{LONG},short")
    with pytest.raises(DeployFailed, match="fewer than 16") as refusal:
        application._settled(keys, {})
    assert LONG not in str(refusal.value)
