"""Signatures: made, verified by us and by model-signing's own command, and refused where anything is not as signed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from atpatch_onnx import AtpatchError, sign, verify
from atpatch_onnx.signing.contents import data_of

from ..conftest import Run
from ..tiny import attention_model, save_external, snapshot
from .keys import Keys, make_keys


def own_command(*words: object) -> int:
    """Exit status of model-signing's own command."""
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode


def refusal(code: str, path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(AtpatchError) as caught:
        verify(path, **options)
    assert caught.value.code == code, caught.value
    assert all(word in caught.value.what for word in words), caught.value.what


# What is covered


def test_a_hotfix_is_signed_and_verified(hotfix: Path, keys: Keys) -> None:
    done = sign(hotfix, key=keys.private)
    assert (done.signature, done.files) == (f"{hotfix}.sig", ("model.hotfix",))
    found = verify(hotfix, key=keys.public)
    assert (found.files, found.trusted) == (("model.hotfix",), str(keys.public))
    assert own_command("verify", "key", hotfix, "--signature", done.signature, "--public_key", keys.public) == 0
    hotfix.write_bytes(hotfix.read_bytes() + b"x")
    assert own_command("verify", "key", hotfix, "--signature", done.signature, "--public_key", keys.public) == 1


def test_a_signed_file_may_be_renamed(hotfix: Path, keys: Keys) -> None:
    sign(hotfix, key=keys.private)
    other = hotfix.rename(hotfix.with_name("other.hotfix"))
    found = verify(other, f"{hotfix}.sig", key=keys.public)
    assert (found.files, found.signed_as) == (("other.hotfix",), "model.hotfix")


def test_a_model_is_signed_with_its_external_data(external: Path, keys: Keys) -> None:
    done = sign(external, key=keys.private)
    assert done.files == ("model.onnx", "weights.data")
    (external.parent / "unrelated.txt").write_text("nobody signed this, and nothing reads it")
    assert verify(external, key=keys.public).files == done.files
    words = (external.parent, "--signature", done.signature, "--public_key", keys.public)
    assert own_command("verify", "key", *words, "--ignore_unsigned_files") == 0


def test_a_folder_is_signed_with_everything_in_it(folder: Path, keys: Keys) -> None:
    done = sign(folder, key=keys.private)
    assert (done.signature, done.files) == (str(folder / "model.sig"), ("config.json", "onnx/model.onnx"))
    assert verify(folder, key=keys.public).files == done.files
    words = (folder, "--signature", done.signature, "--public_key", keys.public)
    assert own_command("verify", "key", *words) == 0
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert own_command("verify", "key", *words) == 1


@pytest.mark.parametrize("name", ["config.json", "onnx/model.onnx"])
def test_the_signature_of_a_folder_counts_for_its_files(folder: Path, keys: Keys, name: str) -> None:
    sign(folder, key=keys.private)
    assert Path(verify(folder / name, key=keys.public).signature) == folder / "model.sig"


def test_a_signature_may_lie_anywhere(folder: Path, keys: Keys, tmp_path: Path) -> None:
    sign(folder, tmp_path / "elsewhere.sig", key=keys.private)
    verify(folder, tmp_path / "elsewhere.sig", key=keys.public)
    inside = (tmp_path / "elsewhere.sig").rename(folder / "moved.sig")
    verify(folder, inside, key=keys.public)
    refusal("ATP095", folder, "no signature", key=keys.public)


def test_signing_again_replaces_the_signature(folder: Path, keys: Keys, others: Keys) -> None:
    sign(folder, key=keys.private)
    (folder / "new.txt").write_text("new")
    refusal("ATP094", folder, "new.txt is there and not signed", key=keys.public)
    sign(folder, key=others.private)
    assert "new.txt" in verify(folder, key=others.public).files
    assert "model.sig" not in verify(folder, key=others.public).files


def test_what_the_library_signed_is_verified(folder: Path, keys: Keys) -> None:
    words = (folder, "--signature", folder / "model.sig", "--private_key", keys.private)
    assert own_command("sign", "key", *words) == 0
    assert verify(folder, key=keys.public).files == ("config.json", "onnx/model.onnx")


# Who signed


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_other_curves(hotfix: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    made = make_keys(tmp_path / "keys", curve)
    sign(hotfix, key=made.private)
    verify(hotfix, key=made.public)


def test_an_encrypted_key_takes_its_password(
    hotfix: Path, keys: Keys, atpatch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = "fix: put the password of an encrypted key into ATPATCH_KEY_PASSWORD"
    without = atpatch("sign", hotfix, "--key", keys.encrypted).err
    assert "error ATP096: " in without and advice in without
    monkeypatch.setenv("ATPATCH_KEY_PASSWORD", "wrong")
    assert advice in atpatch("sign", hotfix, "--key", keys.encrypted).err
    monkeypatch.setenv("ATPATCH_KEY_PASSWORD", "open sesame")
    assert "unset it" in atpatch("sign", hotfix, "--key", keys.private).err
    assert atpatch("sign", hotfix, "--key", keys.encrypted).code == 0
    verify(hotfix, key=keys.public)


def test_a_certificate_is_verified_up_to_a_root(hotfix: Path, keys: Keys, others: Keys) -> None:
    sign(hotfix, key=keys.private, certificate=keys.certificate, chain=keys.intermediate)
    verify(hotfix, chain=keys.root)
    words = (hotfix, "--signature", f"{hotfix}.sig", "--certificate_chain", keys.root)
    assert own_command("verify", "certificate", *words) == 0
    refusal("ATP094", hotfix, "no good signature", chain=others.root)
    refusal("ATP094", hotfix, "no good signature", key=keys.public)  # made with a certificate


def test_without_what_lies_between_a_certificate_leads_nowhere(hotfix: Path, keys: Keys) -> None:
    sign(hotfix, key=keys.private, certificate=keys.certificate)
    refusal("ATP094", hotfix, "no good signature", chain=keys.root)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key": "k", "keyless": "browser"},
        {"keyless": "browser", "certificate": "c"},
        {"key": "k", "chain": "c"},
        {"key": "k", "certificate": "c", "password": "p"},
    ],
)
def test_options_of_sign_that_contradict_each_other(hotfix: Path, options: dict[str, Any]) -> None:
    with pytest.raises(AtpatchError, match="ATP060"):
        sign(hotfix, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"key": "k", "chain": "c"}, {"identity": "me"}, {"key": "k", "identity": "a", "identity_provider": "b"}],
)
def test_verify_asks_for_one_thing_to_trust(hotfix: Path, options: dict[str, Any]) -> None:
    with pytest.raises(AtpatchError, match="ATP060"):
        verify(hotfix, **options)


