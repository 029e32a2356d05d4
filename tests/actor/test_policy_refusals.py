"""What the engine is not started with."""

import asyncio

import pytest
from tiny_model import STOP, make_model

from actor.config import ActorConfig, EngineConfig
from actor.engine_process import engine_arguments
from actor.policy import Policy
from common.errors import UsageError

# warnings of vLLM's imports
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_kept_cache_with_adapters_is_refused_before_anything_is_started():
    with pytest.raises(ValueError, match="a kept cache is for full weights, a request cannot change its adapter"):
        ActorConfig(engine={"adapter_rank": 8}, reload={"mode": "in_flight_kept_cache"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m", 0)


def test_an_unknown_engine_argument_is_refused_by_name(model):
    config = EngineConfig(arguments={"block_sise": 32})
    with pytest.raises(UsageError, match="block_sise"):
        asyncio.run(Policy.start(model, 0, config, mode="in_flight", slots=4, seed=1, stop_ids=[STOP]))


def test_an_engine_argument_that_the_actor_sets_is_refused(model):
    with pytest.raises(UsageError, match=r"actor\.engine\.arguments\.seed: the actor sets this one itself"):
        engine_arguments(model, EngineConfig(arguments={"seed": 3}), slots=4, seed=1)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=str(tmp_path)):
        asyncio.run(Policy.start(tmp_path, 0, EngineConfig(), mode="in_flight", slots=4, seed=1, stop_ids=[STOP]))
