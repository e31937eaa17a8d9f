"""For whom a caller may book and whose bookings they may see, under each access policy."""

import pytest

from gateway.logic import ANYBODY, buyer, canceller, lister, reader
from ticketra.errors import Invalid, Unauthenticated
from ticketra.tokens import Principal

ANNA = Principal("anna", "user")
ADMIN = Principal("root", "admin")


def test_strict_books_for_the_caller() -> None:
    assert buyer("strict", ANNA, None) == "anna"
    assert buyer("strict", ANNA, "anna") == "anna"


@pytest.mark.parametrize("principal", [ANNA, ADMIN])
def test_strict_never_books_for_another(principal: Principal) -> None:
    with pytest.raises(Invalid) as caught:
        buyer("strict", principal, "bea")

    assert caught.value.errors[0].field == "user_id"


def test_strict_needs_a_token() -> None:
    for of_whom in (buyer, lister):
        with pytest.raises(Unauthenticated):
            of_whom("strict", None, "anna")
    for whose in (reader, canceller):
        with pytest.raises(Unauthenticated):
            whose("strict", None)


def test_open_takes_any_label_and_falls_back_to_the_caller() -> None:
    assert buyer("open", None, "kerem_user") == "kerem_user"
    assert buyer("open", ANNA, "kerem_user") == "kerem_user"
    assert buyer("open", ANNA, None) == "anna"
    with pytest.raises(Invalid):
        buyer("open", None, None)


def test_strict_shows_only_ones_own_except_to_an_admin() -> None:
    assert reader("strict", ANNA) == "anna"
    assert reader("strict", ADMIN) == ANYBODY
    assert lister("strict", ADMIN, "bea") == "bea"
    assert lister("strict", ADMIN, None) == "root"
    with pytest.raises(Invalid):
        lister("strict", ANNA, "bea")


def test_an_admin_may_read_but_not_cancel() -> None:
    assert canceller("strict", ADMIN) == "root"
    assert canceller("strict", ANNA) == "anna"


def test_open_lets_anybody_read_and_cancel() -> None:
    assert reader("open", None) == canceller("open", None) == canceller("open", ANNA) == ANYBODY