def test_keys_that_cannot_be_used(hotfix: Path, keys: Keys, tmp_path: Path) -> None:
    other = tmp_path / "rsa.pem"
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    other.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(*pem))
    text, large = tmp_path / "text.pem", tmp_path / "large.pem"
    text.write_text("a key")
    large.write_bytes(bytes(2**21))
    for unusable in (keys.public, other, text, large):
        with pytest.raises(AtpatchError, match="ATP096"):
            sign(hotfix, key=unusable)
    with pytest.raises(AtpatchError, match=r"ATP096.*curve"):
        sign(hotfix, key=other)
    assert not Path(f"{hotfix}.sig").exists()
    sign(hotfix, key=keys.private)
    for unusable in (keys.private, text, large):
        refusal("ATP096", hotfix, key=unusable)
    refusal("ATP002", hotfix, key=tmp_path / "missing.pem")
    with pytest.raises(AtpatchError, match="ATP096"):
        sign(hotfix, key=keys.private, certificate=make_keys(tmp_path / "k").certificate)  # of another key


def test_certificates_that_are_none_are_called_so(hotfix: Path, keys: Keys) -> None:
    sign(hotfix, key=keys.private)
    with pytest.raises(AtpatchError, match=r"ATP096.*as certificates.*BEGIN CERTIFICATE"):
        verify(hotfix, chain=keys.public)
    with pytest.raises(AtpatchError, match=r"ATP096.*private key of this certificate"):
        sign(hotfix, key=keys.private, certificate=keys.public)


