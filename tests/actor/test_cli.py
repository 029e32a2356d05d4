import subprocess
import sys

import pytest
import yaml

from actor.cli import main
from common.errors import UsageError
from common.keys import new_keys


@pytest.fixture
def config_file(tmp_path):
    for name in ("learner", "actor-0"):
        new_keys(tmp_path / "keys", name)
    file = tmp_path / "config.yaml"
    sections = {
        "run": {"folder": str(tmp_path / "run")},
        "link": {"keys": str(tmp_path / "keys")},
        "actor": {"episodes": 8},
        "learner": {"rollout": {"steps": 3}},
    }
    file.write_text(yaml.safe_dump(sections))
    return file


def test_a_dry_run_shows_the_resolved_configuration_and_starts_nothing(config_file, tmp_path, capsys):
    assert main(["--config", str(config_file), "--dry-run", "--actor.engine.dtype", "float32"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["actor"]["episodes"] == 8
    assert shown["actor"]["engine"]["dtype"] == "float32"
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_what_the_engine_gets(config_file, capsys):
    words = ["--actor.engine.tensor_parallel", "2", "--actor.engine.arguments", '{"block-size": 32}']
    assert main(["--config", str(config_file), "--dry-run", *words]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert {"#   tensor_parallel_size: 2", "#   block_size: 32", "#   max_num_seqs: 8"} <= set(shown)


def test_fewer_episodes_at_least_than_at_most(config_file):
    with pytest.raises(UsageError, match=r"least_episodes \(9\) is more than episodes \(8\)"):
        main(["--config", str(config_file), "--dry-run", "--actor.least_episodes", "9"])


def test_an_unknown_key_is_refused_with_the_nearest_known_one(config_file):
    with pytest.raises(UsageError, match=r"actor\.episodes"):
        main(["--config", str(config_file), "--actor.episode", "8"])


def test_an_actor_without_a_key_is_told_how_to_make_one(config_file):
    with pytest.raises(UsageError, match="loop keys new actor-7"):
        main(["--config", str(config_file), "--dry-run", "--actor.name", "actor-7"])


def test_a_folder_that_is_no_data_root_is_refused(config_file, tmp_path):
    with pytest.raises(UsageError, match="not a data root"):
        main(["--config", str(config_file), "--dry-run", "--world.root", str(tmp_path)])


def test_the_learners_ports_must_be_told(config_file):
    with pytest.raises(UsageError, match=r"link\.port"):
        main(["--config", str(config_file), "--dry-run", "--link.port", "0"])


def test_help_imports_neither_vllm_nor_torch():
    code = "import sys; from common.cli import main\ntry: main(['actor', '--help'])\nexcept SystemExit: pass\n"
    code += "print('LOADED', sorted({'vllm', 'torch', 'transformers', 'zmq'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--actor.episodes" in shown
    assert shown.splitlines()[-1] == "LOADED []"
