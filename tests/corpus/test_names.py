"""Lists within error lines are short and help."""

from pqm_plugin.corpus.names import join_first, suggest


def test_the_nearest_name_is_suggested_and_else_those_there_are() -> None:
    assert suggest("dev-claen", ["dev-clean", "train"]) == "nearest: dev-clean"
    assert suggest("xyz", ["b", "a"]) == "there are: a, b"
    assert suggest("xyz", []) == "there are none"
    assert suggest("xyz", [f"a{index:02d}" for index in range(12)]).endswith("a09 and 2 more")


def test_a_long_list_is_cut_and_says_so() -> None:
    assert join_first("abc", 3) == "a, b, c"
    assert join_first("abcde", 3) == "a, b, c and 2 more"
