"""Environment variables and metadata of submitted jobs."""

from __future__ import annotations

import pytest

from jobs.cli.context import UsageFailure
from jobs.submission.forwarded import environment_variables, hidden, metadata


def test_only_variables_that_are_named_are_sent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("WANTED", "from here")

    found = environment_variables(["WANTED", "GIVEN=a,b=c"])

    assert found == {"WANTED": "from here", "GIVEN": "a,b=c"}


@pytest.mark.parametrize("word", ["not a name=hunter2", "=hunter2", "SHOPKEEPER_SUBMISSION_ID=hunter2"])
def test_a_refused_variable_is_not_quoted_with_its_value(word: str) -> None:
    with pytest.raises(UsageFailure, match="--env") as caught:
        environment_variables([word])

    assert "hunter2" not in str(caught.value)


def test_a_variable_that_is_not_set_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISSING", raising=False)

    with pytest.raises(UsageFailure, match="MISSING: the variable is not set"):
        environment_variables(["MISSING"])


@pytest.mark.parametrize("word", ["team", "=search", "shopkeeper_verb=train"])
def test_metadata_that_is_not_a_pair_or_is_ours_is_refused(word: str) -> None:
    with pytest.raises(UsageFailure, match="--metadata"):
        metadata([word], {"verb": "train"})


def test_metadata_has_the_given_pairs_and_ours() -> None:
    assert metadata(["team=a=b"], {"verb": "train"}) == {"team": "a=b", "shopkeeper_verb": "train"}


def test_values_of_variables_are_hidden_in_texts() -> None:
    assert (
        hidden("no access with s3cret-long, s3cret", {"A": "s3cret", "B": "s3cret-long"}) == "no access with ***, ***"
    )
