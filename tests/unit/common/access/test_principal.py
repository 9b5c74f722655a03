import pytest

from services.common.access.principal import Principal, Scope


def principal(scope: Scope, *collections: str) -> Principal:
    return Principal(name="someone", kind="key", scope=scope, collections=collections)


@pytest.mark.parametrize("has", list(Scope))
@pytest.mark.parametrize("needs", [Scope.READ, Scope.WRITE, Scope.ADMIN])
def test_a_scope_includes_those_before_it(has: Scope, needs: Scope) -> None:
    assert principal(has, "*").may(needs) == (has >= needs)


@pytest.mark.parametrize(
    ("patterns", "collection", "expected"),
    [
        (["birds"], "birds", True),
        (["birds"], "birds2", False),
        (["birds"], "Birds", False),
        (["team_*"], "team_a", True),
        (["team_*"], "xteam_a", False),
        (["*_public"], "a_public", True),
        (["*"], "anything", True),
        (["birds", "cats"], "cats", True),
        ([], "birds", False),
        (["birds"], "", False),
        (["b*"], "b" * 65, False),
    ],
)
def test_collections_are_names_or_patterns(patterns: list[str], collection: str, expected: bool) -> None:
    assert principal(Scope.ADMIN, *patterns).may(Scope.READ, collection) == expected


def test_a_call_that_touches_no_collection_needs_only_the_scope() -> None:
    assert principal(Scope.READ).may(Scope.READ)
    assert not principal(Scope.READ).may(Scope.WRITE)