def test_a_private_key_in_the_signed_folder_is_refused(folder: Path, keys: Keys) -> None:
    inside = folder / "key.pem"
    inside.write_bytes(keys.private.read_bytes())
    with pytest.raises(AtpatchError, match="handed on with it"):
        sign(folder, key=inside)


# What is refused


def test_another_key_is_refused(hotfix: Path, keys: Keys, others: Keys) -> None:
    sign(hotfix, key=keys.private)
    refusal("ATP094", hotfix, "Key mismatch", key=others.public)


def test_the_signature_of_another_model_is_refused(hotfix: Path, keys: Keys) -> None:
    sign(hotfix, key=keys.private)
    other = hotfix.with_name("other.hotfix")
    other.write_bytes(hotfix.read_bytes()[:-1])
    refusal("ATP094", other, "made for 'model.hotfix'", signature=f"{hotfix}.sig", key=keys.public)


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: tamper(f / "onnx" / "model.onnx"), ["onnx/model.onnx is not as it was signed"]),
        (lambda f: (f / "more.onnx").write_text("x"), ["more.onnx is there and not signed"]),
        (lambda f: (f / ".hidden").write_text("x"), [".hidden is there and not signed"]),
        (lambda f: (f / "config.json").unlink(), ["config.json is signed and missing"]),
        (
            lambda f: (f / "config.json").rename(f / "a\nb\x1b[31m.json"),
            ["is there and not signed, config.json is signed and missing"],
        ),
        (lambda f: [(f / f"{n}.txt").write_text("") for n in range(9)], ["2.txt is there and not signed and 6 more"]),
    ],
    ids=["tampered", "added", "added hidden", "missing", "renamed", "many"],
)
def test_a_changed_folder_is_refused(
    folder: Path, keys: Keys, change: Callable[[Path], object], words: list[str], atpatch: Callable[..., Run]
) -> None:
    sign(folder, key=keys.private)
    change(folder)
    refusal("ATP094", folder, *words, key=keys.public)
    shown = atpatch("verify", folder, "--key", keys.public)
    assert shown.code == 1 and len(shown.err.splitlines()) == 2 and shown.out == ""
    assert "\x1b" not in shown.err


@pytest.mark.parametrize("name", ["model.onnx", "weights.data"])
def test_a_changed_part_of_a_model_is_refused(external: Path, keys: Keys, name: str) -> None:
    sign(external, key=keys.private)
    tamper(external.parent / name)
    refusal("ATP094", external, f"{name} is not as it was signed", key=keys.public)
    (external.parent / name).unlink()
    refusal("ATP094" if name == "weights.data" else "ATP002", external, key=keys.public)


def test_weights_that_no_signature_covers_are_refused(external: Path, keys: Keys) -> None:
    words = ("--signature", f"{external}.sig", "--private_key", keys.private)
    assert own_command("sign", "key", external, *words) == 0
    refusal("ATP094", external, "does not cover weights.data", key=keys.public)


@pytest.mark.parametrize("place", [".git/weights.data", "left/weights.data"])
def test_weights_of_a_folder_that_no_signature_covers_are_refused(tmp_path: Path, keys: Keys, place: str) -> None:
    """git's own files are never signed, and the library can leave out others."""
    folder = tmp_path / "served"
    (folder / place).parent.mkdir(parents=True)
    onnx.save_model(
        attention_model(), folder / "model.onnx", save_as_external_data=True, location=place, size_threshold=200
    )
    words = (folder, "--signature", folder / "model.sig", "--private_key", keys.private)
    assert own_command("sign", "key", *words, "--ignore-paths", folder / "left") == 0
    refusal("ATP094", folder, f"does not cover {place}", key=keys.public)
    refusal("ATP094", folder / "model.onnx", f"does not cover {place}", key=keys.public)


