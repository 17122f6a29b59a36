"""Attention over rows, columns and heads of an image, as graphs and as numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser

from .projections import soft, weight

Array = np.ndarray


B, R, N, C, H = 2, 3, 5, 8, 2
"""Samples, rows of an image, places in a row, width, heads."""


D = C // H


LETTERS = {"b": 0, "r": 1, "n": 2, "h": 3, "d": 4}


X = np.random.default_rng(4).normal(size=(B, R, N, C)).astype(np.float32)


def weights(name: str, size: int = C) -> Array:
    made = weight(name, size, size) * 0.3
    if name in ("wq", "wk"):
        made[0] = 1.0
    return made


@dataclass(frozen=True)
class Form:
    """How x (B, R, N, C) becomes q, k and v.

    Attributes:
        lead: axes in front of the query rows, as they lie in memory; letters in brackets are one axis.
        judged: axes over which each entry is judged on its own, in order; the heads, if any, are judged together.
        turned: attention along columns of the image.
        raw: values are the input itself.
        inner: weights (D, D) that all heads share, instead of (C, C).
        batch: number of samples that the graph is made for.
    """

    lead: str
    judged: str
    turned: bool = False
    raw: bool = False
    inner: bool = False
    batch: str = "B"
    rows: str = "R"

    @property
    def heads(self) -> int | None:
        return H if "h" in self.lead and "h" not in self.judged else None

    def model(self) -> onnx.ModelProto:
        """Shapes of tokens stay open, as in an export with dynamic axes."""
        text = f"t = {'Transpose<perm = [0, 2, 1, 3]>' if self.turned else 'Identity'}(x) "
        constants: dict[str, Array] = {"apart": np.array([0, 0, 0, H if "h" in self.lead else 1, -1])}
        flat = self.lead.replace("(", "").replace(")", "")
        order = [LETTERS[letter] for letter in flat]
        if "h" not in self.lead:
            order.append(3)
        sizes: list[str] = []
        text += "shape = Shape(t) "
        for letter in "brn":
            text += f"size_{letter} = Gather(shape, at_{letter}) "
            constants[f"at_{letter}"] = np.array([LETTERS[letter]])
        width = C // (H if "h" in self.lead else 1)
        constants |= {"size_h": np.array([H]), "size_d": np.array([width]), "rest": np.array([-1])}
        groups = self.lead.replace("(", " (").replace(")", ") ").split()
        for group in [part for piece in groups for part in ([piece] if piece[0] == "(" else piece)]:
            letters = group.strip("()")
            sizes.append("rest" if len(letters) > 1 else f"size_{letters}")
        text += f"joined = Concat<axis = 0>({', '.join(sizes)}, size_n, size_d) "
        for n in "qkv":
            if self.raw and n == "v":
                text += f"{n}0 = Identity(t) {n}1 = Reshape({n}0, apart) "
            elif self.inner:
                text += f"{n}0 = Reshape(t, apart) {n}1 = MatMul({n}0, w{n}) "
            else:
                text += f"{n}0 = MatMul(t, w{n}) {n}1 = Reshape({n}0, apart) "
            text += f"{n}2 = Transpose<perm = {[*order, 2, 4]}>({n}1) {n} = Reshape({n}2, joined) "
        last = len(sizes)
        text += f"kt = Transpose<perm = {[*range(last), last + 1, last]}>(k) raw = MatMul(q, kt) "
        text += "p = Softmax<axis = -1>(raw) out = MatMul(p, v)"
        result = ", ".join("abcdef"[: last + 2])
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : 17]> '
            f"g (float[{self.batch},{self.rows},N,{C}] x) => (float[{result}] out) {{ {text} }}"
        )
        constants |= {name: weights(name, D if self.inner else C) for name in ("wq", "wk", "wv")}
        read = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(a, name) for name, a in constants.items() if name in read
        )
        return model

    def truth(self, x: Array) -> tuple[Array, Array]:
        """Map and values (entries that are judged, heads, N, ·)."""
        t = x.astype(np.float64)
        t = t.transpose(0, 2, 1, 3) if self.turned else t
        heads = H if "h" in self.lead else 1

        def factor(n: str) -> Array:
            if self.raw and n == "v":
                made = t.reshape(*t.shape[:3], heads, -1)
            elif self.inner:
                made = t.reshape(*t.shape[:3], heads, -1) @ weights(f"w{n}", D)
            else:
                made = (t @ weights(f"w{n}")).reshape(*t.shape[:3], heads, -1)
            order = [LETTERS[letter] for letter in self.judged]
            return made.transpose(*order, *(a for a in (0, 1, 3) if a not in order), 2, 4)

        q, k, v = (factor(n) for n in "qkv")
        a, v = (part.reshape(-1, self.heads or 1, *part.shape[-2:]) for part in (soft(q @ k.swapaxes(-1, -2)), v))
        return a, v

    def judged_first(self, out: Array, batch: int, rows: int) -> Array:
        """The output as the graph gives it → (entries that are judged, heads, N, D)."""
        flat = self.lead.replace("(", "").replace(")", "")
        sizes = {"b": batch, "r": rows, "h": H}
        apart = out.reshape(*(sizes[letter] for letter in flat), *out.shape[-2:])
        wanted = self.judged + "".join(letter for letter in flat if letter not in self.judged)
        apart = apart.transpose(*(flat.index(letter) for letter in wanted), len(flat), len(flat) + 1)
        return apart.reshape(-1, self.heads or 1, *out.shape[-2:])


FORMS = {
    "rows": Form("br", "br"),
    "columns": Form("br", "br", turned=True),
    "rows-of-one-sample": Form("br", "br", batch="1"),
    "rows-of-known-number": Form("br", "br", rows=str(R)),
    "rows-first": Form("rb", "br"),
    "values-without-a-projection": Form("br", "br", raw=True),
    "rows-and-heads": Form("brh", "br"),
    "columns-and-heads": Form("brh", "br", turned=True),
    "heads-and-rows": Form("bhr", "br"),
    "heads-samples-rows": Form("hbr", "br"),
    "rows-as-samples": Form("(br)h", "br"),
    "rows-and-samples-alone": Form("(br)", "br"),
    "samples-and-heads-in-one": Form("(bh)r", "bhr"),
    "rows-and-heads-in-one": Form("b(rh)", "brh"),
    "heads-that-share-weights": Form("brh", "br", inner=True),
}
