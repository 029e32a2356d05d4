import shutil

import numpy as np
import pytest
import torch
from trainer_building import make_model_folder, make_trajectory, random_trajectory
from transformers import AutoModelForCausalLM

from common.errors import UsageError
from learner.trainer.advantage import Scored
from learner.trainer.batch import make_batch, pack, used_tokens
from learner.trainer.config import ModelConfig, ObjectiveConfig
from learner.trainer.loss import policy_loss
from learner.trainer.model import load_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"))


def load(folder, **options):
    return load_policy(ModelConfig(path=folder, device="cpu", **options), folder, seed=1)


def make_scored(count=7, seed=0):
    rng = np.random.default_rng(seed)
    lengths = [90, 8, 40, 9, 70, 25, 33]
    return [
        Scored(random_trajectory(rng, f"g1.{k}.0", length=lengths[k]), float(rng.standard_normal()))
        for k in range(count)
    ]


def gradients(policy, scored, *, budget, chunk=4096, objective=None):
    """Loss and gradients of one batch, by parameter."""
    policy.module.zero_grad()
    batch, loss = make_batch(scored, budget), 0.0
    for micro in batch.micro_batches:
        log_probs, _ = policy.log_probs(micro, chunk, entropy=True)
        share = policy_loss(
            log_probs,
            micro.behaviour,
            advantages=micro.advantages,
            turns=micro.turns,
            trajectories=micro.trajectories,
            totals=batch.totals,
            objective=objective or ObjectiveConfig(),
        )
        share.loss.backward()
        loss += share.loss.item()
    return loss, {name: value.grad.clone() for name, value in policy.trainable().items()}


def relative_difference(one, other):
    """|a - b| / |b| over all parameters together, in float64."""
    square = sum(float((one[name].double() - other[name].double()).square().sum()) for name in other)
    return (square / sum(float(value.double().square().sum()) for value in other.values())) ** 0.5


@pytest.mark.parametrize("ratio", ["token", "turn", "trajectory"])
@pytest.mark.parametrize("aggregation", ["unit_mean", "trajectory_mean"])
@pytest.mark.parametrize("training", ["full", "lora"])
def test_gradients_do_not_depend_on_the_packing(folder, ratio, aggregation, training):
    """All in one row, three rows, one trajectory a pass: the same within 1e-6 of the gradient."""
    policy, scored = load(folder, training=training), make_scored()
    objective = ObjectiveConfig(ratio=ratio, aggregation=aggregation)
    loss, alone = gradients(policy, scored, budget=1, objective=objective)
    for budget in (100, 10**6):
        packed_loss, packed = gradients(policy, scored, budget=budget, objective=objective)
        assert packed_loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
        assert relative_difference(packed, alone) < 1e-6


def test_a_trajectory_sees_nothing_of_its_neighbours(folder):
    """Packed log-probs are those of transformers' own attention on each trajectory alone."""
    policy, scored = load(folder), make_scored()
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    (micro,) = make_batch(scored, 10**6).micro_batches
    with torch.no_grad():
        packed, _ = policy.log_probs(micro, 4096, entropy=False)
        by_trajectory = torch.split(packed, torch.bincount(micro.trajectories).tolist())
    (order,) = pack([used_tokens(one) for one in scored], 10**6)
    for own, index in zip(by_trajectory, order, strict=True):
        trajectory = scored[index].trajectory
        ids = torch.tensor(trajectory.tokens.astype(np.int64))
        with torch.no_grad():
            log_probs = torch.log_softmax(plain(ids[None]).logits[0, :-1].double(), -1)
        expected = log_probs.gather(-1, ids[1:, None])[:, 0][torch.tensor(trajectory.sampled[1:])]
        torch.testing.assert_close(own.double(), expected, rtol=0, atol=2e-5)


