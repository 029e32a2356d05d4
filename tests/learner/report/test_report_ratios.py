"""Log-ratios that the report computes: against a version that is there, by token, of as many as were asked for."""

import numpy as np
import pytest
import torch
from run_building import make_run
from test_checkpoint import draft
from test_report import report, unpacked
from tiny_model import reference_log_probs
from transformers import Qwen2Config, Qwen2ForCausalLM

from common.checkpoint import TOKENIZER, folder_of, publish
from common.journal import Journal
from learner.report.recompute import load_version


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With version 2 in its checkpoints."""
    made = make_run(tmp_path_factory.mktemp("ratios") / "run", steps=2, groups=1, members=2)

    def write(folder):
        torch.manual_seed(1)
        config = Qwen2Config(
            vocab_size=450, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=640, initializer_range=0.3,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder)
        (folder / TOKENIZER).write_bytes((made / "model" / TOKENIZER).read_bytes())

    publish(made / "checkpoints", draft(2), write)
    return made


def test_log_ratios_are_of_the_version_named_to_the_behaviour(run):
    folder = folder_of(run / "checkpoints", 2)
    trajectory = Journal(run).find("g00010.1.0")
    found = load_version(2, folder).log_ratios(trajectory)
    reference = np.array([0.0, *reference_log_probs(folder, trajectory.tokens.tolist())]) - trajectory.log_probs
    assert np.isnan(found[~trajectory.sampled]).all()
    np.testing.assert_allclose(found[trajectory.sampled], reference[trajectory.sampled], atol=2e-5)


def test_greedy_tokens_have_no_ratio(run):
    greedy = Journal(run).find("before.t0-likeSong-1.0.0")
    assert load_version(2, folder_of(run / "checkpoints", 2)).log_ratios(greedy) is None


def test_as_many_as_asked_for_carry_ratios_into_the_page(run, capsys):
    facts, page = report(capsys, run, "--recompute", 3)
    assert facts["recomputed"] == 3
    assert "Log-ratios of 3 of them were computed for this page, against policy version 2." in page
    index = unpacked(page, "index")
    assert index["facts"] == {"ratio_version": 2}
    assert sum(index["ratio"]) == 3
    at = index["ratio"].index(1)
    ids = index["columns"]["id"]
    trajectory = Journal(run).find(ids[at])
    told = unpacked(page, f"block-{index['block'][at]}")["trajectories"][index["place"][at]]
    ratios = load_version(2, folder_of(run / "checkpoints", 2)).log_ratios(trajectory)
    wanted = np.rint(ratios[trajectory.sampled].astype(float) * 1000).tolist()
    assert [value for turn in told["u"] for value in turn["r"]] == wanted


def test_none_are_computed_when_none_are_asked_for(run, capsys):
    facts, page = report(capsys, run, "--recompute", 0)
    assert facts["recomputed"] == 0
    assert unpacked(page, "index")["facts"] == {"ratio_version": -1}
    assert '"r":' not in str(unpacked(page, "block-0"))


def test_a_large_model_is_not_loaded_unless_asked_for(run, capsys, monkeypatch):
    from learner.report import cli

    monkeypatch.setattr(cli, "SMALL_WEIGHTS", 10)
    facts, page = report(capsys, run)
    assert facts["recomputed"] == 0
    assert "`loop report --recompute N` computes them" in page
