"""Options are read in one place, whatever they come from, and a mistake is told with name, value and kind."""

import ast
import dataclasses

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.personal.options import EnrollOptions, enroll_options, search_options
from pqm_plugin.settings import as_dict, fill, from_text, named, over, read_yaml
from pqm_plugin.stages.config import load_config
from tests.test_architecture import MODULES


@dataclasses.dataclass(frozen=True)
class Inner:
    words: tuple[str, ...] = ()
    targets: str | tuple[str, ...] = "all"

    @classmethod
    def from_text(cls, text):
        return cls((text,))


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int = 1
    rate: float = 0.5
    short: bool = False
    several: tuple[Inner, ...] = ()
    least: float = named("min", 0.0)

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size {self.size}: use 1 or more")


def test_lists_numbers_and_nested_options_are_read_by_the_types_of_fields():
    found = fill(Outer, {"rate": "1e-3", "several": ["a", {"words": ["b", "c"], "targets": ["d"]}], "min": 2}, "x")

    assert found == Outer(1, 0.001, False, (Inner(("a",)), Inner(("b", "c"), ("d",))), 2.0)
    assert as_dict(found)["min"] == 2.0 and "least" not in as_dict(found)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sise": 2}, "x: unknown name 'sise'; did you mean 'size'? Known: size, rate, short, several, min"),
        ({"least": 2}, "x: unknown name 'least'"),
        ({1: 2}, "x: unknown name 1"),
        ({"size": 1.5}, "x: size: 1.5 is not a whole number"),
        ({"size": True}, "x: size: True is not a whole number"),
        ({"short": 1}, "x: short: 1 is not true or false"),
        ({"rate": "much"}, "x: rate: 'much' is not a number"),
        ({"rate": float("nan")}, "x: rate: nan is not a finite number"),
        ({"rate": 10**400}, "is not a number"),
        ({"several": "a"}, "x: several: 'a' is not a list"),
        ({"several": [{"words": [1]}]}, "x: several: words: 1 is not text"),
        ({"several": [{"targets": 1}]}, "x: several: targets: 1 is not text"),
        ({"size": 0}, "x: size 0: use 1 or more"),
        ({"rate": "y" * 10**6}, "…"),
        ([], "x: expected names and values, got []"),
    ],
)
def test_a_mistake_is_one_line_with_place_value_and_kind(values, message):
    with pytest.raises(PqmError) as told:
        fill(Outer, values, "x")

    assert message in str(told.value)
    assert len(str(told.value)) < 250 and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is missing: give sizes"),
        (b"a: [", "is not YAML: .* line 1"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"- 1", "must map option names to values: give sizes"),
    ],
)
def test_a_file_that_holds_no_options_is_named_with_what_it_should_hold(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PqmError, match=f"c.yaml {message}"):
        read_yaml(path, "sizes")


def test_a_person_s_and_a_recipe_s_mistakes_read_alike(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lora: {rnak: 2}")

    with pytest.raises(PqmError, match=r"c.yaml: lora: unknown name 'rnak'; did you mean 'rank'\?"):
        load_config(path)
    with pytest.raises(PqmError, match=r"about.json: enroll: unknown name 'rnak'; did you mean 'rank'\?"):
        enroll_options({"enroll": {"rnak": 2}})
    with pytest.raises(PqmError, match="about.json: decode: guard 'sometimes': use auto, always, never"):
        search_options({"decode": {"guard": "sometimes"}})


def test_one_name_in_a_file_may_be_two_quantities_and_each_has_its_own_name_inside(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("unsupervised: {min_confidence: -0.5}")

    config = load_config(path)

    assert config.unsupervised.min_log_prob == -0.5
    assert as_dict(config)["unsupervised"] == {"min_confidence": -0.5}
    assert enroll_options({"enroll": {"min_confidence": 0.5}}).min_confidence == 0.5


def test_what_a_command_line_gives_stands_over_the_rest_and_is_checked():
    assert over(EnrollOptions(), {"rank": 2, "epochs": None}) == EnrollOptions(rank=2)
    with pytest.raises(PqmError, match="rank is from 1 to 256"):
        over(EnrollOptions(), {"rank": 0})
    assert from_text(tuple[float, ...])("1, 2.5") == (1.0, 2.5)
    assert from_text(tuple[str, ...])("") == ()


def test_no_other_module_guesses_the_kind_of_an_option_or_reads_yaml_of_options():
    # The configuration of an ESPnet model: its own names, which are ESPnet's.
    known = {"settings.py", "espnet_folder.py", "folder.py"}
    for path in MODULES:
        names = {getattr(node, "attr", "") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))}
        assert "get_type_hints" not in names or path.name == "settings.py", path
        assert "safe_load" not in names or path.name in known, path
