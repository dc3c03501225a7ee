"""Every fault in a run's file is named with file, line, key and remedy; every file that ships can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_origin

import pytest

from zj_ray.config import Config, dump_config, explain, load_config
from zj_ray.config.sections.setting import leaves
from zj_ray.config.unused import ineffective
from zj_ray.errors import ConfigError

KEYS = [leaf.key for leaf in leaves(Config())]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES: dict[str, list[str]] = {
    "demo": [],
    "smollm2-135m": [],
    "laptop-real": ["data.root=/data"],
    "zhongjing-13b": ["data.root=/data"],
    "zhongjing-7b-lora": ["data.root=/data"],
}


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def fault(folder: Path, text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text), overrides)
    assert caught.value.remedy, "every fault needs a remedy"
    return caught.value


# text, line of the fault, what it says, what to do
FILE_FAULTS = {
    "unknown key": ("name: a\nppo:\n  stesp: 3\n", 3, "unknown key 'ppo.stesp'", "'ppo.steps'"),
    "unknown section": ("ppoo:\n  steps: 3\n", 1, "unknown key 'ppoo'", "'ppo'"),
    "key in the wrong section": ("sft:\n  clip_low: 0.1\n", 2, "unknown key 'sft.clip_low'", "'ppo.clip_low'"),
    "key without its section": ("lam: 0.9\n", 1, "unknown key 'lam'", "'ppo.lam'"),
    "unlike any key": ("zzzz: 1\n", 1, "unknown key 'zzzz'", "zj config"),
    "text for a number": ("ppo:\n  steps: many\n", 2, "'ppo.steps' must be a whole number, not 'many'", "ppo.steps: 3"),
    "fraction for a whole number": ("ppo:\n  steps: 1.5\n", 2, "whole number", "ppo.steps: 3"),
    "quoted number": ("ppo:\n  steps: '3'\n", 2, "whole number", "without quotes"),
    "not a number at all": ("sft:\n  learning_rate: .nan\n", 2, "must be a number", "0.5"),
    "number for a truth": ("sft:\n  epochs: 1\nmodel:\n  gradient_checkpointing: 1\n", 4, "true or false", "true"),
    "neither a word nor a number": ("ppo:\n  safety:\n    bound: rlhf\n", 3, "must be sft or a number", "bound: sft"),
    "truth for a number": ("ppo:\n  gamma: yes\n", 2, "must be a number", "0.5"),
    "empty value": ("ppo:\n  steps:\n", 2, "must be a whole number, not empty", "3"),
    "list for a number": ("ppo:\n  steps: [1]\n", 2, "not a list", "3"),
    "scalar for a list": ("stages: sft\n", 1, "must be a list", "[sft, ppo]"),
    "text in a list of numbers": ("feedback:\n  temperatures:\n    - 1.0\n    - hot\n", 2, "temperatures[1]", "0.5"),
    "unknown choice": ("model:\n  dtype: float16\n", 2, "can't be 'float16'", "float32, bfloat16"),
    "list for a choice": ("model:\n  dtype: [float32]\n", 2, "can't be a list", "float32, bfloat16"),
    "nothing for a choice": ("model:\n  dtype:\n", 2, "can't be empty", "float32, bfloat16"),
    "scalar for a section": ("name: a\nppo: 3\n", 2, "'ppo' is a section", "ppo.steps"),
    "list for a section": ("ppo:\n- 1\n", 2, "'ppo' is a section", "ppo.steps"),
    "list as a file": ("- 1\n", 1, "is a mapping", "name"),
    "repeated key": ("ppo:\n  steps: 3\n  lam: 0.9\n  steps: 4\n", 4, "'ppo.steps' is written twice", ":2"),
    "repeated section": ("ppo:\n  steps: 3\nppo:\n  lam: 0.9\n", 3, "'ppo' is written twice", ":1"),
    "tab": ("ppo:\n\tsteps: 3\n", 2, "not valid YAML", "tabs"),
    "open bracket": ("name: a\nstages: [sft\n", 3, "not valid YAML", "quotes"),
    "two documents": ("name: a\n---\nname: b\n", 2, "not valid YAML", "indentation"),
}


@pytest.mark.parametrize("case", FILE_FAULTS)
def test_a_fault_in_the_file_names_its_line_and_remedy(case: str, tmp_path: Path) -> None:
    text, line, says, remedy = FILE_FAULTS[case]
    error = fault(tmp_path, text)
    assert error.where == f"{tmp_path / 'run.yaml'}:{line}"
    assert says in error.what
    assert remedy in error.remedy


RULE_FAULTS = {
    "unknown stage": ("stages: [sft, rewrd]", "unknown stage 'rewrd'", "reward"),
    "stages out of order": ("stages: [sft, pretrain]", "out of order", "[pretrain, sft]"),
    "stage twice": ("stages: [sft, sft]", "twice", "once"),
    "no stage": ("stages: []", "is empty", "pretrain"),
    "name with a slash": ("name: a/b", "can't be a folder", "letters"),
    "name that leaves the folder": ("name: ..", "can't be a folder", "letters"),
    "negative rate": ("sft: {learning_rate: -1}", "must be more than 0", "range"),
    "no engine": ("fleet: {initial: 0}", "must be at least 1", "range"),
    "more engines than allowed": ("fleet: {initial: 12}", "not between fleet.min 1 and fleet.max 8", "fleet.max to 12"),
    "engines that can't come and go": (
        "ppo: {colocate: [[policy, engines]]}\nfleet: {autoscale: true}",
        "fixed places",
        "out of ppo.colocate",
    ),
    "a model cut over GPUs that are not there": (
        "fleet: {engine_gpus: 1, tensor_parallel: 2}",
        "an engine has 1",
        "engine_gpus to 2",
    ),
    "NCCL to a cut model": (
        "fleet: {transport: nccl, engine_gpus: 2, tensor_parallel: 2}",
        "engines of one process",
        "object_store",
    ),
    "a cut model asleep": (
        "fleet: {engine_gpus: 2, tensor_parallel: 2, sleep: true}",
        "engines of one GPU",
        "tensor_parallel to 1",
    ),
    "suspicion after the verdict": ("fleet: {slow_after: 70}", "comes after fleet.stall_timeout 60", "lower"),
    "share above one": ("ppo: {safety_share: 1.5}", "at least 0 and at most 1", "range"),
    "nothing held out": ("feedback: {held_out: 0}", "more than 0 and less than 1", "range"),
    "too few turns": ("consultation: {max_turns: 2}", "must be at least 3", "advice"),
    "reward for danger": ("ppo: {mix: {unsafe: 1}}", "at most 0", "must not be rewarded"),
    "one temperature of four": (
        "feedback: {temperatures: [1.0]}",
        "1 entries for 4 answers",
        "one temperature for each",
    ),
    "a temperature of zero": ("feedback: {temperatures: [0, 1, 1, 1]}", "more than 0", "range"),
    "head size": ("model: {tiny: {hidden_size: 200}}", "3 heads of 64 make 192", "192"),
    "no data folder": ("data: {source: files}", "'data.root' is not set", "--set data.root="),
    "rankings without files": ("feedback: {source: file}", "data.source is clinic", "data.source: files"),
    "fewer consultations than mini-batches": ("ppo: {consultations: 3}", "leave a rank without one", "at least 4"),
    "no room for the patient": ("consultation: {turn_tokens: 128}", "no room for the patient", "model.max_length"),
    "samples do not divide": ("ppo: {consultations: 32, samples: 3}", "does not divide", "multiple of 3"),
    "nobody to compare with": ("ppo: {advantage: rloo}", "compares the consultations of a prompt", "ppo.samples to 4"),
    "a KL that holds nothing": ("ppo: {kl_in: loss}", "zero on average", "k2 or k3"),
    "policy never learns": ("ppo: {critic_warmup: 12}", "never learn", "ppo.steps"),
    "λ above its cap": ("ppo: {safety: {multiplier: 9, cap: 5}}", "starts above", "ppo.safety.cap higher"),
    "a negative bound": ("ppo: {safety: {bound: -1}}", "must be at least 0", "range"),
    "bound below target": ("ppo: {kl_target: 0.5}", "ppo.kl_bound", "several times"),
    "one and a half GPUs": ("fleet: {engine_gpus: 1.5}", "whole GPUs", "1 or 2"),
    "two GPUs for a rank": ("ppo: {policy: {gpus: 2}}", "a rank drives one GPU", "ppo.policy.ranks"),
    "two GPUs for a worker": ("reward: {gpus: 2}", "a rank drives one GPU", "reward.ranks"),
    "offload without ZeRO": (
        "sft: {gpus: 1, zero_stage: 0, offload: optimizer}",
        "needs ZeRO-1",
        "sft.zero_stage to 1",
    ),
    "weights away without ZeRO-3": (
        "ppo: {policy: {gpus: 1, offload: all}}",
        "needs ZeRO-3",
        "ppo.policy.zero_stage to 3",
    ),
    "half a frozen model": ("ppo: {reference: {zero_stage: 2}}", "can't be '2'", "0, 3"),
    "no adapters to switch off": ("ppo: {reference_model: adapter_off}", "has no adapters", "ppo.policy.lora.rank"),
    "an unknown role": ("ppo: {colocate: [[policy, refrence]]}", "'refrence', which is no role", "reference"),
    "a role that is not there": (
        "ppo: {advantage: reinforce_pp, colocate: [[critic, reward]]}",
        "no role of this run",
        "policy, reward",
    ),
    "a role in two places": ("ppo: {colocate: [[policy, reward], [policy, critic]]}", "'policy' twice", "one place"),
    "NCCL between CPUs": ("fleet: {transport: nccl}", "is for GPUs", "gloo"),
    "gloo between GPUs": ("fleet: {transport: gloo, engine_gpus: 1}", "is for engines on CPUs", "nccl"),
    "adapters by broadcast": (
        "ppo: {push: adapter, policy: {lora: {rank: 8}}}\nfleet: {transport: gloo}",
        "sends whole weights",
        "object_store",
    ),
    "IPC to engines elsewhere": (
        "fleet: {transport: ipc, engine_gpus: 1}",
        "does not put them there",
        "add engines to the policy's group",
    ),
    "IPC to more engines than ranks": (
        "ppo: {policy: {gpus: 0.6}, colocate: [[policy, engines]]}\n"
        "fleet: {transport: ipc, engine_gpus: 0.4, initial: 3}",
        "3 engines for 2 ranks",
        "fleet.initial to at most 2",
    ),
    "engines that take a GPU whole": (
        "fleet: {engine_gpus: 1}\nppo: {policy: {gpus: 0.5}, colocate: [[policy, engines]]}",
        "policy (0.5), engines (1) on one GPU",
        "a part",
    ),
    "turns that meet by chance": (
        "model: {deterministic: true}",
        "decode 64 turns at once",
        "fleet.max_in_flight to 1",
    ),
    "weights by chance": (
        "model: {deterministic: true}\nfleet: {max_in_flight: 1}\nppo: {max_staleness: 1}",
        "chance decides which weights",
        "max_staleness to 0",
    ),
    "asleep at work": (
        "ppo: {max_staleness: 1}\nfleet: {engine_gpus: 0.5, sleep: true}",
        "hold consultations meanwhile",
        "GPUs of their own",
    ),
    "too much for a GPU": (
        "ppo: {policy: {gpus: 1}, reference: {gpus: 1}, colocate: [[policy, reference]]}",
        "more than a whole one",
        "a part",
    ),
    "Muon on cut matrices": ("sft: {optimizer: muon}", "cuts them into pieces", "zero_stage to 0"),
}


@pytest.mark.parametrize("case", RULE_FAULTS)
def test_a_run_that_cannot_work_is_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, says, remedy = RULE_FAULTS[case]
    error = fault(tmp_path, "# a comment\n" + text)
    assert error.where == f"{tmp_path / 'run.yaml'}:{text.count(chr(10)) + 2}"
    assert says in error.what
    assert remedy in error.remedy


NO_EFFECT = {
    "model.tiny.layers": "model: {base: some/model, tiny: {layers: 4}}",
    "data.clinic.cases": "data: {source: files, root: /data, clinic: {cases: 400}}",
    "data.root": "data: {root: /data}",
    "ray.local_cpus": "ray: {address: auto, local_cpus: 2}",
    "ray.object_store_mb": "ray: {address: auto, object_store_mb: 512}",
    "feedback.noise": "data: {source: files, root: /data}\nfeedback: {source: file, noise: 0.45}",
    "feedback.temperatures": "data: {source: files, root: /data}\nfeedback: {source: file, temperatures: [1, 1, 1, 1]}",
    "fleet.gpu_memory_utilization": "fleet: {gpu_memory_utilization: 0.85}",
    "fleet.kv_cache_mb": "fleet: {engine_gpus: 1, kv_cache_mb: 256}",
    "fleet.threads": "fleet: {engine_gpus: 1, threads: 1}",
    "fleet.sleep": "fleet: {sleep: true}",
    "reward.margin": "reward: {loss: plackett_luce, margin: 0.5}",
    "ppo.kl_target": "ppo: {kl_controller: fixed, kl_target: 0.1}",
    "ppo.kl_horizon": "ppo: {kl_controller: fixed, kl_horizon: 200}",
    "ppo.lam": "ppo: {advantage: reinforce_pp, lam: 0.95}",
    "ppo.gamma": "ppo: {advantage: grpo, samples: 4, gamma: 1.0}",
    "ppo.critic.ranks": "ppo: {advantage: rloo, samples: 4, critic: {ranks: 1}}",
    "ppo.mix.safety": "ppo: {safety_share: 0, safety: {method: weight}, mix: {safety: 1}}",
    "ppo.mix.unsafe": "ppo: {mix: {unsafe: -3}}",
    "ppo.safety.margin": "ppo: {safety: {bound: 0.5, margin: 1}}",
    "ppo.safety.cap": "ppo: {safety: {method: weight, cap: 5}}",
    "sft.offload": "sft: {offload: none}",
    "ppo.policy.offload": "ppo: {policy: {offload: optimizer}}",
    "sft.lora.alpha": "sft: {lora: {alpha: 16}}",
    "ppo.push": "ppo: {push: adapter}",
    "ppo.reference.ranks": "ppo: {policy: {lora: {rank: 8}}, reference_model: adapter_off, reference: {ranks: 1}}",
}


@pytest.mark.parametrize("key", NO_EFFECT)
def test_a_key_without_effect_is_refused_even_with_its_default_value(key: str, tmp_path: Path) -> None:
    error = fault(tmp_path, NO_EFFECT[key])
    assert error.where == f"{tmp_path / 'run.yaml'}:{NO_EFFECT[key].count(chr(10)) + 1}"
    assert f"'{key}' has no effect" in error.what


def test_a_fault_between_two_keys_is_placed_at_the_one_that_was_written(tmp_path: Path) -> None:
    assert fault(tmp_path, "name: a\nmodel: {tiny: {heads: 2}}\n").where.endswith("run.yaml:2")


@pytest.mark.parametrize(
    "override",
    ["ppo.stesp=3", "ppo.steps=many", "ppo.steps", "ppo=3", "=3", "ppo.gamma=2", "data.root=/x", "ppo.gamma=["],
)
def test_a_fault_in_an_override_names_the_override(override: str, tmp_path: Path) -> None:
    assert fault(tmp_path, "name: a\n", override).where == f"--set {override}"


def test_an_override_wins_over_the_file_and_the_last_one_over_the_first(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, "ppo: {steps: 3}\n"), ["ppo.steps=4", "ppo.steps=5", "stages=[sft]", "ray.local_cpus=null"]
    )
    assert (config.ppo.steps, config.stages, config.ray.local_cpus) == (5, ("sft",), None)


def test_an_override_mends_a_key_of_the_file_that_would_be_refused(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "data: {source: files}\n"), ["data.root=/data"]).data.root == "/data"


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path, "name: a\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "runn.yaml")
    assert caught.value.where == str(tmp_path / "runn.yaml")
    assert str(tmp_path / "run.yaml") in caught.value.remedy


def test_a_folder_and_a_file_that_is_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path)
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "run.yaml")


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, "sft: {learning_rate: 2e-5, epochs: 3, max_steps: null, zero_stage: 3}\nname: 2024\n")
    )
    assert (config.sft.learning_rate, config.sft.epochs, config.sft.max_steps, config.sft.zero_stage) == (
        2e-5,
        3.0,
        None,
        3,
    )
    assert isinstance(config.sft.epochs, float)
    assert config.name == "2024"


@pytest.mark.parametrize(("text", "bound"), [("sft", "sft"), ("0.25", 0.25), ("1", 1.0)])
def test_a_bound_is_a_word_or_a_number(text: str, bound: str | float, tmp_path: Path) -> None:
    path = write(tmp_path, f"ppo: {{safety: {{bound: {text}}}}}\n")
    config = load_config(path)
    assert config.ppo.safety.bound == bound and load_config(write(tmp_path, dump_config(config))) == config


def test_an_empty_file_and_a_section_of_comments_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config()
    assert load_config(write(tmp_path, "ppo:\n  # steps: 3\n")) == Config()


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_config_loads_and_survives_its_dump(name: str, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", FILES[name])
    assert config.name == name
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_every_shipped_config_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= set(FILES)


def test_the_dump_names_every_key() -> None:
    dump = dump_config(Config())
    assert all(f"{key.rpartition('.')[2]}: " in dump for key in KEYS)


def test_every_number_has_its_bounds_and_every_default_keeps_them() -> None:
    for key, hint, value, meta in leaves(Config()):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool) and get_origin(hint) is not Literal:
                assert meta["bound"] is not None and meta["bound"].holds(number), key


def test_keys_without_effect_exist_in_the_schema() -> None:
    assert set(ineffective(Config())) <= set(KEYS)
    assert ineffective(Config())["data.root"]


def test_explain_lists_every_key_with_type_default_and_help() -> None:
    text = explain(Config)
    assert all(f"  {key}: " in text for key in KEYS)
    assert "ppo.steps: int = 12" in text and "PPO steps" in text
    assert "sft.steps" not in explain(Config, "ppo")
    with pytest.raises(ConfigError, match="did you mean 'ppo.mix'"):
        explain(Config, "ppo.mxi")