def test_a_link_to_a_signed_file_covers_nothing_else(tmp_path: Path, keys: Keys) -> None:
    folder = tmp_path / "served"
    (folder / "left").mkdir(parents=True)
    save_external(attention_model(), folder / "model.onnx", "left/weights.data")
    words = (folder, "--signature", folder / "model.sig", "--private_key", keys.private)
    shutil.copy(folder / "left" / "weights.data", folder / "other.data")
    assert own_command("sign", "key", *words, "--ignore-paths", folder / "left") == 0
    (folder / "left" / "weights.data").unlink()
    (folder / "left" / "weights.data").symlink_to("../other.data")
    for path in (folder, folder / "model.onnx"):
        refusal("ATP094", path, "does not cover left/weights.data", key=keys.public)


def test_external_data_in_a_folder_below_are_covered(tmp_path: Path, keys: Keys) -> None:
    below = tmp_path / "served" / "onnx"
    (below / "data").mkdir(parents=True)
    save_external(attention_model(), below / "model.onnx", "./data/weights.data")
    assert sign(below / "model.onnx", key=keys.private).files == ("data/weights.data", "model.onnx")
    verify(below / "model.onnx", key=keys.public)
    Path(f"{below / 'model.onnx'}.sig").unlink()
    sign(tmp_path / "served", key=keys.private)
    verify(tmp_path / "served", key=keys.public)
    assert "onnx/data/weights.data" in verify(below / "model.onnx", key=keys.public).files


def test_the_signature_of_a_file_is_none_of_a_folder(folder: Path, keys: Keys) -> None:
    sign(folder / "config.json", key=keys.private)
    refusal("ATP094", folder, "over one file, 'config.json'", signature=folder / "config.json.sig", key=keys.public)


def test_a_model_that_is_none_may_lie_in_a_signed_folder(folder: Path, keys: Keys) -> None:
    (folder / "broken.onnx").write_text("not a model")
    sign(folder, key=keys.private)
    verify(folder, key=keys.public)
    verify(folder / "broken.onnx", key=keys.public)


def test_a_file_too_large_for_a_model_is_not_read_as_one(tmp_path: Path) -> None:
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2**40)
    assert data_of(tmp_path / "huge.onnx") == ()


def test_external_data_must_be_there_to_be_signed(external: Path, keys: Keys) -> None:
    data = external.with_name("weights.data")
    data.rename(external.parent.parent / "weights.data")
    with pytest.raises(AtpatchError, match="ATP003"):
        sign(external, key=keys.private)
    data.symlink_to("../weights.data")
    with pytest.raises(AtpatchError, match="ATP004"):
        sign(external, key=keys.private)


def test_a_file_that_the_signature_does_not_name_is_refused(folder: Path, keys: Keys) -> None:
    sign(folder, key=keys.private)
    (folder / "onnx" / "other.onnx").write_bytes((folder / "onnx" / "model.onnx").read_bytes())
    refusal("ATP094", folder / "onnx" / "other.onnx", "does not cover", key=keys.public)


def test_a_file_without_a_signature_is_refused(hotfix: Path, keys: Keys) -> None:
    refusal("ATP095", hotfix, "has no signature", key=keys.public)
    with pytest.raises(AtpatchError, match="put the signature there"):  # 'patch' and 'serve' have no --signature
        verify(hotfix, key=keys.public)
    refusal("ATP002", hotfix, key=keys.public, signature=hotfix.with_name("missing.sig"))
    refusal("ATP002", hotfix.with_name("missing.hotfix"), key=keys.public)


def statement(signature: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))


def with_statement(signature: dict[str, Any], changed: Any) -> dict[str, Any]:
    payload = base64.b64encode(json.dumps(changed).encode()).decode()
    return signature | {"dsseEnvelope": signature["dsseEnvelope"] | {"payload": payload}}


