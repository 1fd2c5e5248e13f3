"""Plans: YAML there and back, and errors that name the line."""

from __future__ import annotations

import pytest

from lessen import KMeans, LessenError, Plan, Treatment, Uniform

PLAN = Plan(
    "onnxruntime",
    {"a.weight": Treatment(Uniform(bits=4), 8), "b.weight": Treatment(KMeans(clusters=8))},
    {"group 1": (0, 1, 2, 7)},
    seed=3,
)
TEXT = """lessen: 1
target: onnxruntime
seed: 0
layers:
  a.weight: {technique: Uniform, bits: 4}
  b.weight: {technique: KMeans}
"""


def test_a_plan_comes_back_as_it_was():
    again = Plan.from_yaml(PLAN.to_yaml())
    assert again == PLAN and again.sha256() == PLAN.sha256()


def test_another_plan_has_another_digest():
    assert Plan.from_yaml(TEXT).sha256() != Plan.from_yaml(TEXT.replace("bits: 4", "bits: 5")).sha256()


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("Uniform", "Unifrom", 5, "did you mean 'Uniform'"),
        ("bits", "bitz", 5, "no option 'bitz'"),
        ("bits: 4", "bits: 99", 5, "bits"),
        ("bits: 4", "bits: four", 5, ""),
        ("{technique: KMeans}", "[1, 2]", 6, "must name its technique"),
        ("seed: 0", "seed: -1", 3, "seed"),
        ("seed: 0", "seeed: 0", 3, "did you mean 'seed'"),
        ("lessen: 1", "lessen: 7", 1, "version 7"),
        ("layers:", "layers: [1]\nmore:", 5, "unknown key 'more'"),
        ("onnxruntime", "{a: [b}", 2, "YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old, new, line, told):
    with pytest.raises(LessenError) as error:
        Plan.from_yaml(TEXT.replace(old, new), "plan.yaml")
    assert f"plan.yaml, line {line}" in str(error.value) and told in str(error.value)


@pytest.mark.parametrize("text", ["", "3", "- a", "!!python/object/apply:os.system [ls]", "a: &a [*a]", "\x00"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(LessenError, match="plan"):
        Plan.from_yaml(text)


@pytest.mark.parametrize("units", ["3-1", "a", "0-99999999999", "-1"])
def test_units_that_cannot_be(units):
    with pytest.raises(LessenError, match="line 7"):
        Plan.from_yaml(TEXT + f'channels: {{g: "{units}"}}\n')


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(LessenError, match="no such plan"):
        Plan.load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LessenError, match="not text"):
        Plan.load(tmp_path / "bytes.yaml")


def test_a_plan_says_when_its_widths_were_fine_tuned():
    plan = Plan("packed", channels={"0": (1, 2)}, tuned_widths=True)
    assert Plan.from_yaml(plan.to_yaml()).tuned_widths is True
    assert "tuned_widths" not in Plan("packed").to_yaml()
