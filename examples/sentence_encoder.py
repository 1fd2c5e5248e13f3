"""A sentence encoder (MiniLM, 22.7 M parameters) without labels: the promise is on agreement with the original."""

from torch import Tensor, nn

import lessen
import zoo


class Encoder(nn.Module):
    """Token ids and mask [n, t] to embeddings [n, 384] of norm 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)


tokenizer, bert = zoo.minilm()
sentences, _ = zoo.vader()
tokens = tokenizer(sentences[:420], padding="max_length", truncation=True, max_length=48, return_tensors="pt")


def part(start: int, stop: int) -> list[dict[str, Tensor]]:
    rows = range(start, stop, 20)
    return [{"ids": tokens["input_ids"][i : i + 20], "mask": tokens["attention_mask"][i : i + 20]} for i in rows]


data = {"calibration": part(0, 140), "validation": part(140, 240), "test": part(240, 420)}
result = lessen.compress(Encoder(bert).eval(), data, "1%", using=[lessen.Uniform(8)], target="onnxruntime")
report = result.report
print(f"{report.ratios.size:.1f}x smaller, {report.ratios.latency:.2f}x faster")
print(f"cosine with the original's embeddings: {report.result.metric.value:.4f} on {report.result.metric.n} sentences")
assert report.budget.met, report.budget