def named(name: str) -> Callable[[dict[str, Any]], Any]:
    def change(signature: dict[str, Any]) -> Any:
        said = statement(signature)
        said["predicate"]["resources"][0]["name"] = name
        return with_statement(signature, said)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda s: "not JSON",
        lambda s: {},
        lambda s: [1],
        lambda s: json.loads("[" * 900 + "]" * 900),
        lambda s: s | {"dsseEnvelope": {**s["dsseEnvelope"], "signatures": []}},
        lambda s: s | {"dsseEnvelope": {**s["dsseEnvelope"], "payload": "%%%"}},
        lambda s: s | {"mediaType": "text/plain"},
        lambda s: s | {"verificationMaterial": {}},
        lambda s: with_statement(s, {**statement(s), "subject": []}),
        lambda s: with_statement(s, {**statement(s), "predicateType": "x"}),
        named("/etc/passwd"),
        named("../model.onnx"),
        named("a\0b"),
    ],
)
def test_a_damaged_or_made_up_signature_is_refused(
    hotfix: Path, keys: Keys, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = Path(sign(hotfix, key=keys.private).signature)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refusal("ATP094", hotfix, key=keys.public)


def test_a_signature_of_any_size_is_refused_before_it_is_read(hotfix: Path, keys: Keys) -> None:
    with Path(f"{hotfix}.sig").open("wb") as file:
        file.truncate(2**40)
    refusal("ATP094", hotfix, "bytes", key=keys.public)


def test_what_the_library_prints_is_not_in_the_json(hotfix: Path, keys: Keys, atpatch: Callable[..., Run]) -> None:
    """For a signature of an old version, which does not name its key, the library prints a warning on stdout."""
    path = Path(sign(hotfix, key=keys.private).signature)
    signature = json.loads(path.read_text())
    del signature["verificationMaterial"]["publicKey"]["hint"]
    path.write_text(json.dumps(signature))
    found = atpatch("verify", hotfix, "--key", keys.public, "--json")
    assert found.json["files"] == ["model.hotfix"]
    assert "WARNING" in found.err


def test_threads_leave_stdout_as_it_was(hotfix: Path, keys: Keys) -> None:
    sign(hotfix, key=keys.private)
    before = sys.stdout
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: verify(hotfix, key=keys.public), range(24)))) == 24
    assert sys.stdout is before


# Links, special files, names


def test_links_to_folders_are_refused(folder: Path, keys: Keys) -> None:
    sign(folder, key=keys.private)
    (folder / "link").symlink_to("onnx")
    refusal("ATP097", folder, "link to a folder", key=keys.public)
    with pytest.raises(AtpatchError, match="ATP097"):
        sign(folder, key=keys.private)


def test_a_folder_may_be_named_by_a_link(folder: Path, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder.name)
    sign(tmp_path / "link", key=keys.private)
    verify(tmp_path / "link", key=keys.public)
    verify(folder, key=keys.public)


def test_links_out_of_the_folder_are_refused(folder: Path, keys: Keys) -> None:
    sign(folder, key=keys.private)
    (folder / "link").symlink_to("/etc/hostname")
    refusal("ATP027", folder, key=keys.public)
    with pytest.raises(AtpatchError, match="ATP027"):
        sign(folder, key=keys.private)


def test_a_link_in_place_of_a_signed_file_is_judged_by_what_it_leads_to(folder: Path, keys: Keys) -> None:
    (folder / "copy.json").symlink_to("config.json")
    sign(folder, key=keys.private)
    verify(folder, key=keys.public)
    (folder / "copy.json").unlink()
    (folder / "copy.json").symlink_to("onnx/model.onnx")
    refusal("ATP094", folder, "copy.json is not as it was signed", key=keys.public)


def test_the_cache_of_a_hub_is_signed_by_content(tmp_path: Path, keys: Keys) -> None:
    """Its snapshots are links into the same repository."""
    repository = tmp_path / "models--a--b"
    snapshot_folder, blobs = repository / "snapshots" / "main", repository / "blobs"
    for made in (snapshot_folder, blobs):
        made.mkdir(parents=True)
    save_external(attention_model(), blobs / "model.onnx")
    for name in ("model.onnx", "weights.data"):
        (snapshot_folder / name).symlink_to(blobs / name)
    sign(snapshot_folder, key=keys.private)
    verify(snapshot_folder, key=keys.public)
    words = (snapshot_folder, "--signature", snapshot_folder / "model.sig", "--public_key", keys.public)
    assert own_command("verify", "key", *words, "--allow_symlinks") == 0
    sign(snapshot_folder / "model.onnx", key=keys.private)
    verify(snapshot_folder / "model.onnx", key=keys.public)
    tamper(blobs / "weights.data")
    refusal("ATP094", snapshot_folder / "model.onnx", "weights.data is not as it was signed", key=keys.public)


