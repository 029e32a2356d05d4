"""`loop learner export`: what it writes loads by itself and scores as the version did; what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer_building import make_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.checkpoint import folder_of, read_manifest
from common.cli import main
from learner.trainer.config import ModelConfig
from learner.trainer.export import stored_dtype
from learner.trainer.model import load_policy
from learner.trainer.publish import manifest_of, probe_tokens, publish_version

ROOT = Path(__file__).resolve().parents[3]
CARD = "---\nlicense: mit\nlibrary_name: peft\n---\n# r, policy version 2\n"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("start"))


def make_run(folder, start, *, training, dtype="float32"):
    """A run folder with versions 0, 1 and 2 of a policy that moves."""
    policy = load_policy(ModelConfig(path=start, device="cpu", training=training, dtype=dtype), start, seed=1)
    tokens = probe_tokens(start, policy.context)
    torch.manual_seed(3)
    for version in range(3):
        manifest = manifest_of(policy, run_id="r", policy_version=version, step=version, tokens=tokens)
        publish_version(policy, folder / "checkpoints", start, manifest, card=CARD)
        with torch.no_grad():
            for value in policy.trainable().values():
                value.add_(0.02 * torch.randn_like(value))
    return folder


@pytest.fixture(scope="module")
def adapters(start, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("adapters"), start, training="lora")


@pytest.fixture(scope="module")
def full(start, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("full"), start, training="full")


def export(source, out, *options):
    return main(["learner", "export", str(source), "--out", str(out), *map(str, options)])


def difference(out, probe):
    """Largest difference of a log-prob on the probe between the exported model in float32 and the version, nats."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokens = torch.tensor([probe.tokens])
    with torch.no_grad():
        log_probs = model(tokens).logits[0, :-1].double().log_softmax(-1)
    found = log_probs.gather(-1, tokens[0, 1:, None])[:, 0]
    return float((found - torch.tensor(probe.log_probs, dtype=torch.float64)).abs().max())


def probe_of(run, version):
    return read_manifest(folder_of(run / "checkpoints", version))[0].probe


@pytest.mark.parametrize("version", [None, 1])
def test_an_adapter_is_merged_into_its_base_and_scores_the_probe_as_it_did(adapters, start, tmp_path, version):
    options = [] if version is None else ["--version", version]
    assert export(adapters, tmp_path / "out", *options) == 0
    probe = probe_of(adapters, 2 if version is None else version)
    assert difference(tmp_path / "out", probe) <= 1e-5
    assert difference(start, probe) > 0.01
    assert not list((tmp_path / "out").glob("adapter*"))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(AutoTokenizer.from_pretrained(start))
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (start / name).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: transformers\n---\n# r, policy version 2\n")
    assert "adapter merged into its base in float32, stored in float32." in card
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_all_weights_are_copied_byte_by_byte(full, tmp_path, capsys):
    (tmp_path / "out").mkdir()  # an empty folder may be there
    version = folder_of(full / "checkpoints", 2)
    assert export(version, tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: version 2 of r, all weights, float32\n"
    names = set(read_manifest(version)[0].files)
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names - {"README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (version / name).read_bytes()
    assert difference(tmp_path / "out", probe_of(full, 2)) <= 1e-5


@pytest.mark.parametrize("kind", ["full", "adapters"])
def test_weights_are_stored_in_the_precision_asked_for(kind, tmp_path, request):
    run = request.getfixturevalue(kind)
    assert export(run, tmp_path / "out", "--dtype", "bfloat16") == 0
    assert stored_dtype(tmp_path / "out") == "bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    assert 1e-5 < difference(tmp_path / "out", probe_of(run, 2)) < 0.1


def test_a_bfloat16_base_stays_one_unless_asked(start, tmp_path):
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (half / name).write_bytes((start / name).read_bytes())
    run = make_run(tmp_path / "run", half, training="lora", dtype="bfloat16")
    assert export(run, tmp_path / "out") == 0
    assert stored_dtype(tmp_path / "out") == "bfloat16"
    # merged in float32 and kept so, it is what the adapter on that base computes in float32
    assert export(run, tmp_path / "exact", "--dtype", "float32") == 0
    assert difference(tmp_path / "exact", probe_of(run, 2)) < 0.05


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["nowhere", "--out", "OUT"], "nowhere: neither a published version nor a run that has one"),
        (["RUN", "--out", "OUT", "--version", "7"], "has no version 7; there are 0, 1, 2"),
        (["RUN/checkpoints/v000001", "--out", "OUT", "--version", "1"], "is one version already"),
        (["RUN", "--out", "RUN"], "holds something already"),
        (["RUN", "--out", "RUN/checkpoints/v000001/README.md"], "is a file"),
        (["RUN", "--out", "RUN/checkpoints/v000001/README.md/out"], "cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(full, tmp_path, capsys, options, says):
    words = [word.replace("RUN", str(full)).replace("OUT", str(tmp_path / "out")) for word in options]
    before = sorted(full.rglob("*"))
    assert main(["learner", "export", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("loop learner: ")
    assert says in line
    assert sorted(full.rglob("*")) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damaged", [2, 0])
def test_a_version_whose_files_or_whose_bases_are_damaged_is_not_exported(start, tmp_path, capsys, damaged):
    run = make_run(tmp_path / "run", start, training="lora")
    (weights,) = folder_of(run / "checkpoints", damaged).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    assert export(run, tmp_path / "out") == 1
    assert f"{weights}: sha256 differs from the manifest" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_help_needs_no_torch():
    program = (
        "import sys; from common.cli import main\n"
        "try: main(['learner', 'export', '--help'])\nfinally: print(sorted(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert "RUN_OR_VERSION" in made.stdout
    assert not [name for name in ("torch", "transformers", "numpy") if f"'{name}'" in made.stdout.splitlines()[-1]]
