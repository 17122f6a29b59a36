"""KServe manifests, checked against the published fields of `serving.kserve.io/v1beta1`."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from atpatch_onnx.deploy.kserve import deploy_kserve
from atpatch_onnx.errors import AtpatchError

from .layout import check_layout

# Field → type or the fields below, as kserve's Go types name them (pkg/apis/serving/v1beta1: inference_service.go,
# predictor.go, component.go, predictor_model.go); those of a predictor and a model are the ones a manifest of ours
# could have use for.
SCHEMA: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str, "annotations": dict, "labels": dict},
    "spec": {
        "predictor": {
            "minReplicas": int,
            "maxReplicas": int,
            "scaleTarget": int,
            "scaleMetric": str,
            "containerConcurrency": int,
            "timeout": int,
            "canaryTrafficPercent": int,
            "labels": dict,
            "annotations": dict,
            "serviceAccountName": str,
            "model": {
                "modelFormat": {"name": str, "version": str},
                "runtime": str,
                "protocolVersion": str,
                "runtimeVersion": str,
                "storageUri": str,
                "resources": dict,
                "env": list,
                "args": list,
            },
        }
    },
}
REQUIRED = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name"},
    "spec": {"predictor"},
    "model": {"modelFormat"},
}


def validate(found: Any, schema: Any = SCHEMA, name: str = "") -> None:
    if not isinstance(schema, dict):
        assert type(found) is schema, f"{name} is {found!r}"
        return
    assert not set(found) - set(schema), f"{name} has unknown fields {set(found) - set(schema)}"
    assert REQUIRED.get(name, set()) <= set(found)
    for field, value in found.items():
        validate(value, schema[field], field)


def test_both_manifests(arms, tmp_path):
    done = deploy_kserve(
        *arms, tmp_path / "k", storage="gs://bucket/fraud/", name="fraud", namespace="ml", percent=7, replicas=2
    )
    service, canary = (yaml.safe_load((done.folder / name).read_text()) for name in ("service.yaml", "canary.yaml"))
    for manifest in (service, canary):
        validate(manifest)
        assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
        model = manifest["spec"]["predictor"]["model"]
        assert model["modelFormat"] == {"name": "onnx"}
        assert model["protocolVersion"] == "v2"  # without it KServe finds no runtime for onnx
    assert service["metadata"] == canary["metadata"]
    assert service["metadata"]["namespace"] == "ml"
    assert "canaryTrafficPercent" not in service["spec"]["predictor"]
    assert canary["spec"]["predictor"]["canaryTrafficPercent"] == 7
    assert service["spec"]["predictor"]["model"]["storageUri"] == "gs://bucket/fraud/original"
    assert canary["spec"]["predictor"]["model"]["storageUri"] == "gs://bucket/fraud/patched"


def test_both_arms_are_stored_under_one_model_name(arms, large_arms, tmp_path):
    for number, pair in enumerate((arms, large_arms)):
        done = deploy_kserve(*pair, tmp_path / f"k{number}", storage="s3://b/x", name="fraud")
        for arm, source in zip(("original", "patched"), pair, strict=True):
            (model,) = check_layout(done.folder / arm).values()
            assert model.relative_to(done.folder / arm).parts[0] == "fraud"
            assert model.read_bytes() == source.read_bytes()


def test_the_validator_would_notice():
    good = {
        "apiVersion": "a",
        "kind": "k",
        "metadata": {"name": "n"},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}}}},
    }
    validate(good)
    for bad in (
        good | {"extra": 1},
        good | {"spec": {"predictor": {"canaryTrafficPercent": "5"}}},
        good | {"spec": {"predictor": {"model": {"storageURI": "x"}}}},
        good | {"metadata": {}},
    ):
        with pytest.raises(AssertionError):
            validate(bad)


@pytest.mark.parametrize(("options", "code"), [
    ({"storage": "bucket/x"}, "ATP091"),
    ({"storage": "gs://b/../x"}, "ATP091"),
    ({"storage": "gs://b/x\nkind: Pod"}, "ATP091"),
    ({"storage": "gs://b/x", "name": "Fraud"}, "ATP091"),
    ({"storage": "gs://b/x", "namespace": "a;b"}, "ATP091"),
    ({"storage": "gs://b/x", "percent": 101}, "ATP060"),
])  # fmt: skip
def test_impossible_settings(arms, tmp_path, options, code):
    with pytest.raises(AtpatchError) as caught:
        deploy_kserve(*arms, tmp_path / "k", **options)
    assert caught.value.code == code
    assert not (tmp_path / "k").exists()


def test_the_command(arms, tmp_path, atpatch):
    done = atpatch("deploy", "kserve", *arms, tmp_path / "k", "--storage", "pvc://models/fraud", "--percent", "10")
    assert done.code == 0
    assert '"canaryTrafficPercent":0' in done.err
    assert "serverless" in done.err
    assert atpatch("deploy", "kserve", *arms, tmp_path / "k").code == 2
