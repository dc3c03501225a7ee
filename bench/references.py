"""Our algorithms against independent implementations, on the same tensors. `python -m bench.references`

TRL's PPO has its GAE, losses and KL in the middle of a training loop: so TRL's own trainer makes a step here, on a tiny
model, and its variables are looked at while it runs; nothing of it is typed again. AdamW is torch's, against a
DeepSpeed engine.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from bench.ceilings import table
from bench.subject import QUIET_TRL, speaker
from zj_ray.algorithms.gae import gae
from zj_ray.algorithms.kl import kl
from zj_ray.algorithms.logprobs import sampled_logprobs
from zj_ray.algorithms.policy_loss import policy_loss
from zj_ray.algorithms.value_loss import value_loss
from zj_ray.algorithms.whitening import whiten
from zj_ray.cluster.ports import free_port
from zj_ray.data.tokenizer import train_tokenizer
from zj_ray.training.lora import plain_weights
from zj_ray.training.zero_engine import EngineSpec, TrainEngine, join_process_group

TINY = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)
QUERIES, RESPONSE, STOP = 16, 24, 0.06
TOLERANCE = 2e-5  # float32 sums in another order


@dataclass(frozen=True)
class Difference:
    """How far ours is from a reference. largest: of all elements, absolute."""

    what: str
    reference: str
    largest: float
    note: str = ""


def largest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


# --- TRL ---


def trl_variables(kl_estimator: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables of TRL's training step at two moments.

    When its advantages are whitened, and when the loss of its last mini-batch is known.
    """
    from trl.experimental.ppo import ppo_trainer

    before_whitening: dict[str, Any] = {}
    after_loss: dict[str, Any] = {}
    whitening, mean = ppo_trainer.masked_whiten, ppo_trainer.masked_mean

    def watched_whitening(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        whitened = whitening(values, mask, shift_mean)
        before_whitening.update(_copies(sys._getframe(1).f_locals), whitened=whitened.clone())
        return whitened

    def watched_mean(values: Tensor, mask: Tensor, axis: Any = None) -> Tensor:
        caller = sys._getframe(1).f_locals
        if "pg_loss" in caller:  # it asks for the clip fraction: the losses are known
            after_loss.update(_copies(caller))
        return mean(values, mask, axis)

    with tempfile.TemporaryDirectory() as folder:
        trainer = _trl_trainer(Path(folder), kl_estimator)
        with patch.multiple(ppo_trainer, masked_whiten=watched_whitening, masked_mean=watched_mean):
            trainer.train()
    return before_whitening, after_loss


def _copies(variables: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in variables.items()}


def _trl_trainer(folder: Path, kl_estimator: str) -> Any:
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer: PreTrainedTokenizerBase = train_tokenizer(["医生您好，我头痛。"], TINY.vocab_size, 128)
    tokenizer.padding_side = "left"
    speaker(TINY, tokenizer, STOP).save_pretrained(folder / "model")

    def policy(noise: float) -> LlamaForCausalLM:
        model = LlamaForCausalLM.from_pretrained(folder / "model")
        for parameter in model.model.layers.parameters():
            parameter.data += noise * torch.randn_like(parameter)
        return model

    def judge() -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
        model.config.pad_token_id = tokenizer.pad_token_id
        return model

    torch.manual_seed(0)
    queries = torch.randint(5, len(tokenizer), (QUERIES, 8)).tolist()
    settings = PPOConfig(
        **QUIET_TRL, output_dir=str(folder / "trl"), learning_rate=3e-3,
        per_device_train_batch_size=QUERIES // 2, gradient_accumulation_steps=2, num_mini_batches=2, num_ppo_epochs=2,
        total_episodes=QUERIES, response_length=RESPONSE, stop_token="eos",
        temperature=1.0, gamma=0.98, lam=0.9, kl_estimator=kl_estimator,
    )  # fmt: skip
    data = Dataset.from_dict({"input_ids": queries})
    return PPOTrainer(
        args=settings, processing_class=tokenizer, model=policy(0.0), ref_model=policy(0.02),
        reward_model=judge(), value_model=judge(), train_dataset=data, eval_dataset=data,
    )  # fmt: skip


def against_trl() -> list[Difference]:
    """The algorithms against the variables of TRL's own step."""
    import trl
    from trl.trainer.utils import selective_log_softmax

    name = f"trl {trl.__version__}"
    early, late = trl_variables("k1")
    third, _ = trl_variables("k3")
    args, generated = early["args"], ~early["padding_mask"]
    assert 0 < (~generated).sum() < generated.sum(), "responses of unequal length are what is to be compared"
    # TRL's score stands one token after the last that was generated, and that one has a value too.
    with_value = ~early["padding_mask_p1"]
    trainer = f"{name} PPOTrainer.train"
    advantages, returns = gae(early["rewards"], early["values"], with_value, args.gamma, args.lam)
    raw = early["advantages"][generated].double()
    factor = float((raw.std(unbiased=False) + 1e-8) / (raw.var() + 1e-8).sqrt())  # their 1e-8 is under the root
    white = (whiten(early["advantages"], generated) * factor)[generated]
    note = f"TRL divides by the root of the variance by n − 1: a factor of {factor:.5f} here"
    differences = [
        Difference("GAE, advantages", trainer, largest(advantages[with_value], early["advantages"][with_value])),
        Difference("GAE, returns", trainer, largest(returns[with_value], early["returns"][with_value])),
        Difference("whitening", f"{name} masked_whiten", largest(white, early["whitened"][generated]), note),
    ]
    for estimator, variables in (("k1", early), ("k3", third)):
        ours = kl(variables["logprobs"], variables["ref_logprobs"], estimator)  # type: ignore[arg-type]
        differences.append(Difference(f"KL, {estimator}", trainer, largest(ours, variables["kl"])))
    members = late["micro_batch_inds"]
    mask, mask_of_values = generated[members], with_value[members]
    new, old, mine = late["new_logprobs"], late["mb_logprobs"], late["mb_advantage"]
    assert ((new - old)[mask].exp() - 1).abs().max() > args.cliprange, "no ratio is clipped"
    loss = policy_loss(new, old, mine, mask, clip_low=args.cliprange, clip_high=args.cliprange)
    of_values = value_loss(late["vpred"], late["mb_values"], late["mb_return"], mask_of_values, args.cliprange_value)
    logits, responses = late["logits"], late["mb_responses"]
    logprobs, entropy = sampled_logprobs(logits.flatten(0, 1), responses.flatten(), "measured")
    their_logprobs = selective_log_softmax(logits, responses).flatten()
    their_entropy = torch.distributions.Categorical(logits=logits.flatten(0, 1)).entropy()
    return [
        *differences,
        Difference("policy loss, clipped", trainer, largest(loss, late["pg_loss"])),
        Difference("value loss, clipped", trainer, largest(of_values, late["vf_loss"])),
        Difference("log-probs", f"{name} selective_log_softmax", largest(logprobs, their_logprobs)),
        Difference("entropy", "torch Categorical", largest(entropy, their_entropy)),
    ]


# --- torch ---


def _train(step: Callable[[Tensor, Tensor], None]) -> None:
    draw = torch.Generator().manual_seed(1)
    for _ in range(6):
        step(torch.randn(12, 8, generator=draw), 3 * torch.randn(12, 1, generator=draw))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))