def test_a_context_sees_nothing_of_the_one_before_it(folder):
    """Log-probs of each context are those of transformers' own attention on its tokens alone."""
    policy = load(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokens = np.random.default_rng(4).integers(300, size=90)
    turns, repeats = ((5, 9), (20, 30), (61, 64), (70, 80)), ((33, 60),)
    trajectory = make_trajectory(tokens=tokens, turns=turns, repeats=repeats)
    (micro,) = make_batch([Scored(trajectory, 1.0)], 10**6).micro_batches
    with torch.no_grad():
        found = policy.log_probs(micro, 4096, entropy=False)[0]
        expected = []
        for begin, end in trajectory.contexts:
            ids = torch.tensor(tokens[begin:end].astype(np.int64))
            log_probs = torch.log_softmax(plain(ids[None]).logits[0, :-1].double(), -1)
            own = log_probs.gather(-1, ids[1:, None])[:, 0]
            expected.append(own[torch.tensor(trajectory.sampled[begin + 1 : end])])
    torch.testing.assert_close(found.double(), torch.cat(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("training", ["full", "lora"])
def test_chunks_of_the_vocabulary_change_nothing(folder, training):
    policy, scored = load(folder, training=training), make_scored()
    loss, whole = gradients(policy, scored, budget=10**6)
    chunked_loss, chunked = gradients(policy, scored, budget=10**6, chunk=7)
    assert chunked_loss == pytest.approx(loss, rel=1e-6)
    assert relative_difference(chunked, whole) < 1e-6


@pytest.mark.parametrize("training", ["full", "lora"])
def test_activations_computed_again_change_nothing(folder, training):
    scored = make_scored()
    loss, kept = gradients(load(folder, training=training), scored, budget=100)
    again_loss, again = gradients(load(folder, training=training, recompute_activations=True), scored, budget=100)
    assert again_loss == loss
    assert relative_difference(again, kept) < 1e-6


def test_no_more_logits_exist_at_a_time_than_a_chunk_has(folder):
    policy, scored = load(folder), make_scored()
    rows = []
    policy.causal.lm_head.register_forward_hook(lambda module, given, logits: rows.append(len(logits)))
    gradients(policy, scored, budget=10**6, chunk=16)
    assert max(rows) == 16
    assert sum(rows) >= 2 * sum(int(one.trajectory.sampled.sum()) for one in scored) - 16


def test_gradients_are_finite_differences_of_the_loss(folder):
    """In float64, so that differences mean something."""
    policy, scored = load(folder), make_scored(4)
    policy.module.double()
    _, by_autograd = gradients(policy, scored, budget=10**6)
    rng = np.random.default_rng(0)
    for name, parameter in policy.trainable().items():
        index = tuple(int(rng.integers(size)) for size in parameter.shape)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[index] += step
            values.append(gradients(policy, scored, budget=10**6)[0])
            with torch.no_grad():
                parameter[index] -= step
        # log-probs come back as float32: 1e-7 of the loss over 2e-5 of a step
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(by_autograd[name][index]), rel=2e-2, abs=2e-2)


def test_scores_and_entropies_are_those_of_the_distribution(folder):
    policy = load(folder)
    tokens = [5, 9, 17, 250, 3]
    with torch.no_grad():
        logits = policy.causal(torch.tensor([tokens[:-1]]), document_lengths=(4,)).logits[0].double().log_softmax(-1)
    expected = [float(logits[i, token]) for i, token in enumerate(tokens[1:])]
    assert policy.score(tokens) == pytest.approx(expected, abs=1e-5)
    (micro,) = make_batch(make_scored(1), 10**6).micro_batches
    _, entropy = policy.log_probs(micro, 4096, entropy=True)
    assert not entropy.requires_grad
    assert ((entropy > 0) & (entropy < np.log(300))).all()


def test_lora_trains_adapters_alone_and_begins_as_the_base(folder):
    base, adapted = load(folder), load(folder, training="lora")
    assert all("lora_" in name for name in adapted.trainable())
    assert all(value.dtype == torch.float32 for value in adapted.trainable().values())
    tokens = [5, 9, 17, 250, 3]
    assert adapted.score(tokens) == base.score(tokens)


def test_a_new_adapter_follows_from_the_seed(folder):
    config = ModelConfig(path=folder, device="cpu", training="lora")
    first, second, other = (load_policy(config, folder, seed).trainable() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_bfloat16_computes_in_it_and_trains_in_float32(folder):
    full, adapted = load(folder, dtype="bfloat16"), load(folder, dtype="bfloat16", training="lora")
    for policy in (full, adapted):
        assert {value.dtype for value in policy.trainable().values()} == {torch.float32}
        _, made = gradients(policy, make_scored(2), budget=10**6)
        assert all(torch.isfinite(value).all() for value in made.values())
    assert adapted.head.weight.dtype == torch.bfloat16


def break_folder(folder, tmp_path, remove=(), write=()):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for name in remove:
        (broken / name).unlink()
    for name, text in write:
        (broken / name).write_text(text)
    return broken


@pytest.mark.parametrize(
    ("remove", "write", "says"),
    [
        (["tokenizer.json"], [], "has no tokenizer"),
        (["model.safetensors"], [], "has no weights"),
        (["config.json"], [], "it has no config.json"),
        ([], [("config.json", "{")], r"config.json: cannot be read"),
        ([], [("config.json", '{"model_type": "none such"}')], "not a causal language model"),
        ([], [("model.safetensors", "not tensors")], "not a causal language model"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_line(folder, tmp_path, remove, write, says):
    broken = break_folder(folder, tmp_path, remove, write)
    with pytest.raises(UsageError, match=says) as caught:
        load(broken)
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused_rather_than_invented(folder, tmp_path):
    other = make_model_folder(tmp_path / "deeper", layers=3)
    broken = break_folder(folder, tmp_path)
    shutil.copy(other / "config.json", broken)
    with pytest.raises(UsageError, match=r"weights lack .*layers\.2"):
        load(broken)


def test_an_adapter_for_layers_that_are_not_there_is_refused(folder):
    with pytest.raises(UsageError, match=r"learner\.model\.lora\.targets"):
        load(folder, training="lora", lora={"targets": ("no_such_layer",)})


def test_a_model_whose_packed_path_is_not_its_own_is_refused(folder, monkeypatch):
    monkeypatch.setattr(
        "learner.trainer.model._log_probs_of", lambda head, hidden, targets, entropy: (head(hidden)[:, 0], None)
    )
    with pytest.raises(UsageError, match="packed differs from itself"):
        load(folder)
