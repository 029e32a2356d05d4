import hashlib

import pytest

from common.checkpoint import Manifest, Probe, folder_of, publish, published_versions, read_manifest, verify
from common.errors import RunError

PROBE = Probe(tokens=(1, 2, 3), log_probs=(-0.5, -1.5))


def draft(version):
    return Manifest(run_id="r", policy_version=version, kind="full", step=version, files={}, probe=PROBE)


def write(folder):
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")


def test_a_published_version_verifies_and_its_digest_is_the_manifests(tmp_path):
    digest = publish(tmp_path, draft(3), write)
    folder = folder_of(tmp_path, 3)
    assert folder.name == "v000003"
    assert digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    manifest = verify(folder, digest)
    assert set(manifest.files) == {"model.safetensors", "sub/config.json"}
    assert manifest.files["model.safetensors"].size == 700
    assert manifest.probe == PROBE
    assert published_versions(tmp_path) == [3]


def test_a_flipped_byte_is_found_and_the_file_named(tmp_path):
    publish(tmp_path, draft(1), write)
    file = folder_of(tmp_path, 1) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[350] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.safetensors: sha256 differs"):
        verify(folder_of(tmp_path, 1))


@pytest.mark.parametrize("length", [0, 1, 699])
def test_a_torn_file_is_found_at_any_length(tmp_path, length):
    publish(tmp_path, draft(1), write)
    file = folder_of(tmp_path, 1) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(RunError, match=rf"{length} bytes, the manifest says 700"):
        verify(folder_of(tmp_path, 1))


def test_a_missing_file_and_a_missing_manifest_are_named(tmp_path):
    publish(tmp_path, draft(1), write)
    (folder_of(tmp_path, 1) / "sub" / "config.json").unlink()
    with pytest.raises(RunError, match=r"config\.json: named by the manifest, but missing"):
        verify(folder_of(tmp_path, 1))
    (folder_of(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(RunError, match="not a published version"):
        read_manifest(folder_of(tmp_path, 1))
    assert published_versions(tmp_path) == []


def test_a_manifest_of_another_digest_is_refused(tmp_path):
    publish(tmp_path, draft(1), write)
    with pytest.raises(RunError, match="expected abababababab"):
        verify(folder_of(tmp_path, 1), "ab" * 32)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    publish(tmp_path, draft(1), write)
    manifest, _ = read_manifest(folder_of(tmp_path, 1))
    entry = manifest.files["sub/config.json"]
    forged = manifest.model_copy(update={"files": {"../secret": entry}})
    (folder_of(tmp_path, 1) / "manifest.json").write_text(forged.model_dump_json())
    with pytest.raises(RunError, match="secret"):
        verify(folder_of(tmp_path, 1))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    def fail(folder):
        write(folder)
        raise OSError("disk full")

    with pytest.raises(RunError, match="disk full"):
        publish(tmp_path, draft(1), fail)
    assert list(tmp_path.iterdir()) == []


def test_publishing_a_version_again_replaces_it(tmp_path):
    publish(tmp_path, draft(1), write)
    publish(tmp_path, draft(1), lambda folder: (folder / "model.safetensors").write_bytes(b"other"))
    assert set(verify(folder_of(tmp_path, 1)).files) == {"model.safetensors"}


def test_a_probe_needs_one_log_prob_less_than_tokens():
    with pytest.raises(ValueError, match="3 log-probs for 3 tokens"):
        Probe(tokens=(1, 2, 3), log_probs=(0.0, 0.0, 0.0))