def against_torch() -> list[Difference]:
    """AdamW with clipping over six steps of two micro-batches; torch's is the plain loop, neither fused nor foreach."""
    plain = _model()
    rates = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    optimizer = torch.optim.AdamW(plain.parameters(), **rates, foreach=False, fused=False)  # type: ignore[arg-type]
    # Adam and clipping both hide a gradient that is wrong by a factor.
    norms: dict[str, list[float]] = {"plain": [], "ours": []}

    def plain_step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        (((plain(x) - y) ** 2).sum() / len(x)).backward()
        norms["plain"].append(float(nn.utils.clip_grad_norm_(plain.parameters(), 0.5)))
        optimizer.step()

    _train(plain_step)
    reference = f"torch {torch.__version__}"
    differences = []
    for stage in (0, 2):
        engine = TrainEngine(_model(), EngineSpec(1e-2, 0.5, stage, weight_decay=0.1))

        def step(x: Tensor, y: Tensor, engine: TrainEngine = engine) -> None:
            halves = [(x[:5], y[:5]), (x[5:], y[5:])]
            result = engine.train_batch(halves, lambda module, part: ((module(part[0]) - part[1]) ** 2).sum(), len(x))
            assert result.applied
            norms["ours"].append(result.grad_norm)

        norms["ours"].clear()
        _train(step)
        apart = largest(torch.tensor(norms["ours"]), torch.tensor(norms["plain"]))
        differences.append(Difference(f"gradient norm, ZeRO {stage}", reference, apart))
        weights = engine.gather(plain_weights(engine.module))
        pairs = zip((tensor for _, tensor in weights), plain.parameters(), strict=True)
        apart = max(largest(a, b.detach()) for a, b in pairs)
        differences.append(Difference(f"AdamW, ZeRO {stage}", reference, apart))
    return differences


def main() -> int:
    differences = against_trl()
    join_process_group(0, 1, "127.0.0.1", free_port(), timeout=60)
    differences += against_torch()
    rows = [(d.what, d.reference, f"{d.largest:.1e}", d.note) for d in differences]
    print(table(("what", "reference", "largest difference", ""), rows))
    worst = max(d.largest for d in differences)
    print(f"\nlargest of all {worst:.1e}, {TOLERANCE:.0e} is allowed")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
