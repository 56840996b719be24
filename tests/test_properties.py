"""Property-based tests of settings, signatures, records and subsets."""

import copy
import math
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Lt
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_run import config

from resnet_sweep.config.check import check_config, describe_type, is_valid
from resnet_sweep.data.dataset import Split, Subsets, balanced_subset
from resnet_sweep.errors import ConfigError
from resnet_sweep.ranges import Count
from resnet_sweep.runs.record import digest_record
from resnet_sweep.runs.signature import INCIDENTAL, flatten, is_incidental, sign
from resnet_sweep.training import TrainerConfig

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
CONFIG = config()
SETTINGS = sorted(name for name, _ in flatten(CONFIG))
# The settings that are part of the signature.
SIGNED_SETTINGS = [name for name in SETTINGS if not is_incidental(name)]
ANNOTATIONS = (
    int,
    float,
    bool,
    str,
    Count,
    Count | None,
    list[Count],
    Literal["a", "b"],
    Annotated[float, Ge(0), Lt(1)],
    Annotated[float, Gt(0)] | None,
)


def changed(name: str, value: Any) -> dict:
    """Return the config with another value of one setting."""
    result = copy.deepcopy(CONFIG)
    set_value(result, name, value)
    return result


def set_value(config: dict, name: str, value: Any) -> None:
    *groups, key = name.split(".")
    node = config
    for group in groups:
        node = node.setdefault(group, {})
    node[key] = value


def signature(config: dict) -> str:
    return sign(config, "float32", {"data": "data"})


class TestSchema:
    @staticmethod
    def assert_error_names_group(name: str, value: Any) -> None:
        try:
            check_config(changed(name, value))
        except ConfigError as error:
            assert name.partition(".")[0] in str(error)

    @given(st.sampled_from(SETTINGS), VALUES)
    @settings(max_examples=100, deadline=None)
    def test_an_error_about_a_value_names_its_group(self, name: str, value: Any) -> None:
        self.assert_error_names_group(name, value)

    @pytest.mark.slow
    @given(st.sampled_from(SETTINGS), VALUES)
    @settings(max_examples=500, deadline=None)
    def test_errors_about_many_values_name_their_groups(self, name: str, value: Any) -> None:
        self.assert_error_names_group(name, value)

    @given(st.sampled_from(ANNOTATIONS), VALUES)
    @settings(max_examples=500, deadline=None)
    def test_a_valid_value_has_the_annotated_type_and_is_finite(
        self, annotation: Any, value: Any
    ) -> None:
        assert describe_type(annotation)
        if not is_valid(value, annotation):
            return
        if annotation is bool:
            assert value is True or value is False
        elif isinstance(value, float) and annotation is not float:
            assert math.isfinite(value)
        if annotation in (int, Count):
            assert type(value) is int

    @given(st.text(max_size=30))
    @settings(max_examples=200, deadline=None)
    def test_an_unknown_setting_is_refused(self, name: str) -> None:
        assume(name not in TrainerConfig.__dataclass_fields__)
        with pytest.raises(ConfigError) as error:
            check_config(CONFIG | {"trainer": CONFIG["trainer"] | {name: 1}})
        assert f"trainer.{name}" in str(error.value)


class TestSignature:
    @given(st.sampled_from(SIGNED_SETTINGS), PLAIN)
    @settings(max_examples=500, deadline=None)
    def test_it_changes_with_any_setting_that_is_part_of_it(self, name: str, value: Any) -> None:
        before = dict(flatten(CONFIG))[name]
        assume(not (isinstance(value, float) and math.isnan(value)))
        same = value == before and isinstance(value, bool) == isinstance(before, bool)
        assert (signature(changed(name, value)) == signature(CONFIG)) == same

    @given(st.sampled_from(sorted(INCIDENTAL)), VALUES)
    @settings(max_examples=300, deadline=None)
    def test_it_does_not_depend_on_where_and_how_a_run_is_trained(
        self, name: str, value: Any
    ) -> None:
        # `logger` is a mapping in every config.
        assume("." in name or name != "logger" or isinstance(value, dict))
        assert signature(changed(name, value)) == signature(CONFIG)

    @given(st.permutations(SETTINGS))
    @settings(max_examples=50, deadline=None)
    def test_it_does_not_depend_on_the_order_of_settings(self, order: list[str]) -> None:
        # The order of augmentations is that of the operations, so it stays.
        reordered: dict = {"augmentation": CONFIG["augmentation"]}
        values = dict(flatten(CONFIG))
        for name in order:
            if not name.startswith("augmentation"):
                set_value(reordered, name, values[name])
        assert signature(reordered) == signature(CONFIG)


@given(st.dictionaries(st.text(max_size=8), VALUES, min_size=1), st.data())
@settings(max_examples=100, deadline=None)
def test_digest_of_a_record_changes_with_any_value(record: dict, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(record)))
    value = data.draw(VALUES)
    assume(name != "digest" and repr(value) != repr(record[name]))
    assert digest_record(record | {name: value}) != digest_record(record)
    assert digest_record(record | {"digest": "anything"}) == digest_record(
        {key: record[key] for key in record if key != "digest"}
    )


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(
    lambda labels: np.array(labels, dtype=np.uint8)
)


class TestSubsets:
    @given(LABELS, st.data(), st.integers(0, 2**63 - 1))
    @settings(max_examples=300, deadline=None)
    def test_a_subset_is_balanced_and_contained_in_any_larger_one(
        self, labels: np.ndarray, data: st.DataObject, seed: int
    ) -> None:
        count = data.draw(st.integers(0, len(labels)))
        chosen = balanced_subset(labels, count, seed)
        assert len(chosen) == count
        assert sorted({*chosen.tolist()}) == chosen.tolist()
        larger = balanced_subset(labels, data.draw(st.integers(count, len(labels))), seed)
        assert {*chosen.tolist()} <= {*larger.tolist()}
        available = np.bincount(labels, minlength=6)
        taken = np.bincount(labels[chosen], minlength=6)
        # The numbers differ by at most one, except for classes with too few images.
        for label in range(6):
            assert taken[label] == available[label] or taken[label] >= taken.max() - 1

    @given(LABELS, st.data(), st.integers(0, 2**63 - 1))
    @settings(max_examples=200, deadline=None)
    def test_parts_of_a_dataset_do_not_overlap_and_do_not_exceed_it(
        self, labels: np.ndarray, data: st.DataObject, seed: int
    ) -> None:
        images = np.zeros((len(labels), 3, 1, 1), dtype=np.uint8)
        sizes = st.none() | st.integers(1, len(labels) + 2)
        holdout, limit = data.draw(sizes), data.draw(sizes)
        whole = Split.whole(images, labels)
        left = len(labels) - (holdout or 0)
        fits = left > 0 and (limit or 0) <= left
        subsets = Subsets(limit_train=limit, holdout=holdout)
        description = {"classes": [], "mean": [], "std": [], "fingerprint": ""}
        if not fits:
            with pytest.raises(ConfigError) as error:
                subsets.select(whole, whole, seed, **description)
            large = ("limit_train", limit) if left > 0 else ("holdout", holdout)
            assert "data.{}={}".format(*large) in str(error.value)
            return
        dataset = subsets.select(whole, whole, seed, **description)
        assert len(dataset.train) == (limit or left)
        if holdout:
            assert len(dataset.validation) == holdout
            assert not {*dataset.train.indices} & {*dataset.validation.indices}
        repeated = subsets.select(whole, whole, seed, **description)
        assert np.array_equal(repeated.train.indices, dataset.train.indices)