def test_a_signature_that_is_a_link_is_read_but_never_written(folder: Path, keys: Keys, tmp_path: Path) -> None:
    sign(folder, tmp_path / "elsewhere.sig", key=keys.private)
    verify(folder / "config.json", tmp_path / "elsewhere.sig", key=keys.public)
    (tmp_path / "link.sig").symlink_to("elsewhere.sig")
    verify(folder, tmp_path / "link.sig", key=keys.public)
    with pytest.raises(AtpatchError, match="ATP021"):
        sign(folder, tmp_path / "link.sig", key=keys.private)


def test_special_files_are_refused(folder: Path, keys: Keys) -> None:
    sign(folder, key=keys.private)
    os.mkfifo(folder / "pipe")
    refusal("ATP021", folder, key=keys.public)
    refusal("ATP021", folder / "pipe", key=keys.public)
    refusal("ATP021", folder / "config.json", key=folder / "pipe")
    refusal("ATP021", folder / "config.json", key=keys.public, signature=folder / "pipe")
    with pytest.raises(AtpatchError, match="ATP021"):
        sign(folder, key=keys.private)


def test_names_that_are_not_utf8_are_refused(folder: Path, keys: Keys) -> None:
    sign(folder, key=keys.private)
    strange = folder / os.fsdecode(b"a\xff.bin")
    strange.write_text("x")
    refusal("ATP097", folder, "not UTF-8", key=keys.public)
    with pytest.raises(AtpatchError, match="ATP097"):
        sign(folder, key=keys.private)
    with pytest.raises(AtpatchError, match="ATP097"):
        sign(strange, key=keys.private)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["too long", "NUL"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, keys: Keys, name: str) -> None:
    refusal("ATP002", tmp_path / name, key=keys.public)
    with pytest.raises(AtpatchError, match="ATP002"):
        sign(tmp_path / name, key=keys.private)


def test_an_empty_folder_is_refused(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "HEAD").write_text("x")
    with pytest.raises(AtpatchError, match="ATP097"):
        sign(tmp_path / "empty", key=keys.private)


def test_nothing_but_a_signature_is_written_over(folder: Path, keys: Keys) -> None:
    before = snapshot(folder)
    for output in ("onnx/model.onnx", "config.json"):
        with pytest.raises(AtpatchError, match="ATP016"):
            sign(folder, folder / output, key=keys.private)
    assert snapshot(folder) == before


def test_a_failed_sign_writes_nothing(folder: Path, keys: Keys) -> None:
    before = snapshot(folder)
    with pytest.raises(AtpatchError, match="ATP096"):
        sign(folder, key=keys.public)
    with pytest.raises(AtpatchError, match="ATP019"):
        sign(folder, folder / "no" / "model.sig", key=keys.private)
    assert snapshot(folder) == before


# The packages


def test_nothing_else_loads_them() -> None:
    modules = "atpatch_onnx.patching.apply, atpatch_onnx.cli.patch, atpatch_onnx.signing.verifier"
    script = f"import sys, {modules}; print({{'model_signing', 'sigstore', 'cryptography'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("absent", ["model_signing", "OpenSSL"])
def test_without_them_the_extra_is_named(
    hotfix: Path, atpatch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    for command in ("sign", "verify"):
        done = atpatch(command, hotfix, "--key", "key.pem")
        assert done.code == 2 and "ATP051" in done.err and "atpatch-onnx[sign]" in done.err


def test_the_json_says_what_is_covered(folder: Path, keys: Keys, atpatch: Callable[..., Run]) -> None:
    files = ["config.json", "onnx/model.onnx"]
    signed = atpatch("sign", folder, "--key", keys.private, "--json").json
    assert signed == {"path": str(folder), "signature": str(folder / "model.sig"), "files": files}
    verified = atpatch("verify", folder, "--key", keys.public, "--json").json
    assert verified == {**signed, "trusted": str(keys.public), "signed_as": "served"}
